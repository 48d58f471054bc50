"""The flows of the LAN as connections that can be ended (core.ending.Ender): the program lan_end deletes one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from skedge.core.ending import Ends, Open, Selection, parse
from skedge.core.model import Protocol
from skedge.core.objects import Target
from skedge.core.observed import FlowState
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf import views
from skedge.dataplane.ebpf.lan.flow_table import RECORDS, read_iterator
from skedge.dataplane.ebpf.lan.layout_flow import NANOSECONDS, FlowBits, FlowKey, FlowRecord, Kind
from skedge.dataplane.ebpf.layout_placement import pack_address
from skedge.dataplane.ending.knock import Knock, knock
from skedge.dataplane.ending.sockets import end_socket

PIN = "lan_end_v1"
_PACKET = bytes(12) + b"\x08\x00"
_ADDRESS = 16
_FORWARD = FlowKey.SIZE
_STATE_AT = _FORWARD + 48
_ADDRESSES_AT = (0, _ADDRESS, _FORWARD, _FORWARD + _ADDRESS)  # client, listener, source, target
_MAPPED_BITS = 96
_TRANSLATED = frozenset(Kind) - {Kind.LOCAL}


@dataclass(frozen=True, slots=True)
class _Flow:
    """What a flow is ended by: the key of its forward direction and its state word, and what has to be told."""

    key: bytes
    state: bytes
    own: bool  # its client is a socket of this host
    numbers: int  # the workload's sequence number (upper half) and what it has acknowledged; 0: not known


class FlowEnder:
    """The flow table of the programs that are pinned in ``pin_dir``."""

    def __init__(self, pin_dir: str) -> None:
        self._pins = Path(pin_dir)

    def find(self, selection: Selection) -> Sequence[Open]:
        """Return the flows that are meant. Raises DataplaneError."""
        if not selection.ends:
            return ()
        found = (_open(raw, record) for raw, record in _records(self._pins / RECORDS, selection.ends))
        return [one for one in found if one is not None and selection.means(one)]

    def end(self, found: Sequence[Open]) -> int:
        """Delete the flows that are still there and tell both ends; return how many. Raises DataplaneError.

        A client on this host is told by its own socket, which is destroyed.
        """
        ended: list[Knock] = []
        number = 0
        with syscall.Fd(syscall.obj_get(str(self._pins / PIN))) as program:
            for one in found:
                if not isinstance(one.key, _Flow):
                    continue
                if syscall.prog_test_run(program, _PACKET + one.key.key + one.key.state).retval:
                    continue
                number += 1
                if one.key.own:
                    (listener, client), _ = one.sides
                    end_socket(client, listener, one.protocol)
                ended += _to_tell(one, one.key)
        knock(ended)
        return number


def _open(raw: bytes, record: FlowRecord) -> Open | None:
    """Return a flow; None for one that has ended, or that is a socket's of this host (by now)."""
    key, forward, kind = record.key, record.forward, record.forward.kind
    state = views.state(record)
    if kind not in _TRANSLATED or state is FlowState.CLOSED:
        return None
    said = forward.seen / NANOSECONDS
    answered = record.reply.seen / NANOSECONDS if record.reply.kind else said
    own = bool(forward.state & FlowBits.OWN)
    outer = Target(key.destination, key.destination_port), Target(key.source, key.source_port)
    inner = Target(forward.source, forward.source_port), Target(forward.destination, forward.destination_port)
    return Open(
        (outer, inner),
        heard_at=said if kind == Kind.OVERLAY else answered,
        active_at=max(said, answered),
        protocol=key.protocol,
        connecting=state is FlowState.SYN,
        key=_Flow(raw[:_FORWARD], raw[_STATE_AT : _STATE_AT + 8], own, record.reply.placed),
    )


def _to_tell(one: Open, flow: _Flow) -> Iterator[Knock]:
    """Yield the ends that are told: those whose numbers are known; the socket of this host was told already."""
    if one.protocol is not Protocol.TCP or not flow.numbers:
        return
    (listener, client), (source, target) = one.sides
    sent, acknowledged = flow.numbers >> 32, flow.numbers & 0xFFFFFFFF
    if not flow.own:
        yield Knock(listener, client, sent=sent, heard=acknowledged)
    yield Knock(source, target, sent=acknowledged, heard=sent)


def _records(pin: Path, ends: Sequence[Ends]) -> Iterator[tuple[bytes, FlowRecord]]:
    """Yield the flows one of whose addresses is in one of the patterns; only those are unpacked."""
    hosts, networks = _addresses(ends)
    rest = b""
    for chunk in read_iterator(pin):
        rest += chunk
        whole = len(rest) - len(rest) % FlowRecord.SIZE
        for start in range(0, whole, FlowRecord.SIZE):
            addresses = [rest[start + at : start + at + _ADDRESS] for at in _ADDRESSES_AT]
            if not hosts.isdisjoint(addresses) or _within(addresses, networks):
                raw = rest[start : start + FlowRecord.SIZE]
                yield from ((raw, record) for record in FlowRecord.unpack_all(raw))
        rest = rest[whole:]


def _addresses(ends: Sequence[Ends]) -> tuple[frozenset[bytes], tuple[tuple[int, int], ...]]:
    """Return the addresses of the patterns as they lie in the table, and their networks as mask and prefix."""
    hosts, networks = set(), []
    for one in ends:
        texts = [text for text in (one.near, one.far) if text]
        if not texts:
            networks.append((0, 0))
            continue
        at = parse(texts[-1])  # where both are said, both must fit: the far one is the rarer
        first = pack_address(str(at.network_address))
        if at.prefixlen == at.max_prefixlen:
            hosts.add(first)
        else:
            bits = at.prefixlen + (_MAPPED_BITS if at.version == 4 else 0)
            networks.append(((1 << 128) - (1 << (128 - bits)), int.from_bytes(first)))
    return frozenset(hosts), tuple(networks)


def _within(addresses: Sequence[bytes], networks: Sequence[tuple[int, int]]) -> bool:
    return any(int.from_bytes(one) & mask == prefix for mask, prefix in networks for one in addresses)
