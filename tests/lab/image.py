"""The base images of lab hosts: a Debian of one suite with everything that the roles' package tasks ask for.

Built once each into ``.cache/lab/base-<suite>-<recipe>`` and used read-only under one overlay a host. Inside a lab host
there is no way to a package registry, so what is missing here is missing there. ``SUITE`` says of which suite a lab's
hosts are: one for all, or several with commas, which are given to the hosts in turn.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import re
import shutil
from pathlib import Path

from tests.lab.sh import CACHE, LabError, mounted, run, say, show, unmount

SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
DEFAULT_SUITE = "bookworm"
MIRROR = os.environ.get("LAB_MIRROR", "")  # debootstrap knows the distribution's own
PACKAGES = [
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "sudo", "kmod", "udev", "ca-certificates"),
    *("python3", "python3-venv", "python3-pip", "python3-bpfcc", "python3-systemd", "python3-yaml"),
    *("linux-headers-amd64", "iproute2", "iputils-ping", "nftables", "procps", "curl", "bpftool", "ethtool", "tcpdump"),
    *("less", "acl", "jq", "netcat-openbsd", "nginx-light", "haproxy", "iperf3", "wireguard-tools", "wireguard-go"),
    *("iptables", "ufw", "firewalld", "keepalived"),  # what hosts are found with; none is on until a test says so
    *("wrk", "redis-server", "redis-tools", "postgresql"),  # real clients and workloads, also of the LAN machines
]
MASKED = [
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("systemd-udevd.service", "systemd-udev-trigger.service", "console-getty.service", "getty@tty1.service"),
    *("systemd-networkd-wait-online.service", "systemd-timesyncd.service"),
]
DISABLED = [
    *("nginx.service", "haproxy.service", "redis-server.service", "postgresql.service"),
    *("ufw.service", "firewalld.service", "keepalived.service"),
]


def wanted_suites() -> tuple[str, ...]:
    """Return the suites that the environment asks for. Raises LabError for one that has no image."""
    suites = tuple(os.environ.get("SUITE", "").split(",")) if os.environ.get("SUITE") else (DEFAULT_SUITE,)
    for suite in suites:
        if suite not in SUITES:
            raise LabError(f"SUITE={os.environ['SUITE']}: {suite or 'nothing'} is none of {', '.join(SUITES)}")
    return suites


def recipe(suite: str) -> str:
    """Return the name of this recipe: another list of packages or other steps are another image."""
    steps = "".join(map(inspect.getsource, (_install, _adjust)))
    return hashlib.sha256(repr((suite, PACKAGES, MASKED, DISABLED, steps)).encode()).hexdigest()[:10]


def lab_cache() -> Path:
    """Return the directory of images."""
    return Path(os.environ.get("LAB_CACHE", CACHE / "lab"))


def base_image(suite: str = DEFAULT_SUITE) -> Path:
    """Return the root directory of a suite's base image, building it when it is not there (about two minutes)."""
    cache = lab_cache()
    root = cache / f"base-{suite}-{recipe(suite)}"
    if root.is_dir():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            _build(suite, root)
    return root


def _build(suite: str, root: Path) -> None:
    if os.geteuid() != 0:
        raise LabError("the base image can only be built by root")
    if shutil.which("debootstrap") is None:
        raise LabError("debootstrap is missing: run `make setup`")
    work, log = root.with_name(root.name + ".partial"), root.with_name(root.name + ".log")
    remove_image(work)
    say(f"base image: debootstrap {suite} (once, about two minutes; log: {log})")
    show(["debootstrap", "--variant=minbase", suite, work, *([MIRROR] if MIRROR else [])], log)
    copy_apt_sources(suite, work)
    say(f"base image: installing {len(PACKAGES)} packages")
    try:
        _install(work, log)
    finally:
        for inner in ("proc", "sys", "dev"):
            unmount(work / inner)
    _adjust(work)
    for old in root.parent.glob(f"base-{suite}-*"):
        if old.is_dir() and old != work and not _in_use(old):
            remove_image(old)
    work.rename(root)
    say("base image: ready")


def copy_apt_sources(suite: str, root: Path) -> None:
    """Give a root this machine's package sources, for ``suite``: kernel headers and kernel are then of one version."""
    apt, own = root / "etc/apt", own_suite()
    for name in ("sources.list", "sources.list.d", "apt.conf.d", "keyrings"):
        source = Path("/etc/apt") / name
        if source.is_dir():
            shutil.copytree(source, apt / name, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copy(source, apt / name)
    for path in [apt / "sources.list", *apt.glob("sources.list.d/*")]:
        if path.is_file():
            path.write_text(re.sub(rf"\b{own}\b", suite, path.read_text()))
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")


def own_suite() -> str:
    """Return the name of the suite that this machine runs."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise LabError("/etc/os-release names no VERSION_CODENAME: the labs are made on a Debian")


def _install(root: Path, log: Path) -> None:
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    run("mount", "-t", "proc", "proc", root / "proc")
    run("mount", "--bind", "/sys", root / "sys")
    run("mount", "--bind", "/dev", root / "dev")
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    show(["chroot", root, "apt-get", "-q", "update"], log, env)
    unsafe = "-oDpkg::Options::=--force-unsafe-io"
    show(["chroot", root, "apt-get", "-qy", unsafe, "install", "--no-install-recommends", *PACKAGES], log, env)
    show(["chroot", root, "apt-get", "clean"], log, env)


def _adjust(root: Path) -> None:
    """Make it a host that boots quickly and quietly, with no identity of its own."""
    run("chroot", root, "systemctl", "mask", "--quiet", *MASKED)
    run("chroot", root, "systemctl", "disable", "--quiet", *DISABLED)
    (root / "usr/sbin/policy-rc.d").unlink()
    for path in root.glob("etc/ssh/ssh_host_*"):
        path.unlink()
    (root / "etc/machine-id").write_text("")
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/apt/apt.conf.d/99lab").write_text("// a lab host has no way to a package registry\n")
    lists = root / "var/lib/apt/lists"
    shutil.rmtree(lists)
    (lists / "partial").mkdir(parents=True)
    (root / "etc/systemd/journald.conf.d").mkdir(exist_ok=True)
    (root / "etc/systemd/journald.conf.d/lab.conf").write_text("[Journal]\nStorage=volatile\nRateLimitBurst=0\n")


def _in_use(root: Path) -> bool:
    return f"lowerdir={root}" in Path("/proc/mounts").read_text()


def remove_image(root: Path) -> None:
    """Remove an image, never through a mount that an interrupted build left in it."""
    for inner in ("proc", "sys", "dev"):
        unmount(root / inner)
    if any(mounted(root / d) for d in ("proc", "sys", "dev")):
        raise LabError(f"{root}: something is still mounted below it")
    if root.exists():
        shutil.rmtree(root)


def remove_partial() -> None:
    """Remove what an interrupted build left, with its mounts."""
    for work in lab_cache().glob("base-*.partial"):
        remove_image(work)
