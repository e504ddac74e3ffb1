"""After any thinning every kept point comes back bit for bit, and every other is refused with the nearest ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from journal import layout
from journal.frame import SYNC
from journal.offline.check import check
from journal.reader import JournalReader
from journal.writer import JournalWriter
from tests.journal.tap import Guest, Tap
from tests.journal.thinning import check_what_is_left, interval_ends, thin_all, thin_somewhere

DISKS = {0: 16 * 4096, 3: 67 * 512}


def simulated(folder: Path, seed: int, epochs: int = 6, segment_bytes: int = 40_000) -> Guest:
    """A journal of a guest with several epochs, some never valid; the last one is, and its disks are known."""
    choices = random.Random(seed)
    with JournalWriter.create(folder, "web01", segment_bytes=segment_bytes) as writer:
        guest = Guest(seed, Tap(writer, DISKS))
        for valid in [choices.random() < 0.7 for _ in range(epochs - 1)] + [True]:
            guest.epoch(valid=valid)
    return guest


@pytest.mark.parametrize("seed", range(16))
def test_every_kept_point_comes_back_after_thinning_again_and_again(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "j"
    guest = simulated(folder, seed)
    choices = random.Random(seed)
    kept = set(guest.expected)
    for share in (0.7, 0.4, 0.4, 0.1):
        kept = {lsn for lsn in sorted(kept) if choices.random() < share}
        assert thin_somewhere(folder, 1, kept, choices)
        check_what_is_left(folder, 1, guest.expected, guest.refused, kept)
    thin_all(folder, 1, kept)
    inside, ends = interval_ends(folder, 1)
    assert {lsn for lsn in guest.expected if lsn in inside} & kept <= ends
    check_what_is_left(folder, 1, guest.expected, guest.refused, kept)
    assert check(folder).ok
    with JournalWriter.open(folder, segment_bytes=40_000) as writer:
        assert writer.next_lsn == JournalReader(folder).last_lsn() + 1
        guest.tap = Tap(writer, DISKS)
        guest.epoch(valid=True)
    check_what_is_left(folder, 1, guest.expected, guest.refused, kept)


def test_what_is_folded_into_the_base_takes_no_more_than_the_disks(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    with JournalWriter.create(folder, "web01", segment_bytes=100_000) as writer:
        tap = Tap(writer, {0: 16 * 4096})
        tap.protect()
        for number in range(400):
            tap.write(0, number % 16 * 8, bytes([number % 251]) * 4096)
    before = sum(path.stat().st_size for path in layout.timeline_folder(folder, 1).iterdir())
    thin_all(folder, 1, set())
    net, *_ = sorted(layout.timeline_folder(folder, 1).glob("*.net"))
    assert before > 400 * 8192 and net.stat().st_size < 16 * 4096 + 8 * 4096


@pytest.mark.parametrize("seed", range(8))
def test_disks_that_come_go_grow_and_shrink_between_epochs(tmp_path: Path, seed: int) -> None:
    folder, choices = tmp_path / "j", random.Random(seed)
    expected: dict[int, dict[int, bytes]] = {}
    images: dict[int, bytearray] = {}
    with JournalWriter.create(folder, "web01", segment_bytes=60_000) as writer:
        tap = Tap(writer, {})
        for number in range(7):
            before = {disk: bytes(image) for disk, image in images.items()}
            for disk in (0, 1, 2):
                if number == 0 or choices.random() < 0.5:
                    change_disk(images, disk, choices)
            images = images or {0: bytearray(4096)}
            tap.disks = {disk: len(image) for disk, image in images.items()}
            sync = choices.choice(["full", "bitmap"]) if number else "initial"
            tap.begin(sync)
            for disk, image in images.items():
                # Bitmap: what the last valid epoch did not have; the rest is as it was.
                known = len(before.get(disk, b"")) // 4096 * 4096 if sync == "bitmap" else 0
                if known < len(image):
                    tap.write(disk, known // 512, bytes(image[known:]), SYNC)
            tap.cut("sync-end")
            expected[writer.next_lsn - 1] = {disk: bytes(image) for disk, image in images.items()}
            for _ in range(choices.randrange(2, 12)):
                disk = choices.choice(list(images))
                sector = choices.randrange(len(images[disk]) // 512)
                data = choices.randbytes(
                    512 * min(choices.choice([1, 8, 13]), len(images[disk]) // 512 - sector)
                )
                tap.write(disk, sector, data)
                images[disk][sector * 512 : sector * 512 + len(data)] = data
                expected[writer.next_lsn - 1] = {disk: bytes(image) for disk, image in images.items()}
    kept = set(expected)
    for share in (0.6, 0.3, 0.1):
        kept = {lsn for lsn in sorted(kept) if choices.random() < share}
        thin_somewhere(folder, 1, kept, choices)
        thin_all(folder, 1, kept)
        check_what_is_left(folder, 1, expected, set(), kept)


def change_disk(images: dict[int, bytearray], disk: int, choices: random.Random) -> None:
    """Take a disk away, add it empty or with something on it, grow it, or shrink it."""
    size = choices.randrange(1, 20) * 512
    if disk in images and choices.random() < 0.3:
        del images[disk]
    elif disk in images:
        images[disk] = (images[disk] + bytes(size))[: choices.choice([size, len(images[disk]) + size])]
    else:
        images[disk] = bytearray(choices.randbytes(size) if choices.random() < 0.5 else bytes(size))
