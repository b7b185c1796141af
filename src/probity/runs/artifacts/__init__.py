"""Files that runs leave behind. They come from test suites and are never trusted."""
