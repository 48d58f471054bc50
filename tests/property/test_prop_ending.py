"""Ending at a rate: each once, the idle first, and never faster than asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skedge.core.ending import Ends, Open, batches, gap_s
from skedge.core.objects import Target
from skedge.dataplane.ending.sockets import program

SIDES = ((Target("100.64.0.1", 1), Target("100.64.0.2", 2)),)
TIMES = st.lists(st.floats(0, 1e6), max_size=300)
ADDRESSES = st.sampled_from(["", "100.64.0.1", "10.0.0.0/8", "fd00::1", "fd00::/16"])
PORTS = st.sampled_from([0, 1, 61000, 65535])
ENDS = st.builds(
    lambda near, near_port, far, far_port: Ends(near, near_port, far, far_port or 7), ADDRESSES, PORTS, ADDRESSES, PORTS
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
