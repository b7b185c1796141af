"""Keys of programs: make one, see when each was used, revoke."""
