"""Affinity: a client address keeps its workload while that may be chosen, over restarts of the controller."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import replace

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, ServiceKey
from skedge.core.observed import Receipt
from skedge.core.placement import rule
from skedge.core.reasons import Reason
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf import layout_service as layout
from skedge.dataplane.ebpf.engine import EbpfEngine
from skedge.dataplane.ebpf.layout_listener import AFFINITY, AFFINITY_KEY
from skedge.dataplane.ebpf.maps import Maps

from .kit import FAR4, HOST6, OVERLAY4, Site, candidate, connect

LISTENER, LISTENER6 = ("127.0.0.1", 8080), ("::1", 8080)
WEB = ServiceKey("web")
CLIENTS = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
HOUR = 3600


def workloads(site: Site, names: str = "abc", protocol: Protocol = Protocol.TCP) -> list[Candidate]:
    """Workloads of this site on both families, all of one cost: without affinity they take turns."""
    made = []
    for name in names:
        four = site.server("127.0.0.1", protocol)
        six = site.server("::1", protocol)
        made.append(candidate(name, 0, four.target, six.target, own_site=True))
    return made


def from_client(address: str, to: tuple[str, int] = LISTENER) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.settimeout(5)
    made.bind((address, 0))
    made.connect(to)
    return made


def receipts(site: Site) -> list[Receipt]:
    return sorted(site.engine.connections(), key=lambda one: one.placed_at)


def where(site: Site) -> list[str]:
    """Sites of the open connections' workloads, in the order of their placement."""
    return [one.workload.site for one in receipts(site)]


def test_a_client_keeps_its_workload_and_others_are_balanced(site: Site) -> None:
    site.service(workloads(site), LISTENER, affinity_s=HOUR)
    with contextlib.ExitStack() as held:
        for client in CLIENTS * 4:
            held.enter_context(from_client(client))
        assert where(site) == ["a", "b", "c"] * 4
        # unbound ones are the host itself, one client
        for _ in range(5):
            held.enter_context(connect(*LISTENER))
        assert len(set(where(site)[12:])) == 1
        assert site.engine.reconcile_counts() == 0
    assert site.open() == 0


def test_a_receipt_says_that_a_client_was_kept(site: Site) -> None:
    table = workloads(site, "ab")
    site.service(table, LISTENER, affinity_s=HOUR)
    with from_client(CLIENTS[0]), from_client(CLIENTS[0]), from_client(CLIENTS[0]):
        first, second, third = receipts(site)
        assert (first.workload.site, first.reason, first.perceived) == ("a", Reason.NONE, (0, 1))
        assert (second.workload.site, second.reason, second.perceived) == ("a", Reason.AFFINITY, (1, 1))
        assert (second.runner_up, second.runner_up_perceived) == (WorkloadId("b", "w"), (0, 1))
        assert (third.workload.site, third.perceived) == ("a", (2, 1))
        now = site.engine.services.read()[WEB]
        for receipt, opens in zip((first, second, third), ([0, 0], [1, 0], [2, 0]), strict=True):
            assert rule.replay(receipt, now) == ""
            assert rule.replay(receipt, now, opens) == ""
        assert rule.replay(replace(second, reason=Reason.NONE), now, [1, 0]) != ""


@pytest.mark.parametrize("change", ["drained", "unhealthy", "gone", "gone and back", "suspended"])
def test_a_client_goes_elsewhere_when_its_workload_may_not_be_chosen(site: Site, change: str) -> None:
    table = workloads(site, "ab")
    site.service(table, LISTENER, affinity_s=HOUR)
    from_client(CLIENTS[0]).close()
    assert site.count("a").chosen == 1
    if change == "drained":
        site.service([replace(table[0], out=Reason.DRAINED), table[1]])
    elif change == "unhealthy":
        site.service([replace(table[0], out=Reason.UNHEALTHY), table[1]])
    elif change == "suspended":
        _suspend(site, "a")
    else:
        site.service(table[1:])
    if change == "gone and back":  # its slot was given back: it is another one now, by its generation
        site.engine.reconcile_counts()
        site.service(table)
        from_client(CLIENTS[1]).close()  # takes a, the one never chosen first by name
        assert site.count("a").chosen == 1
    with from_client(CLIENTS[0]):
        assert where(site) == ["b"]
        assert receipts(site)[0].reason is Reason.NONE
    site.service(table)
    site.engine.resume(table[0].workload)
    with from_client(CLIENTS[0]):  # and stays there
        assert where(site) == ["b"]


