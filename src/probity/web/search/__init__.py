"""Search from anywhere: runs, agents, pages."""
