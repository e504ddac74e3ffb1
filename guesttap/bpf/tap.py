"""The bpf tap as the agent uses it: attach or adopt, read records, release, mark, account, detach."""

from __future__ import annotations

import os
import struct
from typing import Dict, Iterator, Optional

from guesttap.bpf import abi, syscall
from guesttap.bpf import dirty as dirt
from guesttap.bpf.accounting import Accounting, account, observe
from guesttap.bpf.btf import Btf
from guesttap.bpf.calibrate import calibrate
from guesttap.bpf.complete import complete_program
from guesttap.bpf.disks import Disk, requests_in_flight, resolve_disks
from guesttap.bpf.errors import RingFullError, RingSizeError
from guesttap.bpf.fragments import Maps
from guesttap.bpf.layout import FlagMasks, read_flag_masks, read_layout
from guesttap.bpf.maps import create_maps, shared_memory
from guesttap.bpf.meta import Meta
from guesttap.bpf.pending import LostWrites
from guesttap.bpf.pins import PIN_DIRECTORY, Pins
from guesttap.bpf.probe import require
from guesttap.bpf.programs import main_program, mark_program
from guesttap.bpf.requests import request_program
from guesttap.bpf.ring import Ring, RingRecord
from guesttap.bpf.selftest import self_test
from guesttap.bpf.walker import walker_program

_ZERO_KEY = bytes(4)
_BASELINE_PATIENCE = 0.25  # seconds
_MISSES_AT = 208  # bpf_prog_info.recursion_misses (zero before Linux 5.12)
_PROGRAMS = ("main", "walker", "complete", "request", "mark")
_LINKS = (("block_rq_complete", "request"), ("block_bio_complete", "complete"), ("block_bio_queue", "main"))


