"""The engine over the maps: tables in and out, restarts, slots, others' load, reconciliation."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

import pytest

from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, ServiceKey, ServiceTable, Target
from skedge.core.reasons import Reason
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf import layout_service as layout
from skedge.dataplane.ebpf.engine import EbpfEngine
from skedge.dataplane.ebpf.maps import Maps
from tests.unit.dataplane.contract import Case, check

from .kit import FAR4, FAR6, Site, candidate, connect, eventually

LISTENER = ("127.0.0.1", 8080)
WEB, DNS = ServiceKey("web"), ServiceKey("dns", Protocol.UDP)
HERE = Target("127.0.0.1", 9090)
TABLES = {
    WEB: (
        ServiceTable(
            (
                candidate("a", 0, HERE, own_site=True, capacity=65535),
                candidate("b", 10, Target("100.64.0.2", 61000), Target("fd77::2", 61000), others=7),
                candidate("c", 0, out=Reason.UNREACHABLE),
            )
        ),
        ServiceTable((candidate("b", 65535, Target("100.64.0.2", 61000), out=Reason.DRAINED),)),
    ),
    DNS: (ServiceTable(()), ServiceTable((candidate("d", 3, Target("fd77::3", 61053)),))),
}


@check
def test_services_driver(site: Site, check) -> None:
    long, capacity = ServiceKey("n" * 64), candidate("x", 1, HERE, capacity=65536)
    refused = {
        long: ServiceTable(()),
        ServiceKey("big"): ServiceTable(tuple(candidate(f"w{i:03}", 1, HERE) for i in range(257))),
        ServiceKey("capacity"): ServiceTable((capacity,)),
        ServiceKey("cost"): ServiceTable((candidate("x", 1 << 24, HERE),)),
    }
    check(Case(site.engine.services, TABLES, refused))


@check
def test_listeners_driver(site: Site, check) -> None:
    site.service([], name="one")
    site.service([], name="two")
    one, two, unknown = ServiceKey("one"), ServiceKey("two"), ServiceKey("unknown")
    changes = {
        "127.0.0.1": (ListenerTarget(one), ListenerTarget(two)),
        "::1": (ListenerTarget(one, affinity_s=1), ListenerTarget(one, affinity_s=604_800)),
        "10.77.0.1": (ListenerTarget(one, (one, two, two)), ListenerTarget(one, (two,) * 128, 10_800)),
    }
    samples = {ListenerKey(address, 80): change for address, change in changes.items()}
    refused = {
        ListenerKey("127.0.0.1", 81): ListenerTarget(unknown),
        ListenerKey("127.0.0.1", 82): ListenerTarget(one, (one, unknown)),
        ListenerKey("127.0.0.1", 83): ListenerTarget(one, (one,) * 129),
        ListenerKey("nonsense", 84): ListenerTarget(one),
    }
    check(Case(site.engine.listeners, samples, refused))


def test_a_restarted_controller_goes_on_where_the_last_one_stopped(site: Site) -> None:
    a, b = site.server(), site.server(FAR4[0])
    table = [candidate("b", 1, b.target), candidate("a", 0, a.target)]
    site.service(table, LISTENER)
    held = [connect(*LISTENER) for _ in range(5)]
    counts = site.engine.counts()
    again = EbpfEngine(str(site.host.pins))
    try:
        assert again.services.read() == site.engine.services.read()
        assert again.listeners.read() == site.engine.listeners.read()
        assert again.counts() == counts
        again.services.put(WEB, ServiceTable(tuple(sorted([*table, candidate("c", 0, a.target)], key=by_name))))
        assert again.counts()[WEB, WorkloadId("a", "w")] == counts[WEB, WorkloadId("a", "w")]
        assert len(list(again.connections())) == 5
    finally:
        for one in held:
            one.close()
        again.services.delete(WEB)  # the first engine knows nothing of what this one added
        again.close()


def by_name(one: Candidate) -> WorkloadId:
    return one.workload


def test_a_changed_table_loses_no_count_and_cuts_no_connection(site: Site) -> None:
    a, b = site.server(), site.server(FAR4[0])
    site.service([candidate("a", 0, a.target), candidate("b", 10, b.target)], LISTENER)
    held = [connect(*LISTENER) for _ in range(20)]
    assert (site.open("a"), site.open("b")) == (15, 5)
    site.service([candidate("a", 100, a.target), candidate("b", 10, b.target)])
    assert (site.open("a"), site.open("b")) == (15, 5)
    held += [connect(*LISTENER) for _ in range(10)]
    assert (site.open("a"), site.open("b")) == (15, 15)
    for one in held:
        one.sendall(b"alive")
        one.close()
    assert site.open() == 0


def test_a_workload_that_is_gone_is_counted_until_its_last_connection_ends(site: Site) -> None:
    a, b = site.server(), site.server(FAR4[0])
    site.service([candidate("a", 0, a.target), candidate("b", 0, b.target)], LISTENER)
    held = [connect(*LISTENER) for _ in range(4)]
    site.service([candidate("b", 0, b.target)])
    assert [one.workload.site for one in site.engine.services.read()[WEB].candidates] == ["b"]
    assert (site.open("a"), site.open("b")) == (2, 2)
    site.service([candidate("a", 0, a.target), candidate("b", 0, b.target)])  # it comes back, with its count
    assert (site.open("a"), site.open("b")) == (2, 2)
    site.service([candidate("b", 0, b.target)])
    for one in held:
        one.close()
    site.service([candidate("c", 0, a.target), candidate("b", 0, b.target)])  # takes the free slot, from 0
    assert site.count("c").chosen == 0
    maps = Maps(str(site.host.pins))
    assert sorted(maps.workloads()[maps.service_ids()[WEB]]) == [0, 1]
    maps.close()


def test_a_deleted_service_is_counted_until_its_last_connection_ends(site: Site) -> None:
    site.service([candidate("a", 0, site.server().target)], LISTENER)
    with connect(*LISTENER):
        site.engine.listeners.delete(ListenerKey(*LISTENER))
        site.engine.services.delete(WEB)
        assert site.engine.services.read() == {}
        assert site.open("a") == 1
        assert len(list(site.engine.connections())) == 1
    assert site.open("a") == 0
    site.engine.reconcile_counts()
    assert site.engine.counts() == {}


def test_all_services_and_listeners_fit(site: Site) -> None:
    for number in range(layout.MAX_SERVICES):
        site.engine.services.put(ServiceKey(f"s{number}"), ServiceTable(()))
    with pytest.raises(DataplaneError, match="1024 services already"):
        site.engine.services.put(ServiceKey("one-too-many"), ServiceTable(()))
    assert len(site.engine.services.read()) == layout.MAX_SERVICES
    started = time.monotonic()
    site.engine.counts()
    site.engine.suspended()
    assert time.monotonic() - started < 2.0


def test_256_workloads_are_all_used(site: Site) -> None:
    server = site.server(FAR4[0])

    def fits() -> bool:
        with contextlib.suppress(DataplaneError):
            site.service([candidate(f"w{i:03}", 0, server.target) for i in range(256)], LISTENER)
            return True
        return False

    eventually(fits, "the connections of the test before, which hold slots, are over")
    held = [connect(*LISTENER) for _ in range(512)]
    assert {count.open for count in site.engine.counts().values()} == {2}
    for one in held:
        one.close()
    assert site.open() == 0


def test_others_load_moves_the_choice_at_once(site: Site) -> None:
    a, b = site.server(), site.server(FAR4[0])
    key = site.service([candidate("a", 0, a.target), candidate("b", 10, b.target)], LISTENER)
    version = version_of(site)
    site.engine.set_others({(key, WorkloadId("a", "w")): 100, (key, WorkloadId("nobody", "w")): 5})
    with connect(*LISTENER):
        assert (site.open("a"), site.open("b")) == (0, 1)
        (receipt,) = site.engine.connections()
        assert (receipt.perceived, receipt.runner_up_perceived) == ((10, 1), (100, 1))
    site.engine.set_others({(key, WorkloadId("a", "w")): 0})
    with connect(*LISTENER):
        assert site.open("a") == 1
    assert version_of(site) == version  # the table is the same one


def version_of(site: Site) -> int:
    maps = Maps(str(site.host.pins))
    try:
        return maps.service(maps.service_ids()[WEB]).version
    finally:
        maps.close()


def test_receipt(site: Site) -> None:
    a, b = site.server("127.0.0.1"), site.server(FAR6[0])
    key = site.service([candidate("a", 5, a.target, capacity=2), candidate("b", 6, b.target)], ("::1", 8080))
    before = time.monotonic()
    with connect("::1", 8080) as client:
        (receipt,) = site.engine.connections()
        assert receipt.client == f"127.0.0.1:{client.getsockname()[1]}"
        assert (receipt.listener, receipt.service) == (ListenerKey("::1", 8080), key)
        assert (receipt.workload.site, receipt.path_cost, receipt.perceived) == ("a", 5, (10, 2))
        assert (receipt.runner_up, receipt.runner_up_perceived) == (WorkloadId("b", "w"), (6, 1))
        assert receipt.table_version == version_of(site)
        assert before <= receipt.placed_at <= time.monotonic()
        assert receipt.cookie == struct.unpack("=Q", client.getsockopt(socket.SOL_SOCKET, 57, 8))[0]


def test_a_wrong_count_is_found_and_repaired(site: Site) -> None:
    site.service([candidate("a", 0, site.server().target)], LISTENER)
    with connect(*LISTENER), connect(*LISTENER):
        assert site.engine.reconcile_counts() == 0
        maps = Maps(str(site.host.pins))
        ident = maps.service_ids()[WEB]
        raw = bytearray(
            syscall.map_lookup(maps.fd("services_v1"), struct.pack("=I", ident), layout.Service.SIZE) or b""
        )
        at = layout.Service.HEADER.size + 16
        assert raw[at] == 2
        raw[at] = 9
        syscall.map_update(maps.fd("services_v1"), struct.pack("=I", ident), bytes(raw), syscall.MapFlag.LOCK)
        maps.close()
        other = EbpfEngine(str(site.host.pins))  # nothing parsed before
        assert other.reconcile_counts() == 7
        assert other.reconcile_counts() == 0
        other.close()
    assert EbpfEngine(str(site.host.pins)).counts()[WEB, WorkloadId("a", "w")].open == 0


def test_without_the_loader_it_says_what_to_do(tmp_path) -> None:
    with pytest.raises(DataplaneError, match="run `skedge-loader load`"):
        EbpfEngine(str(tmp_path))
