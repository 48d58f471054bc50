# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""What the host is: its kernel, Python and packages. PRIVATE to the collection."""

from __future__ import annotations

import glob
import grp
import os
import platform
import pwd

from ansible_collections.skedge.edge.plugins.module_utils import checks

# For kernels without WireGuard: the unit, and its instance of each link.
WIREGUARD_UNIT = "/etc/systemd/system/skedge-wireguard@.service"
WIREGUARD_WANTED = "/etc/systemd/system/multi-user.target.wants/skedge-wireguard@*.service"


def read(path):
    """Return a file's text, whatever bytes are in it, or nothing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def has_ipvs(module):
    """Return whether the kernel has IPVS, or a module of it."""
    if os.path.exists("/proc/net/ip_vs"):
        return True
    modprobe = module.get_bin_path("modprobe")
    return bool(modprobe) and module.run_command([modprobe, "-n", "-q", "ip_vs"])[0] == 0


def kernel_facts(module, python):
    """Return what the kernel offers, and which engine is asked for.

    ``python`` are path and version of the one that is to run the controller.
    """
    mounts = [line.split() for line in read("/proc/self/mounts").splitlines()]
    return {
        "uid": os.geteuid(),
        "engine": module.params["site"].get("engine", "auto"),
        "ipvs": has_ipvs(module),
        "kernel": platform.release(),
        "btf": os.path.exists("/sys/kernel/btf/vmlinux"),
        "cgroup2": any(len(mount) > 2 and mount[2] == "cgroup2" for mount in mounts),
        "ipv6": os.path.isdir("/proc/sys/net/ipv6"),
        "systemd": os.path.isdir("/run/systemd/system"),
        "interpreter": python[0],
        "python": python[1],
        "tun": os.path.exists("/dev/net/tun"),
    }


def has_wireguard(module):
    """Return whether the kernel has WireGuard, loaded or to be loaded."""
    modprobe = module.get_bin_path("modprobe", opt_dirs=["/usr/sbin", "/sbin"])
    if os.path.isdir("/sys/module/wireguard"):
        return True
    return bool(modprobe) and module.run_command([modprobe, "--dry-run", "--quiet", "wireguard"])[0] == 0


def missing_packages(module, names):
    """Return which of the distribution's packages are not installed."""
    if not names:
        return []
    if module.get_bin_path("dpkg-query"):
        query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\\n"]
    else:
        query = ["rpm", "-q", "--qf", "installed %{NAME}\\n"]
    out = module.run_command(query + names)[1]  # both fail when one is missing, and still list the others
    there = {line.split()[1] for line in out.splitlines() if line.startswith("installed ")}
    return [name for name in names if name not in there]


def host_facts(module, family, wanted, python):
    """Return what the installation depends on."""
    headers = os.path.exists("/lib/modules/%s/build" % platform.release())
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    names = wanted.get("always", []) + ([] if headers else wanted.get("headers", []))
    userspace = checks.has_wireguard(module.params["site"]) and not has_wireguard(module)
    names = names + (wanted.get("wireguard_go", []) if userspace else [])
    names = [name.replace("ARCH", arch) for name in names]
    return {
        "python": "%d.%d" % python[1],
        "interpreter": python[0],
        "bcc": wanted.get("bcc", ""),
        "machine": platform.machine(),
        "glibc": os.confstr("CS_GNU_LIBC_VERSION").split()[-1],
        "kernel": platform.release(),
        "family": family,
        "headers": headers,
        "missing": missing_packages(module, names),
        "wireguard_go": userspace,
        "unit": os.path.exists("/etc/systemd/system/skedge.service"),
        "account": has_account("skedge", "/var/lib/skedge", "/usr/sbin/nologin"),
        "wireguard_units": sorted(map(os.path.basename, glob.glob(WIREGUARD_WANTED))),
        "wireguard_unit": os.path.exists(WIREGUARD_UNIT),
    }


def has_account(name, home, shell):
    """Return whether the user is there, with its home, its shell and a group of its name."""
    try:
        user = pwd.getpwnam(name)
        return (user.pw_dir, user.pw_shell, user.pw_gid) == (home, shell, grp.getgrnam(name).gr_gid)
    except KeyError:
        return False
