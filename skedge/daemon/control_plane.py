"""The control plane: streams, probes, health checks, load reports. Events go up, orders come down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from skedge.control.health.monitor import CheckedWorkload, HealthMonitor
from skedge.control.identity.identity import Identity
from skedge.control.liveness.detector import LinkStats, LinkStatus
from skedge.control.liveness.prober import ProbeLink, Prober
from skedge.control.loads.exchange import LoadExchange, LoadPeer
from skedge.control.streams.bus import Bus, BusLink
from skedge.core import names
from skedge.core.desired.compute import link_id
from skedge.core.errors import DataplaneError
from skedge.core.linkstate.flooding import Flooder
from skedge.core.linkstate.messages import Key, Kind
from skedge.core.model import Health, HealthType, Link, LinkId, SiteConfig, WorkloadId
from skedge.core.objects import Target
from skedge.core.placement.loads import Heard
from skedge.core.reasons import Reason
from skedge.daemon.events import ControlEvents
from skedge.daemon.own_host import OwnHost
from skedge.daemon.state import State
from skedge.dataplane.host.sock_diag import ListenWatch
from skedge.dataplane.host.watch import HostWatch

SUSPENDED_HEALTH = Health(type=HealthType.TCP, interval_s=1.0, timeout_s=1.0, fall=1, rise=1)


class ControlPlane:
    """Everything of `skedge.control` that one controller uses (`events.Orders`)."""

    def __init__(self, events: ControlEvents, state: State, flooder: Flooder, identity: Identity) -> None:
        """Take where events go, the facts to report and to look at, and the source of messages."""
        self._events, self._state, self._flooder = events, state, flooder
        self._identity = identity
        config = state.config
        self._bus = Bus(
            config.site,
            identity,
            config.control_port,
            on_up=events.stream_up,
            on_down=events.stream_down,
            on_message=events.message,
            take=lambda link: flooder.take(time.monotonic(), link),
            rtt=self._rtt,
            on_verdict=lambda _link: events.links_changed(),
        )
        self._prober = Prober(asyncio.get_running_loop(), self._probed)
        self._health = HealthMonitor(events.health_changed, events.good_probe, OwnHost(state))
        self._loads = LoadExchange(
            identity,
            config.load_port,
            incarnation=lambda: flooder.incarnation,
            on_report=lambda _site: events.load_reported(),
        )
        self._suspended: dict[WorkloadId, CheckedWorkload] = {}
        self._listening: ListenWatch | None = None
        self._host: HostWatch | None = None

    def open(self) -> None:
        """Start to follow the host and to exchange load reports.

        Raises:
            DataplaneError: the kernel's network configuration cannot be watched.
        """
        loop = asyncio.get_running_loop()
        self._listening, self._host = ListenWatch(), HostWatch()
        loop.add_reader(self._listening.fileno(), self._listening_closed)
        loop.add_reader(self._host.fileno(), self._host_changed)
        try:
            self._loads.open(self._state.config.overlay4)
        except OSError as error:
            raise DataplaneError(f"load reports: cannot bind to the overlay address: {error.strerror}") from error

    def configure(self, config: SiteConfig) -> None:
        """Serve the links and connectors of this configuration."""
        ends = {link_id(config, link): (link, *_ends(config, link)) for link in config.links}
        self._bus.set_links({link: BusLink(dev, own, peer, at.to) for link, (at, dev, own, peer) in ends.items()})
        self._prober.set_links(
            {link: ProbeLink(dev, own, peer, at.probe) for link, (at, dev, own, peer) in ends.items()}
        )
        self._set_targets()

    def wake(self, link: LinkId) -> None:
        """Send what waits for a link."""
        self._bus.wake(link)

    def reset(self, link: LinkId, reason: Reason) -> None:
        """End the control stream of a link; it is dialled again after a delay."""
        self._bus.reset(link, reason)

    def link_stats(self) -> Mapping[LinkId, LinkStats]:
        """Return what the probes measured, and what dialling told."""
        told = {link: stream.tcp for link, stream in self._bus.stats().items()}
        return {link: replace(one, tcp=told.get(link, Reason.NONE)) for link, one in self._prober.snapshot().items()}

    def probes_turn(self, within_s: float) -> bool:
        """Tell whether the probes' thread looked at the links of late."""
        return self._prober.turns(within_s)

    def stream_causes(self) -> Mapping[str, str]:
        """Return why links have no control stream, by the link's written form."""
        return {str(link): stats.text for link, stats in self._bus.stats().items() if not stats.up}

    def renew(self) -> None:
        """Show the neighbours the certificate that this site has now."""
        self._bus.renew()

    def shown(self) -> Mapping[str, str]:
        """Return the serial number of this site's certificate that each stream was made with, by the link."""
        return {str(link): stats.shown for link, stats in self._bus.stats().items() if stats.up}

    def unproven(self) -> Mapping[str, str]:
        """Return why it is not proven that both ends of a link take each other's present certificate, by the link."""
        found = {}
        probed = self._prober.snapshot()
        for link, stats in self._bus.stats().items():
            if stats.up and stats.shown != self._identity.serial:
                found[str(link)] = stats.refused or f"{link}: the stream is of a certificate that this site had before"
            elif not stats.up and stats.refused and link in probed and probed[link].up:
                found[str(link)] = stats.refused
        return found

    def heard(self, now: float) -> Mapping[str, Heard]:
        """Return the last load report of every other site and when it came."""
        loads = self._loads
        return {site: Heard(report, now - (loads.age(site) or 0.0)) for site, report in loads.reports().items()}

    def probe_now(self, workload: WorkloadId) -> None:
        """Probe a workload at once."""
        self._health.probe_now(workload)

    def suspended(self, targets: Mapping[WorkloadId, Target]) -> None:
        """Probe suspended workloads of other sites at their endpoints until a probe is good."""
        wanted = {one: CheckedWorkload(at.address, at.port, SUSPENDED_HEALTH) for one, at in targets.items()}
        if wanted != self._suspended:
            self._suspended = wanted
            self._set_targets()

    async def close(self) -> None:
        """Close all sockets; nothing in the kernel changes."""
        for watch in (self._listening, self._host):
            if watch is not None:
                asyncio.get_running_loop().remove_reader(watch.fileno())
                watch.close()
        self._loads.close()
        self._prober.close()
        await self._health.close()
        await self._bus.close()

    def report(self) -> None:
        """Give the present counts and readers to the load reports."""
        state, database = self._state, self._flooder.database
        peers: dict[str, LoadPeer] = {}
        for site, services in state.load_readers().items():
            record, entry = state.network_map.links.get(site), database.get(Key(site, Kind.LINKS))
            if record is not None and entry is not None:
                peers[site] = LoadPeer(record.overlay4, entry.record.certificate, services)
        self._loads.set_peers(peers)
        self._loads.set_counts(state.own_open())

    # ---- events ---------------------------------------------------------------------------------------------------

    def _set_targets(self) -> None:
        config = self._state.config
        own = {
            WorkloadId(config.site, connector.name): CheckedWorkload(
                connector.host, connector.port, connector.health, here=True
            )
            for connector in config.connectors
        }
        self._health.set_targets({**self._suspended, **own})

    def _probed(self, link: LinkId, status: LinkStatus) -> None:
        self._bus.set_up(link, status.up)
        self._events.links_changed()

    def _listening_closed(self) -> None:
        """Probe own workloads at once whose listening socket may have closed."""
        if self._listening is None:
            return
        ports = {target.port for target in self._listening.read()}
        for connector in self._state.config.connectors:
            if connector.port in ports:
                self._health.probe_now(WorkloadId(self._state.config.site, connector.name))

    def _host_changed(self) -> None:
        """Follow addresses and carriers of the host."""
        if self._host is None:
            return
        changes = self._host.read()
        if changes.addresses or changes.lost:
            self._events.look_at_host()
        if changes.nftables or changes.lost:
            self._events.forget_tables()
        if changes.compare:
            self._events.look_at_devices()
        if changes.carriers:
            links = {device: link for link, device in self._devices().items()}
            for device, up in changes.carriers.items():
                if device in links:
                    self._prober.carrier(links[device], up)

    def _devices(self) -> Mapping[LinkId, str]:
        config = self._state.config
        return {link_id(config, link): _ends(config, link)[0] for link in config.links}

    def _rtt(self, link: LinkId) -> float:
        stats = self._prober.snapshot().get(link)
        return stats.rtt_us / 1e6 if stats else 0.0


def _ends(config: SiteConfig, link: Link) -> tuple[str, str, str]:
    """Return device, own and the neighbour's link-local address of a link."""
    identity = link_id(config, link)
    return (
        names.device_name(config.network, identity, config.site),
        str(names.link_local(config.network, config.site)),
        str(names.link_local(config.network, link.to)),
    )
