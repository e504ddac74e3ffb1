"""The catalog's schema and its changes."""
