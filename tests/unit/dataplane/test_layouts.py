"""Values as the packet programs read them: sizes, byte orders, names, codes."""

from __future__ import annotations

import pytest

from skedge.core.errors import DataplaneError
from skedge.core.model import LinkId, SiteConfig, WorkloadId
from skedge.core.names import overlay_prefix6
from skedge.core.objects import Endpoint, EndpointKey, LinkDevice
from skedge.core.transports import Transport
from skedge.dataplane.ebpf import endpoints
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig, address_bytes, link_mac


def test_configuration_value() -> None:
    config = SiteConfig("net", "a", "100.64.0.0/10", "100.64.0.1", "fd00::1")
    raw = PacketCheckConfig.of_site(config).pack()
    assert len(raw) == 5 * 16 + 8 + 4
    assert raw[:16] == bytes([100, 64, 0, 1]) + bytes(12)
    assert raw[32:36] == bytes([100, 64, 0, 0])
    assert raw[48:52] == bytes([255, 192, 0, 0])
    assert raw[64:80] == address_bytes(overlay_prefix6("net").split("/")[0])
    assert int.from_bytes(raw[80:82], "little") == 7401


def test_a_wrong_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="/48"):
        PacketCheckConfig("100.64.0.1", "fd00::1", "100.64.0.0/10", "fd00::/64", 1, 2, (3, 4)).pack()


def test_both_ends_of_a_link_compute_the_same_two_macs() -> None:
    a = LinkDevice(LinkId("a", "b"), Transport.VXLAN, link_local="fe80::a", peer_link_local="fe80::b")
    b = LinkDevice(LinkId("a", "b"), Transport.VXLAN, link_local="fe80::b", peer_link_local="fe80::a")
    assert link_mac(a, a.link_local) == link_mac(b, b.peer_link_local)
    assert link_mac(a, a.link_local) != link_mac(a, a.peer_link_local)
    other = LinkDevice(LinkId("a", "b", "second"), Transport.VXLAN, "fe80::a", "fe80::b")
    assert link_mac(a, a.link_local) != link_mac(other, other.link_local)
    assert link_mac(a, a.link_local)[0] & 3 == 2, "locally administered, one receiver"


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "::1", "fd00::5"])
def test_an_endpoint_survives_the_map(host: str) -> None:
    value = Endpoint(WorkloadId("site-ä", "c" * 63), host, 65535)
    raw = endpoints._pack(EndpointKey(61000), value)
    assert len(raw) == 16 + 2 + 1 + 5 + 128
    assert endpoints._unpack(raw) == value


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (Endpoint(WorkloadId("s" * 64, "c"), "127.0.0.1", 1), "site"),
        (Endpoint(WorkloadId("s", "ü" * 32), "127.0.0.1", 1), "connector"),
        (Endpoint(WorkloadId("s", "c"), "localhost", 1), "localhost"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(value: Endpoint, word: str) -> None:
    with pytest.raises(DataplaneError, match=word):
        endpoints._pack(EndpointKey(61000), value)
