"""Tunnel packets from other than the neighbour's address are dropped, by one nftables table of ours.

The kernel hands a VXLAN packet to the device of its network identifier whoever sent it. One rule a link drops what
carries that link's identifier from elsewhere, and counts it; other tunnels on the same port are not touched. The
table is recognised by its name, each rule by its comment, which is the device.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from skedge.core.errors import DataplaneError
from skedge.core.model import Transport
from skedge.core.objects import LinkDevice

TABLE = "skedge"
CHAIN = "tunnels"
FAMILY = "inet"
COUNTER = "wrong-tunnel-peer"
READ_EVERY_S = 30.0
NFT_TIMEOUT_S = 30
_VNI_OFFSET = 96  # bits: 8 bytes of UDP, 4 of flags; the identifier is the next 24 bits
_PATH = os.defpath + ":/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class TunnelPeer:
    """Who may send packets with this network identifier to this UDP port."""

    vni: int
    remote: str
    port: int

    @classmethod
    def of(cls, device: LinkDevice) -> TunnelPeer | None:
        """Return the peer of a device, None when its transport needs no guard (encrypted, or no tunnel)."""
        if device.transport is not Transport.VXLAN:
            return None
        return cls(device.vni, str(ip_address(device.remote)), device.port)


def run_nft(script: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Run a JSON script, or list our table when there is none. Raises DataplaneError."""
    nft = shutil.which("nft", path=os.environ.get("PATH", "") + ":" + _PATH)
    if nft is None:
        raise DataplaneError("tunnel guard: the program nft is missing; install the package nftables")
    arguments = ["list", "table", FAMILY, TABLE] if script is None else ["-f", "-"]
    command, said = [nft, "-j", *arguments], json.dumps(script or {})
    try:
        result = subprocess.run(command, input=said, capture_output=True, text=True, check=False, timeout=NFT_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise DataplaneError(f"tunnel guard: nft: not done after {NFT_TIMEOUT_S} s") from error
    if result.returncode == 0:
        return json.loads(result.stdout) if result.stdout.strip() else {}
    lines = result.stderr.strip().splitlines()
    if script is None and "No such file or directory" in result.stderr:
        return {}
    raise DataplaneError(f"tunnel guard: nft: {lines[0] if lines else 'exit code ' + str(result.returncode)}")


class TunnelGuard:
    """The rules of one host, one a VXLAN device. What the kernel has is read again every `READ_EVERY_S` seconds."""

    def __init__(
        self,
        run: Callable[[Mapping[str, Any] | None], Mapping[str, Any]] = run_nft,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._clock = clock
        self._known: dict[str, TunnelPeer] = {}
        self._read_at = float("-inf")

    def read(self) -> Mapping[str, TunnelPeer]:
        """Return the guarded devices, at most `READ_EVERY_S` seconds old."""
        if self._clock() - self._read_at > READ_EVERY_S:
            self._known = {device: peer for device, (peer, _) in _rules(self._run(None)).items()}
            self._read_at = self._clock()
        return dict(self._known)

    def put(self, device: str, peer: TunnelPeer) -> None:
        """Guard a device, atomically in the place of its earlier rule."""
        before = _rules(self._run(None)).get(device)
        if before is None or before[0] != peer:
            stale = [] if before is None else [_delete(before[1])]
            self._run({"nftables": [*_base(), *stale, {"add": {"rule": _rule(device, peer)}}]})
        self._read_at = float("-inf")

    def delete(self, device: str) -> None:
        """End the guarding of a device; one that is not guarded is success."""
        before = _rules(self._run(None)).get(device)
        if before is not None:
            self._run({"nftables": [_delete(before[1])]})
        self._read_at = float("-inf")

    def dropped(self) -> int:
        """Return how many tunnel packets of wrong senders were dropped since the table was made."""
        for item in self._run(None).get("nftables", []):
            if item.get("counter", {}).get("name") == COUNTER:
                return int(item["counter"]["packets"])
        return 0

    def tables(self) -> list[str]:
        """Return the name of our table in a list, an empty one when there is none."""
        return [f"{FAMILY} {TABLE}"] if self._run(None) else []

    def purge(self) -> None:
        """Remove our table, if it is there."""
        if self._run(None):
            self._run({"nftables": [{"delete": {"table": {"family": FAMILY, "name": TABLE}}}]})
        self._read_at = float("-inf")


def _base() -> list[dict[str, Any]]:
    """Return the commands that make table, counter and chain (no change when they are there)."""
    place = {"family": FAMILY, "table": TABLE}
    chain = {"name": CHAIN, "type": "filter", "hook": "input", "prio": -10, "policy": "accept"}
    return [
        {"add": {"table": {"family": FAMILY, "name": TABLE}}},
        {"add": {"counter": {**place, "name": COUNTER}}},
        {"add": {"chain": {**place, **chain}}},
    ]


def _delete(handle: int) -> dict[str, Any]:
    return {"delete": {"rule": {"family": FAMILY, "table": TABLE, "chain": CHAIN, "handle": handle}}}


def _match(left: Any, operator: str, right: Any) -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def _rule(device: str, peer: TunnelPeer) -> dict[str, Any]:
    """Return the rule of a device. It sees its own family only; the other has no socket that knows the identifier."""
    protocol = "ip" if ip_address(peer.remote).version == 4 else "ip6"
    sender = {"payload": {"protocol": protocol, "field": "saddr"}}
    expressions = [
        _match({"payload": {"protocol": "udp", "field": "dport"}}, "==", peer.port),
        _match({"payload": {"base": "th", "offset": _VNI_OFFSET, "len": 24}}, "==", peer.vni),
        _match(sender, "!=", peer.remote),
        {"counter": COUNTER},
        {"drop": None},
    ]
    return {"family": FAMILY, "table": TABLE, "chain": CHAIN, "comment": device, "expr": expressions}


def _rules(listing: Mapping[str, Any]) -> dict[str, tuple[TunnelPeer, int]]:
    """Return peer and handle of each device's rule; a rule that is not as we write it is left out (and rewritten)."""
    found: dict[str, tuple[TunnelPeer, int]] = {}
    for item in listing.get("nftables", []):
        rule = item.get("rule")
        if not rule or rule["chain"] != CHAIN:
            continue
        values = [part["match"]["right"] for part in rule["expr"] if "match" in part]
        try:
            port, vni, remote = values
            found[rule["comment"]] = (TunnelPeer(int(vni), str(remote), int(port)), int(rule["handle"]))
        except (KeyError, TypeError, ValueError):
            continue
    return found
