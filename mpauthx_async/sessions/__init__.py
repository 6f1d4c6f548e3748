"""What becomes of sessions."""
