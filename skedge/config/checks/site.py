"""What one value alone cannot tell: duplicates, overlaps, what a transport needs, addresses.

Each check takes a `ParsedFile`, the valid part of a file, and yields (path, sentence) for every problem, so that one
run of `skedge config check` names them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv6Network

from skedge.config.addresses import canonical, overlay_range, parse_host
from skedge.config.checks.engines import engine_limits
from skedge.config.checks.health import check_keys
from skedge.config.checks.lans import prefixes, preserving
from skedge.config.checks.links import LINK_CHECKS, link_port
from skedge.config.checks.listeners import listener_services
from skedge.config.parsed import ParsedFile, Problem
from skedge.config.schema import ListenerSpec
from skedge.config.validation import join, shown
from skedge.core.model import (
    ANY_ADDRESS,
    ANY_DEVICE,
    SERVICES_MAX,
    WORKLOADS_PER_SERVICE_MAX,
    HealthType,
    Protocol,
)
from skedge.core.names import PREFIX, overlay_prefix6

_CHECKS = {
    Protocol.TCP: (HealthType.LISTEN, HealthType.TCP, HealthType.HTTP, HealthType.NONE),
    Protocol.UDP: (HealthType.SOCKET, HealthType.NONE),
}
LISTENERS_MAX = 4096
NAT_PORTS_MIN = 64


def check(file: ParsedFile) -> Iterator[Problem]:
    """Yield every problem of the whole that no single value shows."""
    for part in (_overlay4, _overlay6, _own_ports, _endpoint_ports, _nat_ports, _lan_devices, _prefixes, *LINK_CHECKS):
        yield from part(file)
    yield from engine_limits(file)
    for part in (_listeners, _listeners_as_set, _connectors, _connectors_as_set, _services, _metrics):
        yield from part(file)


# ---- addresses -------------------------------------------------------------------------------------------------


def _overlay4(file: ParsedFile) -> Iterator[Problem]:
    if not file.good("overlay_cidr", "network", "overlay_address"):
        return
    network = overlay_range(file.spec.overlay_cidr, file.spec.network, file.spec.overlay_address)
    if isinstance(network, str):
        yield file.at("overlay_cidr"), network
        return
    for key, text in (("overlay_address", file.spec.overlay_address), ("nat_address", file.spec.nat_address)):
        if not text or not file.good(key):
            continue
        address = parse_host(text)
        if isinstance(address, str):
            yield file.at(key), address
        elif address not in network or address in (network.network_address, network.broadcast_address):
            way_out = (
                f"give a host address inside overlay_cidr {network}, or none for the one made from the site's name"
            )
            yield file.at(key), f"{text} is not a host address of the overlay; {way_out}"
    if file.spec.nat_address and file.spec.nat_address == file.spec.overlay_address:
        yield (
            file.at("nat_address"),
            "the same as overlay_address; give it another, or none for the one made from the site's name",
        )


def _overlay6(file: ParsedFile) -> Iterator[Problem]:
    text = file.spec.overlay_address6
    if not text or not file.good("overlay_address6", "network"):
        return
    network = IPv6Network(overlay_prefix6(file.spec.network))
    address = parse_host(text)
    if isinstance(address, str):
        yield file.at("overlay_address6"), address
    elif address not in network or address == network.network_address:
        way_out = f"give one inside {network}, the network's own prefix, or none for the one made from the site's name"
        yield file.at("overlay_address6"), f"{text} is not an overlay address; {way_out}"


def _metrics(file: ParsedFile) -> Iterator[Problem]:
    metrics = file.spec.metrics
    if not file.good("metrics") or metrics.address in ("0.0.0.0", "::"):  # noqa: S104 - the operator's own choice
        return
    address = parse_host(metrics.address)
    if isinstance(address, str):
        yield join(file.at("metrics"), "address"), address


# ---- ports -----------------------------------------------------------------------------------------------------


def _own_ports(file: ParsedFile) -> Iterator[Problem]:
    """The controller's own ports must differ; one key is named, with the other beside it."""
    seen: dict[int, str] = {}
    for key, port in _controller_ports(file):
        if port in seen:
            yield file.at(key), f"{port} is already {seen[port]}; give each its own port"
        seen.setdefault(port, key)


