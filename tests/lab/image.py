"""The base image of all lab hosts: a Debian 12 with everything that the roles' package tasks ask for.

Built once into ``.cache/lab/base-<recipe>`` and used read-only under one overlay a host. Inside a lab host there is
no way to a package registry, so what is missing here is missing there.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import shutil
from pathlib import Path

from tests.lab.sh import CACHE, LabError, mounted, run, say, show, unmount

SUITE = "bookworm"
MIRROR = os.environ.get("LAB_MIRROR", "")  # debootstrap knows the distribution's own
PACKAGES = [
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "sudo", "kmod", "udev", "ca-certificates"),
    *("python3", "python3-venv", "python3-pip", "python3-bpfcc", "python3-systemd", "python3-yaml"),
    *("linux-headers-amd64", "iproute2", "iputils-ping", "nftables", "procps", "curl", "bpftool", "ethtool", "tcpdump"),
    *("less", "acl", "jq", "netcat-openbsd", "nginx-light", "haproxy", "iperf3", "wireguard-tools", "wireguard-go"),
    *("iptables", "ufw", "firewalld"),  # what hosts are found with; none is on until a test says so
    *("wrk", "redis-server", "redis-tools", "postgresql"),  # real clients and workloads, also of the LAN machines
]
MASKED = [
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("systemd-udevd.service", "systemd-udev-trigger.service", "console-getty.service", "getty@tty1.service"),
    *("systemd-networkd-wait-online.service", "systemd-timesyncd.service"),
]
DISABLED = [
    *("nginx.service", "haproxy.service", "redis-server.service", "postgresql.service"),
    *("ufw.service", "firewalld.service"),
]


def recipe() -> str:
    """Return the name of this recipe: another list of packages or other steps are another image."""
    steps = "".join(map(inspect.getsource, (_install, _adjust)))
    return hashlib.sha256(repr((SUITE, PACKAGES, MASKED, DISABLED, steps)).encode()).hexdigest()[:10]


def lab_cache() -> Path:
    """Return the directory of images."""
    return Path(os.environ.get("LAB_CACHE", CACHE / "lab"))


def base_image() -> Path:
    """Return the base image's root directory, building it when it is not there (about two minutes)."""
    cache = lab_cache()
    root = cache / f"base-{recipe()}"
    if root.is_dir():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            _build(root)
    return root


def _build(root: Path) -> None:
    if os.geteuid() != 0:
        raise LabError("the base image can only be built by root")
    if shutil.which("debootstrap") is None:
        raise LabError("debootstrap is missing: run `make setup`")
    work, log = root.with_name(root.name + ".partial"), root.with_name(root.name + ".log")
    remove_image(work)
    say(f"base image: debootstrap {SUITE} (once, about two minutes; log: {log})")
    show(["debootstrap", "--variant=minbase", SUITE, work, *([MIRROR] if MIRROR else [])], log)
    _copy_apt_sources(work)
    say(f"base image: installing {len(PACKAGES)} packages")
    try:
        _install(work, log)
    finally:
        for inner in ("proc", "sys", "dev"):
            unmount(work / inner)
    _adjust(work)
    for old in root.parent.glob("base-*"):
        if old.is_dir() and old != work and not _in_use(old):
            remove_image(old)
    work.rename(root)
    say("base image: ready")


def _copy_apt_sources(root: Path) -> None:
    """Give the image this machine's package sources, so that kernel headers and kernel are of one version."""
    apt = root / "etc/apt"
    for name in ("sources.list", "sources.list.d", "apt.conf.d", "keyrings"):
        source = Path("/etc/apt") / name
        if source.is_dir():
            shutil.copytree(source, apt / name, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copy(source, apt / name)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")


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