def _suspend(site: Site, name: str) -> None:
    """Suspend a workload as the programs do: by the flag in its slot."""
    maps = Maps(str(site.host.pins))
    ident = maps.service_ids()[WEB]
    slot = next(index for index, one in maps.workloads()[ident].items() if one.site == name)
    key = ident.to_bytes(4, "little")
    raw = bytearray(
        syscall.map_lookup(maps.fd("services_v1"), key, layout.Service.SIZE, flags=syscall.MapFlag.LOCK) or b""
    )
    at = layout.Service.HEADER.size + slot * layout.Service.SLOT.size + 44
    raw[at : at + 4] = (1).to_bytes(4, "little")
    raw[16:24] = (int.from_bytes(raw[16:24], "little") + 1).to_bytes(
        8, "little"
    )  # the epoch, as every change raises it
    syscall.map_update(maps.fd("services_v1"), key, bytes(raw), syscall.MapFlag.LOCK)
    maps.close()
    assert site.suspended() == {name}


def test_affinity_ends_after_its_time_and_every_placement_renews_it(site: Site) -> None:
    site.service(workloads(site, "ab"), LISTENER, affinity_s=1)
    from_client(CLIENTS[0]).close()
    for _ in range(3):
        time.sleep(0.6)
        with from_client(CLIENTS[0]):
            assert where(site) == ["a"]
    time.sleep(1.1)
    with from_client(CLIENTS[0]):
        assert where(site) == ["b"]


def test_it_lasts_over_a_restart_of_the_controller(site: Site) -> None:
    table = workloads(site, "ab")
    site.service(table, LISTENER, affinity_s=HOUR)
    from_client(CLIENTS[0]).close()
    from_client(CLIENTS[1]).close()
    site.engine.close()
    site.engine = EbpfEngine(str(site.host.pins))
    assert site.engine.listeners.read() == {ListenerKey(*LISTENER): ListenerTarget(WEB, affinity_s=HOUR)}
    site.service(table, LISTENER, affinity_s=HOUR)  # as a new controller writes it once more
    with from_client(CLIENTS[1]), from_client(CLIENTS[1]), from_client(CLIENTS[0]):
        assert where(site) == ["b", "b", "a"]


def test_without_affinity_nobody_is_kept(site: Site) -> None:
    site.service(workloads(site, "ab"), LISTENER, affinity_s=HOUR)
    from_client(CLIENTS[0]).close()
    site.service(workloads(site, "ab"), LISTENER)
    for expected in ("b", "a", "b"):
        with from_client(CLIENTS[0]):
            assert where(site) == [expected]


def test_ipv6_and_both_families_of_one_host(site: Site) -> None:
    site.service(workloads(site, "abc"), LISTENER, LISTENER6, affinity_s=HOUR)
    with contextlib.ExitStack() as held:
        for client in ("::1", HOST6, "::1", HOST6):
            held.enter_context(from_client(client, LISTENER6))
        assert where(site) == ["a", "b", "a", "b"]
        held.enter_context(connect("::1", 8080))  # unbound: the third client, over either family
        for address in ("127.0.0.1", "::1"):
            held.enter_context(connect(address, 8080))
        mapped = held.enter_context(connect("::ffff:127.0.0.1", 8080, socket.AF_INET6))
        assert mapped.getpeername()[:2] == ("::ffff:127.0.0.1", 8080)
        assert where(site)[4:] == ["c"] * 4


