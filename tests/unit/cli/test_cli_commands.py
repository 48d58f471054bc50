"""Each command against a real socket: what it asks, what it prints, its exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answers import DOCUMENTS

from skedge.cli import main as cli_main
from skedge.cli import purge
from skedge.core.api.documents import VERSION, Answer, Explain, PlanReport, Request, Rows, Status, Sync
from skedge.core.api.shown import DrainRow
from tests.unit.cli.conftest import FakeController

Result = tuple[int, str, str]
FIELDS: dict[type, str] = {Status: "status", Rows: "rows", Sync: "sync", Explain: "explain", PlanReport: "plan"}


def answer(name: str) -> Answer:
    document = DOCUMENTS[name]
    return Answer(**{FIELDS[type(document)]: document})  # type: ignore[arg-type]


@pytest.fixture
def skedge(controller: FakeController, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str, socket: str = controller.path) -> Result:
        with pytest.raises(SystemExit) as end:
            cli_main.main(["--socket", socket, *arguments])
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err

    return run


@pytest.mark.parametrize("what", cli_main.SHOWN)
@pytest.mark.parametrize("as_json", [False, True])
def test_show(skedge: Any, controller: FakeController, what: str, as_json: bool) -> None:
    controller.reply = lambda request: answer(f"show {request.what}")
    code, out, err = skedge("show", what, "--limit", "7", *(["--json"] if as_json else []))
    assert (code, err) == (0, "")
    assert controller.requests == [Request("show", what=what, limit=7)]
    if as_json:
        assert json.loads(out)["version"] == VERSION
    else:
        assert out == (Path(__file__).parent / "golden" / f"show-{what}.txt").read_text()


def test_show_with_filters(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: answer(f"show {request.what}")
    words = ("--service", "web", "--workload", "b/web", "--client", "10.0.5.9")
    assert skedge("show", "flows", *words)[0] == 0
    assert controller.requests == [Request("show", what="flows", service="web", workload="b/web", client="10.0.5.9")]
    for wrong in (("--service", "web"), ("--follow",)):
        code, _, err = skedge("show", "links", *wrong)
        assert code == 2
        assert "--follow and filters go with connections and flows, not with links" in err
    assert len(controller.requests) == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_followed_placements_are_printed_once_and_in_order(
    skedge: Any, controller: FakeController, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skedge.cli.follow.ASK_S", 0.0)
    rows = DOCUMENTS["show connections"].connections  # type: ignore[union-attr]
    now = time.monotonic()
    first, second = (replace(row, placed_s=now + at) for row, at in zip(rows, (2.0, 1.0), strict=True))
    looks = [(), (first, second), (second,), (first,)]

    def reply(request: Request) -> Answer:
        if not looks:
            return Answer(error="the end")
        return Answer(rows=Rows(connections=looks.pop(0)))

    controller.reply = reply
    options = ["--service", "backend", "--follow", *(["--json"] if as_json else [])]
    code, out, err = skedge("show", "flows", *options)
    assert (code, err) == (1, "skedge: the end\n")
    assert {(one.what, one.service) for one in controller.requests} == {("connections", "backend")}
    assert all(one.since >= now for one in controller.requests)
    lines = out.splitlines()
    if as_json:
        assert [json.loads(line)["workload"] for line in lines] == ["edge-a/backend", "edge-b/backend"]
    else:
        assert [line.partition(" ")[2] for line in lines] == [
            "[::1]:5 backend/tcp -> edge-a/backend, perceived 0, path cost 0, suspended",
            "127.0.0.1:41234 backend/tcp -> edge-b/backend, perceived 12, path cost 10,"
            " before edge-a/backend at 12.25 (49/4)",
        ]


def test_explain_service(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: answer("explain backend")
    code, out, _ = skedge("explain", "backend", "--from", "edge-b")
    assert code == 0
    assert controller.requests == [Request("explain", name="backend", site="edge-b")]
    (winner,) = [line for line in out.splitlines() if line.startswith("->")]
    assert winner.split()[1] == "edge-b/backend"
    assert json.loads(skedge("explain", "backend", "--json")[1])["winner"] == "edge-b/backend"


def test_explain_connection(skedge: Any, controller: FakeController) -> None:
    rows = DOCUMENTS["show connections"]
    assert isinstance(rows, Rows)
    assert rows.connections
    controller.reply = lambda request: Answer(rows=Rows(connections=rows.connections[:1]))  # type: ignore[index]
    code, out, _ = skedge("explain", "connection", "127.0.0.1:041234")
    assert code == 0
    assert controller.requests == [Request("explain-connection", name="127.0.0.1:41234")]
    assert "RUNNER-UP:  edge-a/backend at 12.25 (49/4)" in out
    skedge("explain", "connection", "[::0001]:80")
    assert controller.requests[-1].name == "[::1]:80"


def test_a_receipt_that_is_not_there(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: Answer(rows=Rows(connections=()))
    code, out, err = skedge("explain", "connection", "127.0.0.1:1")
    assert (code, out) == (1, "")
    assert err == (
        "skedge: no open connection from 127.0.0.1:1 was placed here; list them with: skedge show connections\n"
    )


def test_a_service_may_be_called_connection(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: answer("explain backend")
    assert skedge("explain", "connection")[0] == 0
    assert controller.requests == [Request("explain", name="connection")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "backend", "127.0.0.1:80"),
        ("explain", "connection", "127.0.0.1"),
        ("explain", "connection", "127.0.0.1:70000"),
        ("explain", "connection", "::1:80"),
        ("explain", "connection", "[10.0.0.1]:80"),
        ("explain", "connection", "host:80"),
        ("explain", "connection", "127.0.0.1:80", "--from", "edge-b"),
        ("status", "--wait", "3"),
        ("show", "nothing"),
        ("nothing",),
    ],
)
def test_wrong_usage_asks_nothing(skedge: Any, controller: FakeController, arguments: tuple[str, ...]) -> None:
    code, out, err = skedge(*arguments)
    assert (code, out) == (2, "")
    assert "Error: " in err
    assert controller.requests == []


def test_plan(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: answer("plan")
    assert "sk-edge-b-1f2e" in skedge("plan")[1]
    assert controller.requests == [Request("plan")]
    controller.reply = lambda request: answer("plan-none")
    assert skedge("plan") == (0, "nothing would change\n", "")


# ---- status ----------------------------------------------------------------------------------------------------


def test_status_by_exit_code(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: answer("status")
    assert skedge("status")[0] == 3  # it has an error
    assert skedge("status", "--check", "live")[0] == 0
    assert skedge("status", "--check", "ready")[0] == 0
    assert skedge("status", "--check", "synced")[0] == 3
    controller.reply = lambda request: answer("status-well")
    assert skedge("status")[0] == 0
    assert json.loads(skedge("status", "--json")[1])["synced"] is True


def test_status_waits_until_it_is_so(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: answer("status" if len(controller.requests) < 3 else "status-well")
    assert skedge("status", "--check", "synced", "--wait", "20")[0] == 0
    assert len(controller.requests) == 3


def test_status_does_not_wait_longer_than_told(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: answer("status")
    begin = time.monotonic()
    assert skedge("status", "--check", "synced", "--wait", "0.7")[0] == 3
    assert 0.7 <= time.monotonic() - begin < 5
    assert len(controller.requests) >= 2


def test_no_controller(skedge: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    sentence = (
        f"skedge: the controller is not running on this host (no {path}); start it with: systemctl start skedge\n"
    )
    assert skedge("status", socket=path) == (1, "", sentence)
    assert skedge("status", "--check", "live", socket=path) == (3, "", sentence)
    assert skedge("status", "--check", "live", "--wait", "0.1", socket=path) == (3, "", sentence)
    assert skedge("show", "links", socket=path) == (1, "", sentence)


# ---- answers that are none -------------------------------------------------------------------------------------


def test_the_controllers_refusal_is_the_sentence(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: Answer(error="no site edge-x in this network; see: skedge show sites")
    code, out, err = skedge("explain", "backend", "--from", "edge-x")
    assert (code, out, err) == (1, "", "skedge: no site edge-x in this network; see: skedge show sites\n")


@pytest.mark.parametrize(
    ("reply", "part"),
    [
        (b"", "closed the connection without an answer"),
        (b"garbage\n", "the answer cannot be understood"),
        (b'{"version": 1, "status": 7}\n', "the answer cannot be understood"),
        (b"\xff\xfe\n", "the answer cannot be understood"),
        (b'{"version": 2}\n', "speaks version 2 of the API, this command 1"),
        (b'{"version": 1}\n', "the answer lacks its document"),
    ],
)
def test_answers_that_are_none(skedge: Any, controller: FakeController, reply: bytes, part: str) -> None:
    controller.reply = lambda request: reply
    code, out, err = skedge("status")
    assert (code, out) == (1, "")
    assert part in err
    assert err.count("\n") == 1


def test_keys_of_a_newer_controller_are_passed_over(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: b'{"version":1,"new":1,"plan":{"steps":[],"version":1,"newer":[]}}\n'
    assert skedge("plan")[0] == 0


def test_a_silent_controller(skedge: Any, controller: FakeController, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(request: Request) -> bytes:
        time.sleep(1)
        return b""

    controller.reply = slow
    monkeypatch.setattr(cli_main.ask, "__defaults__", (0.2,))
    assert skedge("plan")[2] == (
        "skedge: the controller did not answer within 0.2 s; see why with: journalctl -u skedge\n"
    )


def test_an_answer_without_end(skedge: Any, controller: FakeController, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skedge.cli.client.ANSWER_MAX", 1000)
    controller.reply = lambda request: b"x" * 5000
    assert "the answer is larger than 1000 bytes" in skedge("plan")[2]


def test_stale_and_wrong_sockets(skedge: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "nothing answers on" in skedge("plan", socket=str(file))[2]
    assert "give the controller's socket with --socket" in skedge("plan", socket=str(tmp_path / ("x" * 200)))[2]


@pytest.mark.needs_root
def test_no_permission(controller: FakeController, tmp_path: Path) -> None:
    script = (
        "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "from skedge.cli.client import ask; from skedge.core.errors import ApiError;"
        "from skedge.core.api.documents import Request\n"
        "try: ask(Request('plan'), sys.argv[1])\n"
        "except ApiError as error: print(type(error).__name__, error)"
    )
    os.chmod(controller.path, 0o660)
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", script, controller.path], capture_output=True, text=True, check=False)
    way_out = "use sudo, or add your user to the group skedge"
    assert done.stdout.strip() == f"ApiError this user may not open {controller.path}; {way_out}", done.stderr


def test_traceback_only_with_debug(skedge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr(cli_main, "ask", broken)
    code, _, err = skedge("plan")
    assert (code, err) == (1, "skedge: internal error (RuntimeError: oh); see where with: skedge --debug\n")
    assert "Traceback" in skedge("--debug", "plan")[2]


def test_a_reader_that_has_enough(controller: FakeController) -> None:
    rows = DOCUMENTS["show connections"]
    assert isinstance(rows, Rows)
    many = Rows(connections=rows.connections * 5000)  # type: ignore[operator]
    controller.reply = lambda request: Answer(rows=many)
    command = (
        f"{sys.executable} -c 'from skedge.cli.main import main; main()' --socket {controller.path} show connections"
    )
    done = subprocess.run(["bash", "-c", f"{command} | head -1"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("CLIENT")
    assert done.stderr == ""


# ---- config check ----------------------------------------------------------------------------------------------


def test_config_check(skedge: Any, tmp_path: Path) -> None:
    good = Path(__file__).parent.parent / "config" / "full.yaml"
    assert skedge("config", "check", str(good)) == (0, f"{good}: good\n", "")
    bad = tmp_path / "bad.yaml"
    bad.write_text("network: demo\nsite: edge-a\ncost: 3\nload_port: 0\n")
    code, out, err = skedge("config", "check", str(bad))
    assert (code, out) == (78, "")
    assert [line.split(": ")[1] for line in err.splitlines()] == ["cost", "load_port"]
    code, out, _ = skedge("config", "check", str(bad), "--json")
    assert code == 78
    assert json.loads(out) == {"file": str(bad), "problems": err.splitlines(), "version": VERSION}
    bad.write_text("a: [")
    assert skedge("config", "check", str(bad))[0] == 78
    assert skedge("config", "check", str(tmp_path / "none"))[0] == 78


# ---- purge -----------------------------------------------------------------------------------------------------


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge.os, "geteuid", lambda: 0)


def test_purge_needs_root(skedge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge.os, "geteuid", lambda: 1000)
    assert skedge("purge", "--yes") == (1, "", "skedge: only root can change the kernel; run: sudo skedge purge\n")


@pytest.mark.usefixtures("as_root")
def test_purge_refuses_while_the_controller_runs(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda request: answer("status-well")
    assert "the controller runs and would put everything back" in skedge("purge", "--yes")[2]
    controller.reply = lambda request: b""
    assert "a controller runs but is not well" in skedge("purge", "--yes")[2]


@pytest.mark.usefixtures("as_root")
def test_purge_runs_every_step_also_after_a_failed_one(
    skedge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    steps = [
        ("links", ["bash", "-c", f"echo one >>{log}; echo oh no >&2; exit 1"]),
        ("maps", ["bash", "-c", f"echo two >>{log}"]),
    ]
    monkeypatch.setattr(purge, "commands", lambda: steps)
    none = str(tmp_path / "none.sock")
    code, out, _ = skedge("purge", "--yes", socket=none)
    assert (code, out) == (1, "links: failed (oh no)\nmaps: done\n")
    assert log.read_text() == "one\ntwo\n"
    monkeypatch.setattr(purge, "commands", lambda: [*steps[1:], ("x", ["/nonexistent"])])
    code, out, _ = skedge("purge", "--yes", "--json", socket=none)
    assert code == 1
    assert json.loads(out)["steps"] == [
        {"what": "maps", "done": True, "output": ""},
        {"what": "x", "done": False, "output": "/nonexistent: No such file or directory"},
    ]


@pytest.mark.usefixtures("as_root")
def test_purge_asks_first(skedge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "run", lambda: pytest.fail("ran without a yes"))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = skedge("purge", socket=str(tmp_path / "none.sock"))
    assert code == 1
    assert "stopped; nothing more was done" in err


def test_purge_runs_the_data_planes_own_commands(tmp_path: Path) -> None:
    (_, before), (_, first), (_, second) = purge.commands(str(tmp_path / "none.yaml"))
    assert before[1:] == ["withdraw"], "while the rest still serves, clients are given back to the host's own sockets"
    assert first == [sys.executable, "-m", "skedge.dataplane.purge"]
    assert Path(second[0]).name == "skedge-loader"
    assert Path(second[0]).parent == Path(sys.executable).parent
    assert second[1:] == ["unload"]
    (tmp_path / "good.yaml").write_text("network: demo\nsite: edge-a\noverlay_cidr: 10.5.0.0/16\n")
    _, (_, first), _ = purge.commands(str(tmp_path / "good.yaml"))
    assert first[3:] == ["--overlay", "10.5.0.0/16", "--overlay", "fde7:3405:4cf7::/48"]


def test_purge_says_what_it_removed(
    skedge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_root: None
) -> None:
    monkeypatch.setattr(purge, "commands", lambda: [("links", ["printf", "route a\\nrule b\\n"])])
    assert skedge("purge", "--yes", socket=str(tmp_path / "none")) == (0, "links: done (route a, rule b)\n", "")


@pytest.mark.needs_root
def test_purge_takes_ours_and_leaves_the_rest() -> None:
    """The real command in a network namespace of its own."""
    script = f"""
        ip link set lo up
        ip address add 10.5.0.1/32 dev lo
        ip address add 192.0.2.1/32 dev lo
        ip rule add priority 7400 table 7400 protocol 74
        ip rule add priority 99 table 99
        {sys.executable} -m skedge.dataplane.purge --overlay 10.5.0.0/16 >&2
        ip -o -4 address show dev lo
        ip rule
    """
    done = subprocess.run(["unshare", "-n", "bash", "-ec", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "10.5.0.1" not in done.stdout
    assert "7400" not in done.stdout
    assert "192.0.2.1" in done.stdout
    assert "lookup 99" in done.stdout


def drains(*rows: DrainRow) -> Answer:
    return Answer(rows=Rows(drains=rows))


def test_drain_asks_once_and_waits_by_looking(
    skedge: Any, controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skedge.cli.drain.PAUSE_S", 0.0)
    looks = [3, 3, 1, 0]
    controller.reply = lambda _: drains(DrainRow("workload", "web", "root", connections=looks.pop(0)))
    code, out, err = skedge("drain", "workload", "a/web", "--wait", "1m")
    assert (code, err) == (0, "")
    assert "workload  web" in out
    assert controller.requests[0] == Request("drain", what="workload", name="a/web")
    assert controller.requests[1:] == [Request("show", what="drains")] * 3


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (DrainRow("site", "", "root", connections=2, transit=0), 3),
        (DrainRow("site", "", "root", connections=0, transit=1), 3),
        (DrainRow("site", "", "root", connections=None, transit=0), 3),
        (DrainRow("site", "", "root", connections=0, transit=0), 0),
        (DrainRow("link", "a--b", "root"), 0),
    ],
)
def test_what_is_left_after_waiting_is_an_exit_code(
    skedge: Any, controller: FakeController, row: DrainRow, code: int
) -> None:
    controller.reply = lambda _: drains(row)
    words = (row.what, row.name) if row.name else ()
    assert skedge("drain", *words, "--wait", "0")[0] == code
    assert skedge("drain", *words, "--json")[0] == 0, "without waiting it is done"


def test_what_is_left_after_waiting_is_ended_where_asked(
    skedge: Any, controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skedge.cli.drain.PAUSE_S", 0.0)
    looks = [3, 3, 1, 0]
    controller.reply = lambda _: drains(DrainRow("site", "", "root", connections=looks.pop(0), transit=0))
    assert skedge("drain", "--wait", "0", "--then", "abort")[0] == 0
    order = Request("drain", what="site")
    assert controller.requests == [order, replace(order, abort=True), *[Request("show", what="drains")] * 2]


def test_undrain_says_what_is_left_of_it(skedge: Any, controller: FakeController) -> None:
    controller.reply = lambda _: drains()
    assert skedge("undrain") == (0, "site: in use again\n", "")
    assert skedge("undrain", "link", "a--b") == (0, "link a--b: in use again\n", "")
    controller.reply = lambda _: drains(DrainRow("site", "", by_configuration=True))
    assert "configuration" in skedge("undrain")[1]
    assert json.loads(skedge("undrain", "--json")[1])["drains"][0]["by_configuration"]
    assert controller.requests[0] == Request("undrain", what="site")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("drain", "workload"), "which workload? Give its name"),
        (("drain", "site", "b"), "a site is drained on its own host, and needs no name"),
        (("drain", "link", "a--b", "--entry"), "--entry goes with the site"),
        (("drain", "--then", "abort"), "--then abort needs --wait"),
        (("drain", "link", "a--b", "--wait", "1", "--then", "abort"), "a link has no connections"),
        (("drain", "--wait", "soon"), "'soon' is no duration; give one such as 60s or 5m"),
    ],
)
def test_wrong_drains_are_wrong_usage(
    skedge: Any, controller: FakeController, words: tuple[str, ...], sentence: str
) -> None:
    code, _, err = skedge(*words)
    assert (code, controller.requests) == (2, [])
    assert sentence in err
