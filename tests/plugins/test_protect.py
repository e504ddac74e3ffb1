"""Protecting and ending it: over the real socket, with the real ingest process and an imitated guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from guesttap.deploy import ProbeReport, Problem
from lastwrite.errors import UnavailableError
from plugins.client import ControlClient
from plugins.server import protect as protect_module
from tests.plugins.kit import WORLD, Site, until


def nothing_is_left(site: Site) -> bool:
    return not site.context.catalog.vms() and not list(site.settings.journals_dir.iterdir())


def test_a_vm_becomes_protected_and_asking_again_changes_nothing(added: Site) -> None:
    first = added.json("protect", "web01", "--timeout", "30")
    assert (first["vm"], first["state"], first["already"]) == ("web01", "Protected", False)
    assert Path(first["journal"], "JOURNAL").is_file()
    again = added.json("protect", "web01")
    assert again["already"] and again["id"] == first["id"]
    assert added.guests.calls == ["probe", "deploy"]
    row = added.context.catalog.vm("web01")
    assert row.protected and row.spec is not None and row.spec["memory_bytes"] == 1 << 30


def test_steps_and_progress_go_to_stderr_and_the_result_to_stdout(added: Site) -> None:
    answer = added.ask("protect", "web01", "--timeout", "30")
    assert "Putting the tap into web01" in answer.err
    assert answer.out.startswith("web01 is protected: Protected") and "Putting" not in answer.out


def test_a_guest_that_is_not_ready_is_refused_with_every_problem_and_remedy(added: Site) -> None:
    no_python = Problem("guest-no-python", "the guest has no Python", "Install python3 in it.")
    no_btf = Problem("guest-no-btf", "its kernel has no BTF", "Use the qemu tap.")
    added.guests.report = ProbeReport((no_python, no_btf))
    answer = added.ask("protect", "web01", "--json")
    assert answer.status == 7 and answer.out == ""
    assert answer.error["code"] == "guest-unsuitable"
    assert answer.error["details"]["problems"] == [no_python._asdict(), no_btf._asdict()]
    assert "has no Python; its kernel has no BTF" in answer.error["message"]
    assert answer.error["hint"] == "Install python3 in it. Use the qemu tap."
    assert nothing_is_left(added) and added.guests.calls == ["probe"]


def test_a_deployment_that_fails_is_undone_in_reverse(added: Site) -> None:
    added.guests.fail = UnavailableError("the guest's disk is full", hint="Make room in it.")
    answer = added.ask("protect", "web01")
    assert (answer.status, "error: the guest's disk is full" in answer.err) == (4, True)
    assert added.guests.calls == ["probe", "deploy"]  # deploying undoes itself
    assert nothing_is_left(added)
    added.guests.fail = None
    assert added.ask("protect", "web01", "--timeout", "30").status == 0


def test_a_defect_in_the_middle_is_undone_too_and_called_a_defect(added: Site) -> None:
    added.guests.fail = ZeroDivisionError("oops")
    answer = added.ask("protect", "web01", "--json")
    assert (answer.status, answer.error["code"]) == (1, "internal")
    assert nothing_is_left(added)


def test_a_tap_that_never_reports_is_undone(added: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protect_module, "CONNECT_S", 1.0)
    added.guests.silent = True
    answer = added.ask("protect", "web01", "--json")
    assert (answer.status, answer.error["code"]) == (4, "tap-silent")
    assert added.settings.tap.advertise in answer.error["message"]
    assert nothing_is_left(added) and added.guests.calls == ["probe", "deploy", "remove"]


def test_repairing_a_tap_that_was_lost_never_takes_protection_away(
    protected: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protect_module, "CONNECT_S", 1.0)
    protected.guests.close()
    until("the tap is away", lambda: protected.json("status")["vms"][0]["state"] == "Disconnected")
    protected.guests.silent = True
    assert protected.ask("protect", "web01", "--json").error["code"] == "tap-silent"
    assert protected.context.catalog.vm("web01").protected and "remove" not in protected.guests.calls
    protected.guests.silent = False
    again = protected.json("protect", "web01", "--timeout", "30")
    assert (again["state"], again["already"]) == ("Protected", False)


def test_protecting_again_after_the_end_goes_on_with_the_same_journal(protected: Site) -> None:
    before = protected.context.catalog.vm("web01")
    assert protected.ask("unprotect", "web01").status == 0
    assert protected.json("protect", "web01", "--timeout", "30")["journal"] == before.journal
    assert protected.context.catalog.vm("web01").id == before.id
    epochs = protected.context.reader(before).epochs()
    assert [epoch.number for epoch in epochs] == [1, 2]


def test_ending_it_keeps_the_journal_and_its_points(protected: Site) -> None:
    protected.json("bookmark", "web01", "good")
    answer = protected.json("unprotect", "web01")
    assert not answer["journal_deleted"] and not answer["already"] and answer["notes"] == []
    assert Path(answer["journal"], "JOURNAL").is_file()
    assert protected.json("status", "web01")["vms"][0]["state"] == "Unprotected"
    assert [point["label"] for point in protected.json("points", "web01")["points"]] == ["good"]
    assert protected.json("unprotect", "web01")["already"]
    refused = protected.ask("appshot", "web01", "--json")
    assert (refused.status, refused.error["code"]) == (6, "not-protected")


def test_ending_it_works_when_the_host_has_gone_and_says_what_is_left(protected: Site) -> None:
    protected.guests.close()
    protected.hypervisor.world.vms.clear()
    protected.guests.remove = _gone  # type: ignore[assignment,method-assign]
    until("the tap is away", lambda: protected.json("status")["vms"][0]["state"] == "Disconnected")
    answer = protected.json("unprotect", "web01")
    assert len(answer["notes"]) == 2 and "agent.pyz remove" in answer["notes"][1]
    assert not protected.context.catalog.vm("web01").protected


def _gone(*_: object) -> None:
    raise UnavailableError("the host does not answer")


def test_a_journal_is_deleted_only_with_the_name_typed_once_more(protected: Site) -> None:
    journal = Path(protected.context.catalog.vm("web01").journal)
    for words in ((), ("--confirm", "web1")):
        answer = protected.ask("unprotect", "web01", "--delete-journal", *words, "--json")
        assert (answer.status, answer.error["code"]) == (6, "not-confirmed")
        assert protected.context.catalog.vm("web01").protected and journal.is_dir()
    assert protected.json("unprotect", "web01", "--delete-journal", "--confirm", "web01")["journal_deleted"]
    assert nothing_is_left(protected)


def test_the_same_name_on_two_hypervisors_must_be_told_apart(added: Site) -> None:
    added.json("hypervisor", "add", "again", WORLD)
    answer = added.ask("protect", "web01", "--json")
    assert (answer.status, answer.error["code"]) == (2, "ambiguous-vm")
    assert "--hypervisor" in answer.error["hint"] and nothing_is_left(added)
    assert added.json("protect", "web01", "--hypervisor", "again", "--timeout", "30")["hypervisor"] == "again"


def test_a_vm_whose_name_cannot_be_part_of_a_point_gets_another(added: Site) -> None:
    answer = added.ask("protect", "a name", "--json")
    assert (answer.status, answer.error["code"]) == (2, "invalid-name")
    assert nothing_is_left(added) and added.guests.calls == []
    assert added.json("protect", "a name", "--as", "a-name", "--timeout", "30")["vm"] == "a-name"
    assert added.json("protect", "a name", "--as", "a-name")["already"]
    other = added.ask("protect", "web01", "--as", "a-name", "--json")
    assert (other.status, other.error["code"]) == (6, "name-taken")


def test_ingest_killed_is_told_as_unknown_and_not_as_gone(protected: Site) -> None:
    protected.ingest.kill()
    protected.ingest.wait(10)
    status = protected.json("status")
    assert status["ingest"] is False and status["vms"][0]["state"] == "Unknown"
    assert "The ingest process does not answer" in protected.ask("status").out
    answer = protected.ask("bookmark", "web01", "x", "--json")
    assert (answer.status, answer.error["code"]) == (4, "ingest-unavailable")
    protected.ingest = protected.start_ingest()


def test_whoever_asked_and_went_away_leaves_nothing_half_done(added: Site) -> None:
    added.guests.silent = True  # so that it waits for a tap that does not come
    body = {"vm": "web01", "timeout": 60}
    with ControlClient(added.settings.control_socket) as client:
        events = client.stream("/v1/protect", body)
        for event in events:
            if event["event"] == "step" and "Waiting for the tap" in event["text"]:
                break
        assert added.context.catalog.vm("web01").protected
        events.close()
    until("it is undone", lambda: nothing_is_left(added))
    assert added.guests.calls == ["probe", "deploy", "remove"]


def test_one_vm_is_protected_by_one_command_at_a_time(added: Site) -> None:
    added.guests.silent = True
    with ControlClient(added.settings.control_socket) as client:
        events = client.stream("/v1/protect", {"vm": "web01", "timeout": 60})
        next(events)
        second = added.ask("protect", "web01", "--json")
        assert (second.status, second.error["code"]) == (6, "operation-running")
        events.close()
    until("it is undone", lambda: nothing_is_left(added))


def test_a_server_that_ends_undoes_what_was_begun(added: Site) -> None:
    added.guests.silent = True
    with ControlClient(added.settings.control_socket) as client:
        events = client.stream("/v1/protect", {"vm": "web01", "timeout": 60})
        for event in events:
            if event["event"] == "step" and "Waiting for the tap" in event["text"]:
                break
        added.end_control()
        assert nothing_is_left(added)
        events.close()
