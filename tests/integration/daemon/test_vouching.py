"""What a site says of itself is looked at, not remembered: certificates of another authority, objects that went."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.unit.control.authority import Authority

from .kit import NETWORK, Line, Site, until


def looked(site: Site) -> tuple[bool, dict[str, str]]:
    """Return whether the site says that it is in sync, and its problems, as `skedge status` asks."""
    status = site.ask("status", "kernel").status
    assert status is not None
    return status.synced, {problem.what: problem.cause for problem in status.problems}


@pytest.fixture
def strange(line: Line, tmp_path: Path) -> Iterator[Site]:
    """B, whose certificate a second control node is about to replace; it is given back afterwards."""
    b, before = line.sites["b"], tmp_path / "identity"
    where = b.directory / "identity"
    shutil.copytree(where, before)
    for site in (line.sites["a"], b):
        site.write(hold_time_s=3)
        site.reload()
    until(lambda: looked(b)[0] and looked(line.sites["a"])[0], 15, "all is well")
    yield b
    shutil.rmtree(where)
    shutil.copytree(before, where)
    for site in (line.sites["a"], b):
        site.write()
        site.reload()
    until(lambda: looked(b)[0] and looked(line.sites["a"])[0], 20, "and well again")
    line.settle()


def test_certificates_of_another_authority_are_never_in_sync(line: Line, strange: Site) -> None:
    """Case 15: a deploy with another authority passed its gates; the site was cut off when the hold time was over."""
    a, where = line.sites["a"], strange.directory / "identity"
    key = load_pem_private_key((where / "site.key").read_bytes(), None)
    Authority(NETWORK).directory(where, "b", key=key)  # type: ignore[arg-type]
    assert not looked(strange)[0], "not before the new certificate is in force"
    strange.reload()
    end = time.monotonic() + 12  # past the hold time, when nothing but the probes' verdict was told
    while time.monotonic() < end:
        synced, said = looked(strange)
        assert not synced, said
        time.sleep(0.05)
    links = {"a--b", "b--c"}
    assert {f"certificate {link}" for link in links} <= said.keys()
    assert "certificate" in said["certificate a--b"]
    assert "deploy both sites from the control node that has the network's authority" in said["certificate a--b"]
    synced, said = looked(a)
    assert not synced
    assert "certificate" in said["certificate a--b"], "the cause is shown as long as it is so"


def test_a_renewed_certificate_is_proven_by_every_link(line: Line, strange: Site) -> None:
    where = strange.directory / "identity"
    serials = {row.link: row.certificate for row in strange.rows("links")}
    assert len(serials) == 2
    assert len(set(serials.values())) == 1
    authority = Authority(NETWORK)
    for site in line.sites.values():  # as with skedge_new_authority, to all at once
        keep = site.directory / "identity-before"
        shutil.copytree(site.directory / "identity", keep)
        key = load_pem_private_key((site.directory / "identity/site.key").read_bytes(), None)
        authority.directory(site.directory / "identity", site.name, key=key)  # type: ignore[arg-type]
    try:
        for site in line.sites.values():
            site.reload()
        for site in line.sites.values():
            until(lambda site=site: looked(site)[0], 20, f"{site.name} in sync")
        assert not set(serials.values()) & {row.certificate for row in strange.rows("links")}
        assert {row.state for row in strange.rows("links")} == {"full"}
    finally:
        for site in line.sites.values():
            keep, where = site.directory / "identity-before", site.directory / "identity"
            shutil.rmtree(where)
            keep.rename(where)
            site.reload()


CHANGES = {
    "18, a firewall that flushes": "nft flush ruleset",
    "19, rules that went": "for r in 7400 7401 7402; do while ip rule del pref $r 2>/dev/null; do :; done; done",
    "20, a qdisc that went": "tc qdisc del dev u-b clsact",
    "routes that went": "ip route flush table 7400",
    "a link's address": "ip -6 addr flush dev lo scope global",
}


@pytest.mark.parametrize("case", CHANGES)
def test_it_is_not_green_while_or_after_somebody_takes_something_away(line: Line, case: str) -> None:
    a = line.sites["a"]
    until(lambda: looked(a)[0], 15, "in sync")
    log = a.log_size()
    a.inside("sh", "-c", CHANGES[case])
    synced, said = looked(a)  # at once: repaired already, or not
    drifted = [what for what in said if what.startswith("drift ")]
    assert ("kernel" in said and not synced) or drifted, said
    until(lambda: looked(a)[0], 5, "put back")
    assert [what for what in looked(a)[1] if what.startswith("drift ")], "and said, also afterwards"
    assert a.log_since(log)
    line.settle()
