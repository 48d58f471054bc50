"""The authority signs what hosts ask for, renews in time, and revokes what is replaced or removed."""

from __future__ import annotations

import datetime as dt
import json
import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.skedge.edge.plugins.module_utils.hostkeys import HELPER
from ansible_collections.skedge.edge.plugins.plugin_utils import authority as module
from ansible_collections.skedge.edge.plugins.plugin_utils.authority import Authority, AuthorityError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID


def request(path: Path, site: str = "edge-a", *, make: bool = True) -> str:
    """Make a key and a request by the very helper that runs on hosts."""
    given = json.dumps([["csr", str(path), make, "demo", site]])
    done = subprocess.run([sys.executable, "-c", HELPER], input=given, capture_output=True, text=True, check=True)
    (csr,) = json.loads(done.stdout)
    return str(csr)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(str(tmp_path / "ca"), "demo")


def sign(ca: Authority, csr: str, site: str = "edge-a", days: int = 365) -> x509.Certificate:
    with ca.locked():
        ca.sign(site, csr, days)
    certificate = ca.issued(site)
    assert certificate is not None
    return certificate


def test_the_host_makes_a_key_that_only_its_owner_reads(tmp_path: Path):
    csr = request(tmp_path / "site.key")
    assert stat.S_IMODE((tmp_path / "site.key").stat().st_mode) == 0o600
    before = (tmp_path / "site.key").read_bytes()
    assert b"PRIVATE" in before
    assert "PRIVATE" not in csr
    request(tmp_path / "site.key", make=False)
    assert (tmp_path / "site.key").read_bytes() == before


def test_a_certificate_names_network_and_site_and_verifies(ca: Authority, tmp_path: Path):
    certificate = sign(ca, request(tmp_path / "k"))
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "edge-a"
    assert certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "demo"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["edge-a"]
    certificate.verify_directly_issued_by(ca.certificate())
    key = load_pem_private_key((tmp_path / "k").read_bytes(), None)
    assert key.public_key() == certificate.public_key()
    length = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert length == dt.timedelta(days=365, hours=1)


def test_openssl_accepts_the_chain_and_the_list(ca: Authority, tmp_path: Path):
    (tmp_path / "site.crt").write_bytes(sign(ca, request(tmp_path / "k")).public_bytes(Encoding.PEM))
    context = ssl.create_default_context(cafile=str(ca.directory / "ca.crt"))
    context.load_cert_chain(tmp_path / "site.crt", tmp_path / "k")
    context.load_verify_locations(str(ca.directory / "revoked.pem"))


def test_the_directory_is_the_operators_alone(ca: Authority, tmp_path: Path):
    sign(ca, request(tmp_path / "k"))
    assert stat.S_IMODE(ca.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((ca.directory / "ca.key").stat().st_mode) == 0o600
    assert not list(ca.directory.rglob("*.new"))


@pytest.mark.parametrize(("days_left", "action"), [(364, "keep"), (122, "keep"), (120, "renew"), (-5, "renew")])
def test_renewal_when_less_than_a_third_is_left(
    ca: Authority, tmp_path: Path, monkeypatch, days_left: int, action: str
):
    csr = request(tmp_path / "k")
    old = sign(ca, csr)
    later = old.not_valid_after_utc - dt.timedelta(days=days_left)
    monkeypatch.setattr(module, "utc_now", lambda: later)
    assert ca.decide("edge-a", csr, 365).action == action
    if action == "renew":
        assert sign(ca, csr).not_valid_after_utc == later + dt.timedelta(days=365)
        assert list(ca.revoked() or []) == []  # the same key: nothing to revoke
        assert ca.decide("edge-a", csr, 365).action == "keep"


def test_a_replaced_host_gets_a_certificate_and_the_old_one_is_revoked(ca: Authority, tmp_path: Path):
    old = sign(ca, request(tmp_path / "old"))
    csr = request(tmp_path / "new")
    assert ca.decide("edge-a", csr, 365).action == "replace"
    new = sign(ca, csr)
    assert [entry.serial_number for entry in ca.revoked() or []] == [old.serial_number]
    assert new.serial_number != old.serial_number
    assert ca.decide("edge-a", csr, 365).action == "keep"


def test_a_removed_site_is_revoked_once_and_the_list_is_signed(ca: Authority, tmp_path: Path):
    old = sign(ca, request(tmp_path / "k"))
    sign(ca, request(tmp_path / "b", "edge-b"), "edge-b")
    with ca.locked():
        assert ca.revoke("edge-a")
        assert not ca.revoke("edge-a")
        assert ca.revoke("edge-b")
    revoked = ca.revoked()
    assert revoked is not None
    assert revoked.get_revoked_certificate_by_serial_number(old.serial_number) is not None
    assert len(list(revoked)) == 2
    assert revoked.is_signature_valid(ca.certificate().public_key())  # type: ignore[arg-type]
    assert ca.issued("edge-a") is None


def test_a_site_is_revoked_with_the_certificates_that_were_renewed(ca: Authority, tmp_path: Path, monkeypatch):
    csr = request(tmp_path / "k")
    ended = sign(ca, csr, days=1)
    later = ended.not_valid_after_utc + dt.timedelta(days=3)
    monkeypatch.setattr(module, "utc_now", lambda: later)
    valid = [sign(ca, csr, days=days) for days in (30, 60, 365)]
    assert ca.revoke("edge-a")
    assert {entry.serial_number for entry in ca.revoked() or []} == {one.serial_number for one in valid}
    sign(ca, csr)
    assert ca.revoke("edge-a")
    assert len(list(ca.revoked() or [])) == 4, "those of before are not told again"


def test_an_authority_of_another_network_is_refused(ca: Authority, tmp_path: Path):
    sign(ca, request(tmp_path / "k"))
    with pytest.raises(
        AuthorityError, match="is the authority of network demo, not of other; give each network its own"
    ):
        Authority(str(ca.directory), "other").certificate()


@pytest.mark.parametrize("lost", ["ca.key", "ca.crt"])
def test_half_an_authority_is_never_replaced_by_a_new_one(ca: Authority, tmp_path: Path, lost: str):
    csr = request(tmp_path / "k")
    sign(ca, csr)
    (ca.directory / lost).unlink()
    with pytest.raises(AuthorityError, match="restore the directory from backup"):
        sign(ca, csr)


def test_a_request_by_another_kind_of_key_is_refused(ca: Authority):
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge-a")])
    csr = x509.CertificateSigningRequestBuilder(name).sign(key, SHA256()).public_bytes(Encoding.PEM).decode()
    with pytest.raises(AuthorityError, match="not signed by an Ed25519 key"):
        sign(ca, csr)


def test_what_the_request_asks_for_is_not_taken_over(ca: Authority, tmp_path: Path):
    certificate = sign(ca, request(tmp_path / "k", "edge-b"), "edge-a")
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "edge-a"


def test_an_encrypted_key_is_read_through_the_vault(ca: Authority, tmp_path: Path):
    csr = request(tmp_path / "k")
    sign(ca, csr)
    plain = (ca.directory / "ca.key").read_text()
    (ca.directory / "ca.key").write_text("$ANSIBLE_VAULT;1.1;AES256\n3633")
    vaulted = Authority(str(ca.directory), "demo", lambda path: plain if os.path.basename(path) == "ca.key" else "")
    assert sign(vaulted, csr).serial_number
