"""Audit: the append-only trail, its chain, signed checkpoints and their verifier."""
