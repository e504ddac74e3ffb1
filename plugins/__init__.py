"""What administrators touch: the command line, and the server that puts the parts together."""
