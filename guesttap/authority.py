"""The appliance's own certificate authority: who may speak as the appliance, and as which VM.

Owns the files in the pki folder: `ca.pem`, `ca.key`, `appliance.pem`, `appliance.key` (keys 0600, folder
0700). Keys never leave through a log or an error. Several processes may use one folder.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lastwrite.errors import IntegrityError

APPLIANCE_NAME = "appliance"
# A guest's clock may be far behind, and nobody but us signs here: no certificate needs a later beginning.
_BEGINNING = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_CA_DAYS = 365 * 30
_LEAF_DAYS = 365 * 20


class AuthorityError(IntegrityError):
    """The files of the authority cannot be used."""

    code = "authority-damaged"
    hint = (
        "Restore the pki folder from a backup; a new authority means that every agent must be deployed again."
    )


class Authority:
    """The authority in `pki_dir`, made on first use. Raises AuthorityError when its files do not fit."""

    def __init__(self, pki_dir: Path) -> None:
        self._dir = pki_dir
        pki_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(pki_dir):
            if not self._path("appliance.pem").exists():
                self._create()
        try:
            self.ca_pem: str = self._path("ca.pem").read_text("ascii")
            self._ca = x509.load_pem_x509_certificate(self.ca_pem.encode("ascii"))
            key = serialization.load_pem_private_key(self._path("ca.key").read_bytes(), None)
        except (OSError, ValueError) as error:
            raise AuthorityError(f"the authority in {pki_dir} cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self._ca.public_key():
            raise AuthorityError(f"ca.key in {pki_dir} is not the key of ca.pem")
        self._key = key

    def server_context(self) -> ssl.SSLContext:
        """Return the receiver's TLS settings: TLS 1.3, our certificate; a client may show one of ours."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_OPTIONAL
        context.num_tickets = 0
        try:
            context.load_cert_chain(self._path("appliance.pem"), self._path("appliance.key"))
            context.load_verify_locations(cadata=self.ca_pem)
        except (OSError, ssl.SSLError) as error:
            raise AuthorityError(f"the appliance's certificate in {self._dir}: {error}") from error
        return context

    def issue(self, vm_id: str, days: float = _LEAF_DAYS) -> tuple[str, str]:
        """Return a new certificate for the agent of `vm_id` and its key, both PEM; the key is not kept.

        `days` from now until it ends; a negative number makes one that has ended.
        """
        return self._sign(vm_id, ExtendedKeyUsageOID.CLIENT_AUTH, days)

    def _path(self, name: str) -> Path:
        return self._dir / name

    def _create(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Lastwrite appliance authority")])
        builder = _builder(name, name, self._key.public_key(), _CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        self._ca = builder.sign(self._key, hashes.SHA256())
        certificate, key = self._sign(APPLIANCE_NAME, ExtendedKeyUsageOID.SERVER_AUTH, _LEAF_DAYS)
        # The appliance's certificate comes last: it says that everything is there.
        _write(self._path("ca.key"), _key_pem(self._key), 0o600)
        _write(self._path("ca.pem"), _certificate_pem(self._ca), 0o644)
        _write(self._path("appliance.key"), key, 0o600)
        _write(self._path("appliance.pem"), certificate, 0o644)

    def _sign(self, common_name: str, usage: x509.ObjectIdentifier, days: float) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _builder(name, self._ca.subject, key.public_key(), days)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False
        )
        return _certificate_pem(builder.sign(self._key, hashes.SHA256())), _key_pem(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(_BEGINNING).not_valid_after(until)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain).decode("ascii")


def _write(path: Path, text: str, mode: int) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
    temporary.rename(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
