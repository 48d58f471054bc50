"""One table knows how links cross the underlay; little else knows a transport by name."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible_collections.skedge.edge.plugins.module_utils.transports import UDP_PORTS

from skedge.config import problems
from skedge.core import transports
from skedge.core.desired.compute import link_devices
from skedge.core.model import Link, LinkId
from skedge.core.objects import LinkDevice
from skedge.core.transports import TRANSPORTS, Transport
from skedge.dataplane.ebpf import packet_check
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.links.device import alias_of, mac_text
from skedge.dataplane.links.mtu import MTU_MIN, mtu_of
from skedge.dataplane.links.transports.strategies import strategies
from skedge.dataplane.links.transports.wireguard import WireGuardLinks
from skedge.dataplane.nftables.tunnel_guard import TunnelPeer
from tests.fakes.networks import configs

PACKAGE = Path(transports.__file__).parents[1]
KNOW_TRANSPORTS = {
    "core/transports.py",
    "core/model.py",  # the default
    "config/schema.py",  # the default
    "daemon/api/link_causes.py",  # what to do about a WireGuard handshake
    "dataplane/links/transports/strategies.py",
}
WORDS = {"vxlan", "direct"}  # "wireguard" is also the name of its own parts
SITE = configs([("A", "B", 10)], "B")["A"]


def transports_named(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Transport":
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and node.value in WORDS:
            yield repr(node.value)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_transport_is_known_by_name(path: Path) -> None:
    if str(path.relative_to(PACKAGE)) not in KNOW_TRANSPORTS:
        assert list(transports_named(path.read_text())) == []


@pytest.mark.parametrize("line", ["link.transport is Transport.VXLAN", 'kind(link) == "vxlan"'])
def test_a_name_would_be_found(line: str) -> None:
    assert list(transports_named(line))


def test_every_transport_has_its_row_its_strategy_and_kinds_of_its_own() -> None:
    assert set(TRANSPORTS) == set(Transport)
    assert set(strategies(cast("WireGuardLinks", None))) == set(Transport)
    kinds = [kind for facts in TRANSPORTS.values() for kind in facts.kinds]
    assert len(set(kinds)) == len(kinds) >= len(Transport)


def test_the_table_of_the_hosts_says_the_same() -> None:
    assert {one.value: one.facts.port for one in Transport if one.facts.port} == UDP_PORTS


@pytest.mark.parametrize("transport", Transport)
def test_a_tunnel_has_either_a_remote_or_finds_it_and_lies_on_no_device(transport: Transport) -> None:
    facts = transport.facts
    assert [facts.remote or facts.roaming, not facts.device] == [facts.tunnel] * 2
    assert not facts.guarded or facts.remote, "the guard knows senders by their address"


# ---- each fact alone decides what it says ----------------------------------------------------------------------


@pytest.fixture
def let(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let other facts be so of a transport."""

    def change(transport: Transport, **facts: Any) -> None:
        monkeypatch.setattr(transports, "TRANSPORTS", {**TRANSPORTS, transport: replace(transport.facts, **facts)})

    return change


def device(transport: Transport = Transport.VXLAN, **changes: Any) -> LinkDevice:
    return replace(LinkDevice(LinkId("A", "B"), transport, "fe80::1", "fe80::2", remote="192.0.2.2"), **changes)


LINK = Link(
    "B", transport=Transport.VXLAN, local="192.0.2.1", remote="192.0.2.2", remote_port=7, keepalive_s=9, keys=("k",)
)


@pytest.mark.parametrize(
    ("facts", "field", "values"),
    [
        ({"vni": False}, "vni", (True, False)),
        ({"local": False}, "local", (True, False)),
        ({"overhead": {}}, "remote", (True, False)),
        ({"port": 0}, "port", (True, False)),
        ({"roaming": True}, "remote_port", (False, True)),
        ({"roaming": True}, "keepalive_s", (False, True)),
        ({"encrypted": True}, "keys", (False, True)),
    ],
)
def test_what_a_device_gets_of_its_link(let, facts: dict[str, Any], field: str, values: tuple[bool, bool]) -> None:
    config = replace(SITE, links=(LINK,))

    def given() -> bool:
        (made,) = link_devices(config).values()
        return bool(getattr(made, field))

    before = given()
    let(Transport.VXLAN, **facts)
    assert (before, given()) == values


