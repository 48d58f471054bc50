"""What open sockets have in socket storage of an older layout: it is used beside the new one until nothing is in it.

User space cannot write socket storage, so an upgrade cannot move it. Programs that are compiled with `MACRO` look in
both storages and place in the new one alone (bpf/placement/store.h). A host has them from the upgrade until the first
load that finds the old storage unused; that load, and every load of a host that never had it, takes the programs
without. A load that was stopped half-way proves nothing: hooks of the version before may be attached still, which place
in the old storage. So it counts only once the digest of the programs with `MACRO` is written, the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from skedge.dataplane.bpf.programs import LAN_PARTS, OLD_ITERATORS, OLD_RECORDS, SOCKETS, Program
from skedge.dataplane.ebpf.lan.flow_table import read_iterator

MACRO = "PLACEMENTS_V1"
MAPS = ("placements_v1", "flows_v1")
# Of the version before, and gone once the new storage is placed in: a controller of it would take for missing what lies
# there, and repair the counts.
BLIND = ("iterate_placements_v1", "iterate_flows_v1")


def exist(pins: Path) -> bool:
    """Return whether there is storage of the older layout."""
    return any((pins / name).exists() for name in MAPS)


def are_used(pins: Path) -> bool:
    """Return whether any socket needs what it has there, by the iterators of `beside`. Raises DataplaneError."""
    return any(any(read_iterator(pins / one.pin)) for one in OLD_RECORDS)


def beside(programs: Sequence[Program]) -> tuple[Program, ...]:
    """Return the programs as they work on both storages, with the iterators over the old one."""
    changed = (
        replace(one, defines=(*one.defines, MACRO)) if one.source in (SOCKETS, LAN_PARTS) else one
        for one in alone(programs)
    )
    return (*OLD_ITERATORS, *changed)


def alone(programs: Sequence[Program]) -> tuple[Program, ...]:
    """Return the programs as they work on the new storage only."""
    return tuple(
        replace(one, defines=tuple(word for word in one.defines if word != MACRO))
        for one in programs
        if one not in OLD_ITERATORS
    )


def forget(pins: Path) -> None:
    """Take the old storage away: the programs that are attached do not know it."""
    for name in (*MAPS, *(one.pin for one in OLD_ITERATORS)):
        (pins / name).unlink(missing_ok=True)
