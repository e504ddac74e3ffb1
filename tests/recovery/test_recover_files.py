"""`recover --to`: which files are written, of which disks, and which paths cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from journal.frame import SYNC
from journal.reader import JournalReader
from lastwrite.errors import UsageError
from plugins.server.recover import FileRequest, image_paths, to_file
from recovery.errors import BadImagePath, ImageExists
from tests.recovery.disks import MIB
from tests.recovery.journals import JournalMaker


class Known:
    """A context and a catalog with one VM."""

    name = "web01"

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader
        self.catalog = self

    def vm(self, _name: str) -> Known:
        return self

    def reader(self, _row: object) -> JournalReader:
        return self._reader


class Quiet:
    """Hears of the steps, and says nothing."""

    def step(self, *_: object) -> None: ...

    def check(self) -> None: ...

    def progress(self, *_: object) -> None: ...


def test_every_disk_of_the_point_is_written_also_one_that_was_taken_away_since(tmp_path: Path) -> None:
    maker = JournalMaker(tmp_path / "j", disks=[("vda", MIB), ("vdb", MIB)])
    maker.synced([b"a" * MIB, b"b" * MIB])
    old = maker.next_lsn - 1
    maker.note("gap", reason="unprotected")
    maker.disks = [("vda", MIB)]
    maker.begin("full")
    maker.writes([(0, 0, b"c" * MIB)], SYNC)
    maker.cut("sync-end")
    context, emit = cast(Any, Known(JournalReader(maker.folder))), cast(Any, Quiet())
    done = to_file(context, FileRequest(f"web01@lsn:{old}", str(tmp_path / "old.raw")), emit)
    assert [file.disk for file in done.files] == ["vda", "vdb"]
    for file in done.files:
        assert Path(file.path).read_bytes() == file.disk[-1:].encode() * MIB
    to_file(context, FileRequest("web01@latest", str(tmp_path / "new.raw")), emit)
    assert (tmp_path / "new.raw").read_bytes() == b"c" * MIB


def test_names_of_disks_become_names_of_files_and_none_is_lost(tmp_path: Path) -> None:
    disks = ["a/b", "a_b", "..", "a b", "vda"]
    paths = image_paths(tmp_path / "x.raw", disks)
    assert list(paths) == disks
    assert {path.parent for path in paths.values()} == {tmp_path}
    names = [path.name for path in paths.values()]
    assert names == ["x-a_b.raw", "x-a_b-2.raw", "x-...raw", "x-a_b-3.raw", "x-vda.raw"]
    assert image_paths(tmp_path / "x.raw", ["a/b"]) == {"a/b": tmp_path / "x.raw"}


@pytest.mark.parametrize("disks", [["vda"], ["vda", "vdb"]])
def test_paths_that_no_file_can_have_are_usage_errors(tmp_path: Path, disks: list[str]) -> None:
    bad = [
        "x.raw",
        "a/../x.raw",
        f"{tmp_path}/{'n' * 300}.raw",
        f"{tmp_path}/a\0b.raw",
        f"{tmp_path}/a\nb.raw",
    ]
    for path in bad:
        with pytest.raises(BadImagePath) as caught:
            image_paths(Path(path), disks)
        assert isinstance(caught.value, UsageError)
    (tmp_path / "x.raw").symlink_to(tmp_path / "nothing")
    (tmp_path / "x-vdb.raw").touch()
    with pytest.raises(ImageExists):
        image_paths(tmp_path / "x.raw", disks)
