"""The words of docs/architecture.md as types: configuration of one site. What sites say of themselves: core/records.py.

Everything is frozen and hashable. Costs and capacities are integers 1..65535; times are seconds (float) unless
a name ends in ``_ms`` or ``_us``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal

from skedge.core.transports import VXLAN_PORT, Transport

COST_MAX = 65535
AUTO: Final = "auto"  # a link's cost that is measured
CAPACITY_MAX = 65535
WORKLOADS_PER_SERVICE_MAX = 256
SERVICES_MAX = 1024
LISTENER_SERVICES_MAX = 16
WEIGHT_MAX = 100
AFFINITY_TIMEOUT_S = 10_800

EMPTY: Mapping[str, int] = MappingProxyType({})


class EngineKind(StrEnum):
    """What balances on a host. ``auto``: eBPF where the host can, else IPVS."""

    AUTO = "auto"
    EBPF = "ebpf"
    IPVS = "ipvs"


class Protocol(StrEnum):
    """Transport protocol of a service."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, order=True)
class WorkloadId:
    """Network-wide identity of a connector's server, written ``site/connector``."""

    site: str
    connector: str

    def __str__(self) -> str:
        return f"{self.site}/{self.connector}"


@dataclass(frozen=True, slots=True, order=True)
class LinkId:
    """One configured link, the same value at both ends (``a`` < ``b``). Make it with `between`."""

    a: str
    b: str
    name: str = "main"

    @classmethod
    def between(cls, one: str, other: str, name: str = "main") -> LinkId:
        """Return the link of that name between two sites, in either order."""
        return cls(min(one, other), max(one, other), name)

    def far_end(self, site: str) -> str:
        """Return the other site of the link."""
        return self.b if site == self.a else self.a

    def __str__(self) -> str:
        return f"{self.a}--{self.b}" + ("" if self.name == "main" else f":{self.name}")


@dataclass(frozen=True, slots=True)
class Probe:
    """Liveness probing of one link: interval, how many lost in a row mean down."""

    interval_ms: int = 100
    lost: int = 3


@dataclass(frozen=True, slots=True)
class Link:
    """One link as configured at this site.

    ``local`` and ``remote`` are underlay addresses, and ``remote`` of a wireguard link may be a host name, or empty
    where the far end cannot be reached and is the one that calls. ``device`` is the underlay device of a ``direct``
    link; ``port`` is the tunnel's UDP port, ``remote_port`` the far end's of a wireguard link; ``mtu`` 0 means: from
    the underlay.
    ``keys`` are the far end's WireGuard keys: two while it changes its own, none before it was deployed. A ``cost`` of
    auto is ``base_cost`` and what `linkstate.measured_cost` makes of the link's delay and loss.
    """

    to: str
    name: str = "main"
    cost: int | Literal["auto"] = 1
    transport: Transport = Transport.WIREGUARD
    service_costs: Mapping[str, int] = field(default_factory=lambda: EMPTY, hash=False)
    local: str = ""
    remote: str = ""
    device: str = ""
    port: int = VXLAN_PORT
    mtu: int = 0
    probe: Probe = Probe()
    remote_port: int = 0
    keepalive_s: int = 0
    keys: tuple[str, ...] = ()
    base_cost: int = 1

    @property
    def configured_cost(self) -> int:
        """Return the cost before anything was measured."""
        return self.base_cost if self.cost == AUTO else int(self.cost)


class HealthType(StrEnum):
    """How a workload's health is measured; ``socket``: a UDP socket of this host is bound to its address and port.

    ``listen``: a socket of this host listens there and has room; where the host does not tell, as ``tcp``, a connect.
    """

    LISTEN = "listen"
    TCP = "tcp"
    HTTP = "http"
    SOCKET = "socket"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Health:
    """A workload's health check; ``fall`` bad probes in a row mean unhealthy, ``rise`` good ones healthy.

    ``host`` is the Host header of an http check, empty: host:port of the workload. With ``tls`` it goes over TLS; the
    certificate must be for ``tls_server_name`` (empty: the name in ``host``, or the workload's address) and signed by
    one in the file ``tls_ca`` (empty: by one that the system trusts).
    """

    type: HealthType = HealthType.TCP
    path: str = "/"
    interval_s: float = 1.0
    timeout_s: float = 1.0
    fall: int = 2
    rise: int = 1
    host: str = ""
    tls: bool = False
    tls_verify: bool = True
    tls_ca: str = ""
    tls_server_name: str = ""


ANY_ADDRESS = "*"


class Policy(StrEnum):
    """How a listener chooses among its services; among the workloads of the chosen one the balancing rule holds."""

    COST = "cost"
    PRIORITY = "priority"
    WEIGHTED = "weighted"


