"""The engine `ebpf`: connect-time placement in the kernel, worked through the pinned maps (core.engine.Engine)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from skedge.core.engine import Driver
from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import ServiceKey
from skedge.core.observed import Counts, Flow, FlowSums, Receipt
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf import layout_service, views
from skedge.dataplane.ebpf.endpoints import EndpointDriver
from skedge.dataplane.ebpf.listeners import ListenerDriver
from skedge.dataplane.ebpf.maps import Maps
from skedge.dataplane.ebpf.recount import Recounting
from skedge.dataplane.ebpf.services import OTHERS_MAX, ServiceDriver
from skedge.dataplane.host.boot import namespace_cookie

SOURCE4, SOURCE6, SOURCE_PORTS, NAMESPACE = "source ipv4", "source ipv6", "source ports", "network namespace"
UDP_IDLE_S = 60.0
_PROC = Path("/proc/sys/net/ipv4")

ServiceWorkload = tuple[ServiceKey, WorkloadId]


class EbpfEngine:
    """The connect-time engine on the maps that the loader pinned. Safe for use from several threads."""

    name = "ebpf"

    def __init__(self, pin_dir: str, *, udp_idle_s: float = UDP_IDLE_S) -> None:
        """Open the maps and take over what they hold. Raises DataplaneError when the loader has not run."""
        self._lock = threading.RLock()
        self._maps = Maps(pin_dir)
        self._udp_idle_s = udp_idle_s
        self.services = ServiceDriver(self._maps, self._lock)
        self.listeners = ListenerDriver(self._maps, self.services, self._lock)
        self.endpoints = EndpointDriver(pin_dir)
        self.settings: Driver[str, str] = SettingDriver(self._maps, self._lock)
        self._recounting = Recounting(self._maps, self._lock)

    def close(self) -> None:
        """Close all descriptors; the kernel goes on by itself."""
        with self._lock:
            self._maps.close()

    def refresh_port_limit(self) -> int:
        """Tell how many source ports the host has towards one endpoint, from its sysctls; return it."""
        limit = source_ports()
        self.settings.put(SOURCE_PORTS, str(limit))
        return limit

    # ---- counters ----

    def revision(self) -> tuple[int, int]:
        """Return what is another value after any change of what `counts` and `suspended` return; cheap to ask."""
        with self._lock:
            return self._maps.changes(), self._maps.applied

    def counts(self) -> Mapping[ServiceWorkload, Counts]:
        """Return this site's counters of every workload that has a slot, those that are gone but still open too."""
        with self._lock:
            return {
                (key, workload): Counts(
                    slot.mine, slot.chosen, slot.refused, max(0, slot.last - layout_service.FIRST_CHOICE + 1), slot.nat
                )
                for key, ident in self.services.services()
                for _, workload, slot in self.services.slots(ident)
            }

    def set_others(self, others: Mapping[ServiceWorkload, int]) -> None:
        """Set the other sites' open connections; workloads not named keep theirs, unknown ones are left out."""
        wanted: dict[ServiceKey, dict[WorkloadId, int]] = {}
        for (key, workload), number in others.items():
            wanted.setdefault(key, {})[workload] = min(max(number, 0), OTHERS_MAX)
        with self._lock:
            for key, numbers in wanted.items():
                ident = self.services.ids.get(key)
                if ident is None:
                    continue
                staged = {
                    index: layout_service.StagedSlot(layout_service.APPLY_OTHERS, others=numbers[workload])
                    for index, workload, slot in self.services.slots(ident)
                    if numbers.get(workload, slot.others) != slot.others
                }
                if staged:
                    self._maps.apply(layout_service.Staged(ident, staged))

    def suspended(self) -> frozenset[ServiceWorkload]:
        """Return the workloads that refused or did not answer a connect and had no good probe since."""
        with self._lock:
            return frozenset(
                (key, workload)
                for key, ident in self.services.ids.items()
                for _, workload, slot in self.services.slots(ident)
                if slot.suspended and slot.flags & layout_service.USED
            )

    def resume(self, workload: WorkloadId) -> None:
        """End the suspension of a workload, in every service that has it."""
        with self._lock:
            for _, ident in self.services.services():
                staged = {
                    index: layout_service.StagedSlot(layout_service.APPLY_RESUME)
                    for index, name, slot in self.services.slots(ident)
                    if name == workload and slot.suspended
                }
                if staged:
                    self._maps.apply(layout_service.Staged(ident, staged))

    def drops(self) -> Mapping[Reason, int]:
        """Return how many connects were refused, and candidates left out for want of source ports, by reason."""
        return self._maps.drops()

    def stale_picks(self) -> int:
        """Return how many picks were made on a count that changed meanwhile: 0, or the lock does not hold."""
        with self._lock:
            return sum(self._maps.service(ident).stale for _, ident in self.services.services())

    # ---- connections ----

    def connections(self, since: float = 0.0) -> Iterator[Receipt]:
        """Yield the receipts of the open connections placed at this site since then, as they are read."""
        with self._lock:
            keys = {ident: key for key, ident in self.services.services()}
        for record in self._maps.placements(int(since * views.NANOSECONDS)):
            key = keys.get(record.service)
            found = None if key is None else views.receipt(record, key, self.services.workload)
            if found is not None:
                yield found

    def placed_sockets(self, protocol: Protocol) -> frozenset[int]:
        """Return the cookies of the sockets that were placed; quicker than `connections`."""
        return frozenset(self._maps.cookies(protocol))

    def flows(self) -> Iterator[Flow]:
        """Yield the flows of the LAN, as they are read."""
        with self._lock:
            services = {ident: key for key, ident in self.services.services()}
        endpoints = self.endpoints.read()
        now = time.monotonic()
        for record in self._maps.flows.records():
            yield views.flow(
                record, now=now, services=services, workload_of=self.services.workload, endpoints=endpoints
            )

    def flow_room(self) -> int:
        """Return how many flows there may be."""
        return self._maps.flows.room()

    def flow_sums(self) -> FlowSums:
        """Return how many flows the last sweep found."""
        return views.sums(self._maps.flows.totals())

    def sweep_flows(self) -> None:
        """End the flows of the LAN that were idle for too long, and sum up the others."""
        self._recounting.sweep()

    def sweep_udp(self, now: float, idle_s: float) -> None:
        """End the UDP flows that had no datagram for ``idle_s`` seconds; ``now`` is seconds of CLOCK_MONOTONIC."""
        self._recounting.sweep_udp(max(0, int((now - idle_s) * views.NANOSECONDS)))

    def reconcile_counts(self) -> int:
        """Compare counters with what is stored, exactly, repair, return the sum of differences.

        It ends idle UDP flows of sockets as well. It may run beside everything else: nothing waits for it.
        """
        before = max(0, int((time.monotonic() - self._udp_idle_s) * views.NANOSECONDS))
        with self._lock:
            idents = {ident for _, ident in self.services.services()}
        drift = self._recounting.run(idents, before)
        with self._lock:
            self.services.collect()
        return drift