def _controller_ports(file: ParsedFile) -> list[tuple[str, int]]:
    spec = file.spec
    ports = [("control_port", spec.control_port), ("load_port", spec.load_port)]
    if file.good("metrics") and spec.metrics.port:
        ports.append(("metrics.port", spec.metrics.port))
    return [(key, port) for key, port in ports if file.good(key.split(".")[0])]


def _endpoint_ports(file: ParsedFile) -> Iterator[Problem]:
    if not file.good("endpoint_ports"):
        return
    first, last = file.spec.endpoint_ports
    path = file.at("endpoint_ports")
    if not 1024 <= first <= last:
        yield path, f"[{first}, {last}] is not a range of ports above 1023; give [first, last], such as [61000, 62999]"
        return
    if len(file.connectors) > last - first + 1:
        have, need = last - first + 1, len(file.connectors)
        yield path, f"{have} ports are too few for {need} connectors; give a range of at least {need} ports"
    yield from _taken_ports(file, path, first, last)


def _taken_ports(file: ParsedFile, path: str, first: int, last: int) -> Iterator[Problem]:
    taken = [(key, port) for key, port in _controller_ports(file)]
    tunnels = [(where, link) for where, link in file.links if link.transport.facts.port]
    taken += [(f"{where}.port", link_port(link)) for where, link in tunnels]
    for key, port in taken:
        if first <= port <= last:
            yield path, f"[{first}, {last}] contains {port}, which is {key}; move one of the two"


def _nat_ports(file: ParsedFile) -> Iterator[Problem]:
    if not file.good("nat_ports"):
        return
    first, last = file.spec.nat_ports
    path = file.at("nat_ports")
    if not (first >= 1024 and last - first + 1 >= NAT_PORTS_MIN):
        way_out = f"give [first, last] with {NAT_PORTS_MIN} ports at least, such as [63000, 65535]"
        yield path, f"[{first}, {last}] is not a range of ports above 1023; {way_out}"
        return
    yield from _taken_ports(file, path, first, last)
    endpoint_first, endpoint_last = file.spec.endpoint_ports
    if file.good("endpoint_ports") and first <= endpoint_last and endpoint_first <= last:
        way_out = "give ranges that have no port in common"
        yield path, f"[{first}, {last}] overlaps endpoint_ports [{endpoint_first}, {endpoint_last}]; {way_out}"


def _lan_devices(file: ParsedFile) -> Iterator[Problem]:
    if not file.good("lan_devices"):
        return
    given = file.spec.lan_devices
    for number, device in enumerate(given):
        path = f"{file.at('lan_devices')}[{number}]"
        if isinstance(device, str) and (device in (".", "..", "lo") or device.startswith(PREFIX)):
            yield path, f"{device} has no LAN behind it; give the device that clients or workloads are at"
        elif device == ANY_DEVICE and len(given) > 1:
            yield path, f"{ANY_DEVICE} is every device; give it alone, or only names"


def _prefixes(file: ParsedFile) -> Iterator[Problem]:
    if not file.good("prefixes", "overlay_cidr", "network"):
        return
    cidr = overlay_range(file.spec.overlay_cidr, file.spec.network, file.spec.overlay_address)
    overlay = [] if isinstance(cidr, str) else [str(cidr)]
    yield from prefixes(file.at("prefixes"), file.spec.prefixes, [*overlay, overlay_prefix6(file.spec.network)])


# ---- listeners -------------------------------------------------------------------------------------------------


