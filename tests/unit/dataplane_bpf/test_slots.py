"""A candidate is read back from its slot as it was written: every term, at both ends of its range, and every flag."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from skedge.core.errors import DataplaneError
from skedge.core.model import TERMS, Term, WorkloadId
from skedge.core.objects import Candidate, Target
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf import layout_placement as layout
from skedge.dataplane.ebpf import layout_service, services

ONE = Candidate(WorkloadId("b", "web"), 3, others=5, target4=Target("100.64.0.2", 61000), target6=Target("fd00::2", 2))


def through(one: Candidate) -> Candidate:
    """Return what is read of a slot that took over what was staged."""
    fields = layout_service.StagedSlot.STRUCT.unpack(services._stage(one, 0, 1, reset=True).pack())
    _, path_cost, capacity, others, flags, addr4, port4, port6, addr6, generation, _, _ = fields
    slot = layout_service.Slot(
        path_cost, capacity, others, flags, 0, 0, 0, 0, 0, addr4, port4, port6, addr6, generation, 0
    )
    return services._candidate(one.workload, slot)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_terms(term: Term) -> None:
    for value in (term.low, term.high):
        one = replace(ONE, **{term.name: value})
        assert through(one) == one


YES_OR_NO = [name for name, bits in layout_service.IN_FLAGS.items() if bits.bit_count() == 1]


@pytest.mark.parametrize("on", list(itertools.product((False, True), repeat=len(YES_OR_NO))))
def test_flags(on: tuple[bool, ...]) -> None:
    one = replace(ONE, out=Reason.DRAINED, target6=None, **dict(zip(YES_OR_NO, on, strict=True)))
    assert repr(through(one)) == repr(one)


def test_a_number_in_several_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layout_service.IN_FLAGS, "others", 0xF << 16)
    assert services._stage(replace(ONE, others=9), 0, 1, reset=False).flags >> 16 == 9
    assert services._value(9 << 16 | layout_service.USED, 0xF << 16) == 9


def test_an_entry_that_somebody_else_wrote_is_one_sentence_and_no_crash() -> None:
    for unpack, raw in (
        (layout.unpack_listener, layout.LISTENER.pack(bytes(16), b"\x1f\x90", 0, 99)),
        (layout.unpack_service_name, layout.SERVICE_NAME.pack(b"web", 99)),
    ):
        with pytest.raises(DataplaneError, match="protocol 99"):
            unpack(raw)
