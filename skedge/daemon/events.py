"""Between the controller and its parts: events go up, orders come down. All of it in the loop's own thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from skedge.control.health.monitor import HealthState
from skedge.control.liveness.detector import LinkStats
from skedge.core.linkstate.messages import Message
from skedge.core.model import LinkId, SiteConfig, WorkloadId
from skedge.core.objects import Target
from skedge.core.placement.loads import Heard
from skedge.core.reasons import Reason
from skedge.daemon.kernel.kernel import Readings


class LinkEvents(Protocol):
    """What probes and control streams tell."""

    def links_changed(self) -> None:
        """Note that the probes have a verdict on a link."""
        ...

    def stream_up(self, link: LinkId) -> None:
        """Note a new control stream."""
        ...

    def stream_down(self, link: LinkId, reason: Reason) -> None:
        """Note that a control stream is gone."""
        ...

    def message(self, link: LinkId, message: Message) -> None:
        """Take one message of a control stream."""
        ...


class WorkloadEvents(Protocol):
    """What health checks and load reports tell."""

    def health_changed(self, workload: WorkloadId, health: HealthState) -> None:
        """Take a verdict of the health checks."""
        ...

    def good_probe(self, workload: WorkloadId) -> None:
        """Note that a workload answers."""
        ...

    def load_reported(self) -> None:
        """Note a load report of another site."""
        ...


class HostEvents(Protocol):
    """What the host's own network configuration tells."""

    def look_at_host(self) -> None:
        """Note that the host's addresses changed."""
        ...

    def forget_tables(self) -> None:
        """Read the nftables anew at the next comparison: they changed."""
        ...

    def look_at_devices(self) -> None:
        """Note that devices came, or that their settings changed."""
        ...


class ControlEvents(LinkEvents, WorkloadEvents, HostEvents, Protocol):
    """What the control plane tells."""


class CounterEvents(Protocol):
    """What the counting rounds tell."""

    def counted(self, readings: Readings) -> None:
        """Take this site's counters."""
        ...


class Orders(Protocol):
    """What the control plane is told, and asked."""

    def open(self) -> None:
        """Start. Raises DataplaneError when the kernel's network configuration cannot be watched."""
        ...

    def configure(self, config: SiteConfig) -> None:
        """Serve the links and connectors of this configuration."""
        ...

    def wake(self, link: LinkId) -> None:
        """Send what waits for a link."""
        ...

    def reset(self, link: LinkId, reason: Reason) -> None:
        """End the control stream of a link; a new one follows."""
        ...

    def link_stats(self) -> Mapping[LinkId, LinkStats]:
        """Return what the probes measured, and what dialling told."""
        ...

    def probes_turn(self, within_s: float) -> bool:
        """Tell whether the probes' thread looked at the links of late."""
        ...

    def stream_causes(self) -> Mapping[str, str]:
        """Return why links have no control stream, by the link's written form."""
        ...

    def renew(self) -> None:
        """Show the neighbours the certificate that this site has now."""
        ...

    def shown(self) -> Mapping[str, str]:
        """Return the serial number of this site's certificate that each stream was made with, by the link."""
        ...

    def unproven(self) -> Mapping[str, str]:
        """Return why it is not proven that both ends of a link take each other's present certificate, by the link."""
        ...

    def heard(self, now: float) -> Mapping[str, Heard]:
        """Return the last load report of every other site and when it came."""
        ...

    def probe_now(self, workload: WorkloadId) -> None:
        """Probe a workload at once."""
        ...

    def suspended(self, targets: Mapping[WorkloadId, Target]) -> None:
        """Probe suspended workloads of other sites at their endpoints until a probe is good."""
        ...

    def report(self) -> None:
        """Give the present counts and readers to the load reports."""
        ...

    async def close(self) -> None:
        """Close all sockets; nothing in the kernel changes."""
        ...
