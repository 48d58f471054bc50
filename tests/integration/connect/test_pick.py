"""The choice that the program makes is the choice of the rule in the core, for any table."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate, ServiceKey, ServiceTable, Target
from skedge.core.placement import rule
from skedge.core.reasons import Reason
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf import layout_placement as layout
from skedge.dataplane.ebpf import layout_service
from skedge.dataplane.ebpf.maps import Maps

from .kit import Host, Site

SERVICE = ServiceKey("pick")
ANSWER = struct.Struct("=Q3Q16s16s4I2Q4I4I")
EPOCHS = itertools.count(1, 2)  # every write is a change, as the programs' own are
T4, T6 = Target("10.0.0.1", 1), Target("fd00::1", 2)


@dataclass(frozen=True)
class Case:
    """A table with counts, and who asks: ``need`` are the flags that the socket needs."""

    candidates: tuple[Candidate, ...]
    opens: tuple[int, ...]
    last: tuple[int, ...]  # choice numbers, 0 for never
    order: tuple[int, ...]  # slot of each candidate
    family: int | None
    bound: bool
    affinity: int | None = None  # the candidate that the client had before


COSTS = st.sampled_from([0, 1, 2, 10, 9999, 65535, (1 << 24) - 1]) | st.integers(0, 100)
CAPACITIES = st.sampled_from([1, 2, 3, 7, 4096, 65534, 65535])
OPENS = st.integers(0, 30) | st.sampled_from([1 << 20, (1 << 26) - 1])
OUTS = st.sampled_from([Reason.NONE] * 5 + [Reason.SUSPENDED, Reason.DRAINED, Reason.UNHEALTHY, Reason.UNREACHABLE])


@st.composite
def cases(draw: st.DrawFn, largest: int) -> Case:
    number = draw(st.integers(1, largest))
    made = []
    for i in range(number):
        four, six = draw(st.sampled_from([(T4, None), (T4, T6), (None, T6)]))
        made.append(
            Candidate(
                WorkloadId(f"w{i:03}", "w"),
                draw(COSTS),
                capacity=draw(CAPACITIES),
                others=draw(OPENS),
                target4=four,
                target6=six,
                own_site=draw(st.booleans()),
                out=draw(OUTS),
            )
        )
    slots = next(size for size in layout_service.SIZES if size >= number)
    order = tuple(draw(st.permutations(range(slots)))[:number])
    chosen = draw(st.permutations(range(1, number + 1)))
    last = tuple(turn if draw(st.booleans()) else 0 for turn in chosen)
    opens = tuple(draw(OPENS) for _ in made)
    affinity = draw(st.none() | st.integers(0, number - 1))
    return Case(tuple(made), opens, last, order, draw(st.sampled_from([4, 6, None])), draw(st.booleans()), affinity)


def write(maps: Maps, ident: int, case: Case) -> None:
    """Write the service value as a whole, counts and all: only a test may."""
    names = [one.workload for one in case.candidates]
    slots = [bytes(layout_service.Service.SLOT.size)] * layout_service.MAX_WORKLOADS
    for rank, (one, opens, last, slot) in enumerate(
        zip(case.candidates, case.opens, case.last, case.order, strict=True)
    ):
        assert names[rank] == one.workload
        flags = layout_service.USED
        flags |= (
            layout_service.IN
            if one.out in (Reason.NONE, Reason.SUSPENDED)
            else one.out.code << layout_service.OUT_SHIFT
        )
        flags |= layout_service.T4 if one.target4 else 0
        flags |= layout_service.T6 if one.target6 else 0
        flags |= layout_service.ANY | (layout_service.OWN_SITE if one.own_site else 0)
        turn = layout_service.FIRST_CHOICE + last - 1 if last else rank
        suspended = int(one.out is Reason.SUSPENDED)
        slots[slot] = layout_service.Service.SLOT.pack(
            *(one.path_cost, one.capacity, one.others, flags, opens, turn, 5, 0, suspended),
            *(bytes([10, 0, 0, 1]), b"\0\1", b"\0\2", bytes(16), rank, 0),
        )
    size = next(size for size in layout_service.SIZES if size > max(case.order))
    header = layout_service.Service.HEADER.pack(0, size, 7, next(EPOCHS), len(case.candidates), 0, 0, 0, 0)
    syscall.map_update(maps.fd("services_v1"), struct.pack("=I", ident), header + b"".join(slots), syscall.MapFlag.LOCK)


def ask(
    maps: Maps, ident: int, case: Case, generation: int | None = None
) -> tuple[int, layout.Weighed, layout.Weighed, int] | None:
    """Run the pick; return slot, what winner and runner-up weighed, and the reason; None when it refuses."""
    need = layout_service.IN | {4: layout_service.T4, 6: layout_service.T6, None: layout_service.ANY}[case.family]
    need |= layout_service.OWN_SITE if case.bound else 0
    affinity = 0
    if case.affinity is not None:
        generation = case.affinity if generation is None else generation  # `write` gives each its rank
        affinity = layout.PLACED_VALID | generation << 32 | ident << 8 | case.order[case.affinity]
    packet = bytes(12) + b"\x08\x00" + struct.pack("=4IQ", ident, need, 0, 0, affinity) + bytes(8 + ANSWER.size + 40)
    done = syscall.prog_test_run(maps.fd("pick_test_v1"), packet)
    assert done.retval in (0, 1)
    if done.retval:
        return None
    word, *rest = ANSWER.unpack_from(done.data, 38)
    return word & 0xFF, layout.Weighed(*rest[11:15]), layout.Weighed(*rest[15:19]), rest[8]


def by_the_rule(case: Case) -> rule.Placement | None:
    """The rule in the core; a bound socket sees only this site's workloads."""
    seen: Sequence[Candidate] = [
        replace(one, out=Reason.UNREACHABLE) if case.bound and not one.own_site else one for one in case.candidates
    ]
    return rule.place(seen, case.opens, case.last, case.family, case.affinity)


