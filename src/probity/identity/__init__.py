"""Organizations, people, roles, sign-in, sessions, keys."""
