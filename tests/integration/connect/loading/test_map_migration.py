"""The host's own prefixes move into the larger map while clients connect: at no moment are they a stranger's."""

from __future__ import annotations

import errno
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from skedge.core.desired.listener_addresses import REST
from skedge.core.errors import DataplaneError
from skedge.dataplane.bpf import creation, links, syscall
from skedge.dataplane.ebpf.prefix_table import HOST_MAP, KEY, VALUE, PrefixTable
from skedge.loader import bytecode, loader
from skedge.loader.image import Unit
from skedge.loader.publish import pin

from ..kit import Host, Site, candidate, eventually

OLD_MAP, OLD_ROOM = "host_prefixes_v1", 1024
LPM_TRIE, NO_PREALLOC = 11, 1
HOOKS = 4  # so many are replaced when the upgrade fails half-way, those of connect(2) among them
SERVED, DENIED = 8080, 8081  # a listener with a workload, and one with none
OURS = ["10.55.0.0/16", "fd55::7/128"]
# The host's for programs alone: a connect that they do not treat has no route.
ADDRESSES: dict[int, str] = {socket.AF_INET: "10.55.1.7", socket.AF_INET6: "fd55::7"}


def load(host: Host, shipped: Path, **changes: object) -> loader.Loader:
    made = loader.Loader(
        replace(loader.Options(host.pins, str(host.cgroup), "root", shipped=shipped), **changes)  # type: ignore[arg-type]
    )
    made.load()
    return made


def as_the_version_before(host: Host) -> None:
    """Put the smaller map in the place of the one of now; what runs keeps the latter, without its name."""
    held = dict.fromkeys(PrefixTable(str(host.pins), HOST_MAP).read(), 0)
    with syscall.Fd(creation.map_create(OLD_MAP, LPM_TRIE, KEY.size, VALUE.size, OLD_ROOM, NO_PREALLOC)) as fd:
        pin(fd, host.pins / OLD_MAP)
    (host.pins / HOST_MAP).unlink()
    table = PrefixTable(str(host.pins), OLD_MAP)
    for prefix in held:
        table.put(prefix)


def outcome(family: int, port: int) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.settimeout(5)
        return made.connect_ex((ADDRESSES[family], port))


@contextmanager
def clients() -> Iterator[Counter[tuple[int, int]]]:
    """Clients that connect all the while; yield how often each port ended how.

    They are inside with the thread that starts them, and end before it leaves: `Host.inside` moves the whole process
    out of the cgroup, and a connect that is still under way would be treated by nobody.
    """
    ended: Counter[tuple[int, int]] = Counter()
    over = threading.Event()

    def go(family: int) -> None:
        while not over.is_set():
            for port in (SERVED, DENIED):
                ended[port, outcome(family, port)] += 1

    threads = [threading.Thread(target=go, args=(family,)) for family in ADDRESSES]
    for one in threads:
        one.start()
    try:
        yield ended
    finally:
        over.set()
        for one in threads:
            one.join()


@pytest.mark.parametrize("fails", [False, True], ids=["whole", "half-way"])
def test_an_upgrade_serves_and_denies_at_the_hosts_prefixes_all_the_while(
    fresh: Host, units: Sequence[Unit], shipped: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    bytecode.write(shipped, units)
    with fresh.inside():
        load(fresh, shipped)
        site = Site(fresh)
        site.service([candidate("a", 0, site.server().target)], *((one, SERVED) for one in REST))
        site.service([], *((one, DENIED) for one in REST), name="nobody")
        table = PrefixTable(str(fresh.pins), HOST_MAP)
        for prefix in OURS:
            table.put(prefix)
        as_the_version_before(fresh)
        with clients() as ended, monkeypatch.context() as patch:
            slow_down(patch, ended, HOOKS if fails else 0)
            if fails:
                with pytest.raises(DataplaneError, match="no room"):
                    load(fresh, shipped, nat_flows=4096)
            else:
                load(fresh, shipped, nat_flows=4096)
            wait_for_more(ended)
        assert set(ended) == {(SERVED, 0), (DENIED, errno.ECONNREFUSED)}, ended
        names = {one.name for one in fresh.pins.iterdir()}
        assert (OLD_MAP in names, HOST_MAP in names) == (fails, not fails)
        assert PrefixTable(str(fresh.pins), OLD_MAP if fails else HOST_MAP).read().keys() == set(OURS)
        site.clean()
        last = load(fresh, shipped, nat_flows=4096)
        assert PrefixTable(str(fresh.pins), HOST_MAP).read().keys() == set(OURS)
        last.unload()


def slow_down(patch: pytest.MonkeyPatch, ended: Counter[tuple[int, int]], fail_after: int) -> None:
    """Let clients connect after each hook that is replaced; after fail_after of them (0: never) there is no room."""
    really, calls = links.update, 0

    def update(link: int, program: int) -> None:
        nonlocal calls
        calls += 1
        if fail_after and calls == fail_after + 1:
            raise DataplaneError("no room")
        really(link, program)
        wait_for_more(ended)

    patch.setattr(links, "update", update)


def wait_for_more(ended: Counter[tuple[int, int]]) -> None:
    before = sum(ended.values())
    eventually(lambda: sum(ended.values()) > before + 20, "clients connect")
