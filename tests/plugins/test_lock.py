"""A client that comes while the server starts waits for it; where none starts, it says so at once."""

from __future__ import annotations

import fcntl
import socket
import threading
import time
from pathlib import Path

import pytest

from plugins.client import STARTING_S, ControlClient
from plugins.errors import NoServerError
from plugins.lock import LOCK_NAME, is_held


def test_a_lock_is_held_only_while_somebody_holds_it(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with open(tmp_path / LOCK_NAME, "w") as lock:
        assert not is_held(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_a_client_waits_for_a_server_that_holds_the_lock_already(tmp_path: Path) -> None:
    with open(tmp_path / LOCK_NAME, "w") as lock, socket.socket(socket.AF_UNIX) as server:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def answer() -> None:
            server.bind(str(tmp_path / "control.sock"))
            server.listen()

        later = threading.Timer(0.5, answer)
        later.start()
        with ControlClient(tmp_path / "control.sock"):
            assert not later.is_alive(), "the client entered before there was a server"
        later.join()


def test_where_no_server_starts_the_client_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).touch()  # left by a server that has ended
    began = time.monotonic()
    with pytest.raises(NoServerError), ControlClient(tmp_path / "control.sock"):
        pass
    assert time.monotonic() - began < STARTING_S / 2
