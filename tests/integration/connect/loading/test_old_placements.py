"""An upgrade finds open sockets that have their placements in the older layout: none is forgotten, none miscounted."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.core.model import Protocol
from skedge.dataplane.bpf import links, syscall
from skedge.dataplane.bpf.programs import CONNECT_PROGRAMS
from skedge.dataplane.ebpf.lan.flow_table import read_iterator
from skedge.dataplane.ebpf.layout_placement import PlacementRecord
from skedge.dataplane.ebpf.maps import Maps
from skedge.loader import old_placements
from skedge.loader.loading import Loader, Options
from skedge.loader.publish import Publication
from tests.kit import old_version
from tests.kit.bytecode import cache

from ..kit import LIBC, Host, Site, candidate, connect, eventually

LISTENER, LISTENER6 = ("127.0.0.1", 8080), ("::1", 8080)
OTHER = ("127.0.0.1", 8081)
SO_COOKIE = 57
OLD_MAPS = set(old_placements.MAPS)


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return old_version.tree(old_version.SMALL_PLACEMENTS, tmp_path_factory.mktemp("before"))


class Upgraded(Host):
    """A host with the programs of the version before; `load` is the upgrade."""

    def __init__(self, directory: Path, before: Path) -> None:
        super().__init__("old", directory)
        self.loader = Loader(Options(self.pins, str(self.cgroup), programs=CONNECT_PROGRAMS, cache=cache()))
        self._undo.callback(self._unload)
        self._before = before
        try:
            with self.inside():
                self.downgrade()
        except BaseException:
            self.close()
            raise

    def downgrade(self) -> None:
        """Load the version before, inside."""
        old_version.load(self._before, self.pins, self.cgroup, CONNECT_PROGRAMS)

    def upgrade(self) -> bool:
        """Load, inside, as a start of the service does: by a loader that knows nothing of an earlier one."""
        self.loader = Loader(Options(self.pins, str(self.cgroup), programs=CONNECT_PROGRAMS, cache=cache()))
        return self.loader.load()

    def maps(self) -> set[str]:
        return {pin.name for pin in self.pins.iterdir()} & (OLD_MAPS | {"placements_v2", "flows_v2"})

    def stored(self, pin: str) -> list[PlacementRecord]:
        """What lies in one storage."""
        raw = b"".join(read_iterator(self.pins / pin))
        return [one for one in PlacementRecord.unpack_all(raw, PlacementRecord.STORED) if one.placed]

    def link_of(self, name: str) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self.pins / f"attach_{name}_v1")))


@pytest.fixture
def old(tmp_path: Path, before: Path) -> Iterator[Upgraded]:
    made = Upgraded(tmp_path, before)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def site(old: Upgraded) -> Iterator[Site]:
    """Two workloads of a TCP and of a UDP service, at both families' listeners."""
    with old.inside():
        made = Site(old)
        try:
            a, b = made.server().target, made.server().target
            made.service([candidate("a", 0, a), candidate("b", 1, b)], LISTENER, LISTENER6)
            both = [[made.server(one, Protocol.UDP).target for one in ("127.0.0.1", "::1")] for _ in "ab"]
            asked = [candidate("a", 0, *both[0]), candidate("b", 1, *both[1])]
            made.service(asked, LISTENER, LISTENER6, OTHER, name="dns", protocol=Protocol.UDP)
            yield made
        finally:
            made.clean()


def datagrams(family: int = socket.AF_INET) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(5)
    return made


def echo(made: socket.socket, to: tuple[str, int] | None = None, text: bytes = b"?") -> None:
    if to is None:
        made.send(text)
        assert made.recv(9) == text
    else:
        made.sendto(text, to)
        data, peer = made.recvfrom(9)
        assert (data, peer[:2]) == (text, to)


