"""Other people's systems, set up as their documentation says, on the same PostgreSQL. Each is skipped by name when not installed."""
