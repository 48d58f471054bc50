"""The parts of the modules that decide what to change on a host."""

from __future__ import annotations

import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.skedge.edge.plugins.action import release as bring
from ansible_collections.skedge.edge.plugins.module_utils import hostnetwork as net
from ansible_collections.skedge.edge.plugins.modules import headers, release
from ansible_collections.skedge.edge.plugins.plugin_utils import bundle

# ---- network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "8080", "8080,61000-65535", "1-3,5,65535"])
def test_reserved_ports_survive_reading_and_writing(text: str):
    assert net.format_ports(net.parse_ports(text)) == text


@pytest.mark.parametrize("text", ["x", "0", "70000", "5-"])
def test_what_is_no_list_of_ports_is_refused(text: str):
    with pytest.raises(ValueError):
        net.parse_ports(text)


def test_reserved_ports_are_merged_with_those_of_others():
    def wanted(now: str) -> str:
        return net.wanted("61000-65535", {net.RESERVED: now}.get)[net.RESERVED]

    assert wanted("8080,60000-61005") == "8080,60000-65535"
    assert wanted("8080,60000-65535") == "8080,60000-65535"


def test_the_host_is_not_made_a_router():
    assert not [key for key in net.wanted("61000", lambda _: None) if "forward" in key or "accept_ra" in key]


FORWARDING, LISTENING = "net.ipv6.conf.all.forwarding", "net/ipv6/conf/eth0.5/accept_ra"


def test_what_an_earlier_version_set_is_taken_back_in_reverse_order():
    earlier = {LISTENING: "2", "net.ipv4.ip_forward": "1", FORWARDING: "1", net.RESERVED: "61000"}
    before = {LISTENING: "1", "net.ipv4.ip_forward": "1", FORWARDING: "0", net.RESERVED: ""}
    values = net.wanted("61000", earlier.get)
    found = net.obsolete(earlier, values, before, earlier.get)
    assert list(found.items()) == [(FORWARDING, "0"), (LISTENING, "1")], "the operator's own stays"
    assert net.obsolete(values, values, before, earlier.get) == {}


@pytest.mark.parametrize(("now", "recorded"), [("0", {FORWARDING: "0"}), (None, {FORWARDING: "0"}), ("1", {})])
def test_what_somebody_changed_since_or_nobody_recorded_stays(now: str | None, recorded: dict[str, str]):
    assert net.obsolete({FORWARDING: "1"}, {}, recorded, {FORWARDING: now}.get) == {}


# ---- headers ---------------------------------------------------------------------------------------------------


def test_the_newest_headers_are_chosen_with_their_common_part():
    trees = [f"/usr/src/linux-headers-6.1.0-{n}-{kind}" for n in (9, 25) for kind in ("amd64", "common")]
    assert headers.choose(trees) == {
        "build": "/usr/src/linux-headers-6.1.0-25-amd64",
        "source": "/usr/src/linux-headers-6.1.0-25-common",
    }
    assert headers.choose(["/usr/src/linux-headers-6.8.0-generic"])["source"] == "/usr/src/linux-headers-6.8.0-generic"
    assert headers.choose(["/usr/src/kernels/5.14.0-427.el9.x86_64", "/usr/src/kernels/5.14.0-503.el9.x86_64"]) == {
        "build": "/usr/src/kernels/5.14.0-503.el9.x86_64",
        "source": "/usr/src/kernels/5.14.0-503.el9.x86_64",
    }
    trees = [f"/usr/src/linux-headers-6.12.{n}+deb13-{kind}" for n in (9, 118) for kind in ("amd64", "common")]
    assert headers.choose(trees) == {
        "build": "/usr/src/linux-headers-6.12.118+deb13-amd64",
        "source": "/usr/src/linux-headers-6.12.118+deb13-common",
    }, "as Debian 13 names them"
    assert headers.choose([]) == {}


# ---- releases --------------------------------------------------------------------------------------------------


class Failed(Exception):
    pass


def a_release(root: Path, digest: str, *, check: bool = False) -> release.Release:
    def fail_json(msg: str) -> None:
        raise Failed(msg)

    params = {"root": str(root), "digest": digest, "command": str(root / "bin-skedge")}
    return release.Release(SimpleNamespace(params=params, check_mode=check, fail_json=fail_json))


