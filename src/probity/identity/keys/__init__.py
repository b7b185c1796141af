"""Keys of programs: `pa_…`."""
