"""Runs: what was executed, every result and attempt, log lines, artifacts, and the live stream of all that."""
