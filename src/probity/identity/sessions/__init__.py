"""Sign-in, sign-out and the credentials of a session."""
