"""Reading runs as people look at them: cases instead of attempts, suites with their tallies, counts beside the pages."""
