"""The small parts: what is remembered, the queue, problems and their age, links, systemd, the kernel's thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from skedge.control.liveness.detector import LinkStats
from skedge.core.desired.compute import Desired
from skedge.core.errors import DataplaneError
from skedge.core.linkstate.adjacency import AdjacencyState, AdjacencyView
from skedge.core.model import FlowTimes, Lan, LinkId
from skedge.core.objects import KernelRoute, NextHop
from skedge.core.observed import TunnelFacts
from skedge.core.reasons import Reason
from skedge.daemon import link_status, state_file
from skedge.daemon import systemd as notify
from skedge.daemon.api.problems import Finding, Problems
from skedge.daemon.kernel.kernel import Applied
from skedge.daemon.kernel.tunnel_watch import Tunnels
from skedge.daemon.kernel.worker import Worker
from skedge.daemon.loop.wake import Wake
from skedge.dataplane.ebpf.lan.layout_flow import NatAddresses, NatConfig
from skedge.dataplane.registry import nat_config
from tests.fakes.networks import site_config
from tests.unit.daemon.kit import fake_kernel

LINK = LinkId("a", "b")
OTHER = LinkId("a", "c")
UP = LinkStats(True, Reason.NONE, 5.0, 300, 310, 0.01, 40, 39)
DOWN = LinkStats(False, Reason.PROBE_LOST, 5.0, 0, 0, 1.0, 40, 0)


# ---- persist ---------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    kept = state_file.SavedState(7, {"web": 61007})
    state_file.save(tmp_path, kept)
    assert state_file.load(tmp_path) == kept
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_no_file_is_no_memory(tmp_path: Path) -> None:
    assert state_file.load(tmp_path) == state_file.SavedState(0, {})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"incarnation": "x"}', '{"ports": {"web": "y"}}', "\x00\xff"])
def test_a_damaged_file_is_no_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_bytes(text.encode("latin-1"))
    assert state_file.load(tmp_path) == state_file.SavedState()


def test_a_save_that_cannot_be_made_leaves_the_old_content(tmp_path: Path) -> None:
    state_file.save(tmp_path, state_file.SavedState(3))
    with pytest.raises(OSError):
        state_file.save(tmp_path / "missing", state_file.SavedState(4))
    assert state_file.load(tmp_path).incarnation == 3


# ---- wake ------------------------------------------------------------------------------------------------------


def test_an_event_ends_the_wait_and_several_are_one() -> None:
    async def main() -> list[float]:
        wake, took = Wake(), list[float]()
        asyncio.get_running_loop().call_later(0.03, lambda: [wake.set() for _ in range(1000)])
        for timeout in (5.0, 0.05):
            start = time.monotonic()
            await wake.wait(timeout)
            took.append(time.monotonic() - start)
        return took

    first, second = asyncio.run(main())
    assert 0.02 < first < 2.0
    assert second > 0.04, "all of the thousand were answered"


def test_an_event_between_two_waits_is_not_lost() -> None:
    async def main() -> float:
        wake = Wake()
        await wake.wait(0.0)
        wake.set()
        start = time.monotonic()
        await wake.wait(5.0)
        return time.monotonic() - start

    assert asyncio.run(main()) < 2.0


@pytest.mark.parametrize("timeout", [5.0, 0.0, -1.0])
def test_a_flood_of_events_leaves_other_tasks_their_turn(timeout: float) -> None:
    async def main() -> int:
        wake, turns = Wake(), 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.create_task(other())
        for _ in range(50):
            if timeout > 0:
                wake.set()
            await wake.wait(timeout)
        task.cancel()
        return turns

    assert asyncio.run(main()) >= 49


def test_waiting_ends_when_the_time_is_over() -> None:
    async def main() -> float:
        wake = Wake()
        start = time.monotonic()
        await wake.wait(0.05)
        await wake.wait(-1.0)
        return time.monotonic() - start

    assert 0.04 < asyncio.run(main()) < 1.0


# ---- problems --------------------------------------------------------------------------------------------------


def test_problems_come_worst_first_then_oldest_with_their_age() -> None:
    memory = Problems()
    old, new = Finding("warning", "link a--b", "x"), Finding("warning", "link a--c", "y")
    bad, note = Finding("error", "service web/tcp", "z"), Finding("info", "sync", "w")
    memory.update(100.0, [note, old])
    rows = memory.update(110.0, [new, note, old, bad])
    assert [(row.severity, row.what, row.since_s) for row in rows] == [
        ("error", "service web/tcp", 0.0),
        ("warning", "link a--b", 10.0),
        ("warning", "link a--c", 0.0),
        ("info", "sync", 10.0),
    ]


def test_a_problem_that_comes_back_is_new() -> None:
    memory = Problems()
    one = Finding("error", "x", "y")
    memory.update(1.0, [one])
    memory.update(2.0, [])
    assert memory.update(9.0, [one])[0].since_s == 0.0


def test_another_cause_keeps_the_age() -> None:
    memory = Problems()
    memory.update(1.0, [Finding("warning", "link a--b", "probe-lost")])
    row = memory.update(4.0, [Finding("error", "link a--b", "no-carrier")])[0]
    assert (row.severity, row.cause, row.since_s) == ("error", "no-carrier", 3.0)


# ---- links -----------------------------------------------------------------------------------------------------


def adjacency(state: AdjacencyState, full_until: float = 0.0) -> AdjacencyView:
    return AdjacencyView(LINK, "b", state, 1.0, full_until, 0)


def test_facts_join_probes_and_adjacency() -> None:
    found = link_status.facts({LINK: UP, OTHER: DOWN}, {LINK: adjacency(AdjacencyState.FULL)})
    assert found[LINK] == link_status.LinkFacts(True, Reason.NONE, "full", 300, 0.01, 40, 39, 5.0)
    assert (found[OTHER].up, found[OTHER].reason, found[OTHER].adjacency) == (False, Reason.PROBE_LOST, "down")


@pytest.mark.parametrize(
    ("stats", "state", "full_until", "up"),
    [
        (UP, AdjacencyState.FULL, 1000.0, True),
        (DOWN, AdjacencyState.FULL, 1000.0, False),
        (UP, AdjacencyState.DOWN, 990.0, True),  # the far controller restarts, its kernel answers
        (UP, AdjacencyState.EXCHANGE, 990.0, True),
        (DOWN, AdjacencyState.DOWN, 990.0, False),
        (UP, AdjacencyState.DOWN, 900.0, False),  # the hold time is over
    ],
)
def test_a_link_is_used_while_its_far_kernel_answers_and_its_controller_was_heard(
    stats: LinkStats, state: AdjacencyState, full_until: float, up: bool
) -> None:
    used = link_status.used({LINK: stats}, {LINK: adjacency(state, full_until)}, 1000.0, 60.0)
    assert used[LINK].up is up


def test_sync_waits_for_links_that_answer_but_were_not_heard() -> None:
    configured = {LINK: "b", OTHER: "c"}
    assert link_status.waiting(configured, {LINK: UP, OTHER: DOWN}, {LINK: adjacency(AdjacencyState.EXCHANGE)}) == {
        LINK
    }
    assert link_status.waiting(configured, {LINK: UP}, {LINK: adjacency(AdjacencyState.FULL)}) == frozenset()
    assert link_status.waiting(configured, {LINK: UP}, {}) == {LINK}


def test_a_link_whose_far_host_may_have_booted_is_used_when_it_is_full_again() -> None:
    back = replace(UP, since=990.0, outage_s=link_status.REBOOT_S)

    def used(stats: LinkStats, state: AdjacencyState, full_until: float) -> bool:
        return link_status.used({LINK: stats}, {LINK: adjacency(state, full_until)}, 1000.0, 120.0)[LINK].up

    assert not used(back, AdjacencyState.DOWN, 980.0)
    assert used(back, AdjacencyState.FULL, 1000.0)
    assert used(back, AdjacencyState.DOWN, 995.0), "it was full since: only its controller is gone"
    assert used(replace(back, outage_s=2.9), AdjacencyState.DOWN, 980.0), "no host boots in that time"
    assert used(replace(back, tcp=Reason.TCP_DROPPED), AdjacencyState.DOWN, 980.0), "a last resort is never full"


def test_a_link_is_undecided_until_it_answers_or_enough_probes_were_lost() -> None:
    configured = {LINK: "b", OTHER: "c"}
    fresh = replace(DOWN, sent=link_status.VERDICT_PROBES - 1)
    assert link_status.undecided(configured, {LINK: fresh}) == {LINK, OTHER}
    assert link_status.undecided(configured, {LINK: UP, OTHER: DOWN}) == frozenset()


# ---- notify ----------------------------------------------------------------------------------------------------


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        notifier = notify.Notifier()
        assert notifier.watchdog_s == 5.0
        notifier.ready("2 sites")
        assert systemd.recv(100) == b"READY=1\nSTATUS=2 sites"
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        first, _, stamp = systemd.recv(100).decode().partition("\nMONOTONIC_USEC=")
        assert first == "RELOADING=1"
        assert before <= int(stamp) <= time.monotonic_ns() // 1000
        notifier.alive()
        assert systemd.recv(100) == b"WATCHDOG=1"
        notifier.stopping()
        assert systemd.recv(100) == b"STOPPING=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    notifier = notify.Notifier()
    assert notifier.watchdog_s is None
    notifier.ready("x")


# ---- worker ----------------------------------------------------------------------------------------------------


class SlowKernel:
    """Applies what it is told, as slowly as a lock allows."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.seen: list[tuple[str, bool]] = []
        self.threads: set[str] = set()
        self.result = Applied()
        self.wanted: Mapping[str, KernelRoute] = {}
        self.led: list[str] = []

    def want_routes(self, routes: Mapping[str, KernelRoute]) -> None:
        self.wanted = routes

    def lead(self, keys: Collection[str]) -> Mapping[str, DataplaneError]:
        self.led += keys
        return {}

    def apply(self, config: object, desired: Desired, *, allow_delete: bool) -> Applied:
        self.free.wait(5)
        self.threads.add(threading.current_thread().name)
        self.seen.append((next(iter(desired.addresses), ""), allow_delete))
        return self.result


