"""The controller's life with real flooding and a kernel in memory: when it may speak, when it may delete."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from skedge.core.errors import SkedgeError
from skedge.core.linkstate import own_records as own
from skedge.core.model import COST_MAX, Connector, Health, HealthType, LinkId, Listener, Policy, Share, WorkloadId
from skedge.core.objects import Candidate, KernelRoute, ListenerKey, ListenerTarget, ServiceKey, ServiceTable, Target
from skedge.core.observed import Counts
from skedge.core.reasons import Reason
from skedge.daemon import state_file
from tests.unit.control.authority import Authority
from tests.unit.daemon.kit import LINK_AB, WEB, FakeKernel, document, fake_kernel, report, running, site, write

pytestmark = pytest.mark.usefixtures("wireless")

A, B = WorkloadId("a", "web"), WorkloadId("b", "web")
LOST = ServiceKey("from-the-life-before")


def found_kernel() -> FakeKernel:
    """What a life before left in the kernel: a route, a service, a listener, a workload of another site."""
    fake = fake_kernel()
    target = Target("100.64.9.9", 61009)
    fake.drivers.routes.objects["100.64.9.9/32"] = KernelRoute((), "100.64.9.1")
    fake.drivers.services.objects |= {
        LOST: ServiceTable(),
        WEB: ServiceTable((Candidate(B, 10, capacity=1, others=4, target4=target),)),
    }
    fake.drivers.listeners.objects[ListenerKey("10.0.0.9", 99)] = ListenerTarget(LOST)
    return fake


def says(at: object) -> dict[str, int]:
    """Incarnations under which this site's own records are known in its database."""
    return {
        str(key.kind): entry.record.version.incarnation
        for key, entry in at.flooder.database.items()  # type: ignore[attr-defined]
        if key.site == "a"
    }


def own_records(at: object) -> int:
    return len([record for record in at.flooder.network_map().links if record == "a"])  # type: ignore[attr-defined]


