"""Frames with VLAN tags: from the wire, as the kernel takes the tag off before the programs see them."""

from __future__ import annotations

import struct

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Endpoint, EndpointKey
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.lan.devices import LanDevice
from skedge.dataplane.ebpf.packet_check import link_mac
from tests.integration.links.packets import ACK, SYN, frame, ip, tcp, udp

from ..kit import (
    CLIENT,
    CLIENT_MAC,
    FAR,
    FAR_PORT,
    HOST,
    LISTEN,
    MACHINE,
    REDIRECT,
    Bench,
    counted,
    far_overlay,
    remote,
    segment,
    serve,
)
from ..wire import Wire
from .test_devices import makes
from .test_stack_checks import rp_filter

BOTH = pytest.mark.parametrize("v", [4, 6])
KINDS = pytest.mark.parametrize("kind", [Protocol.TCP, Protocol.UDP], ids=["tcp", "udp"])


def tagged(packet: bytes, to: bytes, *tags: int, outer: int = 0x8100, source: bytes = CLIENT_MAC) -> bytes:
    """A frame with these VLAN numbers, the outermost first."""
    plain = frame(to, source, packet)
    kinds = (outer, *[0x8100] * (len(tags) - 1))
    return plain[:12] + b"".join(struct.pack(">HH", *one) for one in zip(kinds, tags, strict=True)) + plain[12:]


@BOTH
@pytest.mark.parametrize(
    ("tags", "outer"),
    [((100,), 0x8100), ((1,), 0x8100), ((100,), 0x88A8), ((7, 100), 0x88A8), ((0, 100), 0x8100), ((100, 0), 0x8100)],
    ids=str,
)
def test_frames_of_a_vlan_are_its_own_devices(bench: Bench, wire: Wire, v: int, tags: tuple, outer: int) -> None:
    serve(bench, v, Protocol.TCP)
    wire.send(tagged(ip(CLIENT[v], HOST[v], tcp(40000, LISTEN)), bench.lan_mac, *tags, outer=outer))
    wire.send(frame(bench.lan_mac, CLIENT_MAC, ip(CLIENT[v], HOST[v], tcp(40001, LISTEN))))
    assert wire.flows() == 1, "the one without a tag, which came later"
    (record,) = bench.site.flows.records()
    assert record.key.source_port == 40001


@BOTH
@KINDS
def test_the_tag_0_is_none(bench: Bench, wire: Wire, v: int, kind: Protocol) -> None:
    """A priority alone: served, and nothing of it goes on or comes back."""
    serve(bench, v, kind)
    wire.send(tagged(ip(CLIENT[v], HOST[v], segment(kind)), bench.lan_mac, 5 << 13))
    assert wire.flows() == 1
    (record,) = bench.site.flows.records()
    port = record.forward.source_port
    answer = tcp(FAR_PORT, port, SYN | ACK) if kind is Protocol.TCP else udp(FAR_PORT, port)
    bench_answer = bench.link(ip(far_overlay()[v], bench.site.overlay(v), answer))
    assert bench_answer[0] == REDIRECT


def test_a_flow_within_the_lan_goes_on_without_the_tag_0(bench: Bench, wire: Wire) -> None:
    far = [remote("here", 0, (MACHINE[4], 9000), own_site=True, off_host=True)]
    bench.site.service(far, (HOST[4], LISTEN))
    wire.send(tagged(ip(CLIENT[4], HOST[4], tcp(40000, LISTEN)), bench.lan_mac, 5 << 13))
    assert wire.flows() == 1
    (record,) = bench.site.flows.records()
    out = ip(HOST[4], MACHINE[4], tcp(record.forward.source_port, 9000), hops=63)
    assert not wire.received(out)


@BOTH
@pytest.mark.parametrize("tags", [(), (100,), (0,), (0, 100)], ids=str)
def test_a_direct_link_is_the_device_without_a_tag(bench: Bench, v: int, tags: tuple) -> None:
    """Its device gets the frames of every VLAN that has no device of its own."""
    site, key = bench.site, EndpointKey(61200)
    name, link = site.device(FAR, "second"), site.direct(FAR, "under0", "second")
    site.ns(site.links.put, name, link)
    site.endpoints.put(key, Endpoint(WorkloadId("edge", "m"), MACHINE[v], 9000, off_host=True))
    wire, lan = Wire(bench, "under1"), Wire(bench)
    try:
        packet = ip(far_overlay()[v], site.overlay(v), tcp(41000, 61200))
        to, peer = link_mac(link, link.link_local), link_mac(link, link.peer_link_local)
        before = counted(bench, Reason.NOT_OVERLAY)
        wire.send(tagged(packet, to, *tags, source=peer) if tags else frame(to, peer, packet))
        if 100 in tags:
            assert wire.flows(within=0.2) == 0
            assert counted(bench, Reason.NOT_OVERLAY) == before + 1
            return
        assert wire.flows() == 1
        (record,) = site.flows.records()
        assert not lan.received(ip(HOST[v], MACHINE[v], tcp(record.forward.source_port, 9000), hops=63))
    finally:
        wire.socket.close()
        lan.socket.close()
        site.endpoints.delete(key)
        site.ns(site.links.delete, name)


