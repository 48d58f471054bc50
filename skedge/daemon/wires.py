"""The controller's wires: streams, probes, health checks, load reports. Events go to the controller, orders come from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from skedge.control.health import HealthMonitor, HealthState, HealthTarget
from skedge.control.identity import Identity
from skedge.control.liveness import LinkStats, LinkStatus
from skedge.control.probe import ProbeLink, Prober
from skedge.control.streams import Bus, BusLink
from skedge.core import names
from skedge.core.desired import link_id
from skedge.core.model import Connector, Health, HealthType, Link, LinkId, SiteConfig, WorkloadId
from skedge.core.state import Target

if TYPE_CHECKING:
    from skedge.daemon.controller import Controller

SUSPENDED_HEALTH = Health(type=HealthType.TCP, interval_s=1.0, timeout_s=1.0, fall=1, rise=1)


class Wires:
    """Everything of `skedge.control` that one controller uses."""

    def __init__(self, controller: Controller, identity: Identity) -> None:
        self._at = controller
        config = controller.state.config
        self.bus = Bus(
            config.site,
            identity,
            config.control_port,
            on_up=controller.stream_up,
            on_down=controller.stream_down,
            on_message=controller.message,
            take=lambda link: controller.flooder.take(time.monotonic(), link),
            rtt=self._rtt,
        )
        self._prober = Prober(asyncio.get_running_loop(), self._probed)
        self._health = HealthMonitor(self._health_changed, self._good)
        self._suspended: dict[WorkloadId, HealthTarget] = {}

    def configure(self, config: SiteConfig) -> None:
        """Serve the links and connectors of this configuration."""
        ends = {link_id(config, link): (link, *_ends(config, link)) for link in config.links}
        self.bus.set_links({link: BusLink(dev, own, peer, at.to) for link, (at, dev, own, peer) in ends.items()})
        self._prober.set_links(
            {link: ProbeLink(dev, own, peer, at.probe) for link, (at, dev, own, peer) in ends.items()}
        )
        self._set_targets()

    def link_stats(self) -> Mapping[LinkId, LinkStats]:
        """Return what the probes measured."""
        return self._prober.snapshot()

    def stream_causes(self) -> Mapping[str, str]:
        """Return why links have no control stream, by the link's written form."""
        return {str(link): stats.text for link, stats in self.bus.stats().items() if not stats.up}

    def probe_now(self, workload: WorkloadId) -> None:
        """Probe a workload at once."""
        self._health.probe_now(workload)

    def suspended(self, targets: Mapping[WorkloadId, Target]) -> None:
        """Probe suspended workloads of other sites at their endpoints until a probe is good."""
        wanted = {one: HealthTarget(at.address, at.port, SUSPENDED_HEALTH) for one, at in targets.items()}
        if wanted != self._suspended:
            self._suspended = wanted
            self._set_targets()

    async def close(self) -> None:
        """Close all sockets; nothing in the kernel changes."""
        self._prober.close()
        await self._health.close()
        await self.bus.close()

    # ---- events ---------------------------------------------------------------------------------------------------

    def _set_targets(self) -> None:
        config = self._at.state.config
        own = {
            WorkloadId(config.site, connector.name): HealthTarget(connector.host, connector.port, connector.health)
            for connector in config.connectors
            if _checked(connector)
        }
        self._health.set_targets({**self._suspended, **own})

    def _probed(self, link: LinkId, status: LinkStatus) -> None:
        self.bus.set_up(link, status.up)
        self._at.inbox.post(self._at.link_changed, link, status.up, status.reason)

    def _health_changed(self, workload: WorkloadId, state: HealthState) -> None:
        self._at.inbox.post(self._at.health_changed, workload, state.healthy, state.cause, state.address)

    def _good(self, workload: WorkloadId) -> None:
        self._at.good_probe(workload)

    def _rtt(self, link: LinkId) -> float:
        stats = self._prober.snapshot().get(link)
        return stats.rtt_us / 1e6 if stats else 0.0


def _checked(connector: Connector) -> bool:
    return connector.health.type is not HealthType.NONE


def _ends(config: SiteConfig, link: Link) -> tuple[str, str, str]:
    """Return device, own and the neighbour's link-local address of a link."""
    identity = link_id(config, link)
    return (
        names.device_name(config.network, identity, config.site) if not link.device else link.device,
        str(names.link_local(config.network, config.site)),
        str(names.link_local(config.network, link.to)),
    )
