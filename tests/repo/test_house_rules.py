"""The rules of CONTRIBUTING.md that a program can check."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("lastwrite", "journal", "hypervisors", "guesttap", "recovery", "failover", "plugins")
MOST_LINES = 400


def tracked(*patterns: str) -> list[Path]:
    """Return the project's own files that match, tracked or about to be."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def test_no_file_of_code_is_longer_than_can_be_read_in_one_sitting() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for p in tracked("*.py")
        if (n := len(p.read_text().splitlines())) > MOST_LINES
    }
    assert not long


def test_no_other_distribution_owns_our_top_level_names() -> None:
    owners = importlib.metadata.packages_distributions()
    assert {name: set(owners.get(name, ["lastwrite"])) for name in OURS} == {
        name: {"lastwrite"} for name in OURS
    }


def test_every_dependency_has_bounds_and_a_reason() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split() + setup["options.extras_require"]["dev"].split()
    reasons = (ROOT / "CONTRIBUTING.md").read_text().split("## Dependencies")[1]
    for line in lines:
        name, bounds = re.fullmatch(r"([A-Za-z0-9-]+)(.*)", line).groups()  # type: ignore[union-attr]
        assert re.fullmatch(r">=[\d.]+,<[\d.]+", bounds), f"{line}: no lower and upper bound"
        assert re.search(rf"\b{re.escape(name)}\b", reasons), f"{name}: no reason in CONTRIBUTING.md"


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
