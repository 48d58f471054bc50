"""Bytecode by the compiler of each Debian that there is a base image of: ``python -m tests.kit.builders [SUITE...]``.

That of this machine compiles here, another's in a root over its base image: the files of the programs are this
checkout's, compiler and headers the image's. What is there already is not compiled again. Tests in VMs, where compiling
takes minutes, load it from here.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from skedge.loader.compiling.sources import compilations
from tests.kit.bytecode import SETS, prebuild
from tests.lab.image import SUITES, base_image, own_suite
from tests.lab.sh import CACHE, REPO, LabError, say
from tests.lab.vm_image import venv_layers

# All mounts are of a namespace of their own and go with it.
ENTER = """
mount -t tmpfs tmpfs {work}; mkdir {work}/root {work}/upper {work}/layer
mount -t overlay overlay -o lowerdir={lower},upperdir={work}/upper,workdir={work}/layer {work}/root
cd {work}/root; mkdir -p ./{repo} ./{out}
mount -t proc proc proc; mount --rbind /sys sys; mount --rbind /dev dev
mount --bind -o ro {repo} ./{repo}; mount --bind {out} ./{out}
exec chroot . sh -ec 'cd {repo}; exec "$@"' sh "$@"
"""


def directory(suite: str) -> Path:
    """Return where bytecode by a suite's compiler is kept."""
    return CACHE / f"bytecode-{suite}"


def built(suite: str) -> Path:
    """Return the directory with bytecode by a suite's compiler of all that tests load, compiling what is not there."""
    out = directory(suite)
    wanted = {one.digest for programs in SETS for one in compilations(programs)}
    if all((out / f"{digest}.bytecode").exists() for digest in wanted):
        return out
    out.mkdir(mode=0o755, parents=True, exist_ok=True)
    with out.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if suite == own_suite():
            prebuild(out)
        else:
            _build_in_root(suite, out)
    return out


def _build_in_root(suite: str, out: Path) -> None:
    base = base_image(suite)
    layers = [*venv_layers(base), base]
    say(f"bytecode: by the compiler of {SUITES[suite]}")
    with tempfile.TemporaryDirectory() as work:
        lower = ":".join(map(str, layers))
        enter = ENTER.format(work=work, lower=lower, repo=REPO, out=out.resolve())
        packages = ":".join(str(Path("/", one)) for one in _packages(layers[0]))
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "PYTHONPATH": f"{REPO}:{packages}"}
        env |= {"PYTHONDONTWRITEBYTECODE": "1"}
        command = ["unshare", "--mount", "sh", "-ec", enter, "sh", "/usr/bin/python3", "-m", "tests.kit.bytecode"]
        done = subprocess.run([*command, str(out.resolve())], env=env, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise LabError(f"bytecode by the compiler of {SUITES[suite]}: it ended with {done.returncode}, see above")


def _packages(layer: Path) -> list[Path]:
    """Return the directories of the layer's venv with Python packages, as the root will have them."""
    return [path.relative_to(layer) for path in layer.glob("opt/venv/lib/python3*/site-packages")]


def main() -> int:
    """Build for the suites of the command line, all without any."""
    if os.geteuid() != 0:
        print("builders: only root can compile", file=sys.stderr)
        return 1
    for suite in sys.argv[1:] or SUITES:
        print(built(suite), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
