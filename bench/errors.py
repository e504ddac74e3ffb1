"""What ends a benchmark without a figure."""

from __future__ import annotations

from lastwrite.errors import IntegrityError, UnsupportedError


class MissingPeer(UnsupportedError):
    """The program to compare with is not installed."""

    code = "bench-missing-peer"
    hint = "Install it: setup/packages.txt lists what the benchmarks need."


class BenchFailed(IntegrityError):
    """What was measured did not do its work: its figure would mean nothing."""

    code = "bench-failed"
    hint = "This is a defect of the benchmark or of what it measures; the message says where it stood."