def test_a_client_is_one_whether_it_speaks_ipv4_or_mapped(site: Site) -> None:
    site.service(workloads(site, "ab"), LISTENER, affinity_s=HOUR)
    with from_client(CLIENTS[0]), socket.socket(socket.AF_INET6) as mapped:
        mapped.bind((f"::ffff:{CLIENTS[0]}", 0))
        mapped.connect(("::ffff:127.0.0.1", 8080))
        assert where(site) == ["a", "a"]


def test_a_client_whose_family_the_workload_lacks_is_placed_by_the_rule(site: Site) -> None:
    far = site.server(FAR4[0])
    near = site.server("::1")
    site.service([candidate("a", 0, far.target), candidate("b", 5, near.target)], LISTENER, LISTENER6, affinity_s=HOUR)
    with connect(*LISTENER), socket.socket(socket.AF_INET6) as six:
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.connect(LISTENER6)
        assert where(site) == ["a", "b"]


def test_an_overlay_address_is_a_client_of_its_own(site: Site) -> None:
    servers = [site.server(address) for address in FAR4]
    table = [candidate(name, 0, one.target) for name, one in zip("abc", servers, strict=True)]
    site.service(table, LISTENER, affinity_s=HOUR)
    with connect(*LISTENER), from_client(OVERLAY4), connect(*LISTENER), from_client(OVERLAY4):
        assert where(site) == ["a", "b", "a", "b"]


@pytest.mark.parametrize("connected", [True, False])
def test_udp(site: Site, connected: bool) -> None:
    site.service(workloads(site, "ab", Protocol.UDP), LISTENER, protocol=Protocol.UDP, affinity_s=HOUR)
    with contextlib.ExitStack() as held:
        for client in (CLIENTS[0], CLIENTS[1]) * 3:
            made = held.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            made.settimeout(5)
            made.bind((client, 0))
            if connected:
                made.connect(LISTENER)
                made.send(b"x")
            else:
                made.sendto(b"x", LISTENER)
            assert made.recvfrom(9) == (b"x", LISTENER)
        assert where(site) == ["a", "b"] * 3
    assert site.open() == 0


def test_a_client_of_a_weighted_listener_stays_in_its_service(site: Site) -> None:
    old, new = workloads(site, "ab"), workloads(site, "n")
    site.service(old, name="old")
    site.service(new, name="new")
    schedule = (ServiceKey("old"), ServiceKey("new"))
    site.engine.listeners.put(ListenerKey(*LISTENER), ListenerTarget(schedule[0], schedule, HOUR))
    with contextlib.ExitStack() as held:
        for client in CLIENTS[:2] * 3:
            held.enter_context(from_client(client))
        assert where(site) == ["a", "n"] * 3
        site.engine.listeners.put(ListenerKey(*LISTENER), ListenerTarget(schedule[0], schedule[:1], HOUR))
        held.enter_context(from_client(CLIENTS[1]))  # "new" takes no part any more
        assert where(site)[6:] == ["b"]


def test_a_full_memory_takes_new_clients(site: Site) -> None:
    site.service(workloads(site, "ab"), LISTENER, affinity_s=HOUR)
    maps = Maps(str(site.host.pins))
    memory = maps.fd("affinities_v1")
    entries = syscall.map_info(memory).max_entries
    for number in range(entries + entries // 4):
        syscall.map_update(memory, AFFINITY_KEY.pack(1023, number.to_bytes(16)), AFFINITY.pack(0, 0))
    held = sum(1 for _ in syscall.map_items(memory, AFFINITY_KEY.size, AFFINITY.size))
    assert entries // 2 < held <= entries
    maps.close()
    for expected in ("a", "a"):
        with from_client(CLIENTS[0]):
            assert where(site) == [expected]
    assert Reason.TABLE_FULL not in site.engine.drops()