def test_a_device_without_ethernet_has_no_mac_address(let) -> None:
    assert mac_text(device(), "fe80::1")
    ethernet = packet_check._entry(device(), 1, (1, 2))
    let(Transport.VXLAN, layer3=True)
    assert mac_text(device(), "fe80::1") == ""
    assert packet_check._entry(device(), 1, (1, 2)) != ethernet


def test_only_what_the_kernel_takes_from_anyone_is_guarded(let) -> None:
    assert TunnelPeer.of(device()) == TunnelPeer(0, "192.0.2.2", 0)
    let(Transport.VXLAN, guarded=False)
    assert TunnelPeer.of(device()) is None


def test_the_remote_of_one_that_roams_stands_in_the_alias(let) -> None:
    assert " at " not in alias_of(device())
    let(Transport.VXLAN, roaming=True)
    assert alias_of(device()).endswith(" at 192.0.2.2 0")


class Underlay(Netlink):
    """Every address is behind interface 1, whose MTU is 1300."""

    def __init__(self) -> None:
        attributes: dict[str, Any] = {"RTA_OIF": 1, "IFLA_MTU": 1300}
        message = SimpleNamespace(get_attr=attributes.get)
        self.route = SimpleNamespace(route=lambda *_args, **_kwargs: [message])

    @property
    def ipr(self) -> Any:
        return self.route

    def dump(self, what: str, **match: Any) -> Any:
        return [type("Message", (dict,), {"get_attr": lambda _self, _name: 1300})(index=1)]

    def index(self, name: str) -> int | None:
        return 1


def test_the_mtu_is_what_the_overhead_leaves(let) -> None:
    underlay = Underlay()
    assert mtu_of(underlay, device()) == 1300 - 50
    assert mtu_of(underlay, device(remote="2001:db8::2")) == 1300 - 70
    let(Transport.VXLAN, fragments=True)
    assert mtu_of(underlay, device()) == MTU_MIN
    let(Transport.VXLAN, overhead={4: 7})
    assert mtu_of(underlay, device()) == 1293
    let(Transport.VXLAN, overhead={})
    assert mtu_of(underlay, device(underlay="eth0")) == 1300


def config(*links: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"version": 1, "network": "n", "site": "a", "links": list(links), **keys}


VXLAN = {"to": "b", "transport": "vxlan", "remote": "192.0.2.2"}


@pytest.mark.parametrize(
    ("facts", "draft", "before", "after"),
    [
        ({"remote": False}, config({"to": "b", "transport": "vxlan"}), "a vxlan link needs the neighbour's", ""),
        ({"device": True}, config(VXLAN), "", "a vxlan link needs the name of the network device"),
        ({"roaming": True}, config({**VXLAN, "remote": "b.example"}), "remote: 'b.example' is not an IP address", ""),
        ({"port": 0}, config(VXLAN, load_port=4790), "is already load_port", ""),
        ({"port": 0}, config(VXLAN, endpoint_ports=[4700, 4800]), "contains 4790, which is links[0].port", ""),
        ({"own_port": True}, config(VXLAN, {**VXLAN, "to": "c"}), "", "give each vxlan link its own"),
        ({"encrypted": True}, config({**VXLAN, "keys": ["A" * 43 + "="]}), "only a wireguard link has this", ""),
    ],
)
def test_what_a_link_needs(let, facts: dict[str, Any], draft: dict[str, Any], before: str, after: str) -> None:
    first = problems(draft, "f")
    let(Transport.VXLAN, **facts)
    for wanted, found in ((before, first), (after, problems(draft, "f"))):
        assert (any(wanted in one for one in found) and len(found) == 1) if wanted else found == []
