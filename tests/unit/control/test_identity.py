"""Whom the controller believes, and which identity directories it refuses with a sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from skedge.control.identity.identity import Identity, load
from skedge.control.identity.trust import CLOCK_TOLERANCE_S, Trust
from skedge.core.errors import ConfigError
from skedge.core.linkstate.messages import Kind, SignedRecord, signed_bytes
from skedge.core.reasons import Reason
from skedge.core.records import Version
from tests.unit.control.authority import DAY, Authority, now


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def a(authority: Authority, tmp_path: Path) -> Identity:
    return load(authority.directory(tmp_path / "a", "edge-a"), "demo", "edge-a")


@pytest.fixture
def b(authority: Authority, tmp_path: Path) -> Identity:
    return load(authority.directory(tmp_path / "b", "edge-b"), "demo", "edge-b")


def record(who: Identity, site: str | None = None, body: bytes = b"body", network: str = "demo") -> SignedRecord:
    unsigned = SignedRecord(site or who.site, Kind.LINKS, Version(3, 9), body, who.certificate, b"")
    return dataclasses.replace(unsigned, signature=who.sign(signed_bytes(network, unsigned)))


def test_a_neighbours_record_is_believed(a: Identity, b: Identity) -> None:
    for _ in range(2):  # the second time from the cache
        verdict = a.verifier.verify(record(b))
        assert verdict.reason is Reason.NONE
        assert verdict.fingerprint == b.fingerprint != a.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"site": "edge-c"},
        {"kind": Kind.SERVICES},
        {"version": Version(3, 10)},
        {"version": Version(4, 9)},
        {"body": b"bodies"},
        {"certificate": b""},
        {"certificate": b"\x30\x82" * 3000},
        {"signature": b""},
        {"signature": bytes(64)},
    ],
    ids=str,
)
def test_a_changed_record_is_not(a: Identity, b: Identity, change: dict[str, object]) -> None:
    assert a.verifier.verify(dataclasses.replace(record(b), **change)).reason is Reason.BAD_SIGNATURE  # type: ignore[arg-type]


def test_every_bit_of_a_signature_counts(a: Identity, b: Identity) -> None:
    good = record(b)
    for bit in range(0, 512, 7):
        signature = bytearray(good.signature)
        signature[bit // 8] ^= 1 << bit % 8
        changed = dataclasses.replace(good, signature=bytes(signature))
        assert a.verifier.verify(changed).reason is Reason.BAD_SIGNATURE


@settings(max_examples=200)
@given(certificate=st.binary(max_size=300), signature=st.binary(max_size=80))
def test_verification_never_raises(certificate: bytes, signature: bytes) -> None:
    trust = Trust("demo", AUTHORITY.certificate)
    from skedge.control.identity.trust import RecordVerifier

    garbage = SignedRecord("edge-b", Kind.LINKS, Version(1, 1), b"", certificate, signature)
    assert RecordVerifier(trust).verify(garbage).reason is Reason.BAD_SIGNATURE


AUTHORITY = Authority()


def test_nobody_speaks_for_another_site(a: Identity, b: Identity) -> None:
    assert a.verifier.verify(record(b, site="edge-a")).reason is Reason.BAD_SIGNATURE


def test_another_authority_is_not_believed(a: Identity, tmp_path: Path) -> None:
    stranger = load(Authority().directory(tmp_path / "x", "edge-b"), "demo", "edge-b")
    assert a.verifier.verify(record(stranger)).reason is Reason.BAD_SIGNATURE


def test_another_network_of_the_same_authority_is_not_believed(
    a: Identity, authority: Authority, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    certificate = authority.issue("edge-b", key, network="other")
    other = load(authority.directory(tmp_path / "x", "edge-b", key=key, certificate=certificate), "other", "edge-b")
    assert a.verifier.verify(record(other)).reason is Reason.BAD_SIGNATURE
    assert a.verifier.verify(record(other, network="other")).reason is Reason.BAD_SIGNATURE


def test_a_site_is_no_authority(a: Identity, authority: Authority, tmp_path: Path) -> None:
    """edge-b's own certificate signs nobody, also when it claims to be a CA."""
    key = Ed25519PrivateKey.generate()
    impostor = Authority()
    impostor.key, impostor.certificate = key, authority.issue("edge-b", key, ca=True)
    impostor.name = impostor.certificate.subject
    leaf_key = Ed25519PrivateKey.generate()
    leaf = impostor.issue("edge-c", leaf_key)
    fake = SignedRecord("edge-c", Kind.LINKS, Version(1, 1), b"", leaf.public_bytes(Encoding.DER), b"")
    fake = dataclasses.replace(fake, signature=leaf_key.sign(signed_bytes("demo", fake)))
    assert a.verifier.verify(fake).reason is Reason.BAD_SIGNATURE
    with pytest.raises(ConfigError, match="not a site's Ed25519 certificate"):
        load(authority.directory(tmp_path / "x", "edge-b", key=key, certificate=impostor.certificate), "demo", "edge-b")


def test_other_kinds_of_keys_are_not_believed(a: Identity, authority: Authority) -> None:
    key = generate_private_key(SECP256R1())
    certificate = authority.issue("edge-b", key)  # type: ignore[arg-type]
    fake = SignedRecord("edge-b", Kind.LINKS, Version(1, 1), b"", certificate.public_bytes(Encoding.DER), bytes(64))
    assert a.verifier.verify(fake).reason is Reason.BAD_SIGNATURE


