"""What the kernel says of the network namespace that this runs in, as one JSON document. Standard library only.

Started by tests/kit/snapshot.py through nsenter, so that every answer, /proc/sys too, is of one namespace. Nothing
here knows skedge: iproute2, nft, raw netlink where iproute2 of Debian 12 does not print an attribute, and bpf(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

PER_DEVICE = {
    "ipv4": ("forwarding", "accept_local", "route_localnet", "rp_filter", "src_valid_mark", "arp_ignore"),
    "ipv6": ("forwarding", "accept_ra", "disable_ipv6", "force_forwarding", "accept_dad", "autoconf"),
}
OF_HOST = (
    "net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy", "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports", "net/ipv4/tcp_syncookies", "net/netfilter/nf_conntrack_max",
)  # fmt: skip
FOLDERS_OF_HOST = ("net/ipv4/vs",)
COMMANDS = {
    "links": "ip -N -j -d link show",
    "routes4": "ip -N -j -4 route show table all",
    "routes6": "ip -N -j -6 route show table all",
    "rules4": "ip -N -j -4 rule show",
    "rules6": "ip -N -j -6 rule show",
    "neighbours": "ip -N -j neigh show nud permanent",
    "proxies": "ip -N -j neigh show proxy",
    "fdb": "bridge -j fdb show",
    "qdiscs": "tc -j qdisc show",
    "nft": "nft -j list ruleset",
}
SYS = Path("/proc/sys")
DEFAULT_QDISC = "0:"
BPF = {"x86_64": 321, "aarch64": 280}
PROG_QUERY, TCX = 16, {"ingress": 46, "egress": 47}
NETLINK_ROUTE, GETADDR, NEWADDR, DONE, REQUEST_DUMP = 0, 22, 20, 3, 0x301
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS, IFA_RT_PRIORITY, IFA_PROTO = 1, 2, 6, 8, 9, 11


def say(command: str) -> Any:
    """Return what a command prints as JSON; nothing is an empty list. An unknown tool or a refusal is an error."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout) if done.stdout.strip() else []


def sysctls() -> Iterator[tuple[str, str]]:
    """Yield each sysctl of the list that there is, with its value."""
    paths = [SYS / name for name in OF_HOST]
    for family, names in PER_DEVICE.items():
        for device in (SYS / "net" / family / "conf").iterdir():
            paths += [device / name for name in names]
    for folder in FOLDERS_OF_HOST:
        paths += (SYS / folder).glob("*")
    for path in paths:
        with contextlib.suppress(OSError):  # not in this kernel, write-only, or its device went
            yield str(path.relative_to(SYS)), " ".join(path.read_text(encoding="ascii").split())


def filters(qdiscs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the filters of all qdiscs that somebody made, with their device and place."""
    for qdisc in qdiscs:
        if qdisc["handle"] == DEFAULT_QDISC:
            continue
        places = {"clsact": ("ingress", "egress"), "ingress": ("ingress",)}.get(qdisc["kind"], ("root",))
        for place in places:
            for one in say(f"tc -j filter show dev {qdisc['dev']} {place}"):
                if "options" in one:
                    yield {**one, "dev": qdisc["dev"], "place": place}


# ---- addresses: iproute2 of Debian 12 does not print their protocol ------------------------------------------------


def addresses() -> Iterator[dict[str, Any]]:
    """Yield every address."""
    names = dict(socket.if_nameindex())
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        netlink.send(struct.pack("=IHHIIBxxxI", 24, GETADDR, REQUEST_DUMP, 1, 0, socket.AF_UNSPEC, 0))
        while True:
            data = netlink.recv(1 << 18)
            for kind, body in messages(data):
                if kind == DONE:
                    return
                if kind == NEWADDR:
                    yield address(body, names)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each netlink message."""
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        yield kind, data[16:length]
        data = data[(length + 3) & ~3 :]


def address(body: bytes, names: dict[int, str]) -> dict[str, Any]:
    """Return one address of the kernel's answer."""
    _, length, flags, scope, index = struct.unpack_from("=BBBBI", body)
    found, rest = {}, body[8:]
    while len(rest) >= 4:
        size, kind = struct.unpack_from("=HH", rest)
        found[kind] = rest[4:size]
        rest = rest[(size + 3) & ~3 :]
    return {
        "dev": names.get(index, str(index)),
        "address": f"{ip_address(found.get(IFA_LOCAL, found.get(IFA_ADDRESS)))}/{length}",
        "peer": str(ip_address(found[IFA_ADDRESS])) if IFA_ADDRESS in found else "",
        "scope": scope,
        "flags": struct.unpack("=I", found[IFA_FLAGS])[0] if IFA_FLAGS in found else flags,
        "proto": found.get(IFA_PROTO, b"\0")[0],
        "metric": struct.unpack("=I", found[IFA_RT_PRIORITY])[0] if IFA_RT_PRIORITY in found else 0,
    }


# ---- tcx -----------------------------------------------------------------------------------------------------------


def tcx() -> Iterator[dict[str, Any]]:
    """Yield the programs on each device and direction, in their order; nothing where the kernel has no tcx."""
    for index, name in socket.if_nameindex():
        for direction, kind in TCX.items():
            if ids := programs(index, kind):
                yield {"dev": name, "direction": direction, "programs": ids}


def programs(index: int, kind: int) -> list[int]:
    """Return the ids of the programs that are attached to a device."""
    ids = (ctypes.c_uint32 * 64)()
    attr = ctypes.create_string_buffer(
        struct.pack("=IIIIQII4Q", index, kind, 0, 0, ctypes.addressof(ids), 64, 0, 0, 0, 0, 0)
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(BPF[platform.machine()], PROG_QUERY, attr, len(attr) - 1):
        return []
    return list(ids[: struct.unpack_from("=I", attr, 24)[0]])


def main() -> None:
    """Print the document."""
    found: dict[str, Any] = {what: say(command) for what, command in COMMANDS.items()}
    found["addresses"] = list(addresses())
    found["filters"] = list(filters(found["qdiscs"]))
    found["tcx"] = list(tcx())
    found["sysctls"] = dict(sysctls())
    ipvs = Path("/proc/net/ip_vs")
    found["ipvs"] = ipvs.read_text(encoding="ascii").splitlines() if ipvs.exists() else []
    wireguard = shutil.which("wg") and subprocess.run(["wg", "show", "all", "dump"], capture_output=True, text=True)
    found["wireguard"] = wireguard.stdout.splitlines() if wireguard else []
    print(json.dumps(found))


if __name__ == "__main__":
    os.environ["LC_ALL"] = "C"
    main()
