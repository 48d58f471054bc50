"""A plan is exact on a kernel that takes more away than it was asked to: what is printed is done, in that order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from skedge.core.desired.compute import Desired
from skedge.core.desired.drift import DriftBook
from skedge.core.desired.kinds import Registry
from skedge.core.desired.reconcile import plan, reconcile_all, steps_of
from skedge.core.desired.render import describe
from skedge.core.errors import DataplaneError
from skedge.core.model import SiteConfig, Transport
from skedge.core.objects import LinkDevice
from skedge.core.records import NetworkMap
from skedge.dataplane.routing.routes import fall
from tests.fakes.memory_driver import FIELDS, MemoryDriver, MemoryDrivers
from tests.fakes.networks import desired_at
from tests.property.strategies import networks

Network = tuple[dict[str, SiteConfig], NetworkMap]
SITE = "s0"


class Links(MemoryDriver):
    """Devices: one whose tunnel changes is made anew, and what lay on it goes, as in Linux."""

    routes: MemoryDriver

    def remakes(self, key: str, value: LinkDevice) -> bool:
        return key in self.objects and tunnel(self.objects[key]) != tunnel(value)

    def put(self, key: str, value: LinkDevice) -> None:
        self._check(key)
        if self.remakes(key, value):
            self.drop(key)
        super().put(key, value)

    def delete(self, key: str) -> None:
        self._check(key)
        self.drop(key)
        super().delete(key)

    def drop(self, device: str) -> None:
        """Take away what the kernel takes: an IPv4 route with any hop over the device, of an IPv6 one that hop."""
        for key, route in list(self.routes.objects.items()):
            hops = tuple(hop for hop in route.next_hops if hop.device != device)
            if hops == route.next_hops:
                continue
            if hops and ":" in key:
                self.routes.objects[key] = replace(route, next_hops=hops)
            else:
                del self.routes.objects[key]


def tunnel(device: LinkDevice) -> tuple[object, ...]:
    return device.transport, device.vni, device.remote, device.port


class Kernel:
    """A fake kernel with its registry and log."""

    def __init__(self) -> None:
        drivers = MemoryDrivers([])
        self.log, self.drivers = drivers.log, drivers
        links = Links("link", self.log)
        links.routes = drivers.routes
        drivers.links = links
        extra: dict[str, dict[str, Any]] = {"link": {"remakes": links.remakes}, "route": {"fall": fall}}
        self.registry: Registry = tuple(replace(kind, **extra.get(kind.name, {})) for kind in drivers.with_rules())

    def objects(self) -> Mapping[str, Mapping[Any, Any]]:
        return {name: dict(getattr(self.drivers, name).objects) for name in FIELDS.values()}

    def broken(self, chosen: set[tuple[str, Any]]) -> None:
        for kind, name in FIELDS.items():
            getattr(self.drivers, name).broken = {key for one, key in chosen if one == kind}


def done(log: list[tuple[str, str, Any]]) -> list[tuple[bool, str, str]]:
    return [(action == "delete", kind, describe(key)) for action, kind, key in log]


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[SiteConfig, Desired, bool]]:
    """States one after another, of one network or of others: tunnels, MTUs and costs change, too."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        configs, network_map = draw(networks(5))
        wanted = desired_at(configs[SITE], network_map)
        links = {
            name: replace(
                device,
                transport=Transport.VXLAN,
                vni=draw(st.integers(1, 2)),
                remote=draw(st.sampled_from(("10.0.0.1", "10.0.0.2"))),
                mtu=draw(st.sampled_from((0, 1400))),
            )
            for name, device in wanted.links.items()
        }
        found.append((configs[SITE], replace(wanted, links=links), draw(st.integers(0, 3)) > 0))
    return found


@given(steps())
def test_what_is_printed_is_what_is_done(sequence: list[tuple[SiteConfig, Desired, bool]]) -> None:
    kernel, book = Kernel(), DriftBook()
    for config, wanted, allow_delete in sequence:
        before = kernel.objects()
        printed = plan(kernel.registry, config, wanted, allow_delete=allow_delete)
        assert kernel.objects() == before, "a plan changes nothing"
        kernel.log.clear()
        reports = reconcile_all(kernel.registry, config, wanted, allow_delete=allow_delete)
        assert steps_of(kernel.registry, reports) == printed
        assert done(kernel.log) == [(one.action == "delete", one.kind, one.key) for one in printed]
        assert book.take(0.0, reports) == (), "nobody else changed anything"
        assert plan(kernel.registry, config, wanted, allow_delete=allow_delete) == ()
        if allow_delete:
            assert kernel.objects() == {name: getattr(wanted, name) for name in FIELDS.values()}


@given(steps(), st.data())
def test_what_fails_is_left_out_and_done_the_next_time(
    sequence: list[tuple[SiteConfig, Desired, bool]], data: st.DataObject
) -> None:
    kernel, book = Kernel(), DriftBook()
    for config, wanted, allow_delete in sequence:
        every = [(kind, key) for kind, name in FIELDS.items() for key in getattr(wanted, name)]
        kernel.broken(set(data.draw(st.lists(st.sampled_from(every), max_size=3) if every else st.just([]))))
        before = kernel.objects()
        printed = plan(kernel.registry, config, wanted, allow_delete=allow_delete)
        reports = reconcile_all(kernel.registry, config, wanted, allow_delete=allow_delete)
        failed = {(kind, describe(key)) for kind, report in reports.items() for key in report.failed}
        acted = steps_of(kernel.registry, reports)
        links = {key for kind, key in failed if kind == "link"}
        held = [*before["routes"].items(), *wanted.routes.items()]
        follow = {("route", key) for key, route in held if links & {hop.device for hop in route.next_hops}}
        sure = [[one for one in steps_ if (one.kind, one.key) not in failed | follow] for steps_ in (printed, acted)]
        assert sure[0] == sure[1], "but for what failed, and routes over devices that were not made anew after all"
        assert all(isinstance(error, DataplaneError) for report in reports.values() for error in report.failed.values())
        assert book.take(0.0, reports) == (), "a refusal is no change by others"
        kernel.broken(set())
        rest = plan(kernel.registry, config, wanted, allow_delete=allow_delete)
        again = reconcile_all(kernel.registry, config, wanted, allow_delete=allow_delete)
        assert steps_of(kernel.registry, again) == rest
        assert book.take(0.0, again) == (), "nor is its repair"
        assert plan(kernel.registry, config, wanted, allow_delete=allow_delete) == ()
