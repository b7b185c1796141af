"""Benchmarks, each with a rival or a limit beside it on the same machine. `make bench` writes RESULTS.md."""
