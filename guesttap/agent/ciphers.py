"""Chooses the TLS cipher for a processor that has no AES instructions: ChaCha20 is several times as quick there.

Python cannot choose TLS 1.3 suites itself (before 3.15), but OpenSSL reads them from its configuration file when it is
loaded: so this must come before the first import of `ssl` in the process, and may import nothing that imports it.
"""

from __future__ import annotations

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_CONFIGURATION = """\
openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = ours
[ours]
Ciphersuites = TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384
"""


def prefer_what_is_quick(folder: Path, cpuinfo: Path = CPUINFO) -> bool:
    """Write OpenSSL's configuration into `folder` and name it in the environment, if AES is slow here.

    Returns whether it was needed. The other side still must agree, and both suites are equally safe.
    """
    if _has_aes(cpuinfo):
        return False
    path = folder / "openssl.cnf"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(_CONFIGURATION)
    except OSError:
        return False  # it is only about speed
    os.environ["OPENSSL_CONF"] = str(path)
    return True


def _has_aes(cpuinfo: Path) -> bool:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return True
    flags = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return not flags or all("aes" in found for found in flags)
