"""HTTP: dialects, the gate in front of every request, errors on the wire. Knows no domain."""