@BOTH
def test_the_vlans_own_device_serves(bench: Bench, wire: Wire, v: int) -> None:
    """Its listeners are reached by frames with its tag, and by none without; answers have the tag."""
    ns, own, client = bench.site.ns, {4: "10.56.0.1", 6: "fd56::1"}[v], {4: "10.56.0.9", 6: "fd56::9"}[v]
    if not makes("under.7", "link", "under", "type", "vlan", "id", "7"):
        pytest.skip("this kernel has no 802.1Q devices")
    ns.ip("link", "add", "lan0.100", "link", "lan0", "type", "vlan", "id", "100")
    ns.ip("link", "set", "lan0.100", "up")
    ns.ip("addr", "add", f"{own}/{ {4: 24, 6: 64}[v] }", "dev", "lan0.100", *(["nodad"] if v == 6 else []))
    ns.ip("neigh", "add", client, "lladdr", CLIENT_MAC.hex(":"), "dev", "lan0.100", "nud", "permanent")
    ns(bench.site.lan.put, "lan0.100", LanDevice())
    try:
        with rp_filter(bench, 1, 1):
            serve(bench, v, Protocol.TCP, own)
            packet = ip(client, own, tcp(40000, LISTEN))
            wire.send(frame(bench.lan_mac, CLIENT_MAC, packet))
            assert v == 6 or wire.flows(within=0.3) == 0, "the way back has a tag"
            wire.send(tagged(packet, bench.lan_mac, 100))
            assert wire.flows() == 1
            (record,) = bench.site.flows.records()
            far, port = far_overlay()[v], record.forward.source_port
            answer = ip(far, bench.site.overlay(v), tcp(FAR_PORT, port, SYN | ACK))
            assert bench.link(answer)[0] == REDIRECT
    finally:
        ns.ip("link", "del", "lan0.100")


@pytest.mark.parametrize("tags", [(), (100,), (7,)], ids=str)
def test_a_direct_link_on_a_vlan(bench: Bench, tags: tuple) -> None:
    if not makes("under.7", "link", "under", "type", "vlan", "id", "7"):
        pytest.skip("this kernel has no 802.1Q devices")
    site, key = bench.site, EndpointKey(61200)
    site.ns.ip("link", "add", "under0.100", "link", "under0", "type", "vlan", "id", "100")
    site.ns.ip("link", "set", "under0.100", "up")
    name, link = site.device(FAR, "second"), site.direct(FAR, "under0.100", "second")
    site.ns(site.links.put, name, link)
    site.endpoints.put(key, Endpoint(WorkloadId("edge", "m"), MACHINE[4], 9000, off_host=True))
    wire = Wire(bench, "under1")
    try:
        packet = ip(far_overlay()[4], site.overlay4, tcp(41000, 61200))
        to, peer = link_mac(link, link.link_local), link_mac(link, link.peer_link_local)
        wire.send(tagged(packet, to, *tags, source=peer) if tags else frame(to, peer, packet))
        here = tags == (100,)
        assert wire.flows(within=2.0 if here else 0.3) == here
    finally:
        wire.socket.close()
        site.endpoints.delete(key)
        site.ns(site.links.delete, name)
        site.ns.ip("link", "del", "under0.100")


def test_a_bridge_that_filters_vlans(bench: Bench) -> None:
    """What comes up to it with a tag on belongs to a VLAN's device on it."""
    ns = bench.site.ns
    if not makes("br0", "type", "bridge", "vlan_filtering", "1"):
        pytest.skip("bridges of this kernel do not filter VLANs")
    ns.ip("link", "add", "br0", "type", "bridge", "vlan_filtering", "1")
    ns.ip("link", "add", "port0", "type", "veth", "peer", "name", "port1")
    ns.ip("link", "set", "port0", "master", "br0")
    for device in ("br0", "port0", "port1"):
        ns.ip("link", "set", device, "up")
    ns.ip("addr", "add", "10.57.0.1/24", "dev", "br0")
    ns.sh("bridge vlan add dev port0 vid 100; bridge vlan add dev br0 vid 100 self")
    ns(bench.site.lan.put, "br0", LanDevice())
    wire = Wire(bench, "port1")
    try:
        serve(bench, 4, Protocol.TCP, "10.57.0.1")
        to = bytes.fromhex(ns.sh("cat /sys/class/net/br0/address").strip().replace(":", ""))
        for tag, port, flows in ((100, 40000, 0), (0, 40001, 1), (None, 40002, 2)):
            packet = ip("10.57.0.9", "10.57.0.1", tcp(port, LISTEN))
            wire.send(frame(to, CLIENT_MAC, packet) if tag is None else tagged(packet, to, tag))
            assert wire.flows(within=2.0 if flows else 0.3, expected=flows or 1) == flows
    finally:
        wire.socket.close()
        ns.ip("link", "del", "br0")
        ns.ip("link", "del", "port0")