def test_a_revoked_site_is_refused_after_a_reload_and_not_before(
    a: Identity, b: Identity, authority: Authority
) -> None:
    good = record(b)
    assert a.verifier.verify(good).reason is Reason.NONE
    revoked = authority.revocation_list(x509.load_der_x509_certificate(b.certificate))
    (a.directory / "revoked.pem").write_bytes(revoked)
    assert a.verifier.verify(good).reason is Reason.NONE
    a.reload()
    assert a.verifier.verify(good).reason is Reason.REVOKED
    (a.directory / "revoked.pem").write_bytes(authority.revocation_list())
    a.reload()
    assert a.verifier.verify(good).reason is Reason.NONE


def test_a_foreign_revocation_list_is_refused_and_the_old_one_holds(
    a: Identity, b: Identity, authority: Authority
) -> None:
    path = a.directory / "revoked.pem"
    certificate = x509.load_der_x509_certificate(b.certificate)
    path.write_bytes(authority.revocation_list(certificate))
    a.reload()
    for wrong in (Authority().revocation_list(), b"nonsense"):
        path.write_bytes(wrong)
        with pytest.raises(ConfigError, match=r"revoked\.pem: not .*deploy playbook"):
            a.reload()
        assert a.verifier.verify(record(b)).reason is Reason.REVOKED


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (-30, -2, Reason.EXPIRED),
        (2, 30, Reason.EXPIRED),
        (-30, -0.5, Reason.NONE),  # within the tolerance for wrong clocks
        (0.5, 30, Reason.NONE),
    ],
)
def test_validity_has_a_day_of_tolerance(
    a: Identity, authority: Authority, tmp_path: Path, start: float, end: float, reason: Reason
) -> None:
    assert CLOCK_TOLERANCE_S == 86400
    key = Ed25519PrivateKey.generate()
    certificate = authority.issue("edge-b", key, start=now() + start * DAY, end=now() + end * DAY)
    other = load(authority.directory(tmp_path / "x", "edge-b", key=key, certificate=certificate), "demo", "edge-b")
    assert a.verifier.verify(record(other)).reason is reason
    assert other.days_left == pytest.approx(end, abs=0.01)


def test_validity_ends_for_certificates_in_the_cache(a: Identity, b: Identity, authority: Authority) -> None:
    clock = [now().timestamp()]
    trust = Trust("demo", authority.certificate, clock=lambda: clock[0])
    assert trust.check(b.certificate).site == "edge-b"
    clock[0] += 400 * 86400
    with pytest.raises(Exception, match="not valid now") as caught:
        trust.check(b.certificate)
    assert caught.value.reason is Reason.EXPIRED  # type: ignore[attr-defined]


def test_a_renewed_certificate_of_the_same_key_keeps_the_fingerprint(authority: Authority, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    where = authority.directory(tmp_path / "x", "edge-a", key=key)
    identity = load(where, "demo", "edge-a")
    before = (identity.certificate, identity.fingerprint)
    authority.directory(where, "edge-a", key=key)
    identity.reload()
    assert identity.certificate != before[0]
    assert identity.fingerprint == before[1]


# ---- directories that are refused -------------------------------------------------------------------------------


def test_missing_files_are_named(authority: Authority, tmp_path: Path) -> None:
    where = authority.directory(tmp_path / "x", "edge-a")
    for name in ("site.key", "site.crt", "ca.crt"):
        content = (where / name).read_bytes()
        (where / name).unlink()
        with pytest.raises(ConfigError, match=rf"{name}: No such file or directory; run the deploy playbook"):
            load(where, "demo", "edge-a")
        (where / name).write_bytes(content)
        (where / name).chmod(0o600)


def test_a_key_that_others_may_read_is_refused(authority: Authority, tmp_path: Path) -> None:
    where = authority.directory(tmp_path / "x", "edge-a")
    (where / "site.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"site\.key: readable by others"):
        load(where, "demo", "edge-a")


@pytest.mark.parametrize(
    ("network", "site", "message"),
    [("demo", "edge-b", "names site 'edge-a', the configuration says 'edge-b'"), ("other", "edge-a", "network 'demo'")],
)
def test_a_certificate_for_something_else_is_refused(
    authority: Authority, tmp_path: Path, network: str, site: str, message: str
) -> None:
    where = authority.directory(tmp_path / "x", "edge-a")
    with pytest.raises(ConfigError, match=message):
        load(where, network, site)


def test_a_certificate_of_another_key_is_refused(authority: Authority, tmp_path: Path) -> None:
    certificate = authority.issue("edge-a", Ed25519PrivateKey.generate())
    with pytest.raises(ConfigError, match="does not belong to"):
        load(authority.directory(tmp_path / "x", "edge-a", certificate=certificate), "demo", "edge-a")


def test_a_certificate_of_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    certificate = Authority().issue("edge-a", key)
    with pytest.raises(ConfigError, match="not signed by this network's CA"):
        load(authority.directory(tmp_path / "x", "edge-a", certificate=certificate, key=key), "demo", "edge-a")


def test_other_keys_are_refused_without_showing_them(authority: Authority, tmp_path: Path) -> None:
    where = authority.directory(tmp_path / "x", "edge-a")
    ec = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content, message in ((ec, "not an Ed25519 key"), (b"SECRET", "not an unencrypted PEM private key")):
        (where / "site.key").write_bytes(content)
        with pytest.raises(ConfigError, match=message) as caught:
            load(where, "demo", "edge-a")
        assert "SECRET" not in str(caught.value)


def test_a_failed_reload_changes_nothing(a: Identity) -> None:
    before = a.certificate
    (a.directory / "ca.crt").write_bytes(b"half a fi")
    with pytest.raises(ConfigError, match=r"ca\.crt: not a PEM certificate"):
        a.reload()
    assert a.certificate == before
    assert a.sign(b"x")


def test_fingerprints_name_keys(a: Identity) -> None:
    certificate = x509.load_der_x509_certificate(a.certificate)
    from hashlib import sha256

    der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert a.fingerprint == sha256(der).hexdigest()
