"""The local API over a real Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from skedge.control import api
from skedge.control.api import Api
from skedge.control.peer import Peer, refuse_unless_admin
from skedge.core.api.documents import Answer, Request, Status
from skedge.core.errors import ApiError, DataplaneError


async def handler(request: Request, peer: Peer) -> Answer:
    match request.op:
        case "who":
            refuse_unless_admin(peer)
            return Answer(error=f"{peer.uid} {sorted(peer.groups)}")
        case "status":
            return Answer(status=Status("edge-a", live=True, ready=True, synced=False))
        case "slow":
            await asyncio.sleep(60)
        case "no":
            raise DataplaneError("there is no service 'x'; see skedge show services")
    raise ZeroDivisionError("secret")


def talk(path: Path, work: Any) -> Any:
    """Serve, run ``work(reader, writer)``, and check that the socket is removed."""

    async def run() -> Any:
        server = Api(str(path), handler)
        await server.start()
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                return await asyncio.wait_for(work(reader, writer), 10)
            finally:
                writer.close()
        finally:
            await server.close()
            assert not path.exists()

    return asyncio.run(run())


def ask(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[dict[str, Any]]:
        answers = []
        for line in lines:
            writer.write(line + b"\n")
            answers.append(json.loads(await reader.readline()))
        return answers

    result: list[dict[str, Any]] = talk(path, work)
    return result


def test_requests_are_answered_one_after_another(tmp_path: Path) -> None:
    first, second = ask(tmp_path / "api.sock", b'{"op": "status"}', b'{"op": "status", "future": 1}')
    assert first == second
    assert first["status"] == {
        "site": "edge-a", "live": True, "ready": True, "synced": False, "problems": [], "version": 1,
        "reachable": 0, "protected": 0,
    }  # fmt: skip
    assert first["error"] == ""


@pytest.mark.parametrize(
    "line", [b"", b"hello", b"[]", b"{}", b'{"op": 1}', b'{"op": "show", "limit": "x"}', b"\xff", b"[" * 60000]
)
def test_nonsense_is_answered_with_a_sentence_and_the_connection_lives(tmp_path: Path, line: bytes) -> None:
    wrong, right = ask(tmp_path / "api.sock", line, b'{"op": "status"}')
    assert wrong["error"].startswith("not a request: ")
    assert right["status"]["live"]


def test_errors_become_sentences_without_insides(tmp_path: Path) -> None:
    refused, broken = ask(tmp_path / "api.sock", b'{"op": "no"}', b'{"op": "boom"}')
    assert refused["error"] == "there is no service 'x'; see skedge show services"
    assert broken["error"] == "the controller failed to answer (ZeroDivisionError); see its journal"


def test_a_request_without_end_is_cut(tmp_path: Path) -> None:
    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * (api.REQUEST_MAX * 3))
        answer = json.loads(await reader.readline())
        assert "longer than" in answer["error"]
        assert await reader.read() == b""

    talk(tmp_path / "api.sock", work)


def test_idle_clients_and_slow_answers_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "IDLE_S", 0.3)
    monkeypatch.setattr(api, "ANSWER_S", 0.1)

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"op": "slow"}\n')
        assert "no answer within" in json.loads(await reader.readline())["error"]
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""

    talk(tmp_path / "api.sock", work)


def test_a_client_that_hangs_does_not_stop_others_and_their_number_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        others = [await asyncio.open_unix_connection(str(path)) for _ in range(api.CONNECTIONS_MAX + 5)]
        await asyncio.sleep(0.1)
        writer.write(b'{"op": "status"}\n')
        assert json.loads(await reader.readline())["status"]
        for other, its_writer in others[-5:]:
            with pytest.raises((ConnectionError, AssertionError)):
                assert await other.readline()
            its_writer.close()
        for _, its_writer in others:
            its_writer.close()

    talk(path, work)


def test_only_owner_and_group_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def work(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660

    old = os.umask(0)
    try:
        talk(path, work)
    finally:
        os.umask(old)


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert ask(path, b'{"op": "status"}')[0]["status"]


def test_a_living_controller_is_not_pushed_aside(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with pytest.raises(ApiError, match="another controller answers there"):
            await Api(str(path), handler).start()
        writer.write(b'{"op": "status"}\n')
        assert json.loads(await reader.readline())["status"]

    talk(path, work)


def test_other_files_are_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(ApiError, match="is not a socket; remove it"):
        asyncio.run(Api(str(path), handler).start())
    assert path.read_text() == "precious"


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=r"nowhere/api\.sock: cannot listen: No such file or directory"):
        asyncio.run(Api(str(tmp_path / "nowhere" / "api.sock"), handler).start())
