"""The engine `ipvs` over a kernel in memory: the drivers' contract, weights, draining, restart, others' services."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from skedge.core.desired.reconcile import reconcile
from skedge.core.errors import DataplaneError
from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import (
    Candidate,
    Endpoint,
    EndpointKey,
    ListenerKey,
    ListenerTarget,
    ServiceKey,
    ServiceTable,
    Target,
)
from skedge.core.placement.rule import fill
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig
from skedge.dataplane.ipvs import chains
from skedge.dataplane.ipvs.engine import IpvsEngine
from skedge.dataplane.ipvs.marks import IpvsRules
from skedge.dataplane.ipvs.names_file import Virtual
from skedge.dataplane.ipvs.procfs import MARK, Found, RealServer, mark_of, marks_at, parse, parse_connections
from skedge.dataplane.ipvs.weight_loop import DRAIN_S, SWEEP_S
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.table import NftTable
from tests.fakes.fake_ipvs import FakeIpvs
from tests.fakes.fake_nft import FakeNft
from tests.unit.dataplane import contract
from tests.unit.dataplane.contract import Case

WEB, API = ServiceKey("web"), ServiceKey("api")
A, B, C = (WorkloadId(site, "web") for site in "abc")


def candidate(workload: WorkloadId, cost: int, capacity: int = 1, **values: object) -> Candidate:
    number = ord(workload.site) - 96
    targets = {"target4": Target(f"100.64.0.{number}", 61000), "target6": Target(f"fd00::{number}", 61000)}
    return Candidate(workload, cost, capacity=capacity, **(targets | values))  # type: ignore[arg-type]


KEEPING = ListenerKey("10.0.0.5", 81)
LINE = ServiceTable((candidate(A, 0), candidate(B, 10), candidate(C, 20)))


@dataclass
class House:
    """One host: what outlives the engine, and the engine of now."""

    path: Path
    table: FakeIpvs
    nft: FakeNft
    now: float = 100.0

    def rules(self) -> NftTable:
        return NftTable(self.nft, lambda: self.now)

    def engine(self) -> IpvsEngine:
        return IpvsEngine(self.path, table=self.table, rules=IpvsRules(self.rules()), clock=lambda: self.now, pace_s=0)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "ipvs.json", FakeIpvs(), FakeNft())


def mark(engine: IpvsEngine, key: ServiceKey = WEB, family: int = 4, at: ListenerKey | None = None) -> int:
    return mark_of(engine.memory.ident(Virtual(key, at)), family)


def connect(house: House, engine: IpvsEngine, n: int, family: int = 4) -> None:
    for _ in range(n):
        engine.look()
        assert house.table.connect(mark(engine, family=family)) is not None
    engine.look()


def open_of(engine: IpvsEngine, key: ServiceKey = WEB) -> dict[WorkloadId, int]:
    return {workload: counts.open for (of, workload), counts in engine.counts().items() if of == key}


# ---- the contract ----------------------------------------------------------------------------------------------


def services(engine: IpvsEngine) -> Case:
    other = ServiceTable((candidate(A, 5, 2, out=Reason.DRAINED), candidate(B, 7, others=3)))
    return Case(engine.services, {WEB: (LINE, other), ServiceKey("web", Protocol.UDP): (other, ServiceTable())})


def listeners(engine: IpvsEngine) -> Case:
    for key in (WEB, API):
        engine.services.put(key, LINE)
    one, two = ListenerTarget(WEB), ListenerTarget(WEB, (WEB, API, WEB))
    keys = [ListenerKey("10.0.0.5", 80), ListenerKey("fd01::5", 80), ListenerKey("10.0.0.5", 80, Protocol.UDP)]
    case = Case(engine.listeners, dict.fromkeys(keys, (one, two)) | {KEEPING: (ListenerTarget(WEB, affinity_s=9), one)})
    case.refused = {ListenerKey("127.0.0.1", 80): one, ListenerKey("::1", 80): one}
    return case


def endpoints(engine: IpvsEngine) -> Case:
    local, other = Endpoint(A, "127.0.0.1", 9090), Endpoint(A, "fd01::5", 9091)
    case = Case(
        engine.endpoints, {EndpointKey(61000): (local, other), EndpointKey(61001, Protocol.UDP): (other, local)}
    )
    case.refused = {
        EndpointKey(61002): Endpoint(A, "10.0.0.9", 80, off_host=True),
        EndpointKey(61003): Endpoint(A, "::1", 80),
        EndpointKey(61004): Endpoint(A, "a.example", 80),
    }
    return case


CHECKS = [
    contract.read_gives_what_put_wrote,
    contract.put_again_changes_nothing,
    contract.delete_removes_and_may_be_repeated,
    contract.a_second_reconcile_changes_nothing,
    contract.a_dry_run_changes_nothing,
]


@pytest.mark.parametrize("make", [services, listeners, endpoints])
@pytest.mark.parametrize("check", CHECKS)
def test_drivers_keep_the_contract(
    house: House, make: Callable[[IpvsEngine], Case], check: Callable[[Case], None]
) -> None:
    check(make(house.engine()))


@pytest.mark.parametrize("make", [listeners, endpoints])
def test_what_cannot_be_served_is_refused_with_a_sentence(house: House, make: Callable[[IpvsEngine], Case]) -> None:
    case = make(house.engine())
    for key, value in case.refused.items():
        with pytest.raises(DataplaneError, match=r"(give|bind|run|is no address)"):
            case.put(key, value)
    assert case.read() == {}


# ---- the rule --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [11, 12, 14, 50, 100])
def test_one_after_another_is_the_rule(house: House, n: int) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    connect(house, engine, n)
    assert tuple(open_of(engine).values()) == fill(LINE.candidates, n)


def test_both_families_and_every_listener_count_in_one_place(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    connect(house, engine, 20, family=4)
    connect(house, engine, 80, family=6)
    assert tuple(open_of(engine).values()) == fill(LINE.candidates, 100)


def test_flows_of_udp_which_never_are_active_follow_the_rule_too(house: House) -> None:
    engine, dns = house.engine(), ServiceKey("dns", Protocol.UDP)
    engine.services.put(dns, LINE)
    for _ in range(100):
        engine.look()
        house.table.connect(mark(engine, dns), udp=True)
    engine.look()
    assert tuple(open_of(engine, dns).values()) == fill(LINE.candidates, 100)
    house.table.forget(mark(engine, dns))
    engine.look()
    assert set(open_of(engine, dns).values()) == {0}


def test_what_others_report_moves_the_next_connection(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    engine.set_others({(WEB, A): 30})
    connect(house, engine, 1)
    assert open_of(engine) == {A: 0, B: 1, C: 0}
    assert [one.others for one in engine.services.read()[WEB].candidates] == [30, 0, 0]


def test_closed_connections_that_the_kernel_remembers_count_for_nothing(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    for _ in range(300):
        connect(house, engine, 1)
        house.table.close(mark(engine), Target("100.64.0.1", 61000))
    connect(house, engine, 100)
    assert tuple(open_of(engine).values()) == fill(LINE.candidates, 100)


def test_no_weight_is_above_0_while_nobody_may_be_chosen(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, ServiceTable(tuple(replace(one, out=Reason.UNHEALTHY) for one in LINE.candidates)))
    assert set(house.table.weights(mark(engine)).values()) == {0}
    assert house.table.connect(mark(engine)) is None


def test_nothing_is_written_while_nothing_moves(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    connect(house, engine, 10)
    writes, revision = house.table.writes, engine.revision()
    for _ in range(10):
        house.now += SWEEP_S
        engine.look()
    assert (house.table.writes, engine.revision()) == (writes, revision)


def test_counters_tell_what_was_chosen_and_when_last(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    connect(house, engine, 12)
    counts = {workload: one for (_, workload), one in engine.counts().items()}
    assert {workload: one.chosen for workload, one in counts.items()} == {A: 11, B: 1, C: 0}
    assert counts[A].last_chosen != counts[B].last_chosen
    assert counts[C].last_chosen == 0


# ---- draining, removal -----------------------------------------------------------------------------------------


def test_a_drained_workload_keeps_its_connections_and_gets_no_more(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    connect(house, engine, 12)
    drained = replace(LINE.candidates[0], out=Reason.DRAINED)
    engine.services.put(WEB, ServiceTable((drained, *LINE.candidates[1:])))
    assert house.table.weights(mark(engine))[Target("100.64.0.1", 61000)] == 0
    connect(house, engine, 5)
    assert open_of(engine)[A] == 11
    assert house.table.cut == 0


def test_a_workload_that_left_goes_with_its_last_connection(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    connect(house, engine, 2)
    gone = Target("100.64.0.1", 61000)
    engine.services.put(WEB, ServiceTable(LINE.candidates[1:]))
    assert house.table.weights(mark(engine))[gone] == 0
    assert open_of(engine)[A] == 2, "it is still counted, and told to other sites"
    for _ in range(2):
        house.table.close(mark(engine), gone)
    house.now += SWEEP_S
    engine.look()
    assert gone in house.table.weights(mark(engine)), "the last packets of closed connections pass"
    house.table.forget(mark(engine))
    house.now += SWEEP_S
    engine.look()
    assert gone not in house.table.weights(mark(engine))
    assert house.table.cut == 0


def test_a_drain_ends_at_its_deadline(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    connect(house, engine, 2)
    engine.services.put(WEB, ServiceTable(LINE.candidates[1:]))
    house.now += DRAIN_S - 1
    engine.look()
    assert house.table.cut == 0
    house.now += 2
    engine.look()
    engine.look()
    assert house.table.cut == 2
    assert A not in open_of(engine)


def test_a_service_that_is_deleted_serves_its_connections_to_the_end(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    connect(house, engine, 2)
    marked = mark(engine)
    engine.services.delete(WEB)
    assert set(house.table.weights(marked).values()) == {0}
    assert engine.services.read() == {}
    engine.services.put(WEB, LINE)
    assert open_of(engine)[A] == 2, "one that comes back in time is the same"
    engine.services.delete(WEB)
    for _ in range(2):
        house.table.close(marked, Target("100.64.0.1", 61000), forgotten=True)
    house.now += SWEEP_S
    engine.look()
    assert house.table.ours == {}


# ---- affinity, several services --------------------------------------------------------------------------------


def test_a_listener_with_affinity_has_a_virtual_service_of_its_own(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    engine.listeners.put(ListenerKey("10.0.0.5", 80), ListenerTarget(WEB))
    engine.listeners.put(KEEPING, ListenerTarget(WEB, affinity_s=300))
    kept = mark(engine, at=KEEPING)
    assert house.table.persistent == {mark(engine): 0, mark(engine, family=6): 0, kept: 300}
    assert [key for key, _ in _elements(house)] == [["10.0.0.5", "tcp", 80]], "it is known by its address, not a mark"
    connect(house, engine, 11)
    house.table.connect(kept)
    engine.look()
    assert open_of(engine) == {A: 11, B: 1, C: 0}, "both lead to the same workloads, and count together"
    engine.listeners.delete(KEEPING)
    house.now += SWEEP_S
    engine.look()
    assert set(house.table.weights(kept).values()) == {0}
    house.table.close(kept, Target("100.64.0.2", 61000), forgotten=True)
    house.now += SWEEP_S
    engine.look()
    assert kept not in house.table.ours


def _elements(house: House) -> list[tuple[list[object], object]]:
    return [(key["concat"], verdict) for key, verdict in house.nft.elements("listeners4")]


def test_a_listener_that_keeps_clients_leads_elsewhere_and_what_is_open_still_counts(house: House) -> None:
    engine = house.engine()
    other = ServiceTable(
        tuple(replace(one, target4=Target("100.64.0.9", 61000 + i)) for i, one in enumerate(LINE.candidates))
    )
    engine.services.put(WEB, LINE)
    engine.services.put(API, other)
    engine.listeners.put(KEEPING, ListenerTarget(WEB, affinity_s=300))
    kept = mark(engine, at=KEEPING)
    house.table.connect(kept)
    engine.listeners.put(KEEPING, ListenerTarget(API, affinity_s=300))
    assert mark(engine, API, at=KEEPING) == kept, "to the kernel it is the same one"
    assert engine.listeners.read() == {KEEPING: ListenerTarget(API, affinity_s=300)}
    house.table.connect(kept)
    engine.look()
    assert open_of(engine) == {A: 1, B: 0, C: 0}
    assert open_of(engine, API) == {A: 1, B: 0, C: 0}
    second = house.engine()
    assert second.listeners.read() == engine.listeners.read()
    assert mark(second, API, at=KEEPING) == kept


def test_a_mark_that_a_packet_brings_along_is_taken_off_before_listeners_are_looked_at(house: House) -> None:
    """The outer packet of a tunnel inherits it; IPVS would lead that into the tunnel again, until the stack is full."""
    overlay = ("100.64.0.1", "fd00:1:2::1", "100.64.0.0/10", "fd00:1:2::/48")
    group = chains.group(PacketCheckConfig(*overlay, 7401, 7402, (61000, 62999)))
    ChainGroupDriver(house.rules(), chains.OWNED).put(chains.NAME, group)
    for chain in ("listeners-in", "listeners-out"):
        test, reset = house.nft.chain(chain)[0]
        assert test["match"]["right"] == MARK
        assert reset == {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 0}}


def test_services_in_turn_are_marked_in_turn(house: House) -> None:
    engine = house.engine()
    for key in (WEB, API):
        engine.services.put(key, LINE)
    engine.listeners.put(ListenerKey("10.0.0.5", 80), ListenerTarget(WEB, (WEB, API, WEB)))
    ((_, verdict),) = house.nft.elements("listeners4")
    four, six = house.nft.chain(verdict["goto"]["target"])
    turns = [[0, mark(engine, WEB)], [1, mark(engine, API)], [2, mark(engine, WEB)]]
    assert four[-1]["mangle"]["value"]["map"]["data"]["set"] == turns
    assert six[-1]["mangle"]["value"]["map"]["data"]["set"] == [[turn, one + 1] for turn, one in turns]


# ---- restart, others' services ---------------------------------------------------------------------------------


def test_a_restart_adopts_what_is_there(house: House) -> None:
    first = house.engine()
    first.services.put(WEB, LINE)
    first.listeners.put(ListenerKey("10.0.0.5", 80), ListenerTarget(WEB))
    first.endpoints.put(EndpointKey(61000), Endpoint(A, "127.0.0.1", 9090))
    connect(house, first, 12)
    writes, scripts = house.table.writes, house.nft.scripts
    second = house.engine()
    for driver in ("services", "listeners", "endpoints"):
        assert getattr(second, driver).read() == getattr(first, driver).read() != {}
        report = reconcile(getattr(second, driver), getattr(first, driver).read())
        assert report.changed == []
    second.look()
    assert open_of(second) == {A: 11, B: 1, C: 0}
    assert (house.table.writes, house.nft.scripts) == (writes, scripts)


def test_without_its_memory_a_restart_deletes_nothing_before_it_is_told_to(house: House) -> None:
    first = house.engine()
    first.services.put(WEB, LINE)
    first.services.put(API, LINE)
    connect(house, first, 12)
    house.path.unlink()
    second = house.engine()
    before = house.table.read()
    found = second.services.read()
    assert len(found) == 2
    assert WEB not in found
    house.now += SWEEP_S
    second.look()
    assert house.table.read() == before
    reconcile(second.services, {WEB: LINE})
    second.look()
    assert open_of(second) == {A: 11, B: 1, C: 0}, "the service that is wanted is the one that was there"
    assert house.table.cut == 0
    house.now += SWEEP_S
    second.look()
    assert set(house.table.ours) == {mark(second), mark(second, family=6)}, "the other one had no connections"


def test_a_memory_of_another_boot_counts_for_nothing(house: House) -> None:
    first = house.engine()
    first.services.put(WEB, LINE)
    text = house.path.read_text()
    house.path.write_text(text.replace('"where":"', '"where":"another boot '))
    assert house.engine().memory.tables == {}
    house.path.write_text("{")
    assert house.engine().memory.tables == {}


def test_a_memory_of_another_version_still_tells_what_settings_were(house: House) -> None:
    first = house.engine()
    first.memory.settings["conntrack"] = "0"
    first.services.put(WEB, LINE)
    found = json.loads(house.path.read_text())
    found["idents"] = [[name, 0, ident] for name, _, ident in found["idents"]]  # a time where now is an address
    house.path.write_text(json.dumps(found))
    second = house.engine()
    assert second.memory.settings == {"conntrack": "0"}
    assert second.memory.tables == {}
    reconcile(second.services, {WEB: LINE})
    assert set(house.table.ours) == {mark(second), mark(second, family=6)}, "it finds its own again"


def test_others_services_are_not_ours_and_a_listener_does_not_cover_one(house: House) -> None:
    house.table.others.add(ListenerKey("10.0.0.5", 80))
    house.table.ours[0x1234] = {Target("192.0.2.1", 80): RealServer(1)}
    house.table.persistent[0x1234] = 0
    engine = house.engine()
    engine.services.put(WEB, LINE)
    with pytest.raises(DataplaneError, match="an IPVS service that is not ours has this address and port"):
        engine.listeners.put(ListenerKey("10.0.0.5", 80), ListenerTarget(WEB))
    engine.listeners.put(ListenerKey("10.0.0.5", 80, Protocol.UDP), ListenerTarget(WEB))
    engine.services.delete(WEB)
    house.now += SWEEP_S
    engine.look()
    assert house.table.ours == {0x1234: {Target("192.0.2.1", 80): RealServer(1)}}


def test_a_kernel_that_does_not_answer_is_told_and_asked_again(house: House) -> None:
    engine = house.engine()
    engine.services.put(WEB, LINE)
    house.table.broken = True
    with pytest.raises(DataplaneError):
        engine.revision()
    house.table.broken = False
    assert engine.revision() >= 0


def test_a_service_that_is_refused_stops_no_other_and_is_tried_again(house: House) -> None:
    engine = house.engine()
    for key in (API, WEB):
        engine.services.put(key, LINE)
    house.table.refused.add(mark(engine, API))
    with pytest.raises(DataplaneError, match="refused"):
        engine.set_others({(API, A): 30, (WEB, A): 30})
    assert house.table.weights(mark(engine, WEB))[Target("100.64.0.2", 61000)] == 256
    house.table.refused.clear()
    engine.look()
    assert house.table.weights(mark(engine, API))[Target("100.64.0.2", 61000)] == 256


# ---- the kernel's files ----------------------------------------------------------------------------------------

LISTING = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A000005:0050 rr
  -> C0000201:0050      Masq    1      7          0
FWM  00001234 wlc
  -> C0000201:0050      Masq    1      0          0
FWM  5CED0003 wlc persistent 75000 00000080
  -> [fd00:0000:0000:0000:0000:0000:0000:0002]:EE48      Masq    256    1          2
FWM  5CED0002 wlc
  -> 64400002:EE48      Masq    20     3          1
UDP  [fd01:0000:0000:0000:0000:0000:0000:0005]:0035 wlc
"""


