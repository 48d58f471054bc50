"""The file ``skedge.yaml`` as types: its keys, their defaults and the range of every single value.

What one value alone cannot tell (duplicates, overlaps, what a transport needs) is in `skedge.config.checks.site`.
Each limited type carries in ``extra`` the two halves of its error sentence: ``what`` it is and what to ``give``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from skedge.core.model import (
    AFFINITY_TIMEOUT_S,
    ANY_ADDRESS,
    ANY_DEVICE,
    CAPACITY_MAX,
    COST_MAX,
    WEIGHT_MAX,
    Affinity,
    EngineKind,
    HealthType,
    LanFirewall,
    Policy,
    Protocol,
)
from skedge.core.transports import Transport

DNS_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"
_LABEL_HELP = "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"


def _named(what: str, pattern: str, give: str) -> Meta:
    return Meta(pattern=pattern, extra={"what": what, "give": give})


SiteName = Annotated[str, _named("a site name", DNS_LABEL, _LABEL_HELP)]
NetworkName = Annotated[str, _named("a network name", DNS_LABEL, _LABEL_HELP)]
LinkName = Annotated[str, _named("a link name", DNS_LABEL, _LABEL_HELP)]
ServiceName = Annotated[
    str, _named("a service name", r"^[!-~]{1,63}\Z", "1 to 63 printable ASCII characters without a space")
]
ServiceNameOrNone = Annotated[
    str, _named("a service name", r"^([!-~]{1,63})?\Z", "1 to 63 printable ASCII characters without a space")
]
ConnectorName = Annotated[
    str, _named("a connector name", r"^([!-~]{1,63})?\Z", "1 to 63 printable ASCII characters without a space")
]
DeviceName = Annotated[
    str, _named("a device name", r"^([^\s/:%\x00]{1,15})?\Z", "the name of a network device, as in `ip link`")
]
LanDeviceName = Annotated[
    str, _named("a device name", r"^[^\s/:%\x00]{1,15}\Z", "the name of a network device, as in `ip link`, or *")
]
UnitName = Annotated[
    str, _named("a systemd unit", r"^([A-Za-z0-9:_.\\@-]{1,255})?\Z", "the unit's name, such as haproxy.service")
]
HttpPath = Annotated[
    str, _named("a path", r"^/[!-~]{0,1023}\Z", "a path that begins with / and has no space, such as /healthz")
]
HostHeader = Annotated[
    str,
    _named(
        "a Host header",
        r"^((\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?)?\Z",
        "a name or address, with a port or without, such as shop.example",
    ),
]
ServerName = Annotated[
    str, _named("a server name", r"^([A-Za-z0-9._:-]{1,253})?\Z", "a host name or an address, as in the certificate")
]
CaFile = Annotated[
    str, _named("a file", r"^(/[^\x00-\x1f]{1,1023})?\Z", "the absolute path of a PEM file with CA certificates")
]

Cost = Annotated[int, Meta(ge=1, le=COST_MAX)]
CostOrAuto = Annotated[
    Cost | Literal["auto"], Meta(extra={"what": "a cost", "give": f"an integer from 1 to {COST_MAX}, or auto"})
]
Weight = Annotated[int, Meta(ge=1, le=WEIGHT_MAX)]
AffinitySeconds = Annotated[int, Meta(ge=1, le=604_800)]
Capacity = Annotated[int, Meta(ge=1, le=CAPACITY_MAX)]
Port = Annotated[int, Meta(ge=1, le=65535)]
PortOrOff = Annotated[int, Meta(ge=0, le=65535)]
Mtu = Annotated[int, Meta(ge=0, le=65535)]
KeepaliveSeconds = Annotated[int, Meta(ge=0, le=65535)]
PublicKey = Annotated[
    str,
    _named(
        "a WireGuard public key", r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\Z", "44 characters, as `wg pubkey` prints"
    ),
]
IntervalMs = Annotated[int, Meta(ge=10, le=60_000)]
Times = Annotated[int, Meta(ge=1, le=100)]
Seconds = Annotated[float, Meta(ge=0.05, le=3600)]
IdleSeconds = Annotated[int, Meta(ge=1, le=604_800)]
HoldSeconds = Annotated[float, Meta(ge=1, le=86_400)]
DrainSeconds = Annotated[float, Meta(ge=0, le=86_400)]
FileVersion = Annotated[int, Meta(ge=1, le=1)]


class ProbeSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Liveness probing of a link (`skedge.core.model.Probe`)."""

    interval_ms: IntervalMs = 100
    lost: Times = 3


class LinkSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One item of ``links``; ``port`` and ``remote_port`` 0 are the transport's own."""

    to: SiteName
    name: LinkName = "main"
    cost: CostOrAuto = 1
    transport: Transport = Transport.WIREGUARD
    service_costs: dict[ServiceName, Cost] = field(default_factory=dict)
    local: str = ""
    remote: str = ""
    device: DeviceName = ""
    port: PortOrOff = 0
    mtu: Mtu = 0
    probe: ProbeSpec = ProbeSpec()
    remote_port: PortOrOff = 0
    keepalive_s: KeepaliveSeconds = 0
    keys: list[PublicKey] = field(default_factory=list)
    base_cost: Cost = 1


class ShareSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One item of a listener's ``services``."""

    service: ServiceName
    weight: Weight = 1


class ListenerSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One item of ``listeners``: with one ``service``, or with ``services`` and a policy."""

    service: ServiceNameOrNone = ""
    services: list[ShareSpec] = field(default_factory=list)
    policy: Policy = Policy.COST
    port: Port
    address: str = ANY_ADDRESS
    protocol: Protocol = Protocol.TCP
    affinity: Affinity = Affinity.NONE
    affinity_timeout_s: AffinitySeconds = AFFINITY_TIMEOUT_S
    preserve_client_ip: bool = False
    takeover: UnitName = ""

    @property
    def names(self) -> list[str]:
        """Return all services that the item names."""
        return [*filter(None, [self.service]), *(share.service for share in self.services)]


class HealthSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A connector's health check; without ``type`` it is listen, tcp with tls, or socket for a udp workload."""

    type: HealthType | None = None
    path: HttpPath = "/"
    host: HostHeader = ""
    tls: bool = False
    tls_verify: bool = True
    tls_ca: CaFile = ""
    tls_server_name: ServerName = ""
    interval_s: Seconds = 1.0
    timeout_s: Seconds = 1.0
    fall: Times = 2
    rise: Times = 1


class ConnectorSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One item of ``connectors``; an empty name means the service's."""

    service: ServiceName
    host: str
    port: Port
    name: ConnectorName = ""
    protocol: Protocol = Protocol.TCP
    capacity: Capacity = 1
    drain: bool = False
    health: HealthSpec = HealthSpec()


class MetricsSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the Prometheus endpoint listens; port 0 switches it off."""

    address: str = "127.0.0.1"
    port: PortOrOff = 9464


class FlowTimesSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Idle time-outs of flows (`skedge.core.model.FlowTimes`)."""

    syn_s: IdleSeconds = 10
    established_s: IdleSeconds = 7440
    fin_s: IdleSeconds = 7440
    closed_s: IdleSeconds = 10
    udp_s: IdleSeconds = 20
    udp_stream_s: IdleSeconds = 120


class SiteSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    network: NetworkName
    site: SiteName
    version: FileVersion = 1
    engine: EngineKind = EngineKind.AUTO
    engine_drain_s: DrainSeconds = 300.0
    overlay_cidr: str = ""
    overlay_address: str = ""
    overlay_address6: str = ""
    nat_address: str = ""
    endpoint_ports: tuple[Port, Port] = (61000, 62999)
    lan_devices: list[LanDeviceName] = field(default_factory=lambda: [ANY_DEVICE])
    lan_firewall: LanFirewall = LanFirewall.HONOUR
    nat_ports: tuple[Port, Port] = (63000, 65535)
    prefixes: list[str] = field(default_factory=list)
    flow_times: FlowTimesSpec = FlowTimesSpec()
    links: list[LinkSpec] = field(default_factory=list)
    listeners: list[ListenerSpec] = field(default_factory=list)
    connectors: list[ConnectorSpec] = field(default_factory=list)
    drain: bool = False
    overload: bool = False
    hold_time_s: HoldSeconds = 120.0
    control_port: Port = 7401
    load_port: Port = 7402
    log_placements: bool = False
    metrics: MetricsSpec = MetricsSpec()
    removed_sites: list[SiteName] = field(default_factory=list)
