"""A plan is exact: what a judge from outside sees of a run is what had been printed, and no more."""

from __future__ import annotations

import random
from collections.abc import Sequence

from skedge.core.api.documents import PlanStep
from tests.kit.snapshot import Change, Snapshot

from .kit import Host, names
from .owners import Owners, fits
from .world import World, change, full

SEED = 7405
STEPS = 16


def judge(
    steps: Sequence[PlanStep], before: Snapshot, after: Snapshot, indexes: tuple[dict[str, int], dict[str, int]]
) -> list[str]:
    """Return what does not fit: changes that no step owns, and steps of which nothing is seen."""
    changes: tuple[Change, ...] = before.diff(after)
    devices = {index: name for one in indexes for name, index in one.items()}
    owners = Owners(before, after, devices)
    printed = names(steps)
    wrong = []
    for one in changes:
        found = owners.of(one)
        if not one.because and not any(fits(owner, printed) for owner in found):
            wrong.append(f"nobody said: {one} (of {found})")
    seen = {owner for one in changes for owner in owners.of(one)}
    remade = {name for name in indexes[0] if indexes[1].get(name, indexes[0][name]) != indexes[0][name]}
    for step in steps:
        # a route over a device that was made anew is there again, as it was
        again = step.kind == "route" and any(f"dev {name}" in step.after for name in remade)
        touched = (step.kind, step.key) in seen or (step.kind == "link" and step.key in remade)
        if not touched and not again:
            wrong.append(f"nothing seen of: {step}")
    return wrong


def step(host: Host, world: World, before: Snapshot, *, allow_delete: bool = True) -> tuple[Snapshot, int]:
    """Plan, apply, judge, plan again; return the moment after it and the number of steps."""
    wish, indexes = host.wish(world), host.indexes()
    steps = host.plan(wish, allow_delete=allow_delete)
    assert host.plan(wish, allow_delete=allow_delete) == steps
    applied = host.apply(wish, allow_delete=allow_delete)
    assert applied.failed == {}
    assert sorted(f"{one.kind} {one.key}" for one in steps) == sorted(applied.changed)
    after = host.snapshot()
    wrong = judge(steps, before, after, (indexes, host.indexes()))
    assert not wrong, "\n".join(wrong)
    assert applied.drift == ()
    assert host.plan(wish, allow_delete=allow_delete) == ()
    return after, len(steps)


def test_a_plan_is_all_that_changes_from_the_first_run_to_the_purge(host: Host) -> None:
    draw, world = random.Random(SEED), full()
    bare = host.snapshot(pins=False)
    host.build(world)
    moment, total = step(host, World(), host.snapshot(), allow_delete=False)
    moment, _ = step(host, world, moment, allow_delete=False)
    for number in range(STEPS):
        said = [change(world, draw) for _ in range(draw.choice([1, 1, 2, 4]))]
        print(number, said)
        moment, count = step(host, world, moment, allow_delete=draw.random() < 0.8)
        total += count
    moment, count = step(host, full(), moment)
    moment, count = step(host, World(), moment)
    assert total > STEPS
    host.purge(world.config())
    assert [str(one) for one in bare.diff(host.snapshot(pins=False))] == []
