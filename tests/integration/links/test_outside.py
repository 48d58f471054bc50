"""What one link of ours is in the kernel, told by the judge from outside; all of it goes with the link."""

from __future__ import annotations

from tests.kit.snapshot import Snapshot

from .kit import Site


def test_a_link_is_told_with_all_that_belongs_to_it(site: Site) -> None:
    device, want = site.device("out"), site.vxlan("out", "10.91.0.1", "10.91.0.2")
    peer = want.peer_link_local
    before = Snapshot.take(site.ns.name, site.pin_dir)
    site.ns(site.links.put, device, want)
    there = Snapshot.take(site.ns.name, site.pin_dir)
    try:
        hints = {change.owner_hint for change in before.diff(there)}
    finally:
        site.ns(site.links.delete, device)
    told = {
        ("link", device),
        ("address", f"{site.link_local}/64", device),
        ("neighbour", peer, device),
        ("nft chain", "inet", "skedge", "tunnels"),
        ("sysctl", f"net/ipv6/conf/{device}/accept_ra"),
    }
    assert told <= hints
    (entry,) = (change for change in before.diff(there) if change.kind == "map entry")
    assert entry.after is not None
    assert (entry.after["own"], entry.after["peer"]) == (site.link_local, peer)
    left = {change.owner_hint for change in before.diff(Snapshot.take(site.ns.name, site.pin_dir))}
    assert {hint for hint in left if device in hint} == set()
    assert "map entry" not in {hint[0] for hint in left}