async def _working(kernel: SlowKernel, applied: list[Applied]) -> tuple[Worker, asyncio.Task[None]]:
    worker = Worker(kernel, lambda one, _took: applied.append(one))  # type: ignore[arg-type]
    return worker, asyncio.create_task(worker.run())


def test_wishes_that_pile_up_become_the_newest_one() -> None:
    kernel, applied = SlowKernel(), list[Applied]()
    config = site_config("a")

    async def main() -> None:
        worker, task = await _working(kernel, applied)
        kernel.free.clear()
        worker.want(config, Desired(addresses={"1": "lo"}), allow_delete=False)
        await asyncio.sleep(0.02)
        for number in range(2, 9):
            worker.want(config, Desired(addresses={str(number): "lo"}), allow_delete=True)
        assert worker.busy_since is not None
        kernel.free.set()
        while len(applied) < 2:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert worker.busy_since is None
        task.cancel()
        worker.close()

    asyncio.run(main())
    assert kernel.seen == [("1", False), ("8", True)]
    assert len(kernel.threads) == 1


def test_a_way_round_a_failure_waits_for_no_run() -> None:
    kernel, route = SlowKernel(), KernelRoute((NextHop("sk-b", "fe80::1"),), "fd00::1")

    async def main() -> None:
        worker, task = await _working(kernel, [])
        kernel.free.clear()
        worker.want(site_config("a"), Desired(), allow_delete=True)
        await asyncio.sleep(0.02)
        assert worker.busy_since is not None
        worker.lead({"fd00::2/128": route, "fd00::3/128": route}, ["fd00::2/128"])
        assert set(kernel.wanted) == {"fd00::2/128", "fd00::3/128"}, "in the same moment"
        while not kernel.led:
            await asyncio.sleep(0.005)
        assert kernel.seen == []
        kernel.free.set()
        task.cancel()
        worker.close()

    asyncio.run(main())
    assert kernel.led == ["fd00::2/128"]


