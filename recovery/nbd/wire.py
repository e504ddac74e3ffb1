"""The NBD protocol's numbers and layouts, as in its public specification. Nothing here reads or writes.

All integers are big-endian.
"""

from __future__ import annotations

import enum
import struct

GREETING = struct.Struct(">QQH")
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")
OPTION_REPLY = struct.Struct(">QIII")
EXPORT_INFO = struct.Struct(">HQH")
BLOCK_SIZE_INFO = struct.Struct(">HIII")
EXPORT_NAME_REPLY = struct.Struct(">QH")
REQUEST = struct.Struct(">IHH8sQI")
SIMPLE_REPLY = struct.Struct(">II8s")
CHUNK = struct.Struct(">IHH8sI")
OFFSET = struct.Struct(">Q")
HOLE = struct.Struct(">QI")
ERROR_CHUNK = struct.Struct(">IH")
U16, U32 = struct.Struct(">H"), struct.Struct(">I")

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF

FIXED_NEWSTYLE, NO_ZEROES = 1, 2

# Transmission flags of an export.
HAS_FLAGS, READ_ONLY, SEND_DF, CAN_MULTI_CONN = 1, 2, 1 << 7, 1 << 8

MAX_REQUEST_BYTES = 32 << 20
PREFERRED_BYTES = 4096

META_CONTEXT = b"base:allocation"
META_CONTEXT_ID = 1
STATE_HOLE_ZERO = 3  # NBD_STATE_HOLE | NBD_STATE_ZERO


class Option(enum.IntEnum):
    """Options of the negotiation."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(enum.IntEnum):
    """Types of the replies to options."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 1 << 31 | 1
    ERR_INVALID = 1 << 31 | 3
    ERR_UNKNOWN = 1 << 31 | 6
    ERR_TOO_BIG = 1 << 31 | 9


class Info(enum.IntEnum):
    """What INFO and GO tell of an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Command(enum.IntEnum):
    """Requests of the transmission phase."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(enum.IntEnum):  # not IntFlag: its ~ forgets the flags that it does not know
    """Flags of a request."""

    FUA = 1
    DF = 4
    REQ_ONE = 8


class Chunk(enum.IntEnum):
    """Types of the chunks of a structured reply."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 1 << 15 | 1


CHUNK_DONE = 1

EPERM, EIO, EINVAL, EOVERFLOW = 1, 5, 22, 75
