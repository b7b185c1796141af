"""Dispatch: jobs for agents, their leases and their ends."""
