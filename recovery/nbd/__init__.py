"""Our own NBD server: every instant of a VM's past as a network block device, read only.

Fixed newstyle, structured replies, block status; a thread per connection; reads are sent straight from
the journal. docs/recovery-points.md describes the export names.
"""

from recovery.nbd.exports import Export, ExportSource, JournalExports
from recovery.nbd.server import NbdServer

__all__ = ["Export", "ExportSource", "JournalExports", "NbdServer"]
