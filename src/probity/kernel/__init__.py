"""What every domain stands on: database, HTTP dialects, queue, crypto, ids, clock. Knows no domain."""