class Affinity(StrEnum):
    """What keeps a connection at the workload of an earlier one."""

    NONE = "none"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Share:
    """One of several services of a listener; its weight counts with the policy ``weighted`` only."""

    service: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Listener:
    """Where clients of this site connect; ``address`` ``*`` means all current addresses of the host.

    One service is named by ``service``, several by ``services`` in the order of their priority (``service`` is then
    the first). A client keeps its workload for ``affinity_timeout_s`` after each of its connections where asked, and
    one of the site's LAN its own address on the way to another site.
    """

    service: str
    port: int
    address: str = ANY_ADDRESS
    protocol: Protocol = Protocol.TCP
    takeover: str = ""
    services: tuple[Share, ...] = ()
    policy: Policy = Policy.COST
    affinity: Affinity = Affinity.NONE
    affinity_timeout_s: int = AFFINITY_TIMEOUT_S
    preserve_client_ip: bool = False

    @property
    def shares(self) -> tuple[Share, ...]:
        """Return all services of the listener."""
        return self.services or (Share(self.service),)


def _whole(default: int, low: int, high: int) -> Any:
    """Return the declaration of a term with its range, both ends included."""
    return field(default=default, metadata={"default": default, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a workload's site says of it for the balancing rule: whole numbers, the same in all forms of a workload.

    From a connector they go with the site's record to every other site and there into the tables that are chosen by.
    Their order is that of appended fields in records and in the names file: a new term comes last.
    """

    capacity: int = _whole(1, 1, CAPACITY_MAX)

    def terms(self) -> dict[str, Any]:
        """Return the terms by name, to make another form of the workload with."""
        return {term.name: getattr(self, term.name) for term in TERMS}


@dataclass(frozen=True, slots=True)
class Term:
    """One term: its name, what it is where a site does not say it, and its range, both ends included."""

    name: str
    default: int
    low: int
    high: int


TERMS = tuple(Term(one.name, **one.metadata) for one in fields(Terms))


@dataclass(frozen=True, slots=True)
class Connector(Terms):
    """How this site offers a service: the workload's host:port, its terms and health check."""

    service: str
    name: str
    host: str
    port: int
    protocol: Protocol = Protocol.TCP
    health: Health = Health()
    drain: bool = False


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where the Prometheus endpoint listens; port 0 switches it off."""

    address: str = "127.0.0.1"
    port: int = 9464


ANY_DEVICE = "*"


@dataclass(frozen=True, slots=True)
class FlowTimes:
    """Seconds without a packet after which a flow of the LAN ends, by what it is doing (docs/inventory.md)."""

    syn_s: int = 10
    established_s: int = 7440  # RFC 5382: not less than 2 h 4 min
    fin_s: int = 7440  # closed by one end: the other may still have to say something
    closed_s: int = 10
    udp_s: int = 20  # one exchange; many of them are a second apart, and each holds a port
    udp_stream_s: int = 120  # RFC 4787: not less than 2 min


class LanFirewall(StrEnum):
    """Whether the host's own input rules decide on new connections of the LAN whose workload is not on the host."""

    HONOUR = "honour"
    BYPASS = "bypass"


@dataclass(frozen=True, slots=True)
class Lan:
    """Clients and workloads that are not processes of the host.

    ``devices``: where they are, ``*`` for every device of the host; none: there are none. ``ports``: the NAT ports.
    """

    devices: tuple[str, ...] = (ANY_DEVICE,)
    ports: tuple[int, int] = (63000, 65535)
    times: FlowTimes = FlowTimes()
    firewall: LanFirewall = LanFirewall.HONOUR


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """The whole validated configuration of one site (/etc/skedge/skedge.yaml after `skedge.config.load`)."""

    network: str
    site: str
    overlay_cidr: str
    overlay4: str
    overlay6: str
    nat4: str = ""  # what LAN clients come from on other sites: overlay addresses that no socket uses
    nat6: str = ""
    links: tuple[Link, ...] = ()
    listeners: tuple[Listener, ...] = ()
    connectors: tuple[Connector, ...] = ()
    endpoint_ports: tuple[int, int] = (61000, 62999)
    control_port: int = 7401
    load_port: int = 7402
    hold_time_s: float = 120.0
    drain: bool = False
    overload: bool = False
    entry_drain: bool = False  # by command only: this site's listeners take nothing (core/drains.py)
    metrics: Metrics = Metrics()
    lan: Lan = Lan()
    prefixes: tuple[str, ...] = ()
    log_placements: bool = False
    engine: EngineKind = EngineKind.AUTO
    engine_drain_s: float = 300.0
    removed_sites: tuple[str, ...] = ()  # that the inventory had, and has not any more
