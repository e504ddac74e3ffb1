"""The image is cached by what it is made from, and no half of one is ever seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lab import image
from lab.errors import LabCommandError
from lab.paths import GUEST_FILES
from lab.run import run
from tests.lab_fixtures import require_lab


@pytest.fixture
def guest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "guest"
    shutil.copytree(GUEST_FILES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(image, "GUEST_FILES", copy)
    return copy


def test_a_changed_guest_script_needs_a_new_image_but_no_new_packages(guest_files: Path) -> None:
    before = image._tar_key(), image._image_key()
    (guest_files / "check.py").write_text("# another one\n")
    assert image._tar_key() == before[0]
    assert image._image_key() != before[1]


def test_another_package_needs_both(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image._tar_key(), image._image_key()
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "hello"))
    assert image._tar_key() != before[0]
    assert image._image_key() != before[1]


def test_a_build_that_fails_leaves_no_image_and_the_next_one_begins_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_lab()
    monkeypatch.setenv("LASTWRITE_CACHE", str(tmp_path))
    monkeypatch.setattr(
        image, "_mmdebstrap", lambda tar: ["sh", "-c", f"echo half > {tar}; echo broken; exit 9"]
    )
    for _ in range(2):
        with pytest.raises(LabCommandError, match="exit status 9: broken"):
            image.ensure(report=lambda _text: None)
    assert not list(tmp_path.glob("rootfs-*")) + list(tmp_path.glob("image-*"))


@pytest.mark.guest
def test_the_image_is_built_once_and_then_only_found() -> None:
    require_lab()
    built = image.ensure()
    said: list[str] = []
    assert image.ensure(report=said.append) == built
    assert said == []
    assert built.base.stat().st_size == image.SIZE_MIB << 20
    assert built.base.stat().st_blocks * 512 < 600 << 20


@pytest.mark.guest
@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_guests_disk_is_a_whole_copy_of_the_base(tmp_path: Path, disk_format: str) -> None:
    require_lab()
    built = image.ensure()
    copy = tmp_path / "disk"
    image.copy_disk(built, copy, disk_format=disk_format)
    compared = run(["qemu-img", "compare", "-F", disk_format, built.base, copy], timeout_s=60)
    assert "Images are identical" in compared
    assert "backing file" not in run(["qemu-img", "info", copy], timeout_s=10)
