"""Reading the fleet page by page, for people."""
