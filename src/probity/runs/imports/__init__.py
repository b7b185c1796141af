"""Reports of test suites that ran elsewhere: one request, one run, all of it or nothing."""
