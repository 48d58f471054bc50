"""rtnetlink for the drivers: one socket a thread, interrupted dumps retried, errors as one sentence.

pyroute2's sockets run an event loop of their own, so they cannot be used from a thread whose asyncio loop is running:
the daemon calls drivers from a worker thread. A socket belongs to the network namespace that its thread was in at
first use.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from skedge.core.errors import DataplaneError

PROTOCOL = 74  # our mark on routes, rules and addresses (a value no routing daemon uses)
ALTERNATE_PROTOCOL = 75  # that on alternates, so that a version which knows none takes no notice of them
TABLE = 7400
MAIN = 254
PRIORITY = 7400
LAN_TABLE = 7401  # LANs of other sites, for packets from the overlay alone
ANSWER_TABLE = 7402  # those whose clients may come to this host, for answers of its UDP workloads
TABLES = (TABLE, LAN_TABLE, ANSWER_TABLE)
LAST_METRIC = 65535  # of the overlay's last routes, behind whatever else leads there

_RTM_GETLINK, _RTM_SETLINK, _RTM_GETROUTE = 18, 19, 26
_RTA_TABLE = 15
_NLM_INTERRUPTED = 0x10
_NLM_REQUEST, _NLM_ACK, _NLM_DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_IFLA_AF_SPEC = 26
_IFLA_INET_CONF, _IFLA_INET6_CONF = 1, 2
_IFLA_IFNAME, _IFLA_EXT_MASK, _SKIP_STATS = 3, 29, 8
_NESTED = 0x8000
_CONF4 = "/proc/sys/net/ipv4/conf"
_CONF6 = "/proc/sys/net/ipv6/conf"  # of the network namespace of the thread that opens it

# A table that changes while it is dumped answers in part; the whole dump is made again.
dump_retry = retry(
    retry=retry_if_exception_type(NetlinkDumpInterrupted),
    stop=stop_after_attempt(5),
    wait=wait_fixed(0.01),
    reraise=True,
)


@contextmanager
def kernel_errors(what: str) -> Iterator[None]:
    """Turn a refusal of the kernel into a DataplaneError that begins with ``what``."""
    try:
        yield
    except NetlinkError as error:
        raise DataplaneError(f"{what}: {os.strerror(error.code) if error.code else error}") from error
    except (OSError, NetlinkDumpInterrupted) as error:
        raise DataplaneError(f"{what}: {error.strerror if isinstance(error, OSError) else error}") from error


@contextmanager
def gone_is_success() -> Iterator[None]:
    """Pass over the kernel's word that what is to be removed is not there."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in (errno.ESRCH, errno.ENOENT):
            raise


class Netlink:
    """The rtnetlink sockets of this process, one a thread, opened at first use."""

    def __init__(self) -> None:
        self._thread = threading.local()

    @property
    def ipr(self) -> Any:
        """The calling thread's IPRoute."""
        if not hasattr(self._thread, "ipr"):
            with kernel_errors("open an rtnetlink socket"):
                self._thread.ipr = IPRoute()
        return self._thread.ipr

    def close(self) -> None:
        """Close the calling thread's socket."""
        if hasattr(self._thread, "ipr"):
            self._thread.ipr.close()
            del self._thread.ipr

    @dump_retry
    def dump(self, what: str, **match: object) -> list[Any]:
        """Return all answers of one dump: ``what`` is links, addr, routes, rules, neighbours (pyroute2's get_…)."""
        with kernel_errors(f"read {what}"):
            return list(getattr(self.ipr, f"get_{what}")(**match))

    @dump_retry
    def routes(self, family: int, table: int) -> list[Any]:
        """Return the routes of one table, as `dump` does; the kernel leaves out the others, which may be many."""
        body = struct.pack("=8BI", family, 0, 0, 0, 0, 0, 0, 0, 0) + struct.pack("=HHI", 8, _RTA_TABLE, table)
        with kernel_errors("read routes"):
            try:
                answers = request(_RTM_GETROUTE, body, dump=True, strict=True)
            except OSError as error:
                if error.errno == errno.ENOENT:  # no route was ever in that table
                    return []
                raise
        return [_route(kind, payload) for kind, payload in answers if payload[0] == family]

    @staticmethod
    def index(device: str) -> int | None:
        """Return the interface index of a device, None when there is none (an ioctl: a route needs it a hop)."""
        try:
            return socket.if_nametoindex(device)
        except OSError:
            return None

    @staticmethod
    def names() -> dict[int, str]:
        """Return the device name of every interface index."""
        with kernel_errors("list devices"):
            return dict(socket.if_nameindex())


def _route(kind: int, payload: bytes) -> Any:
    message = rtmsg(struct.pack("=IHHII", 16 + len(payload), kind, 0, 0, 0) + payload)
    message.decode()
    return message


