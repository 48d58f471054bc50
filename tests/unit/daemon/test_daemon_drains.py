"""Drains by command at a whole controller: who may, what follows, what outlives it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from skedge.control.peer import NOBODY, Peer
from skedge.core.api.documents import Answer, Request
from skedge.core.api.shown import DrainRow
from skedge.core.ending import Ending, Ends
from skedge.core.model import Protocol, WorkloadId
from skedge.core.observed import Counts
from skedge.core.reasons import Reason
from skedge.daemon.api.answers import Answers
from skedge.daemon.state_file import DRAINS, load_drains
from tests.unit.control.authority import Authority
from tests.unit.daemon.kit import LINK_AB, WEB, Running, document, running, write

ROOT = Peer(0)
A = WorkloadId("a", "web")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skedge.daemon.api.drain.FLOODED_S", 0.01)


async def ask(
    run: Running, op: str, what: str = "", name: str = "", *, entry: bool = False, peer: Peer = ROOT
) -> Answer:
    return await Answers(run.at).answer(Request(op, what, name, entry=entry), peer)


def rows(answer: Answer) -> tuple[DrainRow, ...]:
    assert answer.error == ""
    assert answer.rows is not None
    assert answer.rows.drains is not None
    return answer.rows.drains


def test_a_command_is_followed_and_outlives_the_controller(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            assert rows(await ask(run, "show", "drains")) == ()
            (made,) = rows(await ask(run, "drain", "workload", "web"))
            assert (made.what, made.name, made.by, made.by_configuration) == ("workload", "web", "root", False)
            told = run.neighbours["b"].flooder
            await run.until(lambda: told.network_map().services["a"].workloads[0].drain)
            (made,) = rows(await ask(run, "drain", entry=True))
            await run.until(lambda: told.network_map().links["a"].overload and told.network_map().links["a"].drain)
            run.at.reload()
            assert run.at.config_error == ""
            assert run.at.state.config.drain, "a new configuration does not undo a command"
            status = Answers(run.at).status()
            found = {one.what: one for one in status.problems}
            assert "by command of root since 20" in found["drain site"].cause
            assert "skedge undrain workload web" in found["drain workload web"].cause
            assert {one.severity for one in status.problems} == {"info"}, "what is drained is no error"
        async with running(tmp_path, authority) as run:
            assert run.at.state.config.entry_drain, "from the first moment of the next life"
            standing = rows(await ask(run, "show", "drains"))[0]
            assert (standing.what, standing.since) == ("site", made.since)
            assert rows(await ask(run, "undrain", "site")) == ()
            assert rows(await ask(run, "undrain", "workload", "a/web")) == ()
            assert run.at.state.config == run.at.state.given
            assert load_drains(tmp_path / "state") == ()

    asyncio.run(main())


def test_the_configuration_and_a_command_add_up(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            write(run.path, document(drain=True))
            run.at.reload()
            (row,) = rows(await ask(run, "show", "drains"))
            assert (row.by, row.since, row.by_configuration) == ("", None, True)
            refused = (await ask(run, "undrain")).error
            assert refused == "no command drains site; its configuration does: deploy it without skedge_drain"
            (row,) = rows(await ask(run, "drain"))
            assert (row.by, row.by_configuration) == ("root", True)
            (row,) = rows(await ask(run, "undrain"))
            assert (row.by, row.by_configuration) == ("", True), "the configuration's is left"
            assert run.at.state.config.drain
            assert (await ask(run, "undrain", "workload", "web")).error == "no command drains workload web"

    asyncio.run(main())


def test_what_is_left_is_what_was_placed_here_and_what_ends_here(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            run.kernel.engine.counted = {(WEB, A): Counts(3), (WEB, WorkloadId("b", "web")): Counts(9)}
            run.kernel.host.served = {run.at.state.ports["web"]: 4, 1: 100}
            await run.until(lambda: run.at.state.counts)
            (row,) = rows(await ask(run, "drain"))
            assert (row.connections, row.transit, row.cut_off) == (7, 0, ())
            (made,) = rows(await ask(run, "drain", "link", "a--b"))
            assert (made.what, made.connections, made.transit) == ("link", None, None)

    asyncio.run(main())


@pytest.mark.parametrize("op", ["drain", "undrain"])
def test_nobody_else_commands(tmp_path: Path, authority: Authority, op: str) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            refused = await ask(run, op, peer=NOBODY)
            assert "may only look: commands are for root and members of the group skedge-admin" in refused.error
            assert not (tmp_path / "state" / DRAINS).exists()

    asyncio.run(main())


def test_what_cannot_be_kept_is_not_done(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:

            def full(path: Path, text: str) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr("skedge.daemon.state_file.replace_file", full)
            refused = await ask(run, "drain")
            assert refused.error.endswith("cannot be written (No space left on device); nothing was changed")
            assert run.at.state.drains == ()

    asyncio.run(main())


def test_a_damaged_file_drains_nothing_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / DRAINS).write_text("[{")
    assert load_drains(tmp_path) == ()
    assert "nothing is drained by command" in caplog.text


def test_a_host_that_booted_may_be_used_when_it_is_in_sync_and_has_its_routes(
    tmp_path: Path, authority: Authority
) -> None:
    async def main() -> None:
        async with running(tmp_path, authority, booted=True) as run:
            there = run.neighbours["b"]
            run.healthy()
            run.control.measure(LINK_AB, True)
            broken = run.kernel.drivers.routes.broken
            there.connect()
            there.say()
            known = there.flooder.network_map
            await run.until(lambda: "a" in known().links)
            assert (known().links["a"].overload, known().links["a"].drain) == (True, True)
            broken |= set(run.at.state.desired().routes)
            await run.until(lambda: run.at.life.synced)
            assert known().links["a"].overload
            broken.clear()
            run.at.worker.again()
            await run.until(lambda: not known().links["a"].overload)
            assert not known().links["a"].drain
            assert run.at.worker.kernel.route_driver.read() == run.at.desired.routes  # type: ignore[attr-defined]

    asyncio.run(main())


def test_a_host_that_goes_down_withdraws_and_a_controller_that_stops_does_not(
    tmp_path: Path, authority: Authority
) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            known = run.neighbours["b"].flooder.network_map
            assert (known().links["a"].overload, known().links["a"].drain) == (False, False)
            assert "may only look" in (await ask(run, "leave", peer=NOBODY)).error
            assert rows(await ask(run, "leave")) == ()
            await run.until(lambda: known().links["a"].overload and known().links["a"].drain)
            assert "leave" in {one.what for one in Answers(run.at).status().problems}
            assert [one.up for one in known().links["a"].links] == [True], "what is open goes on"
            run.at.stop()
            await asyncio.sleep(0.05)
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            known = run.neighbours["b"].flooder.network_map
            run.at.stop()
            await asyncio.sleep(0.05)
            run.neighbours["b"].exchange()
            assert (known().links["a"].overload, known().links["a"].drain) == (False, False), "fail static"

    asyncio.run(main())


def test_what_is_left_is_ended_at_both_ends_and_of_a_link_nothing(tmp_path: Path, authority: Authority) -> None:
    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            ended: list[Ending] = []
            run.at.end = ended.append  # type: ignore[method-assign]
            await ask(run, "drain")
            assert ended == [], "only where asked"
            answers = Answers(run.at)
            assert (await answers.answer(Request("drain", "workload", "web", abort=True), ROOT)).error == ""
            (one,) = ended
            assert (one.reason, one.what, one.selection.protocol) == (
                Reason.DRAINED,
                "drain workload web",
                Protocol.TCP,
            )
            port, config = run.at.state.ports["web"], run.at.state.config
            assert set(one.selection.ends) == {
                Ends(far="127.0.0.1", far_port=9090),
                Ends(near=config.overlay4, near_port=port),
                Ends(near=config.overlay6, near_port=port),
            }
            refused = await answers.answer(Request("drain", "link", "a--b", abort=True), ROOT)
            assert "a drained link has none that it could end" in refused.error
            assert len(ended) == 1

    asyncio.run(main())
