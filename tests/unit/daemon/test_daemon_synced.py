"""What `synced` vouches for: a kernel that was looked at, certificates that both ends took, files that are in force."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from skedge.core.api.documents import Request
from skedge.daemon.api import answers as module
from skedge.daemon.api.answers import Answers
from tests.unit.control.authority import Authority
from tests.unit.daemon.kit import Running, document, running, write

pytestmark = pytest.mark.usefixtures("wireless")


async def looked(run: Running) -> tuple[bool, dict[str, str]]:
    """Return whether the site is in sync by a look at its kernel, and its problems."""
    status = (await Answers(run.at).answer(Request("status", "kernel"))).status
    assert status is not None
    return status.synced, {problem.what: problem.cause for problem in status.problems}


def in_sync(tmp_path: Path, authority: Authority, story: Callable[[Running], Awaitable[None]]) -> None:
    """Run a story in a site that is in sync, and whose kernel has all that is wanted."""

    async def main() -> None:
        async with running(tmp_path, authority) as run:
            await run.reach_sync()
            for _ in range(500):
                if await looked(run) == (True, {}):
                    break
                await asyncio.sleep(0.01)
            assert await looked(run) == (True, {})
            await story(run)

    asyncio.run(main())


def renew(tmp_path: Path, authority: Authority) -> None:
    """Put another certificate of the same key into site a's directory, as a deploy does."""
    where = tmp_path / "identity-a"
    key = load_pem_private_key((where / "site.key").read_bytes(), None)
    authority.directory(where, "a", key=key)  # type: ignore[arg-type]


def test_what_was_taken_out_of_the_kernel_just_now_is_seen(tmp_path: Path, authority: Authority) -> None:
    async def story(run: Running) -> None:
        listeners = run.kernel.drivers.listeners.objects
        assert listeners
        listeners.clear()
        synced, problems = await looked(run)
        assert not synced
        assert problems["kernel"].startswith("not as wanted: listener ")
        assert problems["kernel"].endswith("; see skedge plan")

    in_sync(tmp_path, authority, story)


def test_a_kernel_that_cannot_be_looked_at_is_not_vouched_for(tmp_path: Path, authority: Authority) -> None:
    async def story(run: Running) -> None:
        run.kernel.drivers.listeners.unreadable = True
        assert not (await looked(run))[0]

    in_sync(tmp_path, authority, story)


def test_a_kernel_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(run: Running) -> None:
        monkeypatch.setattr(module, "KERNEL_S", 0.05)
        monkeypatch.setattr(run.at.worker, "call", lambda *_a, **_k: asyncio.sleep(60))
        synced, problems = await looked(run)
        assert (synced, problems["kernel"]) == (False, "it could not be looked at: no answer within 0.05 s")

    in_sync(tmp_path, authority, story)


def test_a_link_whose_far_end_refuses_the_certificate(tmp_path: Path, authority: Authority) -> None:
    async def story(run: Running) -> None:
        run.control.refused["a--b"] = "a--b: the neighbour refuses our certificate: unknown ca"
        synced, problems = await looked(run)
        assert not synced
        assert problems["certificate a--b"] == (
            "a--b: the neighbour refuses our certificate: unknown ca; deploy both sites from the control node that has "
            "the network's authority"
        )

    in_sync(tmp_path, authority, story)


def test_certificates_that_are_not_in_force_yet(tmp_path: Path, authority: Authority) -> None:
    async def story(run: Running) -> None:
        renew(tmp_path, authority)
        synced, problems = await looked(run)
        assert not synced
        assert "the certificates on disk are not those in force" in problems["identity"]
        run.at.reload()
        assert run.control.renewals == 1, "the neighbours are shown the new one"
        assert await looked(run) == (True, {})

    in_sync(tmp_path, authority, story)


def test_a_configuration_that_was_refused(tmp_path: Path, authority: Authority) -> None:
    async def story(run: Running) -> None:
        write(run.path, document(listeners=[{"service": "web", "port": 0}]))
        run.at.reload()
        synced, problems = await looked(run)
        assert not synced
        assert "the last good one is in force" in problems["configuration"]

    in_sync(tmp_path, authority, story)


def test_ports_that_other_programs_may_get_now(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(run: Running) -> None:
        monkeypatch.setattr(module.reserved_ports, "at_next_boot", lambda _config: "at the next boot")
        assert await looked(run) == (True, {"reserved ports": "at the next boot"})
        monkeypatch.setattr(module.reserved_ports, "complaint", lambda _config: "now")
        assert await looked(run) == (False, {"reserved ports": "now"})

    in_sync(tmp_path, authority, story)


def test_links_say_with_which_certificate_they_were_made(tmp_path: Path, authority: Authority) -> None:
    async def story(run: Running) -> None:
        run.control.certificates["a--b"] = run.at.identity.serial
        rows = (await Answers(run.at).answer(Request("show", "links"))).rows
        assert rows is not None
        assert [row.certificate for row in rows.links or ()] == [run.at.identity.serial]

    in_sync(tmp_path, authority, story)
