"""Ending at a rate: each once, the idle first, and never faster than asked for."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from skedge.core.ending import Ends, Open, Selection, batches, gap_s
from skedge.core.objects import Target
from skedge.dataplane.ebpf.lan.flow_table import RECORDS
from skedge.dataplane.ebpf.lan.layout_flow import FlowRecord, Kind
from skedge.dataplane.ebpf.layout_placement import pack_address
from skedge.dataplane.ending.flows import FlowEnder
from skedge.dataplane.ending.sockets import program

SIDES = ((Target("100.64.0.1", 1), Target("100.64.0.2", 2)),)
TIMES = st.lists(st.floats(0, 1e6), max_size=300)
ADDRESSES = st.sampled_from(["", "100.64.0.1", "10.0.0.0/8", "fd00::1", "fd00::/16"])
PORTS = st.sampled_from([0, 1, 2, 3, 4, 61000])
ENDS = st.builds(
    lambda near, near_port, far, far_port: Ends(near, near_port, far, far_port or 4), ADDRESSES, PORTS, ADDRESSES, PORTS
)


@given(TIMES, st.integers(1, 10_000))
def test_each_is_ended_once_the_idle_first_and_no_faster(times: list[float], rate: int) -> None:
    made = [Open(SIDES, heard_at=0.0, active_at=at, key=number) for number, at in enumerate(times)]
    parts = list(batches(made, rate))
    assert [one.active_at for part in parts for one in part] == sorted(times)
    assert sorted(one.key for part in parts for one in part) == list(range(len(times)))
    began = ended = 0.0
    for part in parts:
        ended += len(part)
        began += gap_s(len(part), rate)
        assert ended <= rate * began + 1e-6


@given(st.lists(ENDS, min_size=1, max_size=20))
def test_the_kernels_filter_ends_each_pattern_at_the_end_or_the_next_one(ends: list[Ends]) -> None:
    """As inet_diag_bc_audit() reads it: each step lies on an operation, at the end, or just beyond it."""
    code = program(ends)
    starts, at = set(), 0
    while at < len(code):
        starts.add(at)
        assert code[at + 1] >= 4
        at += code[at + 1]
    assert at == len(code)
    for start in starts:
        otherwise = start + int.from_bytes(code[start + 2 : start + 4], "little")
        assert otherwise in starts or otherwise in (len(code), len(code) + 4)
        assert (otherwise == len(code)) == (code[start] == 1)


PROTOCOL_AT = 96  # in struct placement_record
HOSTS = st.sampled_from(
    ["100.64.0.1", "100.64.0.2", "10.0.0.1", "10.0.255.9", "11.0.0.1", "fd00::1", "fd00::2", "fd01::1"]
)
Row = tuple[str, str, str, str, int]
FLOWS = st.lists(st.tuples(HOSTS, HOSTS, HOSTS, HOSTS, st.sampled_from([*Kind, 0])), max_size=20)


def record(client: str, listener: str, source: str, target: str, kind: int) -> bytes:
    """A flow of TCP that was answered; ports are 1 to 4 in this order."""
    key = pack_address(client) + pack_address(listener) + struct.pack("!HH", 1, 2) + struct.pack("=I", 6)
    rest = struct.pack("!HH", 3, 4) + struct.pack("=IQQQ", 0, 1, kind << 16 | 0x12, 0)
    entry = pack_address(source) + pack_address(target) + rest
    placed = bytes(PROTOCOL_AT) + struct.pack("=I", 6)
    return (key + entry + entry + placed).ljust(FlowRecord.SIZE, b"\0")


@given(FLOWS, st.lists(ENDS, min_size=1, max_size=4))
def test_no_flow_that_is_meant_is_passed_over_unread(
    flows: list[tuple[str, str, str, str, int]], ends: list[Ends]
) -> None:
    selection = Selection(tuple(ends))
    with tempfile.TemporaryDirectory() as pins:
        (Path(pins) / RECORDS).write_bytes(b"".join(record(*one) for one in flows))
        found = [one.sides for one in FlowEnder(pins).find(selection)]
    sides = [
        ((Target(listener, 2), Target(client, 1)), (Target(source, 3), Target(target, 4)))
        for client, listener, source, target, kind in flows
        if kind not in (0, Kind.LOCAL)
    ]
    assert found == [pair for pair in sides if selection.means(Open(pair, heard_at=0.0, active_at=0.0))]
