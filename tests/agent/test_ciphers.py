"""On a processor without AES instructions the agent's TLS begins with ChaCha20, elsewhere it is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRST_CIPHER = """
import sys
from pathlib import Path
from guesttap.agent import main  # as the agent begins
from guesttap.agent.ciphers import prefer_what_is_quick
assert "ssl" not in sys.modules, "OpenSSL is loaded before its configuration is written"
prefer_what_is_quick(Path(sys.argv[1]), Path(sys.argv[2]))
import ssl
print(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).get_ciphers()[0]["name"])
"""


@pytest.mark.parametrize(
    ("flags", "cipher"),
    [
        ("flags : fpu sse2 ht", "TLS_CHACHA20_POLY1305_SHA256"),
        ("flags : fpu sse2 aes ht", "TLS_AES_256_GCM_SHA384"),
        ("", "TLS_AES_256_GCM_SHA384"),
    ],
)
def test_the_first_cipher_is_one_that_the_processor_is_quick_at(
    flags: str, cipher: str, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(flags + "\n")
    argv = [sys.executable, "-c", FIRST_CIPHER, str(tmp_path / "run"), str(cpuinfo)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, cipher), done.stderr
