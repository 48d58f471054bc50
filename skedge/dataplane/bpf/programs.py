"""The table of eBPF programs: which C function of which file is loaded as what, and where it is pinned.

The loader compiles each file once, loads its programs and pins them (and, for cgroup programs, their links) under
the pin directory. Names carry a version: a program that cannot work on the old maps takes a new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ProgType(IntEnum):
    """Program types that are used (enum bpf_prog_type of linux/bpf.h)."""

    SCHED_CLS = 3
    CGROUP_SOCK = 9
    SOCK_OPS = 13
    CGROUP_SOCK_ADDR = 18
    TRACING = 26


class Attach(IntEnum):
    """Attach types that are used (enum bpf_attach_type of linux/bpf.h)."""

    SOCK_OPS = 3
    CONNECT4 = 10
    CONNECT6 = 11
    SENDMSG4 = 14
    SENDMSG6 = 15
    RECVMSG4 = 19
    RECVMSG6 = 20
    ITERATOR = 28
    GETPEERNAME4 = 29
    GETPEERNAME6 = 30
    SOCK_RELEASE = 34


@dataclass(frozen=True, slots=True)
class Program:
    """One program: ``attach`` is its expected attach type.

    ``cgroup``: the loader attaches it to the cgroup, through a link pinned as ``attach_<pin>``. ``iterates``: it is
    an iterator over that map (`TCP`: over TCP sockets), and what is pinned is its link (to open it is to run it).
    ``defines`` are macros.
    ``entry``: other packet programs call it, by this index of the program table.
    """

    source: str
    function: str
    type: ProgType
    pin: str
    attach: Attach | None = None
    cgroup: bool = False
    iterates: str = ""
    defines: tuple[str, ...] = ()
    entry: int | None = None

    @property
    def link_pin(self) -> str:
        """Return the name of the pinned cgroup link."""
        return f"attach_{self.pin}"


SOCKETS = "sockets.c"
TCP = "tcp"
"""In the place of a map: the TCP sockets of the network namespace of whoever opens the iterator."""


def _connect(name: str, attach: Attach) -> Program:
    return Program(SOCKETS, f"skedge_{name}", ProgType.CGROUP_SOCK_ADDR, f"{name}_v1", attach, cgroup=True)


def _iterator(function: str, over: str, pin: str, *defines: str) -> Program:
    made = "iterators.c", f"bpf_iter__{function}", ProgType.TRACING, pin, Attach.ITERATOR
    return Program(*made, iterates=over, defines=defines)


# In the order of attaching: what takes a placement away comes before what makes one.
CONNECT_PROGRAMS: tuple[Program, ...] = (
    Program(SOCKETS, "skedge_release", ProgType.CGROUP_SOCK, "sock_release_v1", Attach.SOCK_RELEASE, cgroup=True),
    Program(SOCKETS, "skedge_sockops", ProgType.SOCK_OPS, "sock_ops_v1", Attach.SOCK_OPS, cgroup=True),
    _connect("getpeername4", Attach.GETPEERNAME4),
    _connect("getpeername6", Attach.GETPEERNAME6),
    _connect("recvmsg4", Attach.RECVMSG4),
    _connect("recvmsg6", Attach.RECVMSG6),
    _connect("connect4", Attach.CONNECT4),
    _connect("connect6", Attach.CONNECT6),
    _connect("sendmsg4", Attach.SENDMSG4),
    _connect("sendmsg6", Attach.SENDMSG6),
    Program(SOCKETS, "skedge_apply", ProgType.SCHED_CLS, "apply_v1"),
    Program(SOCKETS, "skedge_recount", ProgType.SCHED_CLS, "recount_v1"),
    _iterator("bpf_sk_storage_map", "placements_v2", "iterate_placements_v2"),
    _iterator("bpf_sk_storage_map", "flows_v2", "iterate_flows_v2", "SECOND"),
    _iterator("bpf_sk_storage_map", "placements_v2", "recount_placements_v1", "RECOUNT"),
    _iterator("bpf_sk_storage_map", "flows_v2", "recount_flows_v1", "SECOND", "RECOUNT"),
    _iterator("bpf_map_elem", "nat_placements_v1", "iterate_nat_v1"),
    _iterator("bpf_map_elem", "nat_placements_v1", "sweep_nat_v1", "SECOND"),
    _iterator("bpf_map_elem__stalled", "nat_placements_v1", "iterate_stalled_nat_v1"),
    _iterator("tcp", TCP, "iterate_stalled_v1"),
)

# Over what sockets have in storage of the older layout: while it is in use (loader/old_placements.py).
OLD_RECORDS: tuple[Program, ...] = (
    _iterator("bpf_sk_storage_map", "placements_v1", "iterate_old_placements_v1", "PLACEMENTS_V1"),
    _iterator("bpf_sk_storage_map", "flows_v1", "iterate_old_flows_v1", "SECOND", "PLACEMENTS_V1"),
)
OLD_RECOUNTS: tuple[Program, ...] = (
    _iterator("bpf_sk_storage_map", "placements_v1", "recount_old_placements_v1", "PLACEMENTS_V1", "RECOUNT"),
    _iterator("bpf_sk_storage_map", "flows_v1", "recount_old_flows_v1", "SECOND", "PLACEMENTS_V1", "RECOUNT"),
)
OLD_ITERATORS: tuple[Program, ...] = OLD_RECORDS + OLD_RECOUNTS

LINK_PROGRAMS: tuple[Program, ...] = (
    Program("links.c", "link_ingress", ProgType.SCHED_CLS, "link_ingress_v1"),
    Program("links.c", "link_egress", ProgType.SCHED_CLS, "link_egress_v1"),
)

PROGRAM_TABLE = "nat_programs_v1"
LAN_PARTS = "nat.c"


def _part(name: str, entry: int) -> Program:
    return Program(LAN_PARTS, f"lan_{name}", ProgType.SCHED_CLS, f"lan_{name}_v1", entry=entry)


# Parts before those that call them: a call of a part that is not there drops the packet.
LAN_PROGRAMS: tuple[Program, ...] = (
    _part("begin", 6),
    _part("place", 5),
    _part("open", 0),
    _part("error", 2),
    _part("too_big", 3),
    _part("odd", 4),
    _part("asked", 7),
    _part("overlay", 1),
    Program(LAN_PARTS, "lan_ingress", ProgType.SCHED_CLS, "lan_ingress_v1"),
    Program(LAN_PARTS, "lan_ingress_l3", ProgType.SCHED_CLS, "lan_ingress_l3_v1"),
    Program(LAN_PARTS, "lan_loop", ProgType.SCHED_CLS, "lan_loop_v1"),
    Program(LAN_PARTS, "lan_end", ProgType.SCHED_CLS, "lan_end_v1"),  # run by the controller, not attached
)

PROGRAMS: tuple[Program, ...] = CONNECT_PROGRAMS + LAN_PROGRAMS + LINK_PROGRAMS

PICK_TEST = Program("placement/pick_test.c", "skedge_pick_test", ProgType.SCHED_CLS, "pick_test_v1")
"""The pick without a socket, for tests and benchmarks; never loaded on an edge host."""
