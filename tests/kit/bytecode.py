"""Bytecode that the tests of one run share, so that each program is compiled once."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path


@functools.cache
def cache() -> Path:
    """Return a directory that goes at the end of the run, or the one that SKEDGE_TEST_BYTECODE names, which stays."""
    if named := os.environ.get("SKEDGE_TEST_BYTECODE"):
        return Path(named)
    made = Path(tempfile.mkdtemp(prefix="skedge-bytecode-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
