"""Ends that are not peaceful: taps that do not obey, journals that are gone, the same VM twice."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from guesttap.ingest_client import IngestClient
from journal.reader import JournalReader
from journal.writer import JournalWriter
from lastwrite.catalog import VmTakenError
from lastwrite.errors import LastwriteError, UnavailableError
from plugins.client import ControlClient
from plugins.models import Marked
from plugins.server import protect as protect_module
from tests.plugins.kit import Site, until


@pytest.fixture
def deaf(protected: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An appliance whose tap streams on and does nothing that it is told, in a guest that cannot be reached."""
    monkeypatch.setattr(IngestClient, "detach", lambda self, vm, seconds=1.0: _gone())
    protected.guests.deaf = True
    protected.guests.remove = lambda *_: _gone()  # type: ignore[method-assign]
    return protected


def _gone() -> None:
    raise UnavailableError("the host does not answer")


def test_ending_it_ends_the_session_of_a_tap_that_ignores_it(deaf: Site) -> None:
    row = deaf.context.catalog.vm("web01")
    answer = deaf.json("unprotect", "web01")
    assert len(answer["notes"]) == 2
    assert deaf.context.ingest().status()[row.id]["connected"] is False
    stands = JournalReader(row.journal).next_lsn
    time.sleep(0.5)
    assert JournalReader(row.journal).next_lsn == stands
    with JournalWriter.open(row.journal) as journal:  # nobody holds it
        assert journal.next_lsn == stands


def test_a_journal_is_deleted_only_when_nobody_writes_it(deaf: Site) -> None:
    journal = Path(deaf.context.catalog.vm("web01").journal)
    assert deaf.json("unprotect", "web01", "--delete-journal", "--confirm", "web01")["journal_deleted"]
    time.sleep(0.5)
    assert not journal.exists() and list(deaf.settings.journals_dir.iterdir()) == []


def test_a_journal_that_another_process_holds_is_not_deleted(protected: Site) -> None:
    protected.json("unprotect", "web01")
    journal = protected.context.catalog.vm("web01").journal
    words = ("unprotect", "web01", "--delete-journal", "--confirm", "web01")
    with JournalWriter.open(journal):
        answer = protected.ask(*words, "--json")
        assert (answer.status, answer.error["code"]) == (4, "journal-busy")
        assert Path(journal, "JOURNAL").is_file() and protected.context.catalog.vms()
    assert protected.json(*words)["journal_deleted"] and not Path(journal).exists()


def test_deleting_a_journal_whose_folder_has_gone_forgets_the_vm(protected: Site) -> None:
    protected.json("unprotect", "web01")
    shutil.rmtree(protected.context.catalog.vm("web01").journal)
    assert protected.json("unprotect", "web01", "--delete-journal", "--confirm", "web01")["journal_deleted"]
    assert protected.context.catalog.vms() == []


def test_what_an_interrupted_deletion_left_is_deleted_too(protected: Site) -> None:
    protected.json("unprotect", "web01")
    row = protected.context.catalog.vm("web01")
    journal = Path(row.journal)
    journal.rename(journal.with_name(f".{journal.name}-deleted-{row.id[:8]}"))
    assert protected.json("unprotect", "web01", "--delete-journal", "--confirm", "web01")["journal_deleted"]
    assert list(protected.settings.journals_dir.iterdir()) == []


def test_a_vm_is_not_protected_twice_under_two_names(protected: Site) -> None:
    calls = list(protected.guests.calls)
    answer = protected.ask("protect", "web01", "--as", "other", "--json")
    assert (answer.status, answer.error["code"]) == (6, "vm-taken")
    assert "as web01" in answer.error["message"]
    assert protected.guests.calls == calls and len(protected.context.catalog.vms()) == 1
    assert [path.name for path in protected.settings.journals_dir.iterdir()] == ["web01"]
    row = protected.context.catalog.vm("web01")
    with pytest.raises(VmTakenError):  # the catalog itself lets no race through
        protected.context.catalog.add_vm("third", row.hypervisor, row.ref, "/j")


def test_a_tap_that_is_refused_is_told_at_once_and_undone(added: Site) -> None:
    added.guests.instance = "another-machine"
    began = time.monotonic()
    answer = added.ask("protect", "web01", "--json")
    assert (answer.status, answer.error["code"]) == (4, "tap-failed") and time.monotonic() - began < 20
    assert "another machine" in answer.error["message"] and "undone" in answer.error["hint"]
    assert added.context.catalog.vms() == []


