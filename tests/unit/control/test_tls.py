"""TLS contexts in memory: who shakes hands with whom, and that the deploy playbook's authority fits the controller."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from ansible_collections.skedge.edge.plugins.plugin_utils.authority import Authority as DeployAuthority
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from skedge.control.identity.identity import Identity, load
from skedge.core.reasons import Reason
from tests.unit.control.authority import DAY, Authority, key_pem, now, subject


def shake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Do a handshake in memory and return both sides. Raises ssl.SSLError of the side that refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname="skedge")
    other = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [one, other]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
        if not waiting:
            return one, other
    raise AssertionError("the handshake hangs")


def make(authority: Authority, where: Path, site: str, **certificate: object) -> Identity:
    key = Ed25519PrivateKey.generate()
    issued = authority.issue(site, key, **certificate)  # type: ignore[arg-type]
    return load(authority.directory(where / site, site, key=key, certificate=issued), "demo", site)


@pytest.fixture
def authority() -> Authority:
    return Authority()


def test_two_sites_shake_hands_and_see_each_others_names(authority: Authority, tmp_path: Path) -> None:
    a, b = make(authority, tmp_path, "edge-a"), make(authority, tmp_path, "edge-b")
    one, other = shake(a.tls(server=False), b.tls(server=True))
    assert one.version() == "TLSv1.3"
    assert a.trust.check(one.getpeercert(binary_form=True) or b"").site == "edge-b"
    assert b.trust.check(other.getpeercert(binary_form=True) or b"").site == "edge-a"


def test_another_authority_is_refused_on_both_sides(authority: Authority, tmp_path: Path) -> None:
    a, x = make(authority, tmp_path, "edge-a"), make(Authority(), tmp_path, "edge-x")
    for client, server in ((a, x), (x, a)):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake(client.tls(server=False), server.tls(server=True))


def test_older_tls_and_clients_without_certificate_are_refused(authority: Authority, tmp_path: Path) -> None:
    a, b = make(authority, tmp_path, "edge-a"), make(authority, tmp_path, "edge-b")
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(nobody, b.tls(server=True))
    old = a.tls(server=False)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"UNSUPPORTED_PROTOCOL|ALERT_PROTOCOL_VERSION"):
        shake(old, b.tls(server=True))


def test_wrong_clocks_are_for_the_tolerance_to_judge(authority: Authority, tmp_path: Path) -> None:
    """TLS lets an expired certificate pass; the check afterwards knows the tolerance and gives the reason."""
    a = make(authority, tmp_path, "edge-a")
    recent = make(authority, tmp_path, "edge-b", start=now() - 9 * DAY, end=now() - DAY / 2)
    long_ago = make(authority, tmp_path, "edge-c", start=now() - 9 * DAY, end=now() - 3 * DAY)
    one, _ = shake(a.tls(server=False), recent.tls(server=True))
    assert a.trust.check(one.getpeercert(binary_form=True) or b"").site == "edge-b"
    one, _ = shake(a.tls(server=False), long_ago.tls(server=True))
    with pytest.raises(Exception, match="not valid now") as caught:
        a.trust.check(one.getpeercert(binary_form=True) or b"")
    assert caught.value.reason is Reason.EXPIRED  # type: ignore[attr-defined]


def test_a_revoked_site_is_refused_and_an_old_list_cuts_nobody(authority: Authority, tmp_path: Path) -> None:
    a, b, c = (make(authority, tmp_path, site) for site in ("edge-a", "edge-b", "edge-c"))
    revoked = x509.RevokedCertificateBuilder()
    revoked = revoked.serial_number(x509.load_der_x509_certificate(b.certificate).serial_number)
    outdated = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(subject("skedge CA", "demo"))
        .last_update(now() - 90 * DAY)
        .next_update(now() - 60 * DAY)
        .add_revoked_certificate(revoked.revocation_date(now() - 90 * DAY).build())
        .sign(authority.key, None)
    )
    (a.directory / "revoked.pem").write_bytes(outdated.public_bytes(Encoding.PEM))
    shake(a.tls(server=False), b.tls(server=True))
    a.reload()
    for client, server in ((a, b), (b, a)):
        with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
            shake(client.tls(server=False), server.tls(server=True))
    shake(a.tls(server=False), c.tls(server=True))


def test_what_the_deploy_playbook_issues_is_what_the_controller_believes(tmp_path: Path) -> None:
    deploy = DeployAuthority(str(tmp_path / "ca"), "demo")
    sites: dict[str, Identity] = {}

    def give(site: str) -> None:
        where = tmp_path / site
        for name, text in (
            ("site.crt", (deploy.directory / "issued" / f"{site}.crt").read_text() if deploy.issued(site) else None),
            ("ca.crt", (deploy.directory / "ca.crt").read_text()),
            ("revoked.pem", deploy.revoked_text()),
        ):
            if text is not None:
                (where / name).write_text(text)

    for site in ("edge-a", "edge-b"):
        key = Ed25519PrivateKey.generate()
        request = x509.CertificateSigningRequestBuilder(subject(site, "demo")).sign(key, None)
        (tmp_path / site).mkdir()
        (tmp_path / site / "site.key").write_bytes(key_pem(key))
        (tmp_path / site / "site.key").chmod(0o600)
        with deploy.locked():
            deploy.sign(site, request.public_bytes(Encoding.PEM).decode(), 365)
        give(site)
        sites[site] = load(tmp_path / site, "demo", site)
    a, b = sites["edge-a"], sites["edge-b"]
    assert 364 < a.days_left < 366
    one, _ = shake(a.tls(server=False), b.tls(server=True))
    assert a.trust.check(one.getpeercert(binary_form=True) or b"").site == "edge-b"
    with deploy.locked():
        deploy.revoke("edge-b")
    give("edge-a")
    a.reload()
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shake(a.tls(server=False), b.tls(server=True))