def test_the_kernels_table_is_read() -> None:
    found = parse(LISTING)
    tcp, udp = ListenerKey("10.0.0.5", 80), ListenerKey("fd01::5", 53, Protocol.UDP)
    assert found.foreign == {tcp, udp}
    known = parse(LISTING, marks_at({7: udp, 8: tcp}))
    assert known.foreign == frozenset()
    assert known.ours[mark_of(8, 4)].servers == {Target("192.0.2.1", 80): RealServer(1, 7, 0)}
    assert known.ours[mark_of(7, 6)].servers == {}
    assert set(found.ours) == {0x5CED0002, 0x5CED0003}
    assert found.ours[0x5CED0002].servers == {Target("100.64.0.2", 61000): RealServer(20, 3, 1)}
    assert found.ours[0x5CED0003].servers == {Target("fd00::2", 61000): RealServer(256, 1, 2)}
    assert [found.ours[one].persistent for one in sorted(found.ours)] == [False, True]
    assert parse("") == Found()


def test_the_kernels_connections_are_read() -> None:
    lines = [
        "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData",
        "TCP 0A000063 B5DE 0A000005 1F90 64400002 EE48 ESTABLISHED     880",
        "TCP 0A000063 0000 0A000005 1F90 64400002 EE48 NONE            300",
        "UDP fd01:0000:0000:0000:0000:0000:0000:0099 9E9C fd01:0000:0000:0000:0000:0000:0000:0005 1F90 "
        "fd00:0000:0000:0000:0000:0000:0000:0002 EE48 UDP             290",
    ]
    first, second = parse_connections(lines)
    assert (first.client, first.virtual, first.server) == (
        Target("10.0.0.99", 46558),
        Target("10.0.0.5", 8080),
        Target("100.64.0.2", 61000),
    )
    assert (first.state, first.expires_s, second.protocol, second.client.address) == (
        "ESTABLISHED", 880, "udp", "fd01::99",
    )  # fmt: skip