def set_devconf4(index: int, values: Mapping[int, int]) -> None:
    """Set IPv4 per-device settings (IPV4_DEVCONF_* -> value) over netlink: works where /proc/sys is read-only.

    pyroute2 reads these but has no form to write them.
    """
    conf = b"".join(struct.pack("=HHI", 8, number, value) for number, value in values.items())
    inet = struct.pack("=HH", 4 + len(conf), _IFLA_INET_CONF | _NESTED) + conf
    spec = struct.pack("=HH", 4 + len(inet), socket.AF_INET | _NESTED) + inet
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    body += struct.pack("=HH", 4 + len(spec), _IFLA_AF_SPEC | _NESTED) + spec
    with kernel_errors(f"set IPv4 settings of interface {index}"):
        request(_RTM_SETLINK, body)


def device_settings(wanted: Callable[[str], bool]) -> Mapping[str, tuple[bytes, bytes]]:
    """Return the IPv4 and IPv6 settings of devices by name, in the kernel's own form: to see whether any changed.

    One dump, and no parsing of what is in them.
    """
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0) + struct.pack("=HHI", 8, _IFLA_EXT_MASK, _SKIP_STATS)
    found: dict[str, tuple[bytes, bytes]] = {}
    with kernel_errors("read the settings of devices"):
        for _, payload in request(_RTM_GETLINK, body, dump=True):
            parts = attributes(payload, 16)
            name = parts.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
            if wanted(name):
                spec = attributes(parts.get(_IFLA_AF_SPEC, b""), 0)
                four, six = (attributes(spec.get(int(one), b""), 0) for one in (socket.AF_INET, socket.AF_INET6))
                found[name] = four.get(_IFLA_INET_CONF, b""), six.get(_IFLA_INET6_CONF, b"")
    return found


def request(kind: int, body: bytes, *, dump: bool = False, strict: bool = False) -> list[tuple[int, bytes]]:
    """Send one rtnetlink request in raw form, for what pyroute2 cannot say or read; return type and payload of answers.

    ``strict``: the kernel itself leaves out of a dump what the body does not ask for.

    Raises:
        OSError: the kernel refused.
        NetlinkDumpInterrupted: what was dumped changed meanwhile.
    """
    flags = _NLM_REQUEST | (_NLM_DUMP if dump else _NLM_ACK)
    answers: list[tuple[int, bytes]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as connection:
        connection.bind((0, 0))
        if strict:
            connection.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        connection.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        while True:
            data = connection.recv(1 << 17)
            if dump and len(data) >= 8 and struct.unpack_from("=IHH", data)[2] & _NLM_INTERRUPTED:
                raise NetlinkDumpInterrupted
            for answer, payload in split_messages(data):
                if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                    code = struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return answers
                answers.append((answer, payload))


def read_sysctl4(device: str, name: str) -> str | None:
    """Return an IPv4 per-device setting, None where there is none."""
    return _read(f"{_CONF4}/{device}/{name}")


def read_sysctl6(device: str, name: str) -> str | None:
    """Return an IPv6 per-device setting (of ``all`` and ``default`` too), None where there is none."""
    return _read(f"{_CONF6}/{device}/{name}")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None


def sysctl6_devices() -> list[str]:
    """Return what has IPv6 settings in this network namespace: devices, ``all`` and ``default``."""
    try:
        return sorted(os.listdir(_CONF6))
    except OSError:
        return []  # a kernel that was booted without IPv6


def per_device_forwarding6() -> bool:
    """Return whether this kernel forwards IPv6 by what the arriving device says (Linux 6.17)."""
    return read_sysctl6("default", "force_forwarding") is not None


def set_sysctl6(device: str, name: str, value: int) -> None:
    """Set an IPv6 per-device setting that netlink cannot (there is only /proc/sys), when it is not so already.

    Without a newline: of ``ignore_routes_with_linkdown`` Linux 6.1 says that it took one byte, and refuses the rest.
    """
    path = Path(f"{_CONF6}/{device}/{name}")
    try:
        if path.read_text(encoding="ascii").strip() != str(value):
            path.write_text(f"{value}", encoding="ascii")
    except OSError as error:
        raise DataplaneError(f"set {path} to {value}: {error.strerror}; is /proc/sys writable for skedge?") from error


def split_messages(data: bytes) -> list[tuple[int, bytes]]:
    """Return type and payload of every netlink message of a datagram."""
    found, at = [], 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        found.append((kind, data[at + 16 : at + length]))
        at += (max(length, 16) + 3) & ~3
    return found


def attributes(payload: bytes, at: int) -> dict[int, bytes]:
    """Return the netlink attributes of a payload from an offset on: type -> value (nesting flags taken off)."""
    found: dict[int, bytes] = {}
    while at + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, at)
        found[kind & 0x3FFF] = payload[at + 4 : at + length]
        at += (max(length, 4) + 3) & ~3
    return found