def settings(overlay4: str, overlay6: str) -> Mapping[str, str]:
    """Return what `SettingDriver` must hold at a site with these overlay addresses, on this host as it is now."""
    return {
        SOURCE4: overlay4,
        SOURCE6: overlay6,
        SOURCE_PORTS: str(source_ports()),
        NAMESPACE: str(namespace_cookie()),
    }


def source_ports(proc: Path = _PROC) -> int:
    """Return how many ephemeral ports are not reserved; 0 when the sysctls cannot be read."""
    try:
        low, high = (int(word) for word in (proc / "ip_local_port_range").read_text(encoding="ascii").split())
        reserved: set[int] = set()
        for part in (proc / "ip_local_reserved_ports").read_text(encoding="ascii").strip().split(","):
            if part:
                first, _, last = part.partition("-")
                reserved.update(range(int(first), int(last or first) + 1))
    except (OSError, ValueError):
        return 0
    return max(1, high - low + 1 - len(reserved & set(range(low, high + 1))))


class SettingDriver:
    """Driver[str, str] of the keys of `settings`, on the map config_v1.

    The map's other fields are the loader's (digest) and the engine's own for a moment (sweep).
    """

    def __init__(self, maps: Maps, lock: threading.RLock) -> None:
        self._maps, self._lock = maps, lock

    def read(self) -> Mapping[str, str]:
        """Return what is set."""
        with self._lock:
            config = self._maps.config()
        found = {
            SOURCE4: str(IPv4Address(config.overlay4)) if any(config.overlay4) else "",
            SOURCE6: str(IPv6Address(config.overlay6)) if any(config.overlay6) else "",
            SOURCE_PORTS: str(config.port_limit),
            NAMESPACE: str(config.netns_cookie),
        }
        return {key: value for key, value in found.items() if value}

    def put(self, key: str, value: str) -> None:
        """Set one. Raises DataplaneError."""
        changes: Mapping[str, int | bytes]
        if key == SOURCE4:
            changes = {"overlay4": IPv4Address(value).packed}
        elif key == SOURCE6:
            changes = {"overlay6": IPv6Address(value).packed}
        elif key in (SOURCE_PORTS, NAMESPACE):
            changes = {"port_limit" if key == SOURCE_PORTS else "netns_cookie": int(value)}
        else:
            raise DataplaneError(f"placement: there is no setting {key}")
        with self._lock:
            self._maps.set_config(self._maps.config().replace(**changes))

    def delete(self, key: str) -> None:
        """Do nothing: a setting is changed, and goes with the pins."""