def test_a_repair_that_fails_does_not_say_that_it_was_undone(
    protected: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    protected.guests.close()
    until("the tap is away", lambda: protected.json("status")["vms"][0]["state"] == "Disconnected")
    protected.guests.instance = "another-machine"
    error = protected.ask("protect", "web01", "--json").error
    assert error["code"] == "tap-failed"
    assert "undone" not in error["hint"] and "stays protected" in error["hint"]
    protected.guests.instance = None  # what was said of the tap before counts no more
    assert protected.json("protect", "web01", "--timeout", "30")["state"] == "Protected"
    protected.guests.close()
    until("the tap is away again", lambda: protected.json("status")["vms"][0]["state"] == "Disconnected")
    monkeypatch.setattr(protect_module, "CONNECT_S", 1.0)
    protected.guests.silent = True
    error = protected.ask("protect", "web01", "--json").error
    assert error["code"] == "tap-silent" and "undone" not in error["hint"]


def test_protecting_again_does_not_make_a_lost_journal_anew(protected: Site) -> None:
    protected.guests.close()
    until("the tap is away", lambda: protected.json("status")["vms"][0]["state"] == "Disconnected")
    journal = Path(protected.context.catalog.vm("web01").journal)
    journal.rename(journal.with_name("moved"))
    calls = list(protected.guests.calls)
    status = protected.json("status")["vms"][0]
    assert status["state"] == "Error" and "no journal" in status["alarm"]
    assert "no journal" in protected.ask("status", "web01").out.replace("\n", " ")
    answer = protected.ask("protect", "web01", "--json")
    assert (answer.status, answer.error["code"]) == (3, "not-a-journal")
    assert "--delete-journal" in answer.error["hint"]
    assert not journal.exists() and protected.guests.calls == calls
    journal.with_name("moved").rename(journal)
    assert protected.json("protect", "web01", "--timeout", "30")["state"] == "Protected"


def test_a_disk_without_a_name_is_not_every_disk(added: Site) -> None:
    answer = added.ask("protect", "web02", "--disk", "", "--json")
    assert answer.status == 2 and "disk without a name" in answer.error["message"]
    assert added.guests.calls == []
    assert added.ask("protect", "web02", "--as", "", "--json").error["code"] == "invalid-name"
    answer = added.ask("recover", "web01@latest", "--to", "/nowhere/x.raw", "--disk", "", "--json")
    assert answer.status == 2 and "--disk" in answer.error["message"]


def test_unreadable_sectors_are_shown_by_status(protected: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    tap = protected.tap("web01")
    whole = tap.pong

    def pong(ping: dict[str, object]) -> None:
        sending = tap.live().send_message
        with monkeypatch.context() as patched:
            patched.setattr(
                tap.live(),
                "send_message",
                lambda message: sending(
                    {**message, "status": {**message["status"], "unreadable_bytes": 4096}}
                ),
            )
            whole(ping)

    monkeypatch.setattr(tap, "pong", pong)
    until("status says it", lambda: protected.json("status")["vms"][0]["alarm"] is not None)
    told = protected.json("status", "web01")["vms"][0]
    assert told["alarm"].startswith("4.0 KiB of the guest's disks could not be read")
    assert told["unreadable_bytes"] == 4096 and told["state"] == "Protected"
    assert "could not be read" in " ".join(protected.ask("status", "web01").out.split())
    assert "could not be read" in protected.json("protect", "web01")["alarm"]


BAD_NAMES = (
    "a/b",
    "..",
    ".",
    "../status",
    "web01?all=true",
    "web01#x",
    "%2e%2e",
    "web01/../web01",
    "ü",
    "x" * 300,
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_never_leads_to_another_address(protected: Site, name: str) -> None:
    for words in (("points", name), ("status", name), ("bookmark", name, "b"), ("appshot", name)):
        answer = protected.ask(*words, "--json")
        assert (answer.status, answer.error["code"]) == (3, "unknown-vm"), words
    for command in ("check", "remove"):
        answer = protected.ask("hypervisor", command, name, "--json")
        assert (answer.status, answer.error["code"]) == (3, "unknown-hypervisor")
    assert protected.json("hypervisor", "list")["hypervisors"]


def test_an_empty_name_is_no_name(protected: Site) -> None:
    for words in (("points", ""), ("status", ""), ("bookmark", "", "b"), ("appshot", ""),
                  ("hypervisor", "check", ""), ("hypervisor", "remove", "")):  # fmt: skip
        assert protected.ask(*words, "--json").status == 2, words


def test_an_address_that_is_not_there_is_told_in_our_form(protected: Site) -> None:
    with ControlClient(protected.settings.control_socket) as client, pytest.raises(LastwriteError) as caught:
        client.ask(Marked, "GET", "/v1/nothing")
    assert (caught.value.code, caught.value.exit_code) == ("not-found", 3)


def test_of_many_that_ask_for_a_name_at_once_one_gets_it(protected: Site) -> None:
    got: list[str] = []

    def ask() -> None:
        try:
            with ControlClient(protected.settings.control_socket) as client:
                client.ask(Marked, "POST", "/v1/vms/web01/bookmarks", body={"name": "race", "at": None})
            got.append("made")
        except LastwriteError as error:
            got.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(got) == ["made"] + ["name-taken"] * 5
    assert [point["label"] for point in protected.json("points", "web01")["points"]] == ["race"]


def test_ingest_makes_files_for_its_owner_alone(protected: Site) -> None:
    for folder, _, files in os.walk(protected.context.catalog.vm("web01").journal):
        for name in files:
            if name.endswith(".seg"):  # made by the ingest process
                assert Path(folder, name).stat().st_mode & 0o077 == 0
