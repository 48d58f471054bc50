"""site_info asks a real socket, in the words of the local API."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ansible_collections.skedge.edge.plugins.module_utils.api import ApiError, ask
from ansible_collections.skedge.edge.plugins.modules import site_info

from skedge.core.api.documents import Answer, Request, Rows, Status, Sync
from skedge.core.api.shown import LinkRow, SiteRow

ROOT = Path(__file__).parents[3]
SITES = (
    SiteRow("edge-a", "100.64.0.1", "fd00::1", True, 0, False, False, 1, 1, 1, here=True),
    SiteRow("edge-b", "100.64.0.2", "fd00::2", True, 10, False, False, 1, 1, 1),
)
LINK = LinkRow("edge-a--edge-b", "edge-b", "sk-edge-b-1", "vxlan", 10, True, "full", 0.1, 0.0, 5, 5, 1.0)


def answer_to(request: Request) -> Answer:
    """Answer as the controller does."""
    if request.op == "status":
        return Answer(status=Status("edge-a", True, True, False))
    if request.what == "sync":
        return Answer(sync=Sync(False, 2, ("edge-b",), 1, 0, 0.1, (), 0))
    if request.what in ("site", "sites"):
        return Answer(rows=Rows(sites=SITES))
    if request.what == "links":
        return Answer(rows=Rows(links=(LINK,)))
    return Answer(error="no such thing; ask for links")


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[str]:
    """A socket that answers with the project's own documents; strict about requests."""
    path = str(tmp_path / "api.sock")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(path)
    server.listen()

    def serve() -> None:
        while True:
            try:
                stream, _ = server.accept()
            except OSError:
                return
            with stream, stream.makefile("rwb") as file:
                request = msgspec.json.decode(file.readline(), type=Request)
                file.write(msgspec.json.encode(answer_to(request)) + b"\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield path
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def run_module(arguments: dict[str, Any]) -> dict[str, Any]:
    """Run the module as Ansible does on a host: by ansible's own runner of one module."""
    command = [
        str(Path(sys.executable).with_name("ansible")), "localhost", "-c", "local", "-m", "skedge.edge.site_info", "-o",
        "-a", json.dumps(arguments), "-e", f"ansible_python_interpreter={sys.executable}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment())
    return json.loads(done.stdout.split("=>", 1)[1])


def environment() -> dict[str, str]:
    return {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "ANSIBLE_NOCOLOR": "1",
    }


def test_the_module_returns_what_was_asked_for(controller: str):
    result = run_module({"socket": controller, "gather": ["status", "site", "sites", "links", "sync"]})
    assert result["changed"] is False
    assert result["status"]["ready"] is True
    assert result["site"]["name"] == "edge-a"
    assert [site["name"] for site in result["sites"]] == ["edge-a", "edge-b"]
    assert result["links"][0]["cost"] == 10
    assert result["sync"]["waiting_for"] == ["edge-b"]


def test_without_a_controller_the_module_says_what_to_do(tmp_path: Path):
    result = run_module({"socket": str(tmp_path / "none.sock")})
    assert result["msg"] == f"no controller listens on {tmp_path}/none.sock; look at: systemctl status skedge"


def test_a_refusal_is_passed_on(controller: str):
    with pytest.raises(ApiError, match="no such thing; ask for links"):
        site_info.gather(controller, 5, "drops")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"not json\n", "did not answer with a JSON line"),
        (b'{"version": 99}\n', "speaks another version of the API"),
        (b"", "did not answer with a JSON line"),
        (b"[]\n", "another version"),
    ],
)
def test_strange_answers_are_one_sentence(tmp_path: Path, line: bytes, words: str):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            stream, _ = server.accept()
            with stream:
                stream.recv(1000)
                stream.sendall(line)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(ApiError, match=words):
            ask(path, {"op": "status"}, 5)
        thread.join(5)


def test_a_controller_that_hangs_is_given_up(tmp_path: Path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()
        with pytest.raises(ApiError, match=r"did not answer in 0.2 s"):
            ask(path, {"op": "status"}, 0.2)