def test_a_failure_is_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skedge.daemon.kernel.worker.RETRY_S", 0.03)
    kernel, applied = SlowKernel(), list[Applied]()
    kernel.result = Applied(failed={"route 1": "refused"})

    async def main() -> None:
        worker, task = await _working(kernel, applied)
        worker.want(site_config("a"), Desired(), allow_delete=True)
        while len(applied) < 3:
            await asyncio.sleep(0.005)
        kernel.result = Applied()
        while applied[-1].failed:
            await asyncio.sleep(0.005)
        count = len(applied)
        await asyncio.sleep(0.1)
        assert len(applied) == count, "no failure, no hurry"
        task.cancel()
        worker.close()

    asyncio.run(main())


def test_the_kernel_is_compared_again_without_a_new_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skedge.daemon.kernel.worker.FULL_S", 0.03)
    kernel, applied = SlowKernel(), list[Applied]()

    async def main() -> None:
        worker, task = await _working(kernel, applied)
        worker.again()
        await asyncio.sleep(0.1)
        assert applied == [], "nothing is wanted yet"
        worker.want(site_config("a"), Desired(), allow_delete=True)
        while len(applied) < 3:
            await asyncio.sleep(0.005)
        task.cancel()
        worker.close()

    asyncio.run(main())


def test_a_call_returns_what_the_kernel_says() -> None:
    async def main() -> tuple[int, bool]:
        fake = fake_kernel()
        fake.engine.drift = 3
        worker = Worker(fake.kernel, lambda _applied, _took: None)
        try:
            return await worker.call(fake.kernel.engine.reconcile_counts), bool(await worker.call(fake.kernel.drops))
        finally:
            worker.close()

    assert asyncio.run(main()) == (3, False)


