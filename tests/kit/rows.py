"""Rows of the registry that a test sets by hand, through the drivers that the controller uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skedge.core.desired.reconcile import reconcile
from skedge.dataplane.ebpf.engine import EbpfEngine, settings
from skedge.dataplane.ebpf.lan.flow_table import NAT, NatConfigDriver, NatSourceDriver
from skedge.dataplane.ebpf.lan.layout_flow import NatConfig
from skedge.dataplane.ebpf.packet_check import PacketCheck, PacketCheckConfig
from skedge.dataplane.ebpf.prefix_table import PrefixTable
from skedge.dataplane.host.sysctls import LoopSettingDriver, loop_settings
from skedge.dataplane.nftables import forward_guard
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.routing.ipv6_forwarding import KEY, ForwardingDriver


def make(driver: Any, wanted: Mapping[Any, Any], **options: bool) -> bool:
    """Make all objects of a kind as wanted; return whether anything changed. Raises DataplaneError."""
    report = reconcile(driver, wanted, **options)
    for error in (report.unread, *report.failed.values()):
        if error is not None:
            raise error
    return bool(report.changed)


def configure_check(check: PacketCheck, config: PacketCheckConfig) -> None:
    check.configure(check.wanted(config))


def configure_nat(site: Any, config: NatConfig) -> None:
    NatConfigDriver(site.pin_dir).put(NAT, config)


def set_sources(site: Any, sources: Mapping[str, str]) -> None:
    make(NatSourceDriver(site.pin_dir), sources)


def set_prefixes(table: PrefixTable, prefixes: Any) -> None:
    make(table, dict.fromkeys(prefixes, 0))


def configure_engine(engine: EbpfEngine, overlay4: str, overlay6: str) -> None:
    make(engine.settings, settings(overlay4, overlay6))


def set_loop(*, off: bool = False) -> bool:
    return make(LoopSettingDriver(), {} if off else loop_settings())


class Forwarding:
    """The chain that closes devices and the host's switch, as the controller writes them one after the other."""

    def __init__(
        self,
        chains: ChainGroupDriver,
        switch: ForwardingDriver,
        config: PacketCheckConfig | None = None,
        *,
        translates: bool = False,
    ) -> None:
        self.chains, self.switch, self.config, self.translates = chains, switch, config, translates

    def ensure(self, *, transit: bool) -> bool:
        closed = self.switch.closed(transit=transit)
        group = forward_guard.group(closed, self.config, translates=self.translates)
        changed = make(self.chains, {forward_guard.NAME: group}, allow_delete=False)
        return make(self.switch, self.switch.wanted(self.switch.read(), transit=transit)) or changed

    def undo(self) -> bool:
        thrown = bool(self.switch.thrown())
        self.switch.delete(KEY)
        return thrown
