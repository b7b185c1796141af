"""Runs: the list, one run live, its cases, log and artifacts."""
