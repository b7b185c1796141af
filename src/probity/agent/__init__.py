"""The program that runs on endpoints: takes jobs from a Probity server, runs them, reports. Opens no port; needs the kernel only."""
