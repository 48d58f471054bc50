"""WireGuard keys: made on a host, remembered on the control node, given to the neighbours."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.skedge.edge.plugins.filter.skedge import skedge_wireguard_devices, skedge_with_keys
from ansible_collections.skedge.edge.plugins.module_utils import checks, hostkeys, sockets
from ansible_collections.skedge.edge.plugins.plugin_utils.wireguard import read_keys, write_keys

from skedge.core.model import LinkId
from skedge.core.names import device_name

KEY, NEXT = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
SITE: dict[str, Any] = {
    "network": "demo",
    "site": "edge-a",
    "links": [
        {"to": "edge-b", "name": "main", "transport": "wireguard", "port": 4801},
        {"to": "edge-b", "name": "lan", "transport": "direct"},
        {"to": "edge-c", "name": "main", "transport": "wireguard", "port": 4802},
    ],
}


def make(*paths: tuple[Path, bool]) -> subprocess.CompletedProcess[str]:
    """Run the part that makes keys, as the module does."""
    request = json.dumps([["public", str(path), make] for path, make in paths])
    command = [sys.executable, "-I", "-c", hostkeys.HELPER]
    return subprocess.run(command, input=request, capture_output=True, text=True, check=False)


def test_a_key_is_made_once_and_only_its_public_half_is_told(tmp_path: Path):
    path = tmp_path / "wireguard.key"
    first = make((path, True))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().strip() not in first.stdout + first.stderr
    assert make((path, False)).stdout == first.stdout
    (public,) = json.loads(first.stdout)
    assert len(base64.b64decode(public)) == 32
    two = json.loads(make((path, False), (tmp_path / "next", True)).stdout)
    assert two[0] == public != two[1]


def test_what_is_no_key_is_not_quoted(tmp_path: Path):
    path = tmp_path / "wireguard.key"
    path.write_text("c2VjcmV0\n")
    refused = make((path, False))
    assert refused.returncode != 0
    assert refused.stderr.strip() == "wireguard.key: it is no WireGuard key"


def test_keys_are_remembered_and_forgotten(tmp_path: Path):
    ca = str(tmp_path / "ca")
    assert read_keys(ca, "edge-b") == []
    write_keys(ca, "edge-b", [KEY, NEXT])
    assert read_keys(ca, "edge-b") == [KEY, NEXT]
    with pytest.raises(ValueError, match="edge-b: what the host gave is no WireGuard key"):
        write_keys(ca, "edge-b", ["secret"])
    assert read_keys(ca, "edge-b") == [KEY, NEXT]
    write_keys(ca, "edge-b", [])
    write_keys(ca, "edge-b", [])
    assert read_keys(ca, "edge-b") == []


def test_each_wireguard_link_gets_its_far_ends_keys(tmp_path: Path):
    write_keys(str(tmp_path), "edge-b", [KEY, NEXT])
    links = skedge_with_keys(SITE, str(tmp_path))["links"]
    assert [link.get("keys") for link in links] == [[KEY, NEXT], None, []]
    assert "keys" not in SITE["links"][0]


def test_devices_of_wireguard_links_are_named():
    wanted = [device_name("demo", LinkId.between("edge-a", far, "main"), "edge-a") for far in ("edge-b", "edge-c")]
    assert skedge_wireguard_devices(SITE) == wanted


@pytest.mark.parametrize(("kernel", "tun", "ready"), [(True, False, True), (False, True, True), (False, False, False)])
def test_a_host_needs_wireguard_or_tun(kernel: bool, tun: bool, ready: bool):
    found = checks.wireguard(SITE, {"wireguard": kernel, "tun": tun, "kernel": "6.1.0"})
    assert bool(found) is not ready
    if found:
        assert "has neither WireGuard nor TUN (/dev/net/tun); load one of the modules" in found[0]
    assert checks.wireguard({**SITE, "links": []}, {"wireguard": False, "tun": False, "kernel": "6.1.0"}) == []


def test_a_program_on_a_wireguard_port_is_named_and_our_own_is_not():
    bound = [sockets.Bound("udp", "0.0.0.0", 4801, 5)]
    site = {**SITE, "metrics": {"port": 0}}
    (problem,) = checks.ports(site, bound, {5: ("openvpn", 77)})
    assert problem.startswith("port 4801/udp of the tunnels of links is held by openvpn (pid 77)")
    assert checks.ports(site, bound, {5: ("wireguard-go", 77)}) == []
