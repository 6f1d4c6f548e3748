"""The way from a code to a token."""
