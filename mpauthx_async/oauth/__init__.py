"""Web login."""
