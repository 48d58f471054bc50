"""The disks of VMs: a base image, a kernel's modules, and Python packages where the checkout's venv is of no use.

A checkout's venv is for the Python of the machine that made it. A userland with another gets a venv of its own at
``/opt/venv``, with the wheels that this machine's pip chooses for it: nothing is run to make it.
"""

from __future__ import annotations

import hashlib
import inspect
import shutil
import stat
import sys
import tempfile
import tomllib
from pathlib import Path

from tests.lab.image import base_image
from tests.lab.sh import REPO, run, say, unmount
from tests.lab.vm_kernel import VM, Kernel, scratch

DISK_SIZE = "4G"
SOURCE_ONLY = "sdnotify"  # published as source; pure Python, so a wheel made here serves
NOT_IN_VMS = ("ansible", "import-linter", "molecule", "mypy", "pre-commit", "ruff", "types-", "yamllint")
SCRIPT = """#!/bin/sh
exec "$(dirname "$0")/python" -c 'import sys; from {module} import {name} as run; sys.exit(run())' "$@"
"""


def disk(kernel: Kernel, release: str, tree: Path) -> Path:
    """Return the root disk: base image, kernel modules, Python packages. It is only ever used as a snapshot."""
    base = base_image(kernel.userland)
    layers = [_usr_merged(release, tree, base), *venv_layers(base), base]
    names = [layer.name for layer in layers]  # not their paths: a cache may be moved
    mark = hashlib.sha256(repr(names).encode() + inspect.getsource(_usr_merged).encode()).hexdigest()[:8]
    target = VM / f"disk-{kernel.name}-{release}-{mark}.img"
    if target.exists():
        return target
    say(f"vm: making the disk image of kernel {release} (once)")
    merged = VM / "merged"
    unmount(merged)
    merged.mkdir(exist_ok=True)
    for old in VM.glob(f"disk-{kernel.name}-*"):
        old.unlink()
    run("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={':'.join(map(str, layers))}", merged)
    try:
        new = target.with_suffix(".new")
        run("truncate", "-s", DISK_SIZE, new)
        run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", merged, new)
        new.rename(target)
    finally:
        unmount(merged)
        merged.rmdir()
    return target


def _usr_merged(release: str, tree: Path, base: Path) -> Path:
    """Return the kernel's modules as a layer: they are in lib/ of the package, a link to usr/lib in the base image.

    Beside them are the links to headers, to those of the userland's own kernel where it has none of this one.
    """
    merged = tree / f"merged-{base.name}"
    if not merged.exists():
        modules = merged / "usr/lib/modules" / release
        modules.parent.mkdir(parents=True)
        shutil.copytree(tree / "lib/modules" / release, modules, symlinks=True)
        trees = [path.name for path in sorted((base / "usr/src").glob("linux-headers-*-amd64"))]
        build = f"linux-headers-{release}" if f"linux-headers-{release}" in trees else trees[-1]
        for link, name in (("build", build), ("source", build.replace("-amd64", "-common"))):
            (modules / link).unlink(missing_ok=True)
            (modules / link).symlink_to(f"/usr/src/{name}")
    return merged


def venv_layers(base: Path) -> list[Path]:
    """Return the layer with a venv for the userland's Python, or none where it is this machine's version."""
    python = next((base / "usr/bin").glob("python3.*[0-9]")).name.removeprefix("python")
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return []
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    wanted = sorted(item for item in asked if not item.startswith(NOT_IN_VMS))
    key = hashlib.sha256(repr((wanted, project["scripts"], inspect.getsource(_make_venv))).encode()).hexdigest()[:8]
    layer = VM / f"venv-{python}-{key}"
    if not layer.exists():
        say(f"vm: Python packages for Python {python} (once)")
        for old in VM.glob(f"venv-{python}-*"):
            shutil.rmtree(old)
        with scratch() as name:
            Path(name).chmod(0o755)
            _make_venv(Path(name) / "layer", python, wanted, project["scripts"])
            (Path(name) / "layer").rename(layer)
    return [layer]


def _make_venv(layer: Path, python: str, wanted: list[str], scripts: dict[str, str]) -> None:
    venv = layer / "opt/venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to("/usr/bin/python3")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    with tempfile.TemporaryDirectory() as wheels:
        own = [item for item in wanted if item.startswith(SOURCE_ONLY)]
        run(*pip, "wheel", "--no-deps", "--wheel-dir", wheels, *own)
        run(
            *pip, "install", f"--target={venv}/lib/python{python}/site-packages", f"--python-version={python}",
            "--implementation=cp", "--only-binary=:all:", "--find-links", wheels, *wanted,
        )  # fmt: skip
    for script, entry in scripts.items():
        module, _, name = entry.partition(":")
        path = venv / "bin" / script
        path.write_text(SCRIPT.format(module=module, name=name))
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
