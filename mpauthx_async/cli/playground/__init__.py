"""The playground: a web page that shows a login and its token at work."""
