#!/usr/bin/python3
"""What a host is, to compare it before and after: files, users, units, network, sysctls, eBPF. Standard library only.

``snapshot.py take > before.json`` on the host, later again; ``snapshot.py compare before.json after.json`` prints each
difference on one line and exits 1 if there is one. What changes by itself (logs, caches, counters) is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

TREES = ["/etc", "/usr", "/opt", "/var/lib", "/root", "/home", "/srv", "/boot", "/sys/fs/bpf"]
LIVES = re.compile(
    r"^(/opt/lab|/root/\.ansible|/var/lib/(systemd|private|dbus)|/etc/(mtab|resolv\.conf|\.pwd\.lock|\.updated)|/var/\.updated)(/|$)"
    r"|/__pycache__(/|$)|^/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$|/(maps|progs)\.debug$"
)
HASHED = ("/etc/", "/root/", "/home/")
SYSCTLS = ["/proc/sys/net/core", "/proc/sys/net/ipv4", "/proc/sys/net/ipv6", "/proc/sys/net/mptcp"]
COUNTS = re.compile(r"(secret|_key|count|flush|random|nr_|udp_mem|tcp_mem|/neigh/|_fastopen_key)")
COUNTED = re.compile(r"counter packets \d+ bytes \d+")
COMMANDS = {
    "rules": "ip -j rule; ip -j -6 rule",
    "routes": "ip -j route show table all; ip -j -6 route show table all",
    "nftables": "nft list ruleset",
    "cgroup programs": "bpftool -j cgroup tree",
    "unit files": "systemctl list-unit-files --no-legend --plain",
    "units": "systemctl list-units --no-legend --plain --all --type=service,socket,timer,target --state=active,failed",
    "listening": "ss -Hltunp | sed 's/,pid=[0-9]*,fd=[0-9]*//g'",
    "packages": "dpkg-query -W",
}
# of the units those that a login or this very look brings with it, and the lab's own workloads
PASSING = re.compile(r"\b(python3|session-c?\d+|user@|user-runtime-dir@|lab-|systemd-tmpfiles-clean|getty|user\.slice)")


def files() -> Iterator[tuple[str, str]]:
    """Yield each file, directory and link with what identifies its content."""
    for tree in TREES:
        for folder, folders, names in os.walk(tree):
            folders[:] = [f for f in folders if not LIVES.search(f"{folder}/{f}")]
            for name in [*folders, *names]:
                path = f"{folder}/{name}"
                if not LIVES.search(path):
                    with contextlib.suppress(FileNotFoundError):
                        yield f"file {path}", _file(path)


def _file(path: str) -> str:
    info = os.lstat(path)
    owner = f"{stat.filemode(info.st_mode)} {info.st_uid}:{info.st_gid}"
    if stat.S_ISLNK(info.st_mode):
        return f"{owner} -> {os.readlink(path)}"
    if not stat.S_ISREG(info.st_mode) or path.startswith("/sys/"):
        return owner
    if path.startswith(HASHED):
        return f"{owner} {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}"
    return f"{owner} {info.st_size} bytes, {info.st_mtime_ns}"


def sysctls() -> Iterator[tuple[str, str]]:
    """Yield the network's sysctls."""
    for tree in SYSCTLS:
        for folder, _, names in os.walk(tree):
            for name in names:
                path = f"{folder}/{name}"
                if not COUNTS.search(path):
                    with contextlib.suppress(OSError):
                        yield path.replace("/proc/sys/", "sysctl "), Path(path).read_text().strip()


def devices() -> Iterator[tuple[str, str]]:
    """Yield network devices with addresses and filters."""
    for device in json.loads(_say("ip -j -d addr")):
        name = device["ifname"]
        addresses = sorted(f"{a['local']}/{a['prefixlen']}" for a in device["addr_info"])
        hooks = " ".join(
            _say(
                f"tc qdisc show dev {name}; tc filter show dev {name} ingress; tc filter show dev {name} egress"
            ).split()
        )
        flags = ",".join(sorted(device["flags"]))
        yield f"device {name}", f"mtu {device['mtu']} {flags} {' '.join(addresses)} {hooks}"


def _say(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False).stdout


def commands() -> Iterator[tuple[str, str]]:
    """Yield each line (or JSON element) of what the commands say."""
    for what, command in COMMANDS.items():
        text = _say(command)
        if " -j " in command:
            text = re.sub(r'"id": ?[0-9]+,?', "", text)  # systemd loads its own programs anew at every reload
            lines = [
                json.dumps(e, sort_keys=True) for part in text.splitlines() if part.strip() for e in _elements(part)
            ]
        else:
            lines = [COUNTED.sub("counter", " ".join(line.split())) for line in text.splitlines()]
        for line in lines:
            if not PASSING.search(line):
                yield f"{what}: {line}", ""


def _elements(text: str) -> list[object]:
    with contextlib.suppress(json.JSONDecodeError):
        value = json.loads(text)
        return value if isinstance(value, list) else [value]
    return [text]


def take() -> dict[str, str]:
    """Return the whole host as one flat mapping."""
    return {k: v for source in (files, sysctls, devices, commands) for k, v in source()}


def compare(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return one line a difference."""
    lines = [f"new: {key} {after[key]}".rstrip() for key in _tops(after.keys() - before.keys())]
    lines += [f"gone: {key} {before[key]}".rstrip() for key in _tops(before.keys() - after.keys())]
    both = sorted(before.keys() & after.keys())
    return lines + [f"changed: {key}: {before[key]} => {after[key]}" for key in both if before[key] != after[key]]


def _tops(keys: set[str]) -> list[str]:
    """Leave out what lies below a directory that is new or gone itself."""
    return sorted(k for k in keys if not (k.startswith("file ") and k.rpartition("/")[0] in keys))


def main() -> int:
    """Take, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["take", "compare"])
    parser.add_argument("files", nargs="*", type=Path)
    args = parser.parse_args()
    if args.mode == "take":
        json.dump(take(), sys.stdout)
        return 0
    before, after = (json.loads(path.read_text()) for path in args.files)
    lines = compare(before, after)
    print("\n".join(lines) or "no difference")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
