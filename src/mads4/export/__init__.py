"""One agent as a program of its own."""
