"""The journal: all that is kept of one VM. Frames, segments, cuts, timelines, and resolving a point.

The on-disk format is specified in docs/journal-format.md. Imports nothing here, so that the agent in a
guest can carry `journal.frame` without numpy.
"""