def test_the_normal_way_up(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            assert set(run.at.state.rib.paths) == {"a", "b"}
            assert run.at.state.rib.path_cost("b") == 10
            routes = run.kernel.drivers.routes.objects
            assert len(routes) == 4  # to the site and to its LAN clients, IPv4 and IPv6
            assert "ready" in run.notifier.said
            assert run.control.opened
            assert ListenerKey("10.0.0.1", 8080) in run.kernel.drivers.listeners.objects
        assert run.control.closed
        assert run.kernel.did("delete") == [], "stopping changes nothing"

    asyncio.run(main())


def test_before_sync_nothing_is_deleted_and_nothing_is_said(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        kernel = found_kernel()
        async with running(tmp_path, authority, kernel=kernel) as run:
            run.healthy()
            run.control.measure(LINK_AB, True)  # b's kernel answers, its controller was not heard
            await run.until(lambda: run.at.life.ready)
            await asyncio.sleep(0.5)
            assert not run.at.life.synced
            assert run.at.life.ready, "own workloads are balanced all the same"
            assert kernel.did("delete") == []
            assert "100.64.9.9/32" in kernel.drivers.routes.objects
            assert run.candidates() == {"a/web": Reason.NONE, "b/web": Reason.NONE}, "unknown is not gone"
            assert own_records(run.at) == 0, "the neighbours keep what the life before said"
            assert kernel.engine.others == [], "and the kernel the load it was told"

            neighbour = run.neighbours["b"]
            neighbour.connect()
            neighbour.say()
            await run.until(lambda: run.at.life.synced)
            neighbour.exchange()
            await run.until(lambda: set(kernel.did("delete")) >= {"100.64.9.9/32", LOST, ListenerKey("10.0.0.9", 99)})
            assert own_records(run.at) == 1

    asyncio.run(main())


@pytest.mark.parametrize("delete_wait_s", [0.05, 0.0])
def test_the_next_life_adopts_what_it_finds_and_changes_nothing(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch, delete_wait_s: float
) -> None:
    """Also when the neighbour's records come in a burst, so that path computation is paced."""
    monkeypatch.setattr("skedge.daemon.loop.life.DELETE_WAIT_S", delete_wait_s)

    async def main() -> None:
        kernel = fake_kernel()
        async with running(tmp_path, authority, kernel=kernel) as run:
            await run.reach_sync()
            await run.until(lambda: run.at.life.deleting)
        kernel.log.clear()
        async with running(tmp_path, authority, kernel=kernel) as run:
            neighbour = run.neighbours["b"]
            neighbour.config = replace(neighbour.config, overload=False)
            neighbour.say()
            neighbour.connect()
            run.control.measure(LINK_AB, True)
            await asyncio.sleep(0.1)  # health is not known yet: the map is there, sync is not
            assert set(run.at.flooder.network_map().links) == {"b"}
            for _ in range(3):
                run.at._routing.spf.event(time.monotonic())
            run.healthy()
            await run.until(lambda: run.at.life.deleting)
            await asyncio.sleep(0.3)
            assert kernel.log == []

    asyncio.run(main())


def test_a_neighbour_that_never_speaks_is_waited_for_no_longer_than_the_hold_time(
    tmp_path: Path, authority: Authority
) -> None:
    async def main() -> None:
        kernel = found_kernel()
        async with running(tmp_path, authority, first=site(tmp_path, hold_time_s=1.0), kernel=kernel) as run:
            run.healthy()
            run.control.measure(LINK_AB, True)
            await run.until(lambda: run.at.life.synced)
            assert time.monotonic() - run.at.life.started >= 1.0
            await run.until(lambda: "100.64.9.9/32" in kernel.did("delete"))
            assert run.candidates() == {"a/web": Reason.NONE}

    asyncio.run(main())


def test_a_link_that_is_down_is_not_waited_for(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            run.healthy()
            run.control.measure(LINK_AB, False)
            await run.until(lambda: run.at.life.synced)
            assert time.monotonic() - run.at.life.started < run.at.state.config.hold_time_s
            assert [link.up for link in run.at.state.links_record("x", 0.0).links] == [False]

    asyncio.run(main())


def test_a_link_without_a_verdict_is_waited_for_a_moment(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            run.healthy()
            await run.until(lambda: run.at.life.synced)
            assert 0.3 <= time.monotonic() - run.at.life.started < run.at.state.config.hold_time_s

    asyncio.run(main())


def test_until_health_is_known_balancing_is_left_as_it_was_found(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        kernel = found_kernel()
        async with running(tmp_path, authority, kernel=kernel) as run:
            run.control.measure(LINK_AB, False)
            await run.until(lambda: "ready" in run.notifier.said)
            assert kernel.drivers.addresses.objects, "all else is applied"
            assert [key for kind, of, key in kernel.log if of in ("service", "listener")] == []
            assert not run.at.life.ready
            assert not run.at.life.synced
            run.healthy()
            await run.until(lambda: run.at.life.ready and run.candidates().get("a/web") is Reason.NONE)

    asyncio.run(main())


def test_a_verdict_that_does_not_come_delays_only_so_long(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            run.control.measure(LINK_AB, False)
            await run.until(lambda: run.at.life.synced and run.at.life.ready)
            assert time.monotonic() - run.at.life.started >= 0.5
            await run.until(lambda: run.candidates() == {"a/web": Reason.UNHEALTHY})

    asyncio.run(main())


def test_every_life_has_a_higher_incarnation(tmp_path: Path, authority: Authority) -> None:
    async def life() -> int:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            return run.at.flooder.incarnation

    assert [asyncio.run(life()) for _ in range(3)] == [1, 2, 3]
    assert state_file.load(tmp_path / "state").incarnation == 3


def test_a_life_that_lost_its_memory_passes_what_its_neighbour_remembers(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as first:
            neighbour = await first.reach_sync()
            while first.at.flooder.incarnation < 3:  # as if there had been lives before
                first.at.flooder._originator._passing = None
                first.at.flooder._originator.incarnation += 1
            first.at._configured()
            first.at.state.config = replace(first.at.state.config, drain=True)
            await first.until(lambda: neighbour.flooder.network_map().links["a"].drain)
            memory = neighbour.flooder
        (tmp_path / "state" / "state.json").unlink()
        async with running(tmp_path, authority) as second:
            assert second.at.flooder.incarnation == 1
            neighbour = second.neighbours["b"]
            neighbour.flooder = memory
            memory.adjacency_down(0.0, LINK_AB)
            second.healthy()
            second.control.measure(LINK_AB, True)
            neighbour.connect()
            await second.until(lambda: second.at.flooder.incarnation == 4)
            await second.until(lambda: state_file.load(tmp_path / "state").incarnation == 4)

    asyncio.run(main())


def test_a_bad_configuration_keeps_the_last_good_one(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            before, configured = run.at.state.config, len(run.control.configs)
            run.kernel.log.clear()
            bad = document()
            bad["links"][0]["cost"] = 70000
            write(run.path, bad)
            run.at.reload()
            assert "links[0].cost" in run.at.config_error
            assert run.at.state.config == before
            assert len(run.control.configs) == configured
            await asyncio.sleep(0.1)
            assert run.kernel.log == []
            assert run.notifier.said[-1] == "ready" or "reloading" in run.notifier.said

            write(run.path, document(links=[{**document()["links"][0], "cost": 12}]))
            run.at.reload()
            assert run.at.config_error == ""
            assert run.at.state.config.links[0].cost == 12

    asyncio.run(main())


@pytest.mark.parametrize(
    "changes", [{"control_port": 7409}, {"overlay_address": "100.64.1.1"}, {"metrics": {"port": 9777}}]
)
def test_what_only_a_new_process_can_take_ends_this_one(
    tmp_path: Path, authority: Authority, changes: dict[str, object]
) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            write(run.path, document(**changes))
            run.kernel.log.clear()
            run.at.reload()
            await asyncio.wait_for(run.task, 5)
            assert run.at.config_error == ""
            assert run.kernel.did("delete") == []

    asyncio.run(main())


@pytest.mark.parametrize("changes", [{"site": "b"}, {"network": "other"}])
def test_a_name_that_the_identity_does_not_fit_is_refused(
    tmp_path: Path, authority: Authority, changes: dict[str, object]
) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            others = {key: value for key, value in changes.items() if key != "site"}
            write(run.path, document(str(changes.get("site", "a")), **others))
            before = run.at.state.config
            run.at.reload()
            assert "site.crt" in run.at.config_error
            assert run.at.state.config == before
            assert not run.task.done()

    asyncio.run(main())


def test_an_identity_that_cannot_be_read_keeps_configuration_and_identity(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            (tmp_path / "identity-a" / "site.crt").write_text("nothing")
            write(run.path, document(drain=True))
            run.at.reload()
            assert "site.crt" in run.at.config_error
            assert not run.at.state.config.drain
            assert run.at.identity.days_left > 300

    asyncio.run(main())


def test_a_changed_cost_is_applied_and_said(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            neighbour = await run.reach_sync()
            write(run.path, document(links=[{**document()["links"][0], "cost": 40}]))
            run.at.reload()
            await run.until(lambda: run.at.state.rib.path_cost("b") == 40)
            await run.until(lambda: run.kernel.drivers.services.objects[WEB].candidates[1].path_cost == 40)
            neighbour.exchange()
            assert neighbour.flooder.network_map().links["a"].links[0].cost == 40
            assert run.kernel.did("delete") == []

    asyncio.run(main())


def test_a_lost_stream_leaves_the_link_in_use_for_the_hold_time(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority, first=site(tmp_path, hold_time_s=1.0)) as run:
            neighbour = await run.reach_sync()
            run.kernel.log.clear()
            gone = time.monotonic()
            neighbour.disconnect()  # its controller restarts; its kernel answers the probes
            await asyncio.sleep(0.2)
            assert set(run.at.state.rib.paths) == {"a", "b"}
            assert run.kernel.log == []
            await run.until(lambda: set(run.at.state.rib.paths) == {"a"}, 10.0)
            assert time.monotonic() - gone > 0.8
            await run.until(lambda: run.candidates()["b/web"] is Reason.UNREACHABLE)

    asyncio.run(main())


def test_a_link_on_which_tcp_is_dropped_is_a_last_resort(tmp_path: Path, authority: Authority) -> None:
    """Its hold time does not end: the cost keeps it for where no other path is."""

    async def main() -> None:
        async with running(tmp_path, authority, first=site(tmp_path, hold_time_s=0.5)) as run:
            neighbour = await run.reach_sync()
            neighbour.disconnect()
            run.control.dialled(LINK_AB, Reason.TCP_DROPPED)
            await run.until(lambda: run.at.state.rib.path_cost("b") == COST_MAX)
            await asyncio.sleep(0.8)
            assert run.at.state.rib.path_cost("b") == COST_MAX
            run.control.dialled(LINK_AB, Reason.NONE)
            neighbour.connect()
            await run.until(lambda: run.at.state.rib.path_cost("b") == 10)

    asyncio.run(main())


def test_probes_that_stand_still_do_not_pat_the_watchdog(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            assert run.at._turns()
            run.control.turning = False
            assert not run.at._turns()

    asyncio.run(main())


def test_a_link_whose_far_end_does_not_hear_this_one_is_down(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            neighbour = await run.reach_sync()
            neighbour.disconnect()
            run.control.dialled(LINK_AB, Reason.ONE_WAY)
            await run.until(lambda: set(run.at.state.rib.paths) == {"a"})

    asyncio.run(main())


def test_a_link_whose_probes_are_lost_is_out_at_once(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            neighbour = await run.reach_sync()
            neighbour.disconnect()
            run.control.measure(LINK_AB, False)
            lost = time.monotonic()
            await run.until(lambda: run.candidates()["b/web"] is Reason.UNREACHABLE)
            assert time.monotonic() - lost < run.at.state.config.hold_time_s
            assert run.kernel.drivers.routes.objects == {}
            run.control.measure(LINK_AB, True)
            neighbour.connect()
            await run.until(lambda: run.candidates()["b/web"] is Reason.NONE)

    asyncio.run(main())


def test_load_of_others_reaches_the_kernel_and_ends_with_their_reachability(
    tmp_path: Path, authority: Authority
) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            neighbour = await run.reach_sync()
            run.control.loads.said["b"] = report("b", a=3, b=8)
            run.at.load_reported()
            await run.until(
                lambda: run.kernel.engine.others and run.kernel.engine.others[-1] == {(WEB, A): 3, (WEB, B): 8}
            )
            run.kernel.log.clear()
            await asyncio.sleep(0.05)
            assert run.kernel.did("put", "service") == [], "the fast path touches no table"
            neighbour.disconnect()
            run.control.measure(LINK_AB, False)
            await run.until(lambda: run.kernel.engine.others[-1] == {(WEB, A): 0, (WEB, B): 0})

    asyncio.run(main())


def test_after_a_restart_the_kernels_load_of_others_holds_until_they_reported(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skedge.daemon.loop.life.LOAD_WAIT_S", 0.6)

    async def main() -> None:
        kernel = found_kernel()
        async with running(tmp_path, authority, kernel=kernel) as run:
            await run.reach_sync()
            others = {str(one.workload): one.others for one in kernel.drivers.services.objects[WEB].candidates}
            assert others["b/web"] == 4
            assert kernel.engine.others == []

            def load(workload: str) -> int:
                candidates = kernel.drivers.services.objects[WEB].candidates
                return next(one.others for one in candidates if str(one.workload) == workload)

            for said, then in ((6, 6), (5, 5), (2, 4)):  # less than was found may lack a site that has yet to report
                before = len(kernel.engine.others)
                run.control.loads.said["b"] = report("b", b=said)
                run.at.load_reported()
                await run.until(lambda before=before: len(kernel.engine.others) > before)
                assert load("b/web") == then
            await run.until(lambda: load("b/web") == 2)

    asyncio.run(main())


def test_a_workload_that_falls_ill_is_withdrawn_here_and_there(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            neighbour = await run.reach_sync()
            run.healthy(good=False)
            await run.until(lambda: run.candidates()["a/web"] is Reason.UNHEALTHY)
            await run.until(lambda: not neighbour.flooder.network_map().services["a"].workloads[0].healthy)
            neighbour.say(healthy=False)
            await run.until(lambda: run.candidates()["b/web"] is Reason.UNHEALTHY)
            await run.until(lambda: run.kernel.host.aborted)
            endpoint = Target(neighbour.config.overlay4, own.endpoint_ports(neighbour.config, {})["web"])
            assert run.kernel.host.aborted == [{endpoint}], "this site's own workload answers by itself"

    asyncio.run(main())


def test_a_workload_that_the_kernel_suspended_is_probed_and_resumed(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            run.kernel.engine.out = frozenset({(WEB, B)})
            await run.until(lambda: B in run.control.probed)
            assert set(run.control.suspensions) == {B}
            assert run.control.suspensions[B].port >= 61000
            run.at.good_probe(B)
            await run.until(lambda: run.kernel.engine.resumed == [B])
            run.at.good_probe(A)
            await asyncio.sleep(0.05)
            assert run.kernel.engine.resumed == [B], "only what is suspended is resumed"

    asyncio.run(main())


def test_a_suspension_leads_a_listener_to_its_next_service_and_back(tmp_path: Path, authority: Authority) -> None:
    shares = (Share("far"), Share("web"))
    listener = Listener("far", 8080, services=shares, policy=Policy.PRIORITY)
    offered = (*site(tmp_path).connectors, Connector("far", "far", "127.0.0.1", 9099, health=Health(HealthType.NONE)))
    first = replace(site(tmp_path), listeners=(listener,), connectors=offered)
    far, at = ServiceKey("far"), ListenerKey("10.0.0.1", 8080)

    async def main() -> None:
        async with running(tmp_path, authority, first=first) as run:
            await run.reach_sync()
            used = run.kernel.drivers.listeners.objects
            await run.until(lambda: used.get(at) == ListenerTarget(far))
            run.kernel.engine.out = frozenset({(far, WorkloadId("a", "far"))})
            await run.until(lambda: used.get(at) == ListenerTarget(WEB))
            run.kernel.engine.out = frozenset()
            await run.until(lambda: used.get(at) == ListenerTarget(far))

    asyncio.run(main())


def test_counters_are_read_and_reported_and_an_engine_that_fails_is_asked_again(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            run.kernel.engine.unreadable = True
            await asyncio.sleep(0.5)
            run.kernel.engine.unreadable = False
            run.kernel.engine.counted = {(WEB, A): Counts(2, 5, 0)}
            await run.until(lambda: run.at.state.counts == {(WEB, A): Counts(2, 5, 0)})
            assert run.at.state.own_open() == {"web": {A: 2}}
            assert run.control.reports > 0

    asyncio.run(main())
    assert caplog.text.count("op=count") == 1, "once a minute at most"


def test_idle_flows_are_swept_again_and_again(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skedge.daemon.counter_polling.SWEEP_S", 0.01)

    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.until(lambda: run.kernel.engine.swept >= 3)

    asyncio.run(main())


def test_a_device_that_came_is_looked_at(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            await run.until(lambda: run.at.life.deleting)
            before = run.kernel.drivers.rules.reads
            run.at.look_at_devices()
            await run.until(lambda: run.kernel.drivers.rules.reads > before)

    asyncio.run(main())


def test_drift_is_repaired_and_added_up(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skedge.daemon.counter_polling.DRIFT_S", 0.05)

    async def main() -> None:
        async with running(tmp_path, authority) as run:
            run.kernel.engine.drift = 2
            run.kernel.engine.dropped = {Reason.NO_WORKLOAD: 7}
            await run.until(lambda: run.at.tally.count_drift_total >= 4)
            assert run.at.tally.count_drift == 2
            assert run.at.counting.drops == {Reason.NO_WORKLOAD: 7}

    asyncio.run(main())


def test_addresses_of_the_host_are_followed(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            run.kernel.host.found |= {"10.7.7.7/24"}
            run.at.look_at_host()
            await run.until(lambda: ListenerKey("10.7.7.7", 8080) in run.kernel.drivers.listeners.objects)
            run.kernel.host.found -= {"10.7.7.7/24"}
            run.at.look_at_host()
            await run.until(lambda: ListenerKey("10.7.7.7", 8080) not in run.kernel.drivers.listeners.objects)

    asyncio.run(main())


def test_the_watchdog_is_patted_until_the_kernels_thread_is_stuck(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.until(lambda: run.notifier.said.count("alive") >= 3)
            run.at.worker.busy_since = -1000.0
            count = run.notifier.said.count("alive")
            await asyncio.sleep(0.2)
            assert run.notifier.said.count("alive") <= count + 1

    asyncio.run(main())


def test_what_ends_the_loop_ends_the_daemon(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:

            def broken() -> float:
                raise SkedgeError("the loop is broken")

            run.at.flooder.next_deadline = lambda _now: broken()  # type: ignore[method-assign]
            run.at.links_changed()
            await asyncio.sleep(0.2)

    with pytest.raises(SkedgeError, match="the loop is broken"):
        asyncio.run(main())


def test_a_state_directory_that_is_gone_stops_nothing(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            for file in (tmp_path / "state").iterdir():
                file.unlink()
            (tmp_path / "state").rmdir()
            run.at.reload()
            await asyncio.sleep(0.05)
            assert run.at.config_error == ""

    asyncio.run(main())


def test_a_link_taken_out_of_the_configuration_is_gone_from_the_kernel(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            assert len(run.kernel.drivers.links.objects) == 1
            write(run.path, document(links=[]))
            run.at.reload()
            await run.until(lambda: run.kernel.drivers.links.objects == {})
            await run.until(lambda: run.candidates() == {"a/web": Reason.NONE, "b/web": Reason.UNREACHABLE})
            assert LinkId("a", "b") not in run.at.state.links_used

    asyncio.run(main())