def _listeners(file: ParsedFile) -> Iterator[Problem]:
    for path, listener in file.listeners:
        if listener.address != ANY_ADDRESS:
            address = parse_host(listener.address)
            if isinstance(address, str):
                star = "; for all of this host's addresses give *" if listener.address in ("0.0.0.0", "::", "") else ""  # noqa: S104
                yield f"{path}.address", address + star
            elif address.is_link_local:
                yield f"{path}.address", f"{address} is valid on one device only; give a global or private address"
        for key, (first, last) in (("endpoint_ports", file.spec.endpoint_ports), ("nat_ports", file.spec.nat_ports)):
            if file.good(key) and first <= listener.port <= last:
                yield f"{path}.port", f"{listener.port} is inside {key} [{first}, {last}]; give a port outside of it"
        if listener.takeover and not listener.takeover.endswith(".service"):
            yield f"{path}.takeover", f"{shown(listener.takeover)} is no service; give one such as haproxy.service"
        yield from _listener_on_own_port(file, path, listener)
        yield from listener_services(path, listener)
        if file.good("prefixes", "lan_devices"):
            yield from preserving(path, listener, file.spec.prefixes, file.spec.lan_devices)


def _listener_on_own_port(file: ParsedFile, path: str, listener: ListenerSpec) -> Iterator[Problem]:
    """A listener in front of the controller's own sockets would catch their clients."""
    udp = {"load_port"}
    for key, port in _controller_ports(file):
        same_protocol = (key in udp) == (listener.protocol is Protocol.UDP)
        if same_protocol and port == listener.port:
            yield f"{path}.port", f"{port} is already {key}; give another port"


def _listeners_as_set(file: ParsedFile) -> Iterator[Problem]:
    if len(file.listeners) > LISTENERS_MAX:
        yield file.at("listeners"), f"{len(file.listeners)} are more than {LISTENERS_MAX}; use * for many addresses"
    seen: dict[tuple[int, Protocol], dict[str, str]] = {}
    for path, listener in file.listeners:
        others = seen.setdefault((listener.port, listener.protocol), {})
        address = canonical(listener.address)
        clash = others.get(address)
        if clash:
            shown_address = f"[{address}]" if ":" in address else address
            what = f"{shown_address}:{listener.port} {listener.protocol.value}"
            yield path, f"{what} is already taken by {clash}; give each listener its own address and port"
        others.setdefault(address, path)


# ---- connectors ------------------------------------------------------------------------------------------------


def _connectors(file: ParsedFile) -> Iterator[Problem]:
    for path, connector in file.connectors:
        host = parse_host(connector.host)
        if isinstance(host, str):
            yield f"{path}.host", host
        elif host.is_link_local:
            yield f"{path}.host", f"{host} is valid on one device only; give another address of the workload"
        kind = connector.health.type
        if kind is not None and kind not in _CHECKS[connector.protocol]:
            given, fit = kind.value, " or ".join(kind.value for kind in _CHECKS[connector.protocol])
            yield f"{path}.health.type", f"{given} cannot check a {connector.protocol.value} workload; give type: {fit}"
        else:
            yield from check_keys(f"{path}.health", connector)


def _connectors_as_set(file: ParsedFile) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for path, connector in file.connectors:
        name = connector.name or connector.service
        first = seen.setdefault(name, path)
        if first != path:
            way_out = "give each connector of this site its own name"
            yield f"{path}.name", f"{shown(name)} is already the name of {first}; {way_out}"


def _services(file: ParsedFile) -> Iterator[Problem]:
    services = {(name, item.protocol) for _, item in file.listeners for name in item.names}
    services |= {(item.service, item.protocol) for _, item in file.connectors}
    if len(services) > SERVICES_MAX:
        way_out = "give fewer services to this site"
        yield (
            file.at("listeners"),
            f"with the connectors they name {len(services)} services of {SERVICES_MAX}; {way_out}",
        )
    offered = Counter((item.service, item.protocol) for _, item in file.connectors)
    for (service, _), count in sorted(offered.items()):
        if count > WORKLOADS_PER_SERVICE_MAX:
            limit = f"{count} connectors of {service} are more than {WORKLOADS_PER_SERVICE_MAX}"
            yield file.at("connectors"), f"{limit}; give fewer, with a higher capacity each"
