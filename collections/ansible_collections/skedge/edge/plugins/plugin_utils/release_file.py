# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""A release: bytecode that one machine compiled, in a file that control nodes take which cannot compile.

A tar of ``release.json`` (what it is for, and the digest of the rest) and the bytecode. It is for one state of the
sources: from another it is not taken. ``make release`` writes it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import sys
import sysconfig
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.skedge.edge.plugins.plugin_utils import bundle, bytecode

NAME = "skedge-release.tar"
FORMAT = 1
_HEAD, _BYTECODE = "release.json", bytecode.SHIPPED.name
_MAX = 64 << 20  # bytes of one member


@dataclass(frozen=True)
class Release:
    """What a release says of itself: digest of the sources, machine, what compiled it, digest of the bytecode."""

    format: int
    sources: str
    machine: str
    compiler: str
    bytecode: str

    def why_not(self, sources: str, machine: str) -> str:
        """Return why it does not serve such hosts of such a checkout, as a sentence; empty where it does."""
        if self.sources != sources:
            return "it was made from other sources than this checkout has; make it again, or take this version's"
        return "" if self.machine == machine else f"it is for hosts of {self.machine}, not of {machine}"


def write(path: Path, root: Path, machine: str, compiler: str, code: bytes) -> Release:
    """Write a release for these sources as a whole."""
    made = Release(FORMAT, bundle.sources_digest(root), machine, compiler, hashlib.sha256(code).hexdigest())
    head = json.dumps(asdict(made), indent=1).encode()
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with tarfile.open(fresh, "w") as archive:
        for name, data in ((_HEAD, head), (_BYTECODE, code)):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    fresh.replace(path)
    return made


def read(path: Path) -> tuple[Release, bytes]:
    """Return what a release says of itself, and its bytecode. Raises BundleError for a damaged one."""
    try:
        with tarfile.open(path, "r:") as archive:
            head, code = (_member(archive, name) for name in (_HEAD, _BYTECODE))
        found = Release(**json.loads(head))
    except (OSError, tarfile.TarError, KeyError, TypeError, ValueError) as error:
        raise bundle.BundleError(f"{path} is no release of skedge, or cut off ({error}); copy it again") from error
    if found.format != FORMAT:
        raise bundle.BundleError(f"{path}: format {found.format}, and this checkout reads {FORMAT}; make it again")
    if hashlib.sha256(code).hexdigest() != found.bytecode:
        raise bundle.BundleError(f"{path}: the digest of its bytecode is wrong; it was damaged: copy it again")
    return found, code


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no plain file")
    return file.read(_MAX)


def make(root: Path, path: Path, cache: Path) -> Release:
    """Compile here for hosts of this machine. Raises BundleError, BytecodeError."""
    machine = platform.machine()
    compiler = bytecode.compiler("%d.%d" % sys.version_info[:2], machine)
    if not compiler:
        raise bundle.BundleError("this machine cannot compile: it takes root, python3-bpfcc and linux-headers-amd64")
    with tempfile.TemporaryDirectory() as work:
        copy = bundle.copy(root, Path(work))
        bytecode.build(copy, Path(sysconfig.get_path("purelib")), cache)
        return write(path, root, machine, compiler, (copy / bytecode.SHIPPED).read_bytes())


def main() -> int:
    """Make the release of the current directory."""
    path = Path(NAME)
    try:
        made = make(Path.cwd(), path, Path(".cache/bundles/bytecode").absolute())
    except (bundle.BundleError, bytecode.BytecodeError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {made.compiler}, {made.machine}, of sources {made.sources[:16]}")
    print(f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
