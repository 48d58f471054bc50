"""A control node of Debian 13: the project installs with its Python, its own unit tests pass, and it deploys.

It is a root over the base image with the checkout in it, and this machine's network, by which the hosts of a lab are
reached. What comes from the package index is fetched outside: the wheels for its Python, and the hosts' bundles.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ansible_collections.skedge.edge.plugins.plugin_utils.bundle import SOURCE_ONLY, Target, build

from tests.lab import lab as labs
from tests.lab.image import base_image
from tests.lab.sh import run, unmount

ROOT = Path(__file__).parents[3]
SUITE = "trixie"
INSTALL_S, DEPLOY_S = 600, 600
TARGETS = (Target("3.11", "x86_64", "2.36", ("3.13",)), Target("3.13", "x86_64", "2.41"))
ENTER = (
    "mount -t proc proc {root}/proc; mount --rbind /sys {root}/sys; mount --rbind /dev {root}/dev; "
    "mount --rbind {work} {root}{work}; mount --bind {repo} {root}{repo}; "
    'exec chroot {root} sh -ec "cd {repo}; $0"'
)
pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.needs_bpf,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
    pytest.mark.timeout(INSTALL_S + 2 * DEPLOY_S),
]


@dataclass
class ControlNode:
    """A root with a virtual environment of its own."""

    root: Path
    work: Path  # seen there, too

    def run(self, command: str, timeout: float) -> str:
        """Run a shell command in the checkout's directory there; return what it said."""
        enter = ENTER.format(root=self.root, repo=ROOT, work=self.work)
        own = {"PATH": "/opt/control/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        own |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT), "ANSIBLE_CONFIG": f"{ROOT}/ansible.cfg"}
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", enter, command], env=own, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
        return done.stdout


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlNode]:
    made = tmp_path_factory.mktemp("node")
    for part in ("root", "upper", "layer", "work"):
        (made / part).mkdir()
    layers = f"lowerdir={base_image(SUITE)},upperdir={made}/upper,workdir={made}/layer"
    run("mount", "-t", "overlay", "overlay", "-o", layers, made / "root")
    try:
        for path in (ROOT, made / "work"):
            (made / "root" / str(path).lstrip("/")).mkdir(parents=True, exist_ok=True)
        yield ControlNode(made / "root", made / "work")
    finally:
        unmount(made / "root")


@pytest.fixture(scope="module")
def lab() -> Iterator[labs.Lab]:
    pair = labs.create(f"t-cn-{os.getpid()}", "pair", ("bookworm", SUITE))
    try:
        pair.up()
        yield pair
    finally:
        pair.down()


def fetch_wheels(directory: Path) -> None:
    """Fetch what the project asks for, developers' tools and all, for the control node's Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    own = [item for item in wanted if item.startswith(SOURCE_ONLY)]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", directory, *own)
    only = ("--python-version=3.13", "--only-binary=:all:", "--find-links", directory)
    run(*pip, "download", *only, "--dest", directory, "setuptools>=68", "wheel", *wanted)


def test_it_installs_tests_itself_and_deploys_to_hosts_of_both(node: ControlNode, lab: labs.Lab) -> None:
    python = node.run("python3 -m venv --system-site-packages /opt/control && python --version", INSTALL_S)
    assert python.startswith("Python 3.13")
    fetch_wheels(node.work / "wheels")
    for target in TARGETS:
        build(ROOT, node.work / "bundles", target)
    copy, offline = f"{node.work}/source", f"--no-index --find-links {node.work}/wheels"
    node.run(f"mkdir {copy}; cp -a pyproject.toml README.md skedge {copy}", INSTALL_S)
    node.run(f"pip install -q {offline} '{copy}[dev]'", INSTALL_S)
    said = node.run("python -m pytest -q -p no:cacheprovider tests/unit/collection tests/unit/core", INSTALL_S)
    assert " passed" in said
    assert "failed" not in said

    inventory = node.work / "inventory"
    inventory.mkdir()
    hosts = {"edge-a": {"skedge_links": [{"to": "edge-b", "transport": "vxlan"}]}, "edge-b": {}}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"skedge_edge": {"hosts": hosts}}))
    places = f"-i {inventory} -i {lab.directory}/inventory -e skedge_bundle_dir={node.work}/bundles"
    node.run(f"ansible-playbook {places} deploy.yml -e skedge_ca_dir={node.work}/ca", DEPLOY_S)
    for host in ("edge-a", "edge-b"):
        lab.ssh(host, "skedge status --check synced --wait 30")
