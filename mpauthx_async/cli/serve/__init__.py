"""The serve command: a login server by flags, environment and a file."""
