"""Caches beside a journal's files: indexes and net maps (docs/journal-index.md). Deleting all of them loses nothing."""
