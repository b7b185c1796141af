"""Agents: who is there, what they can do, what they are doing."""