def test_what_takes_long_holds_nothing_up() -> None:
    end = threading.Event()

    async def main() -> bool:
        worker = Worker(fake_kernel().kernel, lambda _applied, _took: None)
        try:
            async with asyncio.timeout(10):
                long = asyncio.create_task(worker.beside(end.wait, 10.0))
                await asyncio.sleep(0.01)
                found = await worker.call(lambda: not end.is_set())
                end.set()
                return found and await long
        finally:
            end.set()
            worker.close()

    assert asyncio.run(main())


def test_nat_is_told_what_is_configured_and_nothing_where_there_is_no_lan() -> None:
    times, own = FlowTimes(1, 2, 3, 4, 5, 6), ("100.64.0.9", "fd00::9")
    told = NatConfig(1, (63000, 63999), 1.0, 2.0, 3.0, 4.0, 5.0, NatAddresses(*own, True, udp_stream_s=6.0))
    assert nat_config(Lan(("*",), (63000, 63999), times), Desired(nat_local=own, nat_remote=own)) == told
    some = nat_config(Lan(("*",), (63000, 63999), times), Desired(nat_local=own))  # an older site is in the network
    assert some == replace(told, addresses=replace(told.addresses, towards_sites=False))
    off = nat_config(Lan(()), Desired(nat_local=own))
    assert (off.device, off.ports[0] > off.ports[1]) == (0, True)


# ---- tunnels ---------------------------------------------------------------------------------------------------


def test_tunnels_are_looked_at_at_once_when_a_link_changed() -> None:
    kernel = fake_kernel().kernel
    looks: list[float] = []

    def tend() -> tuple[dict[LinkId, TunnelFacts], float]:
        looks.append(time.monotonic())
        return {LINK: TunnelFacts(float(len(looks)))}, 1000.0

    kernel.tend = tend  # type: ignore[method-assign]

    async def run() -> None:
        worker = Worker(kernel, lambda *_: None)
        tunnels = Tunnels(worker)
        task = asyncio.create_task(tunnels.run())
        async with asyncio.timeout(10):
            for number in (1, 2):
                while tunnels.facts != {LINK: TunnelFacts(float(number))}:
                    await asyncio.sleep(0.001)
                tunnels.look()
        task.cancel()
        worker.close()

    asyncio.run(run())
    assert len(looks) >= 2