def complete(root: Path, digest: str) -> None:
    (root / "versions" / digest).mkdir(parents=True)
    (root / "versions" / digest / ".complete").write_text(digest)


def test_switching_is_one_step_and_said_only_once(tmp_path: Path):
    complete(tmp_path, "one")
    assert a_release(tmp_path, "one", check=True).switch()
    assert not (tmp_path / "venv").exists()
    assert a_release(tmp_path, "one").switch()
    assert a_release(tmp_path, "one").in_use() == "one"
    assert not a_release(tmp_path, "one").switch()
    complete(tmp_path, "two")
    assert a_release(tmp_path, "two").switch()
    assert [Path(path).name for path in a_release(tmp_path, "two").unused()] == ["one"]


@pytest.mark.parametrize("mode", [0o700, 0o750])
def test_a_version_that_the_service_cannot_read_is_mended(tmp_path: Path, mode: int):
    """As umask 077 and 027 leave it."""
    complete(tmp_path, "one")
    complete(tmp_path, "other")
    program = tmp_path / "versions/one/bin/skedged"
    program.parent.mkdir()
    program.write_text("")
    (program.parent / "python").symlink_to("/nowhere")
    made = [tmp_path, tmp_path / "versions", program.parent.parent, program.parent, program]
    for path in made:
        path.chmod(mode if path.is_dir() or path == program else mode & 0o666)
    (tmp_path / "versions/one/.complete").chmod(mode & 0o666)
    assert a_release(tmp_path, "one", check=True).mend()
    assert program.stat().st_mode & 0o777 == mode, "a check changes nothing"
    assert a_release(tmp_path, "one").mend()
    assert {path.stat().st_mode & 0o005 for path in made} <= {0o005, 0o004}
    assert all(path.stat().st_mode & 0o005 == 0o005 for path in made if path.is_dir())
    assert program.stat().st_mode & 0o055 == 0o055, "a program stays one, for everybody"
    assert (tmp_path / "versions/one/.complete").stat().st_mode & 0o777 == (mode & 0o666) | 0o044
    assert not a_release(tmp_path, "one").mend()


def test_something_of_another_owner_is_not_replaced(tmp_path: Path):
    complete(tmp_path, "one")
    (tmp_path / "bin-skedge").write_text("another program")
    with pytest.raises(Failed, match="is there and not ours; move it away"):
        a_release(tmp_path, "one").switch()


def test_a_bundle_with_a_path_outside_is_refused(tmp_path: Path):
    tar_path = tmp_path / "x.tar"
    with tarfile.open(tar_path, "w") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"))
    with pytest.raises(Failed, match="no plain file"):
        a_release(tmp_path, "one").install(str(tar_path))
    assert not (tmp_path / "versions/one.wheels").exists()


def test_a_version_has_the_packages_of_the_python_that_comes_with_an_upgrade(tmp_path: Path):
    ran: list[list[str]] = []
    made = a_release(tmp_path, "one")
    made.module.params.update(python="/usr/bin/python3", bcc="", later_pythons=["3.13"])
    made.module.run_command = lambda command, umask: ran.append(command) or (0, "", "")
    made.module.get_bin_path = lambda name: None
    (tmp_path / "versions/one").mkdir(parents=True)
    made._unpack = lambda tar, directory: Path(directory, "pip-1-py3-none-any.whl").touch() or made._version_made()
    made._version_made = lambda: Path(made.version).mkdir(parents=True, exist_ok=True)
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    made.install(str(tmp_path / "x.tar"))
    assert made.complete()
    own, later = [command for command in ran if "install" in command]
    assert "--target" not in own
    assert later[later.index("--target") + 1] == f"{made.version}/lib/python3.13/site-packages"
    assert later[later.index("--python-version") + 1] == "3.13"
    assert {"--no-index", "skedge"} <= {*own} & {*later}, "both from the bundle alone"