class BpfTap:
    """A tap in the running kernel. It goes on when this object or the process is gone: see `detach`."""

    def __init__(self, pins: Pins, maps: Maps, meta: Meta) -> None:
        """Use `attach` or `adopt` instead."""
        self._pins, self._maps, self._meta = pins, maps, meta
        self._ring = Ring(maps.ring)
        self._totals = memoryview(shared_memory(maps.totals, abi.TOTALS_BYTES)).cast("Q")
        size = abi.DISK_COUNTER_BYTES * abi.MAX_DISKS
        self._disk_counters = memoryview(shared_memory(maps.disk_counters, size)).cast("Q")
        self._dirty = dirt.DirtyMap(maps, meta.disks, meta.granularity, self._disk_counters)
        self._lost_writes = LostWrites(maps, meta.disks, self._totals, self._dirty.mark)
        self._programs: Dict[str, int] = {}  # noqa: UP006
        self._closed = False

    @classmethod
    def attach(cls, disks: list[str], ring_bytes: int = 64 << 20, pin_dir: str = PIN_DIRECTORY) -> BpfTap:
        """Attach a fresh tap to whole disks (paths such as /dev/vda) and pin it under `pin_dir`.

        Nothing is written to any disk. Raises TapUnsupportedError, AlreadyAttachedError, DiskMissingError,
        UntappableDiskError, RingSizeError, CalibrationError, SelfTestError, ProgramRejectedError; after an
        error nothing stays attached.
        """
        require()
        _check_ring_size(ring_bytes)
        resolved = resolve_disks(disks)
        pins = Pins(pin_dir)
        pins.create()
        try:
            return cls._attach(pins, resolved, ring_bytes)
        except BaseException:
            pins.remove()
            raise

    @classmethod
    def _attach(cls, pins: Pins, disks: list[Disk], ring_bytes: int) -> BpfTap:
        _lift_memory_limit()
        btf = Btf.of_kernel()
        layout = read_layout(btf)
        calibration = calibrate(layout, disks[0].path)
        granularity = dirt.choose_granularity(disks)
        bases = dirt.first_chunks(disks, granularity)
        maps = create_maps(ring_bytes, bases[-1])
        generation = int.from_bytes(os.urandom(8), "little")
        tap = cls(pins, maps, Meta(generation, granularity, disks, read_flag_masks(btf), {}))
        try:
            for disk in disks:
                value = abi.DISK_VALUE.pack(
                    disk.index, bases[disk.index], bases[disk.index + 1] - bases[disk.index], 0
                )
                syscall.update(maps.disks, abi.DISK_KEY.pack(disk.major, disk.minor), value)
            walker = walker_program(layout, maps, granularity, *calibration)
            tap._load("walker", walker)
            syscall.update(maps.walker, _ZERO_KEY, struct.pack("<I", tap._programs["walker"]))
            self_test(layout, maps, granularity, tap._ring, disks)
            tap._forget_self_test()
            tap._load("main", main_program(layout, maps, granularity))
            tap._load("complete", complete_program(layout, maps, granularity))
            tap._load("request", request_program(layout, maps, granularity))
            tap._load("mark", mark_program(maps))
            pins.pin_maps(maps)
            tap._start()
        except BaseException:
            tap.close()
            raise
        return tap

    def _load(self, name: str, code: bytes) -> None:
        self._programs[name] = syscall.load_program(code, "lw_" + name)
        self._pins.pin("program_" + name, self._programs[name])

    def _forget_self_test(self) -> None:
        for words in (self._totals, self._disk_counters):
            for at in range(len(words)):
                words[at] = 0
        self._dirty.take()
        self._dirty.confirm()

    def _start(self) -> None:
        """Completions are watched before the first submission is, so that no failure is missed."""
        for point, name in _LINKS:
            link = syscall.attach_raw_tracepoint(point, self._programs[name])
            try:
                self._pins.pin("link_" + name, link)
            finally:
                os.close(link)
        self._seek_baselines()
        self._save_meta()
        self._pins.finish(self._maps)

    @classmethod
    def adopt(cls, pin_dir: str = PIN_DIRECTORY) -> Optional[BpfTap]:  # noqa: UP045
        """Return the tap that runs already, or None; what was taken and not confirmed is dirty again.

        Raises BrokenTapError if the pins are of another version or incomplete.
        """
        require()
        pins = Pins(pin_dir)
        if not pins.is_ready():
            return None
        maps = pins.open_maps()
        content = syscall.lookup(maps.meta, _ZERO_KEY, abi.META_BYTES) or b""
        tap = cls(pins, maps, Meta.unpack(content))
        try:
            for name in _PROGRAMS:
                tap._programs[name] = pins.open("program_" + name)
            for _, name in _LINKS:
                os.close(pins.open("link_" + name))
        except BaseException:
            tap.close()
            raise
        tap._dirty.restore()
        return tap

    @property
    def generation(self) -> int:
        """A random number chosen at attach: the same for each process that adopts this tap."""
        return self._meta.generation

    @property
    def disks(self) -> list[Disk]:
        """The tapped disks, in the order of their index."""
        return list(self._meta.disks)

    @property
    def opf_masks(self) -> FlagMasks:
        """Bits of a record's `opf` in this kernel: sync, meta, fua, preflush."""
        return self._meta.masks

    # the stream
    def records(self, position: int, limit_bytes: int) -> Iterator[RingRecord]:
        """Yield the committed records from `position` on, about `limit_bytes` of the ring at most.

        Nothing is released. Raises RingPositionError if the ring does not hold `position`.
        """
        return self._ring.records(position, limit_bytes)

    def release(self, position: int) -> None:
        """Give the ring back up to `position` (an `end` of a record); raises RingPositionError."""
        self._ring.release(position)

    @property
    def consumer_position(self) -> int:
        """Ring position up to which was released."""
        return self._ring.consumer_position

    @property
    def producer_position(self) -> int:
        """Ring position after the newest record, which may still be in the making."""
        return self._ring.producer_position

    @property
    def ring_bytes(self) -> int:
        """Size of the ring."""
        return self._ring.size

    def mark(self, token: int) -> None:
        """Put a MARK with the u64 `token` (its `bio`) at this place of the order; raises RingFullError."""
        if syscall.run(self._programs["mark"], [token]) != 0:
            raise RingFullError(f"the ring of {self._ring.size} bytes has no room for a mark")

    # what was not captured
    def lost(self) -> int:
        """Return the lost counter (u32, wraps): it grows with each bio not captured, and when one lands."""
        return int(self._totals[abi.T["lost"] // 8] & 0xFFFFFFFF)

    def lost_in_flight(self) -> int:
        """Return how many lost writes have not landed yet: a bitmap sync is not complete before this is 0."""
        return self._lost_writes.count()

    def take_dirty(self) -> list[dirt.Extent]:
        """Return (disk, byte offset, byte length) of what was not captured, sorted and merged, and clear it.

        Note `producer_position` after this returns, and read the extents only then: what was read belongs
        into the stream at that position (older records before it, newer ones after it). A sync is complete
        when a take returns nothing and `lost_in_flight` was 0 before it (see dirty.py for why).
        """
        return self._dirty.take()

    def confirm_dirty(self) -> None:
        """Say that all extents taken so far are safe: whoever adopts the tap need not sync them again."""
        self._dirty.confirm()

    # health
    def counters(self) -> dict[str, int]:
        """Return the tap's counters, summed over the disks, and `missed`: bios that no program saw."""
        total = {name: self._totals[at // 8] for name, at in abi.T.items()}
        for name, at in abi.D.items():
            words = range(at // 8, len(self._disk_counters), abi.DISK_COUNTER_BYTES // 8)
            total[name] = sum(self._disk_counters[word] for word in words)
        total["bytes"] = total["write_bytes"] + total["discard_bytes"]
        total["missed"] = sum(self._misses(self._programs[name]) for _, name in _LINKS)
        total["lost_in_flight"] = self.lost_in_flight()
        return total

    @staticmethod
    def _misses(program: int) -> int:
        return int(struct.unpack_from("<Q", syscall.info(program), _MISSES_AT)[0])

    def _counters_of(self, disk: Disk) -> dict[str, int]:
        base = disk.index * abi.DISK_COUNTER_BYTES
        return {name: self._disk_counters[(base + at) // 8] for name, at in abi.D.items()}

    def inflight(self) -> dict[int, int]:
        """Return, by disk index, how many requests (reads and writes) the disk is working on."""
        return {disk.index: requests_in_flight(disk) for disk in self._meta.disks}

    def accounting(self, patience: float = 0.25) -> Accounting:
        """Compare with the kernel's statistics, waiting up to `patience` seconds per disk for a quiet moment.

        `balanced` is exact where `quiet`; else the tap may be ahead by what is in flight (`tolerance`). The
        accounts begin at the first quiet moment since attach; until then they are not `known`.
        """
        if len(self._meta.baseline) < len(self._meta.disks):
            self._seek_baselines()
            self._save_meta()
        baseline = self._meta.baseline
        points = [(disk, observe(disk, self._counters_of, patience)) for disk in self._meta.disks]
        return Accounting([account(disk, baseline.get(disk.index), now) for disk, now in points])

    def _seek_baselines(self) -> None:
        for disk in self._meta.disks:
            if disk.index not in self._meta.baseline:
                point = observe(disk, self._counters_of, _BASELINE_PATIENCE)
                if point.quiet:
                    self._meta.baseline[disk.index] = point

    def _save_meta(self) -> None:
        syscall.update(self._maps.meta, _ZERO_KEY, self._meta.pack())

    # the end
    def detach(self) -> None:
        """End the capture: unpin everything and close; what the ring still held is gone."""
        self._pins.remove()
        self.close()

    def close(self) -> None:
        """Let go of the tap in this process; the pinned tap goes on. The object is of no use afterwards."""
        if self._closed:
            return
        self._closed = True
        del (
            self._ring,
            self._lost_writes,
            self._dirty,
            self._totals,
            self._disk_counters,
        )  # and with them the memory maps
        for fd in [*self._programs.values(), *self._maps]:
            os.close(fd)


def _check_ring_size(size: int) -> None:
    if not 1 << 20 <= size <= 1 << 30 or size & (size - 1):
        raise RingSizeError(f"a ring of {size} bytes is not a power of two between 1 MiB and 1 GiB")


def _lift_memory_limit() -> None:
    """Before Linux 5.11 maps count as locked memory of the process."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        pass