@pytest.fixture(scope="module")
def maps(host: Host) -> Iterator[Maps]:
    with host.inside():
        made = Maps(str(host.pins))
        before = made.config()
        yield made
        made.set_config(before)
        syscall.map_update(
            made.fd("services_v1"), struct.pack("=I", 900), bytes(layout_service.Service.SIZE), syscall.MapFlag.LOCK
        )
        made.close()


def check(maps: Maps, case: Case) -> None:
    maps.set_config(maps.config().replace(port_limit=0))  # not what is asked here, and an engine may have set it
    write(maps, 900, case)
    wanted, got = by_the_rule(case), ask(maps, 900, case)
    if wanted is None:
        assert got is None
        return
    assert got is not None
    slot, winner, runner, reason = got
    assert case.order.index(slot) == wanted.winner
    assert winner.perceived == wanted.perceived
    assert (runner.perceived if runner.capacity else None) == wanted.runner_up_perceived
    if wanted.runner_up is not None:
        assert case.order.index(runner.slot) == wanted.runner_up
    assert (reason == Reason.SUSPENDED.code) == wanted.suspension_ignored
    assert (reason == Reason.AFFINITY.code) == wanted.by_affinity
    after = maps.service(900)
    assert after.slots[slot].mine == case.opens[wanted.winner] + 1
    assert (after.slots[slot].chosen, after.choices, after.stale) == (6, len(case.candidates) + 1, 0)
    assert after.slots[slot].last == layout_service.FIRST_CHOICE + len(case.candidates)


RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(RELAXED, max_examples=400)
@given(case=cases(8))
def test_small_services(maps: Maps, case: Case) -> None:
    check(maps, case)


@settings(RELAXED, max_examples=60)
@given(case=cases(32))
def test_medium_services(maps: Maps, case: Case) -> None:
    check(maps, case)


@settings(RELAXED, max_examples=25)
@given(case=cases(256))
def test_large_services(maps: Maps, case: Case) -> None:
    check(maps, case)


@settings(RELAXED, max_examples=50)
@given(case=cases(8))
def test_a_workload_that_has_the_slot_of_another_is_not_kept(maps: Maps, case: Case) -> None:
    maps.set_config(maps.config().replace(port_limit=0))
    write(maps, 900, case)
    wanted, got = by_the_rule(replace(case, affinity=None)), ask(maps, 900, case, generation=77)
    assert (got and case.order.index(got[0])) == (wanted and wanted.winner)


def test_a_hundred_choices_of_256_workloads(site: Site) -> None:
    """Slot after slot against the core's ledger, with the table put by the engine."""
    table = ServiceTable(
        tuple(
            Candidate(WorkloadId(f"s{i:03}", "w"), i % 7, capacity=1 + i % 5, others=i % 3, target4=T4)
            for i in range(256)
        )
    )
    site.engine.services.put(SERVICE, table)
    maps, ledger = Maps(str(site.host.pins)), rule.Ledger()
    ident = maps.service_ids()[SERVICE]
    case = Case(table.candidates, (), (), (), 4, False)
    try:
        for _ in range(100):
            wanted, got = ledger.place(table.candidates, 4), ask(maps, ident, case)
            assert wanted is not None
            assert got is not None
            assert maps.workloads()[ident][got[0]] == table.candidates[wanted.winner].workload
            assert got[1].perceived == wanted.perceived
        assert site.engine.reconcile_counts() == 100  # nobody holds them: the truth is the sockets
        assert site.open() == 0
    finally:
        maps.close()