@pytest.mark.parametrize(
    ("needed", "check", "runs"), [(False, False, [""]), (True, False, ["", "/host/bundle.tar"]), (True, True, [""])]
)
def test_a_bundle_is_brought_only_where_its_version_is_not(
    monkeypatch: pytest.MonkeyPatch, needed: bool, check: bool, runs: list[str]
):
    asked: list[str] = []

    def on_host(args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        asked.append(args.get("archive", ""))
        return {"changed": True, "needed": needed and not args.get("archive")}

    action = object.__new__(bring.ActionModule)
    action._task = SimpleNamespace(args={"digest": "one", "bundle": "/node/one.tar"}, check_mode=check)
    monkeypatch.setattr(bring.ActionBase, "run", lambda *_: {})
    monkeypatch.setattr(action, "_on_host", on_host)
    monkeypatch.setattr(action, "_bring", lambda path: path.replace("/node/one", "/host/bundle"))
    assert action.run()["needed"] == (needed and check)
    assert asked == runs


# ---- bundle ----------------------------------------------------------------------------------------------------

TARGET = bundle.Target("3.11", "x86_64", "2.36")


@pytest.mark.parametrize("changed", ["skedge/a.py", "skedge/bpf/b.h", "pyproject.toml", "README.md"])
def test_another_source_is_another_bundle(project: Path, changed: str):
    before = bundle.digest(project, TARGET)
    assert bundle.digest(project, TARGET) == before
    (project / changed).write_text((project / changed).read_text() + "\n")
    assert bundle.digest(project, TARGET) != before


def test_another_kind_of_host_is_another_bundle_but_tests_are_no_source(project: Path):
    before = bundle.digest(project, TARGET)
    assert bundle.digest(project, bundle.Target("3.12", "x86_64", "2.36")) != before
    assert bundle.digest(project, bundle.Target("3.11", "aarch64", "2.36")) != before
    assert bundle.digest(project, bundle.Target("3.11", "x86_64", "2.36", ("3.13",))) != before
    (project / "tests").mkdir()
    (project / "tests/t.py").write_text("x")
    assert bundle.digest(project, TARGET) == before


def test_a_host_gets_the_wheels_of_its_python_and_of_those_that_an_upgrade_brings(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    def pip(*arguments: object) -> None:
        asked.extend(str(one) for one in arguments if str(one).startswith("--python-version"))
        (tmp_path / "cache").mkdir(exist_ok=True)
        for where in (Path(str(one)) for one in arguments if str(one).endswith(("/host", "/build"))):
            where.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(bundle, "_pip", pip)
    bundle.build(project, tmp_path / "cache", bundle.Target("3.11", "x86_64", "2.36", ("3.13",)))
    assert asked == ["--python-version=3.11", "--python-version=3.13"]


def test_platforms_are_those_that_the_c_library_runs():
    tags = TARGET.platforms()
    assert tags[0] == "manylinux_2_36_x86_64"
    assert "manylinux_2_17_x86_64" in tags
    assert not any(tag.startswith("manylinux_2_37") for tag in tags)


def test_wheels_are_fetched_once_and_our_own_code_downloads_nothing(project: Path, tmp_path: Path, monkeypatch):
    calls: list[str] = []

    def pip(*arguments: Any) -> None:
        words = [str(a) for a in arguments]
        calls.append(words[0] + (" offline" if "--no-index" in words else ""))
        out = Path(words[words.index("--dest" if "--dest" in words else "--wheel-dir") + 1])
        out.mkdir(parents=True, exist_ok=True)
        (out / f"w{len(calls)}.whl").write_text(words[-1])

    monkeypatch.setattr(bundle, "_pip", pip)
    first = bundle.build(project, tmp_path / "cache", TARGET)
    assert calls == ["download", "wheel", "download", "wheel offline"]
    assert bundle.build(project, tmp_path / "cache", TARGET) == first
    assert len(calls) == 4
    (project / "skedge/a.py").write_text("A = 2\n")
    second = bundle.build(project, tmp_path / "cache", TARGET)
    assert calls[4:] == ["wheel offline"]
    assert second != first
    with tarfile.open(second) as tar:
        assert all("/" not in name and name.endswith(".whl") for name in tar.getnames())
        assert len(tar.getnames()) == 3


def test_a_directory_that_is_not_the_project_is_named(tmp_path: Path):
    with pytest.raises(bundle.BundleError, match="set skedge_source_dir to the project's directory"):
        bundle.digest(tmp_path, TARGET)
