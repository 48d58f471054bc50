# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""The network's certificate authority: a directory on the control node.

``ca.key`` (0600, may be encrypted with ansible-vault), ``ca.crt``, ``revoked.pem`` (a standard CRL), ``issued/``,
one certificate a site, which is also the cache of every site's public key, and ``renewed/``, those that were renewed
and are valid still: to revoke a site is to revoke all of them. Several hosts are signed for at once, so everything
happens under one lock.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
# A host whose clock is a little behind must still find its certificate valid; pre-flight allows five minutes.
BACKDATE = dt.timedelta(hours=1)
EXPIRED_FOR = dt.timedelta(days=2)  # sites take a certificate as valid for a day after its end
PEM = serialization.Encoding.PEM


class AuthorityError(Exception):
    """The operator must act; the text is one sentence."""


@dataclass(frozen=True)
class Decision:
    """What a deploy does about one site's certificate: ``action`` is keep, sign, renew or replace; ``why`` says so."""

    action: str
    why: str

    @property
    def changed(self) -> bool:
        """Return whether a certificate is signed."""
        return self.action != "keep"


def utc_now() -> dt.datetime:
    """Return the current time."""
    return dt.datetime.now(dt.timezone.utc)


class Authority:
    """One network's authority. ``read_key`` returns the text of the key file, decrypted where it is vaulted."""

    def __init__(self, directory: str, network: str, read_key: Callable[[str], str] | None = None) -> None:
        self.directory = Path(directory)
        self.network = network
        self._read_key = read_key or (lambda path: Path(path).read_text(encoding="utf-8"))

    # ---- files ----

    @property
    def exists(self) -> bool:
        """Return whether the authority was made already."""
        return (self.directory / "ca.key").exists()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory's lock, making the authority on the first use."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        with (self.directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.exists:
                self._create()
            yield

    def certificate(self) -> x509.Certificate:
        """Return the authority's own certificate. Raises AuthorityError."""
        certificate = _load(self.directory / "ca.crt")
        if certificate is None:
            raise AuthorityError(f"{self.directory}/ca.crt is missing beside ca.key; restore the directory from backup")
        network = _attribute(certificate.subject, NameOID.ORGANIZATION_NAME)
        if network != self.network:
            raise AuthorityError(
                f"{self.directory} is the authority of network {network}, not of {self.network}; "
                "give each network its own skedge_ca_dir"
            )
        return certificate

    def issued(self, site: str) -> x509.Certificate | None:
        """Return the certificate that the site has now, if any."""
        return _load(self.directory / "issued" / f"{site}.crt")

    def revoked(self) -> x509.CertificateRevocationList | None:
        """Return the revocation list."""
        path = self.directory / "revoked.pem"
        return x509.load_pem_x509_crl(path.read_bytes()) if path.exists() else None

    def revoked_text(self) -> str:
        """Return the revocation list as PEM."""
        return (self.directory / "revoked.pem").read_text()

    def _key(self) -> Ed25519PrivateKey:
        path = self.directory / "ca.key"
        try:
            key = serialization.load_pem_private_key(self._read_key(str(path)).encode(), password=None)
        except (ValueError, TypeError) as error:
            raise AuthorityError(f"{path} is not a private key in PEM form; restore it from backup") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise AuthorityError(f"{path} is not an Ed25519 key; restore it from backup")
        return key

    def _create(self) -> None:
        if (self.directory / "ca.crt").exists():
            raise AuthorityError(f"{self.directory}/ca.key is missing beside ca.crt; restore the directory from backup")
        key = Ed25519PrivateKey.generate()
        name = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.network),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{self.network} skedge authority"),
        ])  # fmt: skip
        now = utc_now()
        builder = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + dt.timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        certificate = builder.sign(key, None)
        _write(self.directory / "ca.crt", certificate.public_bytes(PEM), 0o644)
        self._write_revoked(key, certificate, [])
        pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        _write(self.directory / "ca.key", pem, 0o600)  # last: its presence says that the authority is complete

    # ---- decisions and acts ----

    def decide(self, site: str, csr_pem: str, days: int) -> Decision:
        """Return what is to be done for a host that holds the key of the CSR."""
        issued = self.issued(site)
        if issued is None:
            return Decision("sign", "the site has no certificate yet")
        if not csr_pem or _raw(_csr(csr_pem, site).public_key()) != _raw(issued.public_key()):
            return Decision("replace", "the host has another key than the one that the site's certificate is for")
        if issued.issuer != self.certificate().subject or self._is_revoked(issued):
            return Decision("sign", "the site's certificate is revoked or of another authority")
        left = issued.not_valid_after_utc - utc_now()
        if left < dt.timedelta(days=days) / 3:
            return Decision("renew", f"{max(left.days, 0)} days are left, less than a third of {days}")
        return Decision("keep", "valid")

    def sign(self, site: str, csr_pem: str, days: int) -> None:
        """Sign for the site; a certificate of another key that it had is revoked. Raises AuthorityError."""
        csr = _csr(csr_pem, site)
        key, authority, now = self._key(), self.certificate(), utc_now()
        old = self.issued(site)
        if old is not None and _raw(old.public_key()) != _raw(csr.public_key()):
            self.revoke(site)
        elif old is not None:
            self._keep_renewed(site, old)
        not_after = min(now + dt.timedelta(days=days), authority.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder(authority.subject, self._name(site), csr.public_key(), x509.random_serial_number())
            .not_valid_before(max(now - BACKDATE, authority.not_valid_before_utc))
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(site)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        _write(self.directory / "issued" / f"{site}.crt", builder.sign(key, None).public_bytes(PEM), 0o644)

    def revoke(self, site: str) -> bool:
        """Put the site's certificate on the revocation list and forget it; return whether there was one."""
        certificate = self.issued(site)
        if certificate is None:
            return False
        reason = x509.CRLReason(x509.ReasonFlags.cessation_of_operation)
        entries = [
            x509.RevokedCertificateBuilder()
            .serial_number(one.serial_number)
            .revocation_date(utc_now())
            .add_extension(reason, critical=False)
            .build()
            for one in (certificate, *self._renewed(site))
        ]
        current = self.revoked()
        self._write_revoked(self._key(), self.certificate(), [*(current or []), *entries])
        (self.directory / "renewed" / f"{site}.crt").unlink(missing_ok=True)
        (self.directory / "issued" / f"{site}.crt").unlink()
        return True

    def _renewed(self, site: str) -> list[x509.Certificate]:
        """Return the site's certificates that were renewed, but are valid still."""
        path = self.directory / "renewed" / f"{site}.crt"
        found = x509.load_pem_x509_certificates(path.read_bytes()) if path.exists() else []
        return [one for one in found if one.not_valid_after_utc + EXPIRED_FOR > utc_now()]

    def _keep_renewed(self, site: str, old: x509.Certificate) -> None:
        """Remember a certificate that another one of the same key follows."""
        known = b"".join(one.public_bytes(PEM) for one in (*self._renewed(site), old))
        _write(self.directory / "renewed" / f"{site}.crt", known, 0o644)

    def _is_revoked(self, certificate: x509.Certificate) -> bool:
        current = self.revoked()
        if current is None:
            return False
        return current.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None

    def _name(self, site: str) -> x509.Name:
        return x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.network),
            x509.NameAttribute(NameOID.COMMON_NAME, site),
        ])  # fmt: skip

    def _write_revoked(
        self, key: Ed25519PrivateKey, authority: x509.Certificate, entries: list[x509.RevokedCertificate]
    ) -> None:
        now = utc_now()
        # Valid as long as the authority: a list that expires would cut a network nobody deploys to.
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.subject)
            .last_update(now - BACKDATE)
            .next_update(authority.not_valid_after_utc)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        for entry in entries:
            builder = builder.add_revoked_certificate(entry)
        _write(self.directory / "revoked.pem", builder.sign(key, None).public_bytes(PEM), 0o644)


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=authority, crl_sign=authority, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _csr(pem: str, site: str) -> x509.CertificateSigningRequest:
    """Return the host's request. What it asks for is not taken over, only its key. Raises AuthorityError."""
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
    except ValueError as error:
        raise AuthorityError(f"{site}: the host's certificate request cannot be read; deploy it again") from error
    if not csr.is_signature_valid or not isinstance(csr.public_key(), Ed25519PublicKey):
        raise AuthorityError(f"{site}: the host's certificate request is not signed by an Ed25519 key; deploy it again")
    return csr


def _raw(key: object) -> bytes:
    """Return the bytes of an Ed25519 public key; nothing for another kind of key."""
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else b""


def _attribute(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    values = name.get_attributes_for_oid(oid)
    return str(values[0].value) if values else ""


def _load(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise AuthorityError(f"{path} is not a certificate; restore it from backup") from error


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    temporary.replace(path)
