"""The playground: a page on which a login and its token are seen at work."""
