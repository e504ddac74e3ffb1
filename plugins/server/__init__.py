"""The server: a supervisor, and the control process that answers the command line over REST."""
