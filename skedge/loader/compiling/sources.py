"""The C files of `skedge/bpf/` as the compiler gets them, and the digest of what one compilation is made from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from skedge.dataplane.bpf.programs import Program
from skedge.loader import image
from skedge.loader.constants import CONSTANTS
from skedge.loader.instructions import CONSTANT_MARK

SOURCES = Path(__file__).resolve().parents[2] / "bpf"
_HEAD = "common/bytecode.h"
_INCLUDE = re.compile(r'\s*#include "([^"]+)"')


def source_text(*names: str) -> str:
    """Return C files with our own headers in their place: bcc rewrites map calls in the main file only."""
    seen: set[str] = set()

    def lines(file: str) -> Iterator[str]:
        for line in (SOURCES / file).read_text(encoding="utf-8").splitlines():
            match = _INCLUDE.match(line)
            if match is None:
                yield line
            elif match[1] not in seen:
                seen.add(match[1])
                yield from lines(match[1])

    text = []
    for name in names:
        seen.add(name)
        text += [*lines(name)]
    return "\n".join(text) + "\n"


@dataclass(frozen=True, slots=True)
class Compilation:
    """One run of the compiler: ``text`` with ``defines`` (as ``NAME=VALUE`` or ``NAME``) for these programs."""

    source: str
    text: str
    defines: tuple[str, ...]
    programs: tuple[Program, ...]

    @property
    def digest(self) -> str:
        """Return the digest of everything that the bytecode depends on, in hexadecimal digits."""
        made_from = (
            *(image.VERSION, CONSTANT_MARK, CONSTANTS, self.source, self.text, self.defines),
            [(one.function, int(one.type), int(one.attach or 0)) for one in self.programs],
        )
        return hashlib.sha256(repr(made_from).encode()).hexdigest()


def compilations(programs: Sequence[Program], pick_log: int = 1) -> tuple[Compilation, ...]:
    """Return what must be compiled for these programs, in the programs' order.

    A conditional part of the sources goes into ``defines`` here: it changes the digest, and so finds its own bytecode.
    """
    units: dict[tuple[str, tuple[str, ...]], list[Program]] = {}
    for program in programs:
        units.setdefault((program.source, program.defines), []).append(program)
    return tuple(
        Compilation(source, source_text(_HEAD, source), (f"PICK_LOG_ENTRIES={pick_log}", *defines), tuple(members))
        for (source, defines), members in units.items()
    )
