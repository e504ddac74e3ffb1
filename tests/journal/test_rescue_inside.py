"""Nothing is written into a journal, whichever way leads there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from journal.offline.check import check
from journal.offline.places import InsideJournal, is_journal
from journal.offline.rescue import rescue
from tests.journal.test_check import make


@pytest.fixture
def two(tmp_path: Path) -> Path:
    for name in ("j", "other"):
        make(tmp_path / name)
    return tmp_path


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "out", ["j", "j/x.raw", "j/timelines/0001/x.raw", "j/new/x.raw", "other/x.raw", "other"]
)
@pytest.mark.parametrize("linked", [False, True])
def test_an_image_inside_a_journal_is_refused(two: Path, out: str, linked: bool) -> None:
    before = content(two)
    place = two / out
    if linked:
        home = place if place.is_dir() else place.parent
        (two / "link").symlink_to(home)
        place = two / "link" if place.is_dir() else two / "link" / place.name
    with pytest.raises(InsideJournal, match="lies inside the journal") as refused:
        rescue(two / "j", "latest", place)
    assert refused.value.exit_code == 2 and "outside" in refused.value.hint
    if linked:
        (two / "link").unlink()
    assert content(two) == before


def test_a_journal_that_has_lost_its_identity_is_one_still(two: Path) -> None:
    (two / "other/JOURNAL").unlink()
    (two / "other/meta.log").unlink()
    with pytest.raises(InsideJournal):
        rescue(two / "j", "latest", two / "other/x.raw")
    os.mkfifo(two / "other/JOURNAL")
    assert is_journal(two / "other")
    shutil.rmtree(two / "other/timelines")
    assert not is_journal(two / "other")


def test_a_folder_with_a_file_of_that_name_that_is_no_journal_is_none(two: Path) -> None:
    (two / "JOURNAL").write_text("what I did today\n")
    assert rescue(two / "j", "latest", two / "x.raw").exact


def test_a_link_out_of_a_journal_leads_out_of_it(two: Path) -> None:
    (two / "out").mkdir()
    (two / "j/images").symlink_to(two / "out")
    assert rescue(two / "j", "latest", two / "j/images/x.raw").exact and (two / "out/x.raw").is_file()


def test_what_a_check_remembers_is_not_kept_inside_a_journal(two: Path) -> None:
    before = content(two)
    with pytest.raises(InsideJournal):
        check(two / "j", state=two / "j/state.json")
    with pytest.raises(InsideJournal):
        check(two / "j", state=two / "other/timelines/state.json")
    assert content(two) == before
