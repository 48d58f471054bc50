"""Bytecode that the tests of one run share, so that each program is compiled once.

``python -m tests.kit.bytecode DIR`` compiles beforehand what tests in a VM load, where compiling takes minutes.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

from skedge.dataplane.bpf.programs import CONNECT_PROGRAMS, LAN_PROGRAMS, LINK_PROGRAMS, PICK_TEST, PROGRAMS, Program
from skedge.loader import bytecode
from skedge.loader.compiling.sources import compilations

WITHOUT_CGROUP = tuple(one for one in CONNECT_PROGRAMS if not one.cgroup)
CHECK = tuple(one for one in LINK_PROGRAMS if one.pin in ("link_ingress_v1", "link_egress_v1"))
OF_LAN: tuple[Program, ...] = (*WITHOUT_CGROUP, *LAN_PROGRAMS, *LINK_PROGRAMS)
OF_CONNECT: tuple[Program, ...] = (*CONNECT_PROGRAMS, PICK_TEST)
SETS: tuple[tuple[Program, ...], ...] = (PROGRAMS, OF_CONNECT, CHECK, OF_LAN)


@functools.cache
def cache() -> Path:
    """Return a directory that goes at the end of the run, or the one that SKEDGE_TEST_BYTECODE names, which stays."""
    if named := os.environ.get("SKEDGE_TEST_BYTECODE"):
        return Path(named)
    made = Path(tempfile.mkdtemp(prefix="skedge-bytecode-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def prebuild(directory: Path) -> None:
    """Compile what is shipped, and what the rooms connect, links and lan load."""
    for programs in SETS:
        bytecode.obtain(compilations(programs), directory, None)


if __name__ == "__main__":
    prebuild(Path(sys.argv[1]))