def cookie(made: socket.socket) -> int:
    return int.from_bytes(made.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def cookies(site: Site) -> list[int]:
    return sorted(one.cookie for one in site.engine.connections())


def test_what_was_open_goes_on_and_its_count_comes_back(old: Upgraded, site: Site) -> None:
    held = [connect(*LISTENER) for _ in range(4)] + [connect(*LISTENER6, family=socket.AF_INET6)]
    told = datagrams()
    told.connect(LISTENER)
    echo(told)
    asking = datagrams()
    echo(asking, LISTENER)
    echo(asking, OTHER)
    assert site.open() == 8
    assert old.maps() == OLD_MAPS

    assert old.upgrade()
    assert old.maps() == {*OLD_MAPS, "placements_v2", "flows_v2"}
    assert site.open() == 8
    assert site.engine.reconcile_counts() == 0
    assert len(cookies(site)) == 8
    assert held[0].getpeername() == told.getpeername() == LISTENER
    assert held[4].getpeername()[:2] == LISTENER6
    assert not old.upgrade()  # nothing changes while they are there

    held.append(connect(*LISTENER))
    assert [one.cookie for one in old.stored("iterate_placements_v2")] == [cookie(held[-1])]
    assert len(old.stored("iterate_old_placements_v1")) == 6
    asking.sendto(b"!", LISTENER)  # moves all flows of the socket, as they are
    assert asking.recvfrom(9)[1] == LISTENER
    assert len(old.stored("iterate_flows_v2")) == 2
    assert old.stored("iterate_old_flows_v1") == []
    echo(told)
    assert (site.open(), len(cookies(site))) == (9, 9)

    for index, one in enumerate([*held, told]):
        one.close()
        eventually(lambda index=index: site.open() == 8 - index, f"{index + 1} closed")
    asking.close()
    assert site.open() == 0
    assert site.engine.reconcile_counts() == 0

    assert old.upgrade()
    assert old.maps() == {"placements_v2", "flows_v2"}
    assert not list(old.pins.glob("iterate_old_*"))
    assert not old.upgrade()
    again = connect(*LISTENER)
    assert (site.open(), len(cookies(site))) == (1, 1)
    again.close()
    assert site.open() == 0


@pytest.mark.long
def test_a_socket_connects_again(old: Upgraded, site: Site) -> None:
    """Whatever a socket does next, it has one placement."""
    failed = socket.socket(socket.AF_INET6)
    failed.setblocking(False)
    told, gone = datagrams(socket.AF_INET6), datagrams()
    with contextlib.suppress(BlockingIOError):
        failed.connect(LISTENER6)  # to an IPv4 target: this socket keeps to IPv4
    told.connect(LISTENER6)
    gone.connect(LISTENER)
    assert site.open() == 3
    old.upgrade()
    told.connect(LISTENER6)
    echo(told)
    gone.connect(OTHER)
    echo(gone)
    assert gone.getpeername() == OTHER
    assert site.open() == 3
    assert len(cookies(site)) == 3
    assert len(old.stored("iterate_old_placements_v1")) == 1
    assert len(old.stored("iterate_placements_v2")) == 2
    gone.connect(("127.0.0.1", 9))
    assert site.open() == 2
    for one in (failed, told, gone):
        one.close()
    assert site.open() == 0
    assert site.engine.reconcile_counts() == 0


def connect4(made: socket.socket, to: tuple[str, int]) -> None:
    """Connect a socket of IPv6 to a plain IPv4 address, which Python's own connect() cannot."""
    address = struct.pack("=H2s4s8x", socket.AF_INET, to[1].to_bytes(2), socket.inet_aton(to[0]))
    assert LIBC.connect(made.fileno(), address, len(address)) == 0


def held_back(old: Upgraded, name: str) -> syscall.Fd:
    """Keep a program of the version before, to attach it again: the loader was stopped before it came to this one."""
    return syscall.Fd(syscall.obj_get(str(old.pins / f"{name}_v1")))


@pytest.mark.long
def test_both_versions_are_attached(old: Upgraded, site: Site) -> None:
    """A loader that is killed half-way leaves hooks of either version; the next one finishes."""
    with held_back(old, "connect6") as connect6, held_back(old, "sendmsg6") as sendmsg6:
        early = connect(*LISTENER)
        old.upgrade()
        for name, fd in (("connect6", connect6), ("sendmsg6", sendmsg6)):
            with old.link_of(name) as link:
                links.update(link, fd)
    both, asking = datagrams(socket.AF_INET6), datagrams(socket.AF_INET6)
    connect4(both, LISTENER)  # the hook of IPv4, of the new version
    assert LIBC.connect(both.fileno(), bytes(16), 16) == 0  # AF_UNSPEC, which has no hook
    both.connect(LISTENER6)  # and the hook of IPv6, of the version before
    mapped = f"::ffff:{LISTENER[0]}", LISTENER[1]
    echo(asking, mapped)
    echo(asking, LISTENER6)
    held = [connect(*LISTENER), connect(*LISTENER6, family=socket.AF_INET6), early]
    assert sorted(cookies(site)) == sorted(map(cookie, [*held, both, asking, asking]))
    in_new, in_old = old.stored("iterate_placements_v2"), old.stored("iterate_old_placements_v1")
    assert {cookie(held[0])} == {one.cookie for one in in_new}
    assert {cookie(one) for one in (*held[1:], both)} == {one.cookie for one in in_old}
    assert site.open() == 6
    assert site.engine.reconcile_counts() == 0

    assert old.upgrade()
    echo(asking, LISTENER6)
    assert site.open() == 6
    for one in (*held, both, asking):
        one.close()
    assert site.open() == 0
    assert site.engine.reconcile_counts() == 0
    assert old.upgrade()
    assert old.maps() == {"placements_v2", "flows_v2"}


STAGES = {"pin": (Publication, "_pin", 5), "attach": (Publication, "_attach", 7), "end": (Loader, "_configure", 1)}


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "failed"])
@pytest.mark.parametrize("stage", ["end", *(pytest.param(one, marks=pytest.mark.long) for one in ("pin", "attach"))])
def test_a_loader_does_not_come_to_its_end(
    old: Upgraded, site: Site, monkeypatch: pytest.MonkeyPatch, stage: str, killed: bool
) -> None:
    """Wherever it stops, what is attached counts right, and the next one finishes: it trusts no half of a load."""
    held = [connect(*LISTENER), connect(*LISTENER6, family=socket.AF_INET6)]
    owner, name, last = STAGES[stage]
    step, leave, calls = getattr(owner, name), Publication.__exit__, 0

    def stopped(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == last:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopped)
        if killed:  # then nobody takes back what it did
            patch.setattr(Publication, "__exit__", lambda publication, *_: leave(publication, None, None, None))
        with pytest.raises(KeyboardInterrupt):
            old.upgrade()
    held += [connect(*LISTENER), connect(*LISTENER6, family=socket.AF_INET6)]
    assert site.open() == 4
    held.pop(0).close()
    held.pop(1).close()
    assert site.open() == 2
    assert old.upgrade()
    assert old.maps() > OLD_MAPS
    assert (site.open(), len(cookies(site))) == (2, 2)
    for one in held:
        one.close()
    assert site.open() == 0
    assert site.engine.reconcile_counts() == 0


