"""The catalog: shared by processes, brought up to date by migrations, honest about what it does not have."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from lastwrite.catalog import (
    Catalog,
    CatalogDamagedError,
    CatalogTooNewError,
    CatalogUnavailableError,
    EnrolmentRefusedError,
    HypervisorInUseError,
    NameTakenError,
    UnknownHypervisorError,
    UnknownVmError,
    schema,
)
from lastwrite.database import migration_config, open_database
from lastwrite.ids import InvalidNameError, is_id

WRITERS, EACH = 4, 15


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'catalog.db'}"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(url(tmp_path))


def test_migrations_from_an_empty_file_give_exactly_the_tables_of_the_program(tmp_path: Path) -> None:
    engine = open_database(url(tmp_path))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema()) == []
        assert (
            context.get_current_revision()
            == ScriptDirectory.from_config(migration_config()).get_current_head()
        )


def test_rows_come_back_as_they_went_in(catalog: Catalog) -> None:
    host = catalog.add_hypervisor("source", "kvm", "qemu:///system")
    vm = catalog.add_vm(
        "web01", "source", "uuid-1", "/j/web01", spec={"name": "web01", "disks": [{"bytes": 512}]}
    )
    assert catalog.hypervisors() == [host] == [catalog.hypervisor("source")]
    assert catalog.vms() == [vm] == [catalog.vm("web01")] == [catalog.vm(vm.id)]
    assert is_id(vm.id) and not vm.protected and vm.created.tzinfo is not None
    changed = catalog.update_vm(vm.id, protected=True, ref="uuid-2")
    assert (changed.protected, changed.ref, changed.name) == (True, "uuid-2", "web01")
    catalog.remove_vm(vm.id)
    assert catalog.vms() == []


def test_adding_the_same_hypervisor_twice_changes_nothing_and_another_is_refused(catalog: Catalog) -> None:
    first = catalog.add_hypervisor("source", "kvm", "qemu:///system")
    assert catalog.add_hypervisor("source", "kvm", "qemu:///system") == first
    with pytest.raises(NameTakenError, match="qemu:///system"):
        catalog.add_hypervisor("source", "kvm", "qemu:///session")
    assert catalog.hypervisors() == [first]


def test_a_hypervisor_with_protected_vms_stays(catalog: Catalog) -> None:
    catalog.add_hypervisor("source", "kvm", "qemu:///system")
    vm = catalog.add_vm("web01", "source", "r", "/j", protected=True)
    with pytest.raises(HypervisorInUseError, match="web01"):
        catalog.remove_hypervisor("source")
    catalog.update_vm(vm.id, protected=False)
    catalog.remove_hypervisor("source")
    assert catalog.hypervisors() == []


def test_unknown_names_offer_the_nearest(catalog: Catalog) -> None:
    with pytest.raises(UnknownVmError) as none:
        catalog.vm("web01")
    assert "lastwrite protect" in none.value.hint
    for name in ("web01", "web02", "db"):
        catalog.add_vm(name, "source", name, f"/j/{name}")
    with pytest.raises(UnknownVmError) as caught:
        catalog.vm("wbe01")
    assert caught.value.exit_code == 3 and "web01" in caught.value.hint and "db" not in caught.value.hint
    catalog.add_hypervisor("target", "kvm", "qemu:///system")
    with pytest.raises(UnknownHypervisorError) as host:
        catalog.hypervisor("targte")
    assert host.value.hint == "Did you mean target?"


def test_names_that_cannot_be_part_of_a_point_are_refused(catalog: Catalog) -> None:
    for name in ("", "web@1", "web/1", "-web", "web 1", "x" * 81, "web\n"):
        with pytest.raises(InvalidNameError):
            catalog.add_vm(name, "source", "r", "/j")
    assert catalog.vms() == []


def test_two_vms_never_share_a_name(catalog: Catalog) -> None:
    catalog.add_vm("web01", "source", "1", "/j/1")
    other = catalog.add_vm("web02", "source", "2", "/j/2")
    with pytest.raises(NameTakenError):
        catalog.add_vm("web01", "target", "3", "/j/3")
    with pytest.raises(NameTakenError):
        catalog.update_vm(other.id, name="web01")
    with pytest.raises(TypeError):
        catalog.update_vm(other.id, id="x")
    assert [vm.name for vm in catalog.vms()] == ["web01", "web02"]


def test_a_token_buys_once_and_only_in_time(catalog: Catalog, tmp_path: Path) -> None:
    vm = catalog.add_vm("web01", "source", "1", "/j/1")
    old, token = catalog.new_enrolment(vm.id, 60), catalog.new_enrolment(vm.id, 60)
    assert catalog.redeem(token, "dmi-1").instance == "dmi-1"
    late = catalog.new_enrolment(vm.id, -1)
    for useless, why in ((token, "used before"), (old, "not known"), ("x", "not known"), (late, "too old")):
        with pytest.raises(EnrolmentRefusedError, match=why):
            catalog.redeem(useless, "dmi-2")
    assert catalog.vm("web01").instance == "dmi-1"
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert token.encode() not in stored and late.encode() not in stored


def add_many(address: str, number: int, start: multiprocessing.synchronize.Barrier) -> None:
    start.wait(30)
    catalog = Catalog(address)
    for count in range(EACH):
        vm = catalog.add_vm(f"vm-{number}-{count}", "source", f"r-{number}-{count}", "/j")
        catalog.update_vm(vm.id, protected=True)


def test_processes_open_an_empty_file_at_once_and_lose_no_write(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(WRITERS)
    writers = [
        spawn.Process(target=add_many, args=(url(tmp_path), number, start)) for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    rows = Catalog(url(tmp_path)).vms()
    assert len(rows) == WRITERS * EACH and all(row.protected for row in rows)


def redeem_into(address: str, token: str, results: multiprocessing.queues.Queue[bool]) -> None:
    try:
        Catalog(address).redeem(token, "dmi")
        results.put(True)
    except EnrolmentRefusedError:
        results.put(False)


def test_a_token_shown_by_two_processes_at_once_is_taken_from_one(catalog: Catalog, tmp_path: Path) -> None:
    token = catalog.new_enrolment(catalog.add_vm("web01", "s", "1", "/j").id, 60)
    spawn = multiprocessing.get_context("spawn")
    results: multiprocessing.queues.Queue[bool] = spawn.Queue()
    rivals = [spawn.Process(target=redeem_into, args=(url(tmp_path), token, results)) for _ in range(2)]
    for rival in rivals:
        rival.start()
    assert sorted(results.get(timeout=60) for _ in rivals) == [False, True]
    for rival in rivals:
        rival.join(30)


def test_a_reader_goes_on_while_another_process_writes(catalog: Catalog, tmp_path: Path) -> None:
    catalog.add_vm("web01", "source", "1", "/j")
    writer = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE vm SET name = 'other'")
    try:
        assert [vm.name for vm in catalog.vms()] == ["web01"]
    finally:
        writer.execute("ROLLBACK")
        writer.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"not a database, but long enough for a header" * 100)
    with pytest.raises(CatalogDamagedError, match=r"catalog\.db is damaged"):
        Catalog(url(tmp_path))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnavailableError, match="no/such"):
        Catalog(f"sqlite:///{tmp_path}/no/such/catalog.db")


def test_a_catalog_of_a_later_version_is_left_alone(catalog: Catalog, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalog.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(CatalogTooNewError, match="9999"):
        Catalog(url(tmp_path))
