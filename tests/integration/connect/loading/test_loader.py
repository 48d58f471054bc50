"""The loader: loads once, replaces without a gap, removes everything of its own, says what a host lacks."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import pytest

from skedge.core.errors import HostError
from skedge.core.objects import ListenerKey
from skedge.dataplane.bpf import links, syscall
from skedge.dataplane.bpf.programs import CONNECT_PROGRAMS, PROGRAMS
from skedge.dataplane.ebpf import layout_listener, layout_service
from skedge.dataplane.ebpf import layout_placement as layout
from skedge.dataplane.ebpf.engine import EbpfEngine
from skedge.dataplane.ebpf.maps import Maps
from skedge.loader import host_requirements, loader
from tests.kit import verifier
from tests.kit.bytecode import cache

from ..kit import Host, Site, candidate, connect

LISTENER = ("127.0.0.1", 8080)


def attached(host: Host) -> dict[str, int]:
    """Program id by link pin."""
    found = {}
    for pin in host.pins.glob("attach_*"):
        with syscall.Fd(syscall.obj_get(str(pin))) as fd:
            assert links.cgroup_id(fd) == host.cgroup.stat().st_ino
            found[pin.name] = links.prog_id(fd)
    return found


def test_the_whole_life(fresh: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Load everything that is shipped, load again, replace under open connections, unload."""
    arguments = ["--pin-dir", str(fresh.pins), "--cgroup", str(fresh.cgroup), "--cache", str(cache())]
    with fresh.inside():
        assert loader.main(["load", *arguments]) == 0
        first = attached(fresh)
        assert first.keys() == {one.link_pin for one in PROGRAMS if one.cgroup}
        for pin in fresh.pins.iterdir():
            assert pin.stat().st_mode & 0o777 == 0o660, pin
        assert loader.main(["load", *arguments]) == 0
        assert attached(fresh) == first
        assert loader.main(["status", *arguments]) == 0

        site = Site(fresh)
        site.service([candidate("a", 0, site.server().target)], LISTENER)
        held = [connect(*LISTENER) for _ in range(3)]
        with syscall.Fd(syscall.obj_get(str(fresh.pins / "news_v1"))) as fd:
            syscall.obj_pin(fd, str(fresh.pins / "news_v0"))  # what an older version left
        assert loader.main(["load", "--force", *arguments]) == 0
        assert not (fresh.pins / "news_v0").exists()
        after = attached(fresh)
        assert after.keys() == first.keys()
        assert not set(after.values()) & set(first.values())
        assert site.open() == 3  # counts and placements are kept, and released by the new programs
        assert held[0].getpeername() == LISTENER
        held.append(connect(*LISTENER))
        for one in held:
            one.close()
        assert site.open() == 0
        assert loader.main(["withdraw", *arguments]) == 0
        assert loader.main(["withdraw", *arguments]) == 0
        with pytest.raises(ConnectionRefusedError):
            connect(*LISTENER)  # the programs are there, and leave it alone
        site.clean()

        assert loader.main(["unload", *arguments]) == 0
        assert not fresh.pins.exists()
        assert loader.main(["unload", *arguments]) == 0
        with pytest.raises(ConnectionRefusedError):
            connect(*LISTENER)
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[1]) == ("load: changed", "load: nothing to do")
    assert lines[-4:-2] == ["withdraw: changed", "withdraw: nothing to do"]
    assert lines[-2:] == ["unload: changed", "unload: nothing to do"]


def test_a_foreign_program_and_a_foreign_pin_stay(fresh: Host) -> None:
    """Another program on the same hook is neither replaced nor shut out."""
    from bcc import BPF

    host_requirements.ensure_headers()  # a test before may have unloaded
    foreign = BPF(text=b"int other(struct bpf_sock_addr *ctx) { return 1; }")
    function = foreign.load_func(b"other", 18, attach_type=10)
    target = os.open(fresh.cgroup, os.O_RDONLY)
    link = syscall.Fd(links.create(function.fd, target, 10))
    os.close(target)
    fresh.load()
    with fresh.inside():
        site = Site(fresh)
        site.service([candidate("a", 0, site.server().target)], LISTENER)
        connect(*LISTENER).close()
        assert site.count("a").chosen == 1
        site.clean()
        syscall.obj_pin(function.fd, str(fresh.pins / "somebody_elses"))
        fresh.loader.unload()
        assert [pin.name for pin in fresh.pins.iterdir()] == ["somebody_elses"]
        (fresh.pins / "somebody_elses").unlink()
    assert links.cgroup_id(link.fd) == fresh.cgroup.stat().st_ino
    link.close()


