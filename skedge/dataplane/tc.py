"""The packet programs on a device: clsact with one direct-action filter a direction, known by place and name."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError

from skedge.dataplane import bpfsys
from skedge.dataplane.netlink import Netlink, kernel_errors

PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
PINS = {"ingress": "link_ingress_v1", "egress": "link_egress_v1"}
NAME = "skedge"
PRIORITY = 74
HANDLE = 1
_ETH_P_ALL = 3


def pinned(pin_dir: str) -> Mapping[str, int]:
    """Return the kernel's id of the pinned program of each direction. Raises DataplaneError."""
    ids = {}
    for direction, pin in PINS.items():
        with bpfsys.Fd(bpfsys.obj_get(str(Path(pin_dir) / pin))) as fd:
            ids[direction] = bpfsys.prog_id(fd)
    return ids


def attached(netlink: Netlink, index: int) -> Mapping[str, int]:
    """Return the id of our program of each direction in which one is attached to the interface."""
    found: dict[str, int] = {}
    for direction, parent in PARENTS.items():
        for message in netlink.dump("filters", index=index, parent=parent):
            options = message.get_attr("TCA_OPTIONS")
            if options and options.get_attr("TCA_BPF_NAME") == NAME and message["info"] >> 16 == PRIORITY:
                found[direction] = int(options.get_attr("TCA_BPF_ID") or 0)
    return found


def attach(netlink: Netlink, index: int, pin_dir: str) -> None:
    """Attach the pinned programs to the interface; another version of ours is replaced without a gap."""
    have = attached(netlink, index)
    _add_clsact(netlink, index)
    for direction, pin in PINS.items():
        with bpfsys.Fd(bpfsys.obj_get(str(Path(pin_dir) / pin))) as fd:
            if have.get(direction) == bpfsys.prog_id(fd):
                continue
            with kernel_errors(f"attach {pin} to interface {index}"):
                netlink.ipr.tc(
                    "replace-filter",
                    "bpf",
                    index,
                    HANDLE,
                    fd=fd,
                    name=NAME,
                    parent=PARENTS[direction],
                    prio=PRIORITY,
                    protocol=_ETH_P_ALL,
                    classid=1,
                    direct_action=True,
                )


def detach(netlink: Netlink, index: int) -> None:
    """Remove our filters from the interface; a clsact qdisc stays, others may use it."""
    for direction in attached(netlink, index):
        with kernel_errors(f"detach {PINS[direction]} from interface {index}"):
            netlink.ipr.tc(
                "del-filter", "bpf", index, HANDLE, parent=PARENTS[direction], prio=PRIORITY, protocol=_ETH_P_ALL
            )


def _add_clsact(netlink: Netlink, index: int) -> None:
    with kernel_errors(f"add clsact to interface {index}"):
        try:
            netlink.ipr.tc("add", "clsact", index)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
