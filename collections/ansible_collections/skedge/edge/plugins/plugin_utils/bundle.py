# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Builds what an edge host installs: the project's wheel and a wheel of everything it needs, for one kind of host.

Caches under one directory: ``wheels-<hash>`` (dependencies, by their list and the kind of host, so that a change of our
own code downloads nothing), ``bytecode`` (by the programs' sources) and ``skedge-<hash>.tar`` (the bundle, by the
sources, the wheels' hash and what compiled its bytecode).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.skedge.edge.plugins.plugin_utils import bytecode

# Published as source only; pure Python, so a wheel built here serves every host.
SOURCE_ONLY = ("sdnotify",)
BUILD_TOOLS = ("setuptools>=68", "wheel")
INSTALLER = "pip>=23"
FORMAT = "1"  # part of every hash: another layout of the bundle is another bundle


class BundleError(Exception):
    """The operator must act; the text is one sentence."""


@dataclass(frozen=True)
class Target:
    """A kind of host: Python ``3.11``, machine ``x86_64``, C library ``2.36``.

    ``later`` are the versions of Python that it gets when its distribution is upgraded in place.
    """

    python: str
    machine: str
    glibc: str
    later: tuple[str, ...] = ()

    def platforms(self) -> list[str]:
        """Return the wheel platforms that run there, newest first."""
        minor = int(self.glibc.split(".")[1])
        tags = [f"manylinux_2_{n}_{self.machine}" for n in range(minor, 4, -1)]
        return [*tags, f"manylinux2014_{self.machine}", f"linux_{self.machine}"]


def sources(root: Path) -> list[Path]:
    """Return the files that the project's wheel is made of, in a fixed order."""
    files = [root / "pyproject.toml", root / "README.md"]
    files += [p for p in sorted((root / "skedge").rglob("*")) if p.suffix in (".py", ".c", ".h", ".typed")]
    return [p for p in files if "__pycache__" not in p.parts]


def digest(root: Path, target: Target, compiler: str = "") -> str:
    """Return the name of the bundle that these sources make, with bytecode where there is a compiler.

    Raises BundleError.
    """
    return sources_digest(root, _wheels_key(root, target) + compiler)[:16]


def sources_digest(root: Path, prefix: str = "") -> str:
    """Return the SHA-256 of a prefix and of what the project's wheel is made of. Raises BundleError."""
    total = hashlib.sha256(prefix.encode())
    for path in sources(root):
        if not path.is_file():
            raise BundleError(f"{path} is missing; set skedge_source_dir to the project's directory")
        total.update(f"{path.relative_to(root)}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def build(root: Path, cache: Path, target: Target, compiler: str = "", code: bytes = b"") -> Path:
    """Return the bundle for these sources and this kind of host, making what is not cached.

    ``code`` is bytecode that is there already, of the one that ``compiler`` names. Raises BundleError, and
    BytecodeError where it has a compiler which does not compile.
    """
    bundle = cache / f"skedge-{digest(root, target, compiler)}.tar"
    if bundle.exists():
        return bundle
    with _locked(cache):
        if bundle.exists():
            return bundle
        wheels = _wheels(root, cache, target)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            content = Path(work) / "content"
            shutil.copytree(wheels / "host", content)
            source = copy(root, Path(work))
            if code:
                (source / bytecode.SHIPPED).write_bytes(code)
            elif compiler:
                site = Path(work) / "site"
                _pip("install", "--no-deps", "--no-index", "--find-links", content, "--target", site, bytecode.NEEDS)
                bytecode.build(source, site, cache / "bytecode")
            _pip("wheel", "--no-deps", "--no-index", "--find-links", wheels / "build", "--wheel-dir", content, source)
            _pack(content, Path(work) / "bundle.tar")
            (Path(work) / "bundle.tar").replace(bundle)
    return bundle


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _dependencies(root: Path) -> list[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(project["dependencies"])


def _wheels_key(root: Path, target: Target) -> str:
    try:
        kind = [target.python, *target.later, target.machine, target.glibc]
        wanted = [FORMAT, _dependencies(root), SOURCE_ONLY, INSTALLER, *kind]
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise BundleError(
            f"{root}/pyproject.toml cannot be read; set skedge_source_dir to the project's directory"
        ) from error
    return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]


def _wheels(root: Path, cache: Path, target: Target) -> Path:
    """Return the directory of wheels: ``host/`` for the host, ``build/`` for building ours without the network."""
    directory = cache / f"wheels-{_wheels_key(root, target)}"
    if directory.exists():
        return directory
    with tempfile.TemporaryDirectory(dir=cache) as name:
        work = Path(name) / "wheels"
        dependencies = _dependencies(root)
        _pip("download", "--only-binary=:all:", "--no-deps", "--dest", work / "build", *BUILD_TOOLS)
        for item in dependencies:
            if item.startswith(SOURCE_ONLY):
                _pip("wheel", "--no-deps", "--wheel-dir", work / "host", item)
        platforms = [f"--platform={p}" for p in target.platforms()]
        for python in (target.python, *target.later):  # most wheels serve all versions
            _pip(
                "download", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms,
                "--find-links", work / "host", "--dest", work / "host", INSTALLER, *dependencies,
            )  # fmt: skip
        work.replace(directory)
    return directory


def copy(root: Path, work: Path) -> Path:
    """Return a copy that the wheel is built from, so that nothing is left in the source tree."""
    target = work / "source"
    for path in sources(root):
        (target / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path.relative_to(root))
    return target


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise BundleError(
            f"the control node cannot get the wheels for the hosts ({' '.join(lines[-2:])[:400]}); "
            "it needs the Python package index once for each kind of host"
        )


def _pack(content: Path, tar: Path) -> None:
    with tarfile.open(tar, "w") as archive:
        for path in sorted(content.iterdir()):
            info = tarfile.TarInfo(path.name)
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(info, file)
