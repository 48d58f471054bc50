"""Each kind of object after somebody else has changed it: noticed, named by a plan, repaired, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from skedge.core.desired.compute import Desired
from skedge.core.model import SiteConfig
from skedge.dataplane.host.watch import HostWatch
from tests.kit.snapshot import Snapshot

from .faults import FAULTS, Fault
from .kit import Host, names
from .world import full

TUNNELS = ("nft chain", "inet", "skedge", "tunnels")
TWICE = {fault.kind: fault for fault in reversed(FAULTS)}.values()  # one of each kind: struck again, counted again


@dataclass
class Settled:
    """A host on which everything is as it should be, and its watch."""

    host: Host
    wish: tuple[SiteConfig, Desired]
    watch: HostWatch
    right: dict[Any, Any]

    def noticed(self) -> bool:
        """Return whether the kernel said anything, or the cheap look finds it."""
        changes = self.host.ns(self.watch.read)
        if changes.nftables:
            self.host.ns(self.host.kernel.host.forget)
        return changes.compare or self.host.ns(self.host.kernel.moved)


def comparable(moment: Snapshot) -> dict[Any, Any]:
    """Return the objects without what a repair changes: versions of tables, numbers of devices, the guard's order."""
    found: dict[Any, Any] = {}
    for key, value in moment.objects.items():
        if key[:2] == ("map entry", "link_table_v2"):
            key = ("link table", value["peer_mac"], value["own"])
        if key == TUNNELS:
            value = {**value, "rules": sorted(value["rules"])}
        found[key] = {name: one for name, one in value.items() if name not in ("version", "ifindex")}
    return found


@pytest.fixture(scope="module")
def settled(host: Host) -> Iterator[Settled]:
    world = full()
    host.build(world)
    for _ in range(2):  # the second one knows the overlay addresses as the host's
        wish = host.wish(world)
        assert host.apply(wish).failed == {}
    watch = host.ns(HostWatch)
    made = Settled(host, wish, watch, comparable(host.snapshot()))
    yield made
    host.ns(watch.close)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.name.replace(" ", "-"))
def test_a_fault_is_noticed_named_repaired_and_counted(settled: Settled, fault: Fault) -> None:
    host, wish = settled.host, settled.wish
    settled.noticed()
    counted = Counter(host.apply(wish).drifted)
    assert not host.ns(host.kernel.moved)
    for times in (1, 2) if fault in TWICE else (1,):
        host.ns(settled.watch.read)
        fault.strike(host)
        assert settled.noticed(), "the kernel announced nothing, and the glance sees nothing"
        steps = names(host.plan(wish)) if times == 1 else {fault.object}
        kind, key = fault.object
        mine = {one for one in steps if one[0] == kind and key in ("", one[1])}
        assert mine, f"{kind} {key} is not in {steps}"
        assert {one for one, _ in steps - mine} <= set(fault.also), f"{steps - mine} are not touched"
        applied = host.apply(wish)
        assert applied.failed == {}
        found = {(drift.kind, drift.key) for drift in applied.drift}
        assert any(one == kind and key in ("", name) for one, name in found), f"{applied.drift}"
        assert applied.drifted[kind] >= counted[kind] + times
        if fault.after:
            host.ns.sh(fault.after)
            settled.noticed()
        assert host.apply(wish).changed == ()
    now = comparable(host.snapshot())
    different = {one: (settled.right.get(one), now.get(one)) for one in settled.right.keys() | now.keys()}
    settled.right = now
    assert {one: pair for one, pair in different.items() if pair[0] != pair[1]} == {}
