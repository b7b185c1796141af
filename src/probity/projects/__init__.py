"""Projects: what runs, tests and findings are grouped by."""
