"""The packet programs on a device through tc: clsact with a direct-action filter a direction, known by its name."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping

from pyroute2.netlink.exceptions import NetlinkError

from skedge.dataplane.host.netlink import Netlink, attributes, kernel_errors, request

PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
NAME = "skedge"
PRIORITY = 74
HANDLE = 1
_ETH_P_ALL = 3
_RTM_NEWTFILTER, _RTM_GETTFILTER = 44, 46
_TCMSG = 20  # size of struct tcmsg
_TCA_OPTIONS, _TCA_BPF_NAME, _TCA_BPF_ID = 2, 7, 11


def attached(index: int) -> Mapping[str, int]:
    """Return the id of our program of each direction in which one is attached to the interface.

    Read in raw form: pyroute2 does not know the attribute that holds the id.
    """
    found: dict[str, int] = {}
    for direction, parent in PARENTS.items():
        with kernel_errors(f"read the filters of interface {index}"):
            answers = _filters(_dump_request(index, parent))
        for payload in answers:
            info = struct.unpack_from("=I", payload, 16)[0]
            options = attributes(attributes(payload, _TCMSG).get(_TCA_OPTIONS, b""), 0)
            ident = options.get(_TCA_BPF_ID)
            if ident and options.get(_TCA_BPF_NAME) == NAME.encode() + b"\0" and info >> 16 == PRIORITY:
                found[direction] = int(struct.unpack("=I", ident)[0])
    return found


def _dump_request(index: int, parent: int) -> bytes:
    return struct.pack("=BxxxiIII", socket.AF_UNSPEC, index, 0, parent, 0)


def _filters(body: bytes) -> list[bytes]:
    """Return the payloads of one dump of filters; an interface that is gone or has no such qdisc has none."""
    try:
        return [payload for kind, payload in request(_RTM_GETTFILTER, body, dump=True) if kind == _RTM_NEWTFILTER]
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL):
            return []
        raise


def attach(netlink: Netlink, index: int, direction: str, prog_fd: int) -> None:
    """Attach the program to the interface; another one of ours is replaced without a gap."""
    _add_clsact(netlink, index)
    with kernel_errors(f"attach the {direction} program to interface {index}"):
        netlink.ipr.tc(
            "replace-filter",
            "bpf",
            index,
            HANDLE,
            fd=prog_fd,
            name=NAME,
            parent=PARENTS[direction],
            prio=PRIORITY,
            protocol=_ETH_P_ALL,
            classid=1,
            direct_action=True,
        )


def detach(netlink: Netlink, index: int, direction: str) -> None:
    """Remove our filter from the interface, and the clsact qdisc unless filters of others are in it."""
    with kernel_errors(f"detach the {direction} program from interface {index}"):
        netlink.ipr.tc(
            "del-filter", "bpf", index, HANDLE, parent=PARENTS[direction], prio=PRIORITY, protocol=_ETH_P_ALL
        )
        if not any(_filters(_dump_request(index, parent)) for parent in PARENTS.values()):
            try:
                netlink.ipr.tc("del", "clsact", index)
            except NetlinkError as error:
                if error.code not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
                    raise


def _add_clsact(netlink: Netlink, index: int) -> None:
    with kernel_errors(f"add clsact to interface {index}"):
        try:
            netlink.ipr.tc("add", "clsact", index)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