def test_listeners_of_the_older_layout_are_carried_over(fresh: Host) -> None:
    """An upgrade finds pins of the version before: its listeners work on from the first moment."""
    from bcc import BPF

    pin = fresh.pins / "listeners_v1"
    fresh.pins.mkdir()
    host_requirements.ensure_headers()  # a test before may have unloaded
    declared = "struct v1 { __u32 service; __u32 spare; }; struct key { __u32 addr[4]; __u32 port; __u32 protocol; };"
    table = f'BPF_TABLE_PINNED("hash", struct key, struct v1, listeners_v1, 16384, "{pin}", BPF_F_NO_PREALLOC);'
    BPF(text=f"#include <uapi/linux/bpf.h>\n{declared}\n{table}\n".encode()).cleanup()
    key = layout.pack_listener(ListenerKey(*LISTENER))
    with syscall.Fd(syscall.obj_get(str(pin))) as old:
        syscall.map_update(old, key, (7).to_bytes(4, "little") + bytes(4))
    fresh.load()
    with fresh.inside():
        maps = Maps(str(fresh.pins))
        assert maps.listeners() == {ListenerKey(*LISTENER): layout_listener.ListenerValue(7)}
        maps.put_listener(ListenerKey(*LISTENER), layout_listener.ListenerValue(8, (8, 9), 60))
        fresh.loader.options = replace(fresh.loader.options, force=True, programs=PROGRAMS)
        fresh.loader.load()
        assert not pin.exists()
        assert maps.listeners() == {ListenerKey(*LISTENER): layout_listener.ListenerValue(8, (8, 9), 60)}
        maps.close()


def test_sizes_of_the_maps_are_those_of_the_layouts(host: Host) -> None:
    maps = Maps(str(host.pins))
    sizes = {
        "services_v1": layout_service.Service.SIZE,
        "staged_v1": layout_service.Staged.SIZE,
        "config_v1": layout.Config.SIZE,
        "news_v1": layout.NEWS.size,
        "pick_log_v2": layout.LoggedPick.SIZE,
        "listeners_v2": layout_listener.ListenerValue.STRUCT.size,
        "affinities_v1": layout_listener.AFFINITY.size,
        "workload_names_v1": layout.WORKLOAD_NAME.size,
        "placements_v2": layout.PlacementRecord.STORED.size - layout.PlacementRecord.HEAD_SIZE,
    }
    assert {pin: syscall.map_info(maps.fd(pin)).value_size for pin in sizes} == sizes
    maps.close()


def test_a_host_that_lacks_something_is_told_so(
    fresh: Host,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("plain")
    arguments = ["load", "--pin-dir", str(fresh.pins)]

    def told() -> str:
        assert loader.main(arguments) == 1
        said = capsys.readouterr().err
        assert said.startswith("skedge-loader: ")
        assert said.count("\n") == 1
        return said

    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        assert "must run as root" in told()
    with monkeypatch.context() as patch:
        patch.setattr(host_requirements, "VMLINUX", "/nonexistent")
        assert "no BTF" in told()
    arguments += ["--cgroup", str(directory)]
    assert "not a cgroup2 directory" in told()
    arguments[2:] = ["/proc/skedge", "--cgroup", str(fresh.cgroup)]
    assert "--pin-dir /proc/skedge" in told()
    with pytest.raises(HostError, match="linux-headers-amd64"):
        host_requirements.ensure_headers(directory / "modules", directory / "src")
    mounts = directory / "mounts"
    mounts.write_text("proc /proc proc rw 0 0\n")
    with pytest.raises(HostError, match="cgroup2 is not mounted"):
        host_requirements.cgroup2_root(str(mounts))


def test_an_engine_takes_over_its_namespace_only(host: Host) -> None:
    """The loader tells the programs its own network namespace."""
    with host.inside(), socket.socket() as sock:
        cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 71, 8), "little")
        engine = EbpfEngine(str(host.pins))
        maps = Maps(str(host.pins))
        assert maps.config().netns_cookie == cookie
        maps.close()
        engine.close()


def test_who_is_not_root_may_pass_to_the_pins_but_not_list_what_is_above(fresh: Host) -> None:
    """Systemd mounts bpffs for root alone."""
    above = fresh.pins.parent
    assert host_requirements.on_bpffs(above)
    above.chmod(0o700)
    host_requirements.ensure_pin_dir(fresh.pins)
    assert above.stat().st_mode & 0o777 == 0o701


def test_every_program_is_taken_with_room_to_spare(host: Host) -> None:
    found = verifier.walked(host.pins)
    assert {one.pin for one in CONNECT_PROGRAMS if not one.iterates} <= set(found)
    assert {name: count for name, count in found.items() if count > verifier.ROOM} == {}
