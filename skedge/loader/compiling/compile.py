"""Compiling a unit in a process of its own: what comes back is bytecode for any kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from skedge.core.errors import DataplaneError, HostError
from skedge.loader import host_requirements
from skedge.loader.compiling import bcc_compiler
from skedge.loader.compiling.sources import Compilation
from skedge.loader.constants import CONSTANTS
from skedge.loader.image import Unit

_COMMAND = (sys.executable, "-P", "-m", "skedge.loader.compiling.bcc_compiler")
_ROOT = Path(__file__).resolve().parents[3]  # the compiler's process takes the same skedge as this one


def compile_all(wanted: Sequence[Compilation]) -> tuple[Unit, ...]:
    """Compile, two at once where there are two processors.

    Raises:
        HostError: bcc or kernel headers are missing.
        DataplaneError: it does not compile.
    """
    with host_requirements.headers(), ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        return tuple(pool.map(_compile, wanted))


def _compile(one: Compilation) -> Unit:
    functions = tuple(bcc_compiler.Function(p.function, int(p.type), int(p.attach or 0)) for p in one.programs)
    request = bcc_compiler.Request(one.source, one.digest, one.text, one.defines, CONSTANTS, functions)
    paths = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        _COMMAND, input=msgspec.msgpack.encode(request), env=environment, capture_output=True, check=False
    )
    if done.returncode == bcc_compiler.NO_BCC:
        raise HostError(
            f"bcc is missing ({_last(done.stderr)}): install python3-bpfcc and make the venv with"
            " --system-site-packages, or install a release that has bytecode"
        )
    if done.returncode == -signal.SIGKILL:  # not for long, unlike what follows
        raise HostError(f"{one.source}: the compiler was killed, as it is where memory runs out; give this host more")
    if done.returncode:
        raise DataplaneError(f"{one.source}: does not compile: {_why(done.stderr, done.returncode)}")
    return msgspec.msgpack.decode(done.stdout, type=Unit)


def _last(text: bytes) -> str:
    return next(reversed(text.decode(errors="replace").split("\n")[:-1]), "").strip()


def _why(text: bytes, code: int) -> str:
    """Return the compiler's first error; it says nothing where a stack is too large."""
    for line in text.decode(errors="replace").splitlines():
        if " error: " in line:
            return line.strip()
    return _last(text) or f"the compiler ended with {code} and no word, as it does for a stack of more than 512 bytes"
