"""What the host has around it: the routes that it goes by to some networks, its gateways and its resolvers."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.names import is_uplink_mark
from skedge.core.routing.surroundings import Surroundings
from skedge.dataplane.host.netlink import TABLES, attributes, kernel_errors, request

RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))  # the second: behind the stub
_GETROUTE, _FIB_MATCH = 26, 0x3000  # RTM_F_FIB_MATCH, and RTM_F_LOOKUP_TABLE: else IPv4 says that all is in main
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_UNICAST = 1
_NEWRULE, _GETRULE, _TO_TABLE, _INVERTED = 32, 34, 1, 0x2
_FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK = 10, 15, 16
_ALL_BITS = 0xFFFFFFFF
_OF_ALL = (*TABLES, 253, 254, 255)  # ours; default, main and local
_OUTSIDE = ("192.0.2.1", "2001:db8::1")  # of nobody: the way there is the default route's
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ESRCH, errno.EAFNOSUPPORT)


def read(prefixes: Iterable[str], sites: Iterable[str] = (), resolvers: Iterable[Path] = RESOLVERS) -> Surroundings:
    """Return what is around the host; ``sites`` are addresses that we have a route to. Raises DataplaneError."""
    beside = dict.fromkeys((one for path in resolvers for one in _resolvers(path)), "a resolver of this host")
    for address in (*_OUTSIDE, *beside):
        gateway = _way(address)[1]
        if gateway:
            beside.setdefault(gateway, "a gateway of this host")
    astray = {address: where for address in sites if (where := _astray(address))}
    return Surroundings({prefix: _led(prefix) for prefix in prefixes}, beside, astray, _marked())


def _astray(address: str) -> str:
    """Return where the host leads an address that our own table has a route to; nothing where it is that table."""
    try:
        found = _fib(address)
    except OSError as error:
        if error.errno in _NO_WAY:
            return "nowhere"
        raise DataplaneError(f"look up the way to {address}: {error.strerror}") from error
    if found is None:
        return "nowhere"
    table, kind, index = found
    if table in TABLES:
        return ""
    return f"to table {table}" + (f", device {_name(index)}" if kind == _UNICAST and index else "")


def _fib(address: str) -> tuple[int, int, int] | None:
    """Return table, type and device of the route that the kernel has for an address."""
    for _, payload in _look_up(address):
        found = attributes(payload, 12)
        table, device = (struct.unpack("=I", found.get(key, bytes(4)))[0] for key in (_RTA_TABLE, _RTA_OIF))
        return table, payload[7], device
    return None


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"number {index}"


def _look_up(address: str) -> list[tuple[int, bytes]]:
    parsed = ip_address(address)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    body = struct.pack("=8BI", family, parsed.max_prefixlen, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    return request(_GETROUTE, body + struct.pack("=HH", 4 + len(parsed.packed), _RTA_DST) + parsed.packed)


def _marked() -> dict[str, int]:
    """Return where rules lead packets by their mark, but for the tables that all others go by."""
    found = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        with kernel_errors("list the rules"):
            answers = request(_GETRULE, struct.pack("=12B", family, *bytes(11)), dump=True)
        for kind, payload in answers:
            inverted = struct.unpack_from("=I", payload, 8)[0] & _INVERTED
            told = {key: struct.unpack_from("=I", value)[0] for key, value in attributes(payload, 12).items()
                    if len(value) == 4}  # fmt: skip
            table, mark = told.get(_FRA_TABLE, payload[4]), told.get(_FRA_FWMARK, 0)
            of_host = table not in _OF_ALL and not is_uplink_mark(mark)
            if kind == _NEWRULE and payload[7] == _TO_TABLE and mark and not inverted and of_host:
                found[f"{mark:#x}/{told.get(_FRA_FWMASK, _ALL_BITS):#x}"] = table
    return found


def _led(prefix: str) -> str:
    """Return the route that leads to hosts in a prefix; some of its first addresses may be the host's own."""
    network = ip_network(prefix)
    first = int(network.network_address)
    for number in range(min(4, network.num_addresses)):
        route, _, other = _way(str(type(network.network_address)(first + number)))
        if other:
            return route
    return ""


def _way(address: str) -> tuple[str, str, bool]:
    """Return the host's own route that leads to an address, and its gateway; whether the address is not its own."""
    with kernel_errors(f"look up the way to {address}"):
        try:
            answers = _look_up(address)
        except OSError as error:
            if error.errno in _NO_WAY:
                return "", "", True
            raise
    for _, payload in answers:
        length, kind, found = payload[1], payload[7], attributes(payload, 12)
        table = struct.unpack("=I", found.get(_RTA_TABLE, bytes(4)))[0]
        if table in TABLES or kind != _UNICAST:
            return "", "", kind == _UNICAST
        gateway = found.get(_RTA_GATEWAY, b"")
        led = f"{ip_address(found[_RTA_DST])}/{length}" if length and _RTA_DST in found else ""
        return led, str(ip_address(gateway)) if gateway else "", True
    return "", "", True


def _resolvers(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    said = [word[1].partition("%")[0] for word in words if len(word) > 1 and word[0] == "nameserver"]
    return [one for one in said if _is_address(one)]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
