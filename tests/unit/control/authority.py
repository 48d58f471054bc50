"""A small CA for tests: identity directories as the deploy playbook makes them, and wrong ones on purpose."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def subject(name: str, network: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, network)]
    )


def key_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Authority:
    """A CA of one network."""

    def __init__(self, network: str = "demo", name: str = "skedge CA") -> None:
        self.network, self.key, self.name = network, Ed25519PrivateKey.generate(), subject(name, network)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - DAY)
            .not_valid_after(now() + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, None)
        )

    def issue(
        self,
        site: str,
        key: Ed25519PrivateKey,
        *,
        network: str | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
        ca: bool = False,
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject(site, network or self.network))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start or now() - DAY)
            .not_valid_after(end or now() + 365 * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(site)]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, None)
        )

    def revocation_list(self, *revoked: x509.Certificate) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now() - DAY)
            .next_update(now() + 365 * DAY)
        )
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now())
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, None).public_bytes(Encoding.PEM)

    def directory(
        self,
        where: Path,
        site: str,
        *,
        certificate: x509.Certificate | None = None,
        key: Ed25519PrivateKey | None = None,
        crl: bytes | None = None,
    ) -> Path:
        """Write an identity directory and return it."""
        where.mkdir(parents=True, exist_ok=True)
        key = key or Ed25519PrivateKey.generate()
        certificate = certificate or self.issue(site, key)
        (where / "site.key").write_bytes(key_pem(key))
        (where / "site.key").chmod(0o600)
        (where / "site.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        (where / "ca.crt").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        if crl is not None:
            (where / "revoked.pem").write_bytes(crl)
        return where
