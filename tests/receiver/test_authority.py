"""The authority's files: made once, for their owner alone, refused when they do not fit together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from guesttap.authority import Authority, AuthorityError


def test_many_at_once_make_one_authority(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Authority(tmp_path / "pki").ca_pem, range(8)))
    assert len(set(made)) == 1
    assert (tmp_path / "pki").stat().st_mode & 0o777 == 0o700


def test_a_certificate_names_its_vm(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("a" * 32)
    parsed = x509.load_pem_x509_certificate(certificate.encode())
    assert [part.value for part in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["a" * 32]
    assert not parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert key.startswith("-----BEGIN PRIVATE KEY")
    assert not any(key in path.read_text() for path in tmp_path.iterdir())


def test_files_of_two_authorities_are_refused(tmp_path: Path) -> None:
    Authority(tmp_path / "one")
    Authority(tmp_path / "two")
    (tmp_path / "one/ca.pem").write_bytes((tmp_path / "two/ca.pem").read_bytes())
    with pytest.raises(AuthorityError, match=r"ca\.key"):
        Authority(tmp_path / "one")


def test_a_creation_that_was_interrupted_begins_again(tmp_path: Path) -> None:
    first = Authority(tmp_path).ca_pem
    (tmp_path / "appliance.pem").unlink()
    again = Authority(tmp_path)
    assert again.ca_pem != first
    again.server_context()