@pytest.mark.long
def test_a_controller_of_the_version_before_repairs_nothing(old: Upgraded, site: Site, before: Path) -> None:
    """It knows one storage only: the counts of the other would be wrong to it."""
    old.upgrade()
    held = connect(*LISTENER)
    script = (
        "import sys; from skedge.dataplane.ebpf.engine import EbpfEngine; EbpfEngine(sys.argv[1]).reconcile_counts()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(old.pins)],
        cwd=before,
        env={**os.environ, "PYTHONPATH": str(before)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "run `skedge-loader load`" in done.stderr
    assert site.open() == 1
    held.close()
    assert site.open() == 0


@pytest.mark.long
def test_back_to_the_version_before(old: Upgraded, site: Site) -> None:
    """What the new version placed is not known to it: such connections go on, and are no more counted."""
    early = connect(*LISTENER)
    old.upgrade()
    late, asking = connect(*LISTENER), datagrams()
    echo(asking, LISTENER)
    assert site.open() == 3
    old.downgrade()
    assert old.maps() <= {*OLD_MAPS, "placements_v2", "flows_v2"}
    echo(asking, LISTENER)
    late.sendall(b"x")
    late.close()
    early.close()
    asking.close()
    old.upgrade()
    assert site.open() == 2  # of the connection and the flow that the version before did not know
    assert site.engine.reconcile_counts() == 2
    assert site.open() == 0
    assert connect(*LISTENER).close() is None


def underflow(old: Upgraded) -> int:
    maps = Maps(str(old.pins))
    found = sum(maps.service(ident).underflow for ident in maps.service_ids().values())
    maps.close()
    return found


def test_under_load(old: Upgraded, site: Site) -> None:
    """Programs connect, talk and close while the versions change, there and once more: the count ends at nothing."""
    stop, failures, rounds = threading.Event(), [], [0, 0]

    def streams() -> None:
        while not stop.wait(0.002):
            try:
                made = [connect(*LISTENER), connect(*LISTENER6, family=socket.AF_INET6)]
                assert [one.getpeername()[:2] for one in made] == [LISTENER, LISTENER6]
                for one in made:
                    one.close()
                for server in site._servers:  # it holds what it accepted, and descriptors are not without end
                    with contextlib.suppress(IndexError):
                        while True:
                            server.accepted.pop().close()
                rounds[0] += 1
            except Exception as error:
                failures.append(error)

    def questions() -> None:
        lasting = datagrams()
        while not stop.wait(0.002):
            try:
                made = datagrams()
                made.connect(LISTENER)
                echo(made)
                made.connect(OTHER)
                echo(made)
                for to in (LISTENER, OTHER):  # at one workload the version before takes either for the sender
                    lasting.sendto(b"?", to)
                    assert lasting.recvfrom(9)[0] == b"?"
                made.close()
                rounds[1] += 1
            except Exception as error:
                failures.append(error)
        lasting.close()

    threads = [threading.Thread(target=one) for one in (streams, streams, questions, questions)]
    for one in threads:
        one.start()
    try:
        held = [connect(*LISTENER) for _ in range(10)]
        for _ in range(3):
            before = list(rounds)
            assert old.upgrade() or old.maps() >= OLD_MAPS
            went_on = lambda before=before: all(a > b for a, b in zip(rounds, before, strict=True))  # noqa: E731
            eventually(lambda went_on=went_on: failures or went_on(), "they go on", 30)
    finally:
        stop.set()
        for one in threads:
            one.join()
    assert failures == []
    assert site.engine.stale_picks() == 0
    assert (site.open(), len(cookies(site))) == (10, 10)
    for one in held:
        one.close()
    assert site.open() == 0
    assert site.engine.reconcile_counts() == 0
    assert underflow(old) == 0
    assert old.upgrade()
    assert old.maps() == {"placements_v2", "flows_v2"}
