"""Tokens, and encryption at rest."""
