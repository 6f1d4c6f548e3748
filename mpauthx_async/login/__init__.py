"""Logging in: exchanging a code, saving the user, issuing a token."""
