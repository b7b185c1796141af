"""What other programs use to talk to a Probity server: typed HTTP client, live stream, pytest plugin. Needs the kernel only."""
