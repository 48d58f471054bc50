"""The LAN side of the kernel as one fixture: programs on LAN devices, NAT's configuration, addresses to send from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from skedge.core.desired.compute import Desired
from skedge.core.desired.reconcile import reconcile
from skedge.core.model import Lan, SiteConfig
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.flow_table import FlowTable
from skedge.dataplane.ebpf.lan_devices import LanDriver, source_towards
from skedge.dataplane.ebpf.layout_flow import NatConfig
from skedge.dataplane.ebpf.prefix_table import OWN_MAP, PrefixTable
from skedge.dataplane.host.netlink import Netlink

_OFF = NatConfig(device=0, ports=(1, 0))


def nat_config(lan: Lan) -> NatConfig:
    """Return what the programs are told."""
    if not lan.devices:
        return _OFF
    times = lan.times
    return NatConfig(
        ports=lan.ports,
        syn_s=times.syn_s,
        established_s=times.established_s,
        fin_s=times.fin_s,
        closed_s=times.closed_s,
        udp_s=times.udp_s,
    )


class LanSide:
    """Follows devices, routes and configuration at each reconcile run; flows are the programs' own."""

    name = "lan"

    def __init__(self, pin_dir: Path, netlink: Netlink) -> None:
        self._netlink = netlink
        self._flows = FlowTable(str(pin_dir))
        self._driver = LanDriver(str(pin_dir), netlink)
        self._prefixes = PrefixTable(str(pin_dir), OWN_MAP)

    def ensure(self, config: SiteConfig, desired: Desired) -> bool:
        """Make it so; return whether anything changed. Every device is tried before an error is told.

        Raises:
            DataplaneError: the kernel refused something.
        """
        lan = config.lan
        changed = self._flows.configure(nat_config(lan))
        changed |= self._flows.set_sources(self._sources(desired) if lan.devices else {})
        changed |= self._prefixes.set_all(desired.prefixes)
        report = reconcile(self._driver, self._driver.devices(lan.devices))
        if report.unread is not None:
            raise report.unread
        for error in report.failed.values():
            raise error
        return changed or bool(report.changed)

    def _sources(self, desired: Desired) -> Mapping[str, str]:
        found = {address: source_towards(self._netlink, address) for address in desired.elsewhere}
        return {address: source for address, source in found.items() if source}

    def drops(self) -> Mapping[Reason, int]:
        """Return nothing: what the programs refuse is in the counters of the engine and of the packet check."""
        return {}
