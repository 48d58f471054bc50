"""Whom this site believes: certificates of the network's CA, and what their keys signed.

One CA, no intermediates. A certificate's CN is the site's name, its O the network's. Clocks matter only for a
certificate's validity, and there with `CLOCK_TOLERANCE_S`: edge hosts come up with clocks that are wrong.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from skedge.core.linkstate.messages import SignedRecord, Verdict, signed_bytes
from skedge.core.reasons import Reason

CLOCK_TOLERANCE_S = 24 * 3600.0
CACHE_MAX = 4096  # certificates that need no second look
CERTIFICATE_MAX = 8192  # bytes

Clock = Callable[[], float]


class CertificateError(Exception):
    """A certificate that cannot be believed: ``reason`` and a sentence."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Certificate:
    """What matters of a certificate that the CA issued for this network. Times are POSIX seconds."""

    site: str
    serial: int
    not_before: float
    not_after: float
    key: Ed25519PublicKey
    fingerprint: str


class Trust:
    """The network's CA and revocation list, and the certificates that were found good."""

    def __init__(
        self, network: str, authority: x509.Certificate, revoked: frozenset[int] = frozenset(), clock: Clock = time.time
    ) -> None:
        self.network = network
        self._authority = authority
        self._revoked = revoked
        self._clock = clock
        self._good: OrderedDict[bytes, Certificate] = OrderedDict()

    def replace(self, authority: x509.Certificate, revoked: frozenset[int]) -> None:
        """Take a re-read CA and revocation list."""
        if authority != self._authority:
            self._good.clear()
        self._authority, self._revoked = authority, revoked

    def check(self, der: bytes) -> Certificate:
        """Return the certificate if it is good now.

        Raises:
            CertificateError: BAD_SIGNATURE (not this CA's, not this network's, no Ed25519), REVOKED or EXPIRED.
        """
        certificate = self._good.get(der)
        if certificate is None:
            certificate = self.parse(der)
            self._good[der] = certificate
            if len(self._good) > CACHE_MAX:
                self._good.popitem(last=False)
        else:
            self._good.move_to_end(der)
        if certificate.serial in self._revoked:
            raise CertificateError(Reason.REVOKED, f"the certificate of {certificate.site} is revoked")
        now = self._clock()
        if not certificate.not_before - CLOCK_TOLERANCE_S <= now <= certificate.not_after + CLOCK_TOLERANCE_S:
            raise CertificateError(Reason.EXPIRED, f"the certificate of {certificate.site} is not valid now")
        return certificate

    def parse(self, der: bytes) -> Certificate:
        """Return the certificate after the checks that time cannot change."""
        try:
            if len(der) > CERTIFICATE_MAX:
                raise ValueError("too large")
            certificate = x509.load_der_x509_certificate(der)
            certificate.verify_directly_issued_by(self._authority)
            site, network = _one(certificate, NameOID.COMMON_NAME), _one(certificate, NameOID.ORGANIZATION_NAME)
            key = certificate.public_key()
            is_authority = _is_authority(certificate)
        except InvalidSignature as error:
            raise CertificateError(
                Reason.BAD_SIGNATURE, "the certificate is not signed by this network's CA"
            ) from error
        except Exception as error:  # the parser's exceptions are many; hostile input must not choose among them
            raise CertificateError(Reason.BAD_SIGNATURE, f"not a certificate of this network: {error}") from error
        if is_authority or not isinstance(key, Ed25519PublicKey):
            raise CertificateError(Reason.BAD_SIGNATURE, "not a site's Ed25519 certificate")
        if network != self.network:
            raise CertificateError(Reason.BAD_SIGNATURE, f"the certificate is for network {network!r}")
        return Certificate(
            site=site,
            serial=certificate.serial_number,
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            key=key,
            fingerprint=fingerprint(key),
        )


class RecordVerifier:
    """`core.linkstate.messages.Verifier`: believes a record when its certificate is good, names its site, and signed
    it.
    """

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    def verify(self, record: SignedRecord) -> Verdict:
        """Return NONE with the key's fingerprint, or BAD_SIGNATURE, REVOKED, EXPIRED. Never raises."""
        try:
            data = signed_bytes(self._trust.network, record)
        except (OverflowError, UnicodeError):  # numbers or names that no site can sign
            return Verdict(Reason.BAD_SIGNATURE)
        return self.verify_data(record.site, record.certificate, data, record.signature)

    def verify_data(self, site: str, certificate: bytes, data: bytes, signature: bytes) -> Verdict:
        """The same for any bytes that ``site`` signed."""
        try:
            checked = self._trust.check(certificate)
        except CertificateError as error:
            return Verdict(error.reason)
        if checked.site != site:
            return Verdict(Reason.BAD_SIGNATURE)
        try:
            checked.key.verify(signature, data)
        except (InvalidSignature, ValueError, TypeError):
            return Verdict(Reason.BAD_SIGNATURE)
        return Verdict(Reason.NONE, checked.fingerprint)


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return SHA-256 of the public key (SubjectPublicKeyInfo) in hex."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _one(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    """Return the subject's only attribute of that kind. Raises ValueError."""
    values = certificate.subject.get_attributes_for_oid(oid)
    if len(values) != 1 or not isinstance(values[0].value, str) or not values[0].value:
        raise ValueError(f"the subject needs exactly one {oid._name}")
    return values[0].value


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
