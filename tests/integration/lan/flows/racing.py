"""Packets that two processors get at the same moment: two processes, each on a processor of its own, that wait for one
another before each packet."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from skedge.dataplane.bpf import syscall
from tests.integration.links.packets import frame

from ..kit import CLIENT_MAC, Bench

_CLONE_NEWNET = 0x40000000
_TEST_RUN = 10


@dataclass(frozen=True)
class Arrival:
    """A packet at one of the site's devices."""

    pin: str
    index: int
    data: bytes


def from_lan(bench: Bench, packet: bytes) -> Arrival:
    return Arrival("lan_ingress_v1", bench.lan_index, frame(bench.lan_mac, CLIENT_MAC, packet))


def from_link(bench: Bench, packet: bytes) -> Arrival:
    return Arrival("link_ingress_v1", bench.link_index, frame(bench.link_mac, bench.peer_mac, packet))


class _Runner:
    """One system call a packet, with everything made ready before: what is left between two packets is a spin."""

    def __init__(self, bench: Bench, arrivals: Sequence[Arrival]) -> None:
        self._fds = {pin: syscall.obj_get(f"{bench.site.pin_dir}/{pin}") for pin in {one.pin for one in arrivals}}
        self._keep: list[object] = []
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self.attrs = [self._attr(one) for one in arrivals]

    def _attr(self, one: Arrival) -> ctypes.Array[ctypes.c_char]:
        data = ctypes.create_string_buffer(one.data, len(one.data))
        out, context, back = (ctypes.create_string_buffer(size) for size in (len(one.data) + 256, 192, 192))
        struct.pack_into("=II", context, 36, 0, one.index)
        self._keep += [data, out, context, back]
        at = [ctypes.addressof(part) for part in (data, out, context, back)]
        raw = struct.pack("=IIIIQQIIIIQQIII", self._fds[one.pin], 0, len(one.data), len(out), at[0], at[1], 1, 0,
                          192, 192, at[2], at[3], 0, 0, 0) + bytes(4)  # fmt: skip
        return ctypes.create_string_buffer(raw, len(raw))

    def run(self, number: int) -> None:
        attr = self.attrs[number]
        if self._syscall(321 if os.uname().machine == "x86_64" else 280, _TEST_RUN, attr, len(attr)) < 0:
            raise OSError(ctypes.get_errno(), "test run")


def race(bench: Bench, *lanes: Sequence[Arrival]) -> None:
    """Run the n-th packets of all lanes at the same moment, for every n. A lane is one process."""
    size = len(lanes[0])
    assert all(len(lane) == size for lane in lanes)
    turns = (ctypes.c_uint32 * (16 * len(lanes))).from_buffer(mmap.mmap(-1, 4096))
    children = []
    for lane, arrivals in enumerate(lanes):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[lane % len(os.sched_getaffinity(0))]})
            with open(f"/run/netns/{bench.site.ns.name}") as handle:
                ctypes.CDLL(None).setns(handle.fileno(), _CLONE_NEWNET)
            runner = _Runner(bench, arrivals)
            others = [16 * other for other in range(len(lanes)) if other != lane]
            for number in range(size):
                turns[16 * lane] = number + 1
                while any(turns[at] <= number for at in others):
                    pass
                runner.run(number)
            code = 0
        finally:
            os._exit(code)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
