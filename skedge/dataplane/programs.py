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


@dataclass(frozen=True, slots=True)
class Program:
    """One program: ``attach`` is its expected attach type; ``cgroup``: the loader attaches it to the cgroup."""

    source: str
    function: str
    type: ProgType
    pin: str
    attach: int | None = None
    cgroup: bool = False


PROGRAMS: tuple[Program, ...] = ()
