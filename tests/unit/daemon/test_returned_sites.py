"""A site that came back with another boot: its connections are ended, once, and nothing else ends any."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from skedge.core.ending import Ending, Ends, Open, Selection
from skedge.core.objects import ServiceKey, ServiceTable, Target
from skedge.core.reasons import Reason
from skedge.daemon.ending.endings import Endings
from tests.unit.control.authority import Authority
from tests.unit.daemon.kit import FakeEnder, Neighbour, Running, running

A, B = Target("100.64.0.1", 40000), Target("100.64.0.2", 61000)


def to_b(run: Running, *, heard_s_ago: float) -> Open:
    """A connection of this host to B, which was last heard so long ago."""
    at = time.monotonic() - heard_s_ago
    there = run.at.state.network_map.links["b"].overlay4
    return Open(((A, Target(there, 61000)),), heard_at=at, active_at=at)


async def boots(run: Running, *said: str) -> Neighbour:
    """Let B say these boots one after the other."""
    neighbour = run.neighbours["b"]
    neighbour.boot = said[0]
    await run.reach_sync()
    for boot in said[1:]:
        neighbour.boot = boot
        neighbour.say()
        await run.until(lambda boot=boot: run.at.state.network_map.links["b"].boot == boot)
    return neighbour


def saved(tmp_path: Path) -> dict[str, str]:
    return json.loads((tmp_path / "state" / "state.json").read_text())["boots"]


def test_what_was_not_heard_since_the_new_boot_is_ended(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            neighbour = await boots(run, "one")
            dead, alive = to_b(run, heard_s_ago=60.0), to_b(run, heard_s_ago=1.0)
            elsewhere = Open(((A, Target("100.64.0.9", 61000)),), heard_at=0.0, active_at=0.0)
            run.kernel.ender.held = [dead, alive, elsewhere]
            neighbour.boot = "two"
            neighbour.say(boot_age_ms=5000)
            await run.until(lambda: run.kernel.ender.ended)
            assert run.kernel.ender.ended == [(dead,)]
            assert run.at.endings.ended == {Reason.SITE_RESTARTED: 1}
            await run.until(lambda: saved(tmp_path) == {"b": "two"})

    asyncio.run(main())


def test_before_clients_connect_anew_the_kernel_knows_that_the_site_is_not_ready(
    tmp_path: Path, authority: Authority
) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            neighbour = await boots(run, "one")
            await run.until(lambda: run.candidates()["b/web"] is Reason.NONE)
            services, found = run.kernel.drivers.services, []

            def slowly(key: ServiceKey, value: ServiceTable, put: Callable[..., None] = services.put) -> None:
                time.sleep(0.2)
                put(key, value)

            def find(_: Selection) -> Sequence[Open]:
                found.append(run.candidates()["b/web"])
                return ()

            services.put, run.kernel.ender.find = slowly, find  # type: ignore[method-assign]
            neighbour.boot = "two"
            neighbour.say(healthy=False, boot_age_ms=5000)
            await run.until(lambda: found)
            assert found == [Reason.UNHEALTHY]

    asyncio.run(main())


def test_a_restarted_controller_a_new_site_and_another_version_end_nothing(
    tmp_path: Path, authority: Authority
) -> None:
    async def main(*said: str) -> None:
        async with running(tmp_path, authority) as run:
            await boots(run, *said)
            await run.until(lambda: saved(tmp_path) == ({"b": said[-1]} if said[-1] else {}))
            assert run.kernel.ender.asked == []

    asyncio.run(main("one", "one"))
    asyncio.run(main("one"))
    asyncio.run(main("one", "", "two"))
    asyncio.run(main("two"))


def test_a_boot_that_this_controller_did_not_see_is_found_by_its_next_life(
    tmp_path: Path, authority: Authority
) -> None:
    async def main(boot: str, asked: int) -> None:
        async with running(tmp_path, authority) as run:
            await boots(run, boot)
            await run.until(lambda: saved(tmp_path) == {"b": boot})
            assert len(run.kernel.ender.asked) == asked

    asyncio.run(main("one", 0))
    asyncio.run(main("two", 1))
    asyncio.run(main("two", 0))


def test_this_hosts_boot_is_said_with_the_age_that_earlier_lives_of_the_controller_remember(
    tmp_path: Path, authority: Authority
) -> None:
    async def main(boot: str) -> tuple[str, int]:
        async with running(tmp_path, authority, boot=boot) as run:
            await run.reach_sync()
            record = run.at.state.links_record("x", time.monotonic())
            return record.boot, record.boot_age_ms

    assert asyncio.run(main("one"))[0] == "one"
    time.sleep(0.5)
    assert asyncio.run(main("one"))[1] >= 500
    boot, age_ms = asyncio.run(main("two"))
    assert (boot, age_ms < 500) == ("two", True)


def test_a_rate_is_kept_and_who_cannot_be_asked_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    broken, ender = FakeEnder(broken=True), FakeEnder()
    ender.held = [Open(((A, B),), heard_at=0.0, active_at=float(number)) for number in range(5)]

    async def main() -> float:
        endings, began = Endings([broken, ender]), time.monotonic()
        ending = Ending(Selection((Ends(far=B.address),)), Reason.SITE_RESTARTED, "site b", rate=20)
        assert await endings.end(ending) == 5
        endings.close()
        return time.monotonic() - began

    with caplog.at_level("INFO"):
        assert asyncio.run(main()) >= 0.2
    assert [len(batch) for batch in ender.ended] == [2, 2, 1]
    assert "op=end reason=site-restarted what='site b' failed='the kernel does not answer'" in caplog.text
    assert "op=end reason=site-restarted what='site b' found=5 ended=5" in caplog.text
