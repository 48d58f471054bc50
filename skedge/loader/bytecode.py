"""Where bytecode comes from: shipped with the release, else this host's own cache, else the compiler on this host.

Root loads what it finds, so only root may have written it. Bytecode goes by the digest of what it was made from:
another release's is never taken. What the compiler refused is remembered until the next boot, so that a service that is
started again and again does not compile again and again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skedge.core.errors import DataplaneError, HostError
from skedge.core.observed import Origin
from skedge.loader import compile, image
from skedge.loader.image import Unit
from skedge.loader.sources import SOURCES, Compilation

CACHE = Path("/var/cache/skedge/bytecode")
SHIPPED = SOURCES / "shipped.bytecode"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SUFFIX, _REFUSED = ".bytecode", ".refused"
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
    compiler: Callable[[Sequence[Compilation]], Sequence[Unit]] = compile.compile_all,
) -> Found:
    """Return bytecode for each compilation.

    Args:
        wanted: what is to be loaded.
        cache: directory of this host's own bytecode; None: none is kept.
        shipped: file of the release.
        again: compile whatever there is.
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
            made = _compile(missing, cache, compiler, again=again)
        except (HostError, DataplaneError) as error:
            kind = HostError if isinstance(error, HostError) else DataplaneError
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
            _check_owner(os.fstat(file.fileno()), path)
            _check_owner(path.parent.stat(), path.parent)
            data = file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    return image.decode(data, str(path))


def _check_owner(found: os.stat_result, path: Path) -> None:
    if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HostError(
            f"{path}: others than root can write it (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}),"
            " so its bytecode is not loaded; chown it to root and chmod go-w"
        )


def write(path: Path, units: Sequence[Unit]) -> None:
    """Write a file of bytecode as a whole, readable for all. Raises HostError."""
    _write(path, image.encode(units))


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, 0o644)
                file.write(data)
                file.flush()
                os.fsync(fd)
            fresh.rename(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HostError(f"write {path}: {error.strerror}") from error


def _store(made: Sequence[Unit], cache: Path) -> list[str]:
    """Keep what was compiled, beside that of the releases before; a full disk is no reason not to serve."""
    try:
        _ensure(cache)
        for unit in made:
            write(cache / f"{unit.digest}{_SUFFIX}", [unit])
        for old in sorted(cache.iterdir(), key=lambda one: one.stat().st_mtime_ns, reverse=True)[_FILES_MAX:]:
            old.unlink(missing_ok=True)
    except (HostError, OSError) as error:
        return [str(error)]
    return []


def _ensure(cache: Path) -> None:
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    _check_owner(cache.stat(), cache)


def _compile(
    missing: Sequence[Compilation],
    cache: Path | None,
    compiler: Callable[[Sequence[Compilation]], Sequence[Unit]],
    *,
    again: bool,
) -> Sequence[Unit]:
    boot = _BOOT_ID.read_text(encoding="ascii").strip()
    refused = None if cache is None else cache / f"{missing[0].digest}{_REFUSED}"
    if refused is not None and not again:
        with suppress(OSError):
            when, _, why = refused.read_text(encoding="utf-8").partition("\n")
            if when == boot:
                raise DataplaneError(f"{why.strip()} (tried before; `skedge-loader load --force` tries again)")
    try:
        made = compiler(missing)
    except DataplaneError as error:
        if refused is not None:
            with suppress(HostError, OSError):
                _ensure(refused.parent)
                _write(refused, f"{boot}\n{error}\n".encode())
        raise
    if refused is not None:
        refused.unlink(missing_ok=True)
    return made
