"""Many connections at once: flows as entries of the product's own layout in the pinned maps, sockets as they are."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf import layout_service
from skedge.dataplane.ebpf.lan.layout_flow import GENERATION_SHIFT, KIND_SHIFT, FlowBits, FlowEntry, FlowKey, Kind
from skedge.dataplane.ebpf.layout_placement import PLACED_NAT, PLACED_VALID, PROTOCOLS, pack_address
from skedge.dataplane.ebpf.maps import Maps

_PLACEMENT = struct.Struct("=3Q16s16s2sH2sHIIQQ4I4I2IQQ2I")  # struct placement
_LISTENER, _WORKLOAD = ("10.55.0.1", 8080), ("100.64.0.9", 61005)
_SAID = int(FlowBits.SYN | FlowBits.ACK) | Kind.REMOTE << KIND_SHIFT
_PORTS = 50_000  # of each address
_OF_A_CHILD = 8_000  # connections, with both ends


def miscount(maps: Maps, ident: int, changes: Mapping[int, tuple[int, int]]) -> None:
    """Change what slots of a service count: of connections, and of those that hold a NAT port."""
    apply = layout_service.APPLY_DELTA | layout_service.APPLY_NAT
    staged = {
        slot: layout_service.StagedSlot(apply, delta=mine, rank=nat & layout_service.U32)
        for slot, (mine, nat) in changes.items()
    }
    maps.apply(layout_service.Staged(ident, staged))


def add_flows(maps: Maps, pins: Path, ident: int, slots: Sequence[int], number: int, start: int = 0) -> None:
    """Make established flows of the LAN to another site, counted as the programs count them.

    Their words say that no recount has seen them. ``start``: how many there are of this kind.
    """
    made = dict.fromkeys(slots, 0)
    generations = [slot.generation & 0x7FFFFFFF for slot in maps.service(ident).slots]
    with ExitStack() as stack:
        flows, placements = (
            stack.enter_context(syscall.Fd(syscall.obj_get(str(pins / name))))
            for name in ("nat_flows_v1", "nat_placements_v1")
        )
        for index in range(start, start + number):
            slot = slots[index % len(slots)]
            made[slot] += 1
            placed = PLACED_VALID | generations[slot] << 32 | PLACED_NAT | ident << 8 | slot
            forward, raw, reply, answer, placement = _entries(index, placed)
            syscall.map_update(placements, forward, placement)
            syscall.map_update(flows, reply, answer)
            syscall.map_update(flows, forward, raw)
    miscount(maps, ident, {slot: (many, many) for slot, many in made.items()})


def _entries(index: int, placed: int) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Return forward key and entry, reply key and entry, and the placement of a flow."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    client = str(IPv4Address(0x0A800000 + index // _PORTS)), 10_000 + index % _PORTS
    own = str(IPv4Address(0x64400100 + index // _PORTS)), 10_000 + index % _PORTS
    state = (now | 1) % (1 << 32) << GENERATION_SHIFT | _SAID
    placement = _PLACEMENT.pack(
        *(placed, now, now, pack_address(_LISTENER[0]), pack_address(_WORKLOAD[0])),
        *(_LISTENER[1].to_bytes(2), 0, _WORKLOAD[1].to_bytes(2), 0, PROTOCOLS[Protocol.TCP], 0, 1, 1),
        *(0,) * 14,
    )
    return (
        FlowKey(*client, *_LISTENER).pack(),
        _flow(own, _WORKLOAD, now, state, placed),
        FlowKey(*_WORKLOAD, *own).pack(),
        _flow(_LISTENER, client, now, state | FlowBits.REPLY, 0),
        placement,
    )


def _flow(source: tuple[str, int], to: tuple[str, int], seen: int, state: int, placed: int) -> bytes:
    ports = source[1].to_bytes(2), to[1].to_bytes(2)
    return FlowEntry.STRUCT.pack(pack_address(source[0]), pack_address(to[0]), *ports, 0, seen, state, placed)


def target(server: socket.socket) -> Target:
    """Return where a listening socket is reached."""
    return Target(*server.getsockname()[:2])


class Sockets:
    """Real connections of this thread's network namespace, both ends in this process."""

    def __init__(self, listener: tuple[str, int], servers: Sequence[socket.socket]) -> None:
        self._listener, self._servers = listener, servers
        self.clients: list[socket.socket] = []
        self._accepted: list[socket.socket] = []
        self._children: list[socket.socket] = []
        for server in servers:
            server.setblocking(False)

    def open(self, number: int) -> None:
        """Open so many more."""
        for index in range(number):
            client = socket.socket()
            client.connect(self._listener)
            self.clients.append(client)
            if index % 100 == 99 or index == number - 1:
                self._accept()

    def open_many(self, number: int) -> None:
        """Open so many more, in children: a process may have some thousand descriptors only."""
        for start in range(0, number, _OF_A_CHILD):
            ours, theirs = socket.socketpair()
            if os.fork() == 0:
                ours.close()
                try:
                    self.open(min(_OF_A_CHILD, number - start))
                    theirs.send(b"x")
                    theirs.recv(1)
                finally:
                    os._exit(0)
            theirs.close()
            self._children.append(ours)
            if not ours.recv(1):
                raise RuntimeError(f"connections from {start} on could not be opened")

    @contextmanager
    def accepting(self) -> Iterator[None]:
        """Accept what others open, and let it go when they do."""
        end = threading.Event()

        def run() -> None:
            while not end.wait(0.002):
                known = len(self._accepted)
                self._accept()
                for one in self._accepted[known:]:
                    one.close()
                del self._accepted[known:]

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _accept(self) -> None:
        for server in self._servers:
            while True:
                try:
                    self._accepted.append(server.accept()[0])
                except BlockingIOError:
                    break

    def close(self) -> None:
        """Close all of them."""
        for one in (*self.clients, *self._accepted):
            one.close()
        self.clients.clear()
        self._accepted.clear()
        for child in self._children:
            child.close()
        while self._children:
            self._children.pop()
            os.wait()
