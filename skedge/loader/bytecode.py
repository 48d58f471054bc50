"""Where bytecode comes from: shipped with the release, else this host's own cache, else the compiler on this host.

Root loads what it finds, so only root may have written it. Bytecode goes by the digest of what it was made from:
another release's is never taken. What the compiler refused is remembered (see `refusals`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skedge.core.errors import DataplaneError, HostError
from skedge.core.observed import Origin
from skedge.loader import image, owned_files
from skedge.loader.compiling import compile
from skedge.loader.compiling.sources import SOURCES, Compilation
from skedge.loader.image import Unit
from skedge.loader.refusals import Refusals, RefusedBefore, digest_of

CACHE = Path("/var/cache/skedge/bytecode")
SHIPPED = SOURCES / "shipped.bytecode"
_SUFFIX = ".bytecode"
_FILES_MAX = 32  # files in the cache: some five releases, so that a way back needs no compiler either


@dataclass(frozen=True, slots=True)
class Found:
    """Units in the order asked for, the farthest place that one of them came from, and what was wrong on the way."""

    units: tuple[Unit, ...]
    origin: Origin
    trouble: str = ""


def obtain(
    wanted: Sequence[Compilation],
    cache: Path | None,
    shipped: Path | None = SHIPPED,
    *,
    again: bool = False,
    retry: bool = False,
    compiler: Callable[[Sequence[Compilation]], Sequence[Unit]] = compile.compile_all,
) -> Found:
    """Return bytecode for each compilation.

    Args:
        wanted: what is to be loaded.
        cache: directory of this host's own bytecode; None: none is kept.
        shipped: file of the release.
        again: compile whatever there is.
        retry: compile what is not there although it was refused before.
        compiler: makes what is not there.

    Raises:
        HostError: nothing has it, and this host cannot compile.
        DataplaneError: it does not compile.
    """
    trouble: list[str] = []
    found: dict[str, Unit] = {}
    origin = Origin.SHIPPED
    if not again:
        for place, source in ((Origin.SHIPPED, shipped), (Origin.CACHED, cache)):
            if source is not None and len(found) < len(wanted):
                more = _read(wanted, source, found, trouble)
                found |= more
                origin = place if more else origin
    missing = [one for one in wanted if one.digest not in found]
    if missing:
        origin = Origin.COMPILED
        try:
            made = _compile(missing, compiler, Refusals(cache, again=again or retry))
        except (HostError, DataplaneError) as error:
            kind = next(one for one in (RefusedBefore, HostError, DataplaneError) if isinstance(error, one))
            raise kind("; and ".join([str(error), *trouble])) from error
        found |= {unit.digest: unit for unit in made}
        if cache is not None:
            trouble += _store(made, cache)
    return Found(tuple(found[one.digest] for one in wanted), origin, "; ".join(trouble))


def _read(
    wanted: Sequence[Compilation], source: Path, found: Mapping[str, Unit], trouble: list[str]
) -> Mapping[str, Unit]:
    """Return what a file or directory has of what is not found yet; a bad file is noted and passed over."""
    digests = {one.digest for one in wanted} - found.keys()
    paths = [source / f"{digest}{_SUFFIX}" for digest in sorted(digests)] if source.is_dir() else [source]
    units: dict[str, Unit] = {}
    for path in paths:
        try:
            units |= {unit.digest: unit for unit in read(path) if unit.digest in digests}
        except FileNotFoundError:
            continue
        except (HostError, OSError) as error:
            trouble.append(str(error))
    return units


def read(path: Path) -> tuple[Unit, ...]:
    """Return the units of a file that only root can have written. Raises HostError, FileNotFoundError."""
    try:
        with path.open("rb") as file:
            owned_files.check_owner(os.fstat(file.fileno()), path)
            owned_files.check_owner(path.parent.stat(), path.parent)
            data = file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    return image.decode(data, str(path))


def write(path: Path, units: Sequence[Unit]) -> None:
    """Write a file of bytecode as a whole, readable for all. Raises HostError."""
    owned_files.write(path, image.encode(units))


def _store(made: Sequence[Unit], cache: Path) -> list[str]:
    """Keep what was compiled, beside that of the releases before; a full disk is no reason not to serve."""
    try:
        owned_files.ensure_directory(cache)
        for unit in made:
            write(cache / f"{unit.digest}{_SUFFIX}", [unit])
        for old in sorted(cache.iterdir(), key=lambda one: one.stat().st_mtime_ns, reverse=True)[_FILES_MAX:]:
            old.unlink(missing_ok=True)
    except (HostError, OSError) as error:
        return [str(error)]
    return []


def _compile(
    missing: Sequence[Compilation], compiler: Callable[[Sequence[Compilation]], Sequence[Unit]], refusals: Refusals
) -> Sequence[Unit]:
    digest = digest_of(*(one.digest for one in missing))
    refusals.check(digest)
    try:
        made = compiler(missing)
    except DataplaneError as error:
        refusals.note(digest, str(error))
        raise
    refusals.forget(digest)
    return made
