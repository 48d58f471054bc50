"""Who this site is: its key and certificate, what it believes, and the TLS contexts made of them."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from skedge.control.identity.trust import Certificate, CertificateError, Clock, RecordVerifier, Trust, fingerprint
from skedge.core.errors import ConfigError

X509_V_FLAG_NO_CHECK_TIME = 0x200000  # openssl/x509_vfy.h: validity is judged here, with tolerance


@dataclass(frozen=True, slots=True)
class _Material:
    """What the identity directory holds."""

    key: Ed25519PrivateKey = field(compare=False)  # a certificate tells which one it is
    der: bytes
    authority: x509.Certificate
    revoked: frozenset[int]
    has_list: bool


class Identity:
    """This site's identity (`core.linkstate.messages.Signer`), its trust, and TLS contexts. Made by `load`."""

    def __init__(self, directory: Path, network: str, site: str, clock: Clock = time.time) -> None:
        """Read the directory. Raises ConfigError, as `reload` does."""
        self.directory, self.network, self.site = directory, network, site
        self._clock = clock
        self._material = _read(directory)
        self.trust = Trust(network, self._material.authority, self._material.revoked, clock)
        self._own = _own(self._material, self.trust, site, directory)
        self.verifier = RecordVerifier(self.trust)
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def reload(self) -> None:
        """Re-read key, certificate, CA and revocation list.

        Raises:
            ConfigError: a file is missing or wrong; what was read before stays in force.
        """
        material = _read(self.directory)
        own = _own(material, Trust(self.network, material.authority, clock=self._clock), self.site, self.directory)
        self._material, self._own = material, own
        self.trust.replace(material.authority, material.revoked)
        self._contexts.clear()

    @property
    def certificate(self) -> bytes:
        """The site's certificate (DER)."""
        return self._material.der

    @property
    def serial(self) -> str:
        """Serial number of the site's certificate, in hex."""
        return f"{self._own.serial:x}"

    def in_force(self) -> bool:
        """Tell whether the directory holds what was read last: else a reload is still to come, or was refused."""
        try:
            return _read(self.directory) == self._material
        except ConfigError:
            return False

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the site's public key."""
        return self._own.fingerprint

    @property
    def days_left(self) -> float:
        """Days until the site's certificate ends; negative when it has."""
        return (self._own.not_after - self._clock()) / 86400

    def sign(self, data: bytes) -> bytes:
        """Return the Ed25519 signature (64 bytes)."""
        return self._material.key.sign(data)

    def tls(self, *, server: bool) -> ssl.SSLContext:
        """Return the TLS 1.3 context for accepting or dialling; the peer's name and dates are for `Trust.check`."""
        context = self._contexts.get(server)
        if context is None:
            context = self._contexts[server] = self._context(
                ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
            )
        return context

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the name is the certificate's CN, compared with the configured neighbour
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.directory / "site.crt", self.directory / "site.key")
        context.load_verify_locations(self.directory / "ca.crt")
        flags = context.verify_flags | X509_V_FLAG_NO_CHECK_TIME
        if self._material.has_list:
            context.load_verify_locations(self.directory / "revoked.pem")
            flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        context.verify_flags = ssl.VerifyFlags(flags)
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # no resumption: every stream shows its certificate
        return context


def load(directory: str | Path, network: str, site: str, clock: Clock = time.time) -> Identity:
    """Return the identity kept in a directory: ``site.key`` ``site.crt`` ``ca.crt`` and, if any, ``revoked.pem``.

    Raises:
        ConfigError: a file is missing, unreadable or does not fit network and site.
    """
    return Identity(Path(directory), network, site, clock)


def _read(directory: Path) -> _Material:
    """Read the identity directory. Raises ConfigError."""
    key_file = directory / "site.key"
    pem = _bytes(key_file)
    if key_file.stat().st_mode & 0o077:
        raise ConfigError(f"{key_file}: readable by others; run chmod 600 {key_file} and deploy a new key")
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key_file}: not an unencrypted PEM private key; run the deploy playbook") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{key_file}: not an Ed25519 key; remove it and run the deploy playbook")
    certificate = _certificate(directory / "site.crt")
    authority = _certificate(directory / "ca.crt")
    list_file = directory / "revoked.pem"
    has_list = list_file.exists()
    return _Material(
        key=key,
        der=certificate.public_bytes(Encoding.DER),
        authority=authority,
        revoked=_revoked(list_file, authority) if has_list else frozenset(),
        has_list=has_list,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; run the deploy playbook") from error


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_bytes(path))
    except ValueError as error:
        raise ConfigError(f"{path}: not a PEM certificate; run the deploy playbook") from error


def _revoked(path: Path, authority: x509.Certificate) -> frozenset[int]:
    """Return the serial numbers on the list. Raises ConfigError when it is not the CA's."""
    try:
        crl = x509.load_pem_x509_crl(_bytes(path))
        good = crl.issuer == authority.subject and crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not a PEM revocation list; run the deploy playbook") from error
    if not good:
        raise ConfigError(f"{path}: not signed by the CA in ca.crt; run the deploy playbook")
    return frozenset(entry.serial_number for entry in crl)


def _own(material: _Material, trust: Trust, site: str, directory: Path) -> Certificate:
    """Return this site's certificate, which may be expired or revoked but must fit. Raises ConfigError."""
    path = directory / "site.crt"
    try:
        own = trust.parse(material.der)
    except CertificateError as error:
        raise ConfigError(f"{path}: {error}; run the deploy playbook") from error
    if own.site != site:
        raise ConfigError(f"{path}: names site {own.site!r}, the configuration says {site!r}; run the deploy playbook")
    if own.fingerprint != fingerprint(material.key.public_key()):
        raise ConfigError(f"{path}: does not belong to {directory / 'site.key'}; run the deploy playbook")
    return own
