"""The configuration: where it comes from, what wins, and what mistakes look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from lastwrite import configdoc
from lastwrite.address import Address, parse_address
from lastwrite.config import ConfigError, Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("LASTWRITE_"):
            monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    file = folder / "lastwrite.toml"
    file.write_text(text)
    return file


def mistake(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        Settings.load(file)
    assert caught.value.exit_code == 2
    return caught.value.message.removeprefix(f"{file}: ")


def test_everything_is_optional_and_the_paths_follow_the_state_directory(tmp_path: Path) -> None:
    settings = Settings.load(written(tmp_path, f'[appliance]\nstate_dir = "{tmp_path}/s"\n'))
    assert settings.control_socket == tmp_path / "s/control.sock"
    assert settings.ingest_socket == tmp_path / "s/ingest.sock"
    assert settings.journals_dir == tmp_path / "s/journals"
    assert settings.catalog_url == f"sqlite:///{tmp_path}/s/catalog.db"
    assert settings.tap.listen == settings.tap.advertise == "127.0.0.1:7810"


def test_environment_wins_over_the_file_and_the_command_line_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, '[tap]\nlisten = "127.0.0.1:1"\n[appliance]\nstate_dir = "/a"\n')
    monkeypatch.setenv("LASTWRITE_TAP__LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("LASTWRITE_APPLIANCE__STATE_DIR", "/b")
    settings = Settings.load(file, state_dir=Path("/c"))
    assert settings.tap.listen == settings.tap.advertise == "127.0.0.1:2"
    assert settings.state_dir == Path("/c")


def test_the_file_is_found_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTWRITE_CONFIG", str(written(tmp_path, "[tap]\nring_mib = 128\n")))
    assert Settings.load().tap.ring_mib == 128
    monkeypatch.setenv("LASTWRITE_CONFIG", str(tmp_path / "other.toml"))
    with pytest.raises(ConfigError, match=r"other\.toml: no such file \(LASTWRITE_CONFIG names it\)"):
        Settings.load()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[tap]\nring_mib = 3\n", "tap: ring_mib must be a power of two"),
        ("[tap]\nring_mib = true\n", "tap.ring_mib: must be a number (got True)"),
        ("[tap]\nring_mib = 0\n", "tap.ring_mib: Input should be greater than or equal to 1 (got 0)"),
        ("[tap]\nlisen = 'x'\n", "tap.lisen: no such key (got 'x')"),
        ("[taps]\nx = 1\n", "taps: no such key (got {'x': 1})"),
        ("[nbd]\nlisten = 'localhost'\n", "nbd.listen: must have the form host:port (got 'localhost')"),
        ("[nbd]\nlisten = 'h:99999'\n", "nbd.listen: the port must be a number from 0 to 65535, not '99999'"),
        ("[appliance]\nstate_dir = 'here'\n", "appliance.state_dir: must be an absolute path (got 'here')"),
        ("[log]\njson_lines = 'maybe'\n", "log.json_lines: Input should be a valid boolean"),
        ("[appliance]\ncatalog_url = 'postgresql://x'\n", "appliance.catalog_url: must be sqlite:///"),
        ("tap = 3\n", "tap: Input should be"),
        ("[tap\n", "not TOML: "),
    ],
)  # fmt: skip
def test_a_mistake_names_its_key_why_and_the_value(tmp_path: Path, text: str, expected: str) -> None:
    assert mistake(written(tmp_path, text)).startswith(expected)


@pytest.mark.parametrize(
    "text",
    [
        "[appliance]\ncatalog_url = 'postgresql://me:hunter2@db/x'\n",
        "[appliance]\ncatalog_url = 'postgresql://me:hunter2/@#@db/x'\n",
        "[appliance]\ncatalog_url = 'postgresql://db/x?user=me&password=hunter2'\n",
        "[appliances]\ncatalog_url = 'postgresql://me:hunter2@db/x'\n",
        "[appliance]\npassword = 'hunter2'\n",
        "[appliances]\nx = [{ token = 'hunter2' }]\n",
    ],
)
def test_a_secret_is_not_shown_in_a_mistake(tmp_path: Path, text: str) -> None:
    said = mistake(written(tmp_path, text))
    assert "hunter2" not in said and "[hidden]" in said


def test_a_directory_is_no_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a file"):
        Settings.load(tmp_path)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    message = mistake(written(tmp_path, "[tap]\nring_mib = 0\n[nbd]\nport = 1\n"))
    assert "tap.ring_mib" in message and "nbd.port" in message


def test_a_state_directory_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    assert "must have at most 94 bytes" in mistake(
        written(tmp_path, f'[appliance]\nstate_dir = "/{"x" * 94}"\n')
    )
    fits = written(tmp_path, f'[appliance]\nstate_dir = "/{"x" * 93}"\n')
    assert len(str(Settings.load(fits).control_socket)) == 107


def test_addresses_of_both_families() -> None:
    assert parse_address("[::1]:7810") == Address("::1", 7810)
    assert str(Address("::1", 7810)) == "[::1]:7810"
    for wrong in ("::1:7810", "host", ":1", "host:", "host:x", "host:²"):
        with pytest.raises(ValueError):
            parse_address(wrong)


def test_the_document_lists_every_key_as_it_is() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == configdoc.text()
