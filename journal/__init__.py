"""The journal: all that is kept of one VM. Frames, segments, cuts, timelines, and resolving a point.

The on-disk format is specified in docs/journal-format.md. Imports nothing of Lastwrite here, so that the agent in a
guest can carry `journal.frame` without numpy.
"""

import os

# Before numpy is imported: its linear algebra, which nothing here uses, would start a thread for each processor.
# That is a seventh of what a new process takes to map a journal.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
