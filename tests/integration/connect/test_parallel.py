"""Four clients at once: every choice on a count that nobody changes meanwhile, and every receipt replayed."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from skedge.core.model import Protocol, WorkloadId
from skedge.core.objects import Candidate, ListenerKey, ListenerTarget, ServiceKey, ServiceTable
from skedge.core.placement import rule
from skedge.core.reasons import Reason
from skedge.dataplane.ebpf import layout_placement as layout
from skedge.dataplane.ebpf import layout_service
from skedge.dataplane.ebpf.maps import Maps

from .kit import FAR4, Host, Site, candidate, connect, eventually

CLIENTS = 4
PICKS = 26_000  # of each client: more than 100,000 in all, fewer than the log has room for
LOG = 1 << 17
TCP, UDP = ServiceKey("web"), ServiceKey("web", Protocol.UDP)
LISTENER, KEEPING = ("127.0.0.1", 8080), ("127.0.0.1", 8081)  # the second one with affinity


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The same programs with the pick log on."""
    made = Host("logged", tmp_path_factory.mktemp("bpffs"))
    try:
        made.load(pick_log=LOG)
        yield made
    finally:
        made.close()


@pytest.fixture
def busy(logged: Host) -> Iterator[Site]:
    with logged.inside():
        made = Site(logged)
        try:
            yield made
        finally:
            made.clean()


def in_children(work: list[Callable[[], None]]) -> list[int]:
    """Fork one child an item (a function without arguments); return their process ids."""
    children = []
    for function in work:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.nice(10)  # the disturber must get its turn
                function()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return children


def udp_client() -> None:
    """Connect UDP sockets again and again: each connect is a release and a choice, and nothing else."""
    sockets = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(16)]
    for i in range(PICKS):
        sockets[i % 16].connect(LISTENER)


def kept_client() -> None:
    """The same through the listener with affinity: a client that is kept, and moved when it must be."""
    sockets = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(16)]
    for i in range(PICKS - 1000):
        sockets[i % 16].connect(KEEPING)
        if i % 100 == 0:
            time.sleep(0.002)  # or all of it may be over before the first disturbance that would move the client


def tcp_client() -> None:
    """Open and close real connections, up to eight at a time."""
    held: list[socket.socket] = []
    for i in range(300):
        held.append(connect(*LISTENER))
        if len(held) > i % 8:
            held.pop(0).close()


def tables(site: Site, key: ServiceKey, names: list[str]) -> list[Candidate]:
    servers = [site.server(address, key.protocol) for address in ("127.0.0.1", *FAR4)]
    return [candidate(name, 5 * i, servers[i % 4].target, capacity=1 + i % 3) for i, name in enumerate(names)]


def disturb(site: Site, choice: random.Random, before: Mapping[ServiceKey, list[Candidate]]) -> None:
    """Change costs, health and the load of other sites, as a controller does."""
    key = choice.choice(list(before))
    if choice.random() < 0.5:
        spared = choice.randrange(len(before[key]))  # another one each time, so that nobody stays for ever
        changed = [
            replace(
                one,
                path_cost=choice.choice([0, 1, 7, 30]),
                capacity=choice.randint(1, 9),
                out=choice.choice([Reason.NONE, Reason.DRAINED]) if i != spared else Reason.NONE,
            )
            for i, one in enumerate(before[key])
        ]
        site.engine.services.put(key, ServiceTable(tuple(changed)))
    else:
        site.engine.set_others({(key, one.workload): choice.randint(0, 20) for one in before[key]})


def test_no_choice_is_stale_and_every_one_is_the_rules(busy: Site) -> None:
    names = [f"w{i}" for i in range(7)]
    before = {key: tables(busy, key, names) for key in (TCP, UDP)}
    for key, table in before.items():
        busy.service(table, LISTENER, protocol=key.protocol)
    busy.engine.listeners.put(ListenerKey(*KEEPING, Protocol.UDP), ListenerTarget(UDP, affinity_s=60))
    maps = Maps(str(busy.host.pins))
    pinned = maps.workloads()
    children = in_children([*[udp_client] * CLIENTS, kept_client, tcp_client, tcp_client])
    choice, waiting = random.Random(1), set(children)
    until = time.monotonic() + 120
    while waiting and time.monotonic() < until:
        disturb(busy, choice, before)
        time.sleep(0.002)
        for child in list(waiting):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert os.waitstatus_to_exitcode(status) == 0
                waiting.remove(child)
    assert not waiting
    assert busy.engine.stale_picks() == 0
    eventually(lambda: busy.open() == 0, "all released")
    assert busy.engine.reconcile_counts() == 0
    picks = list(maps.picks())
    assert len(picks) >= CLIENTS * PICKS
    ids = {ident: key for key, ident in maps.service_ids().items()}
    assert {ids[one.service] for one in picks} == {TCP, UDP}
    assert len({one.version for one in picks}) >= 5  # they were disturbed
    kept = [one for one in picks if one.affinity and one.affinity & 0xFF == one.winner]
    assert len(kept) > 100
    assert len({one.winner for one in kept}) > 1  # the client was moved when it had to be
    wrong = [one for one in picks if replayed(one, pinned[one.service]) != (one.winner, one.runner)]
    assert wrong == []
    assert all(maps.service(ident).underflow == 0 for ident in ids)
    maps.close()


def replayed(pick: layout.LoggedPick, names: Mapping[int, WorkloadId]) -> tuple[int, int]:
    """Return the slots of winner and runner-up by the rule in the core, MAX_WORKLOADS for nobody."""
    rows = sorted((names[i], i) for i in names if pick.slots[i].flags & layout_service.USED)
    slots = [pick.slots[i] for _, i in rows]
    table = [
        Candidate(name, slot.path_cost, capacity=slot.capacity, others=slot.others, out=usable(slot, pick.need))
        for (name, _), slot in zip(rows, slots, strict=True)
    ]
    last = [max(0, slot.last - layout_service.FIRST_CHOICE + 1) for slot in slots]
    affinity = next((row for row, (_, i) in enumerate(rows) if keeps(pick, i)), None)
    placement = rule.place(table, [slot.mine for slot in slots], last, affinity=affinity)
    if placement is None:
        return layout_service.MAX_WORKLOADS, layout_service.MAX_WORKLOADS
    second = layout_service.MAX_WORKLOADS if placement.runner_up is None else rows[placement.runner_up][1]
    return rows[placement.winner][1], second


def keeps(pick: layout.LoggedPick, slot: int) -> bool:
    """Whether the pick was asked to keep the workload that this slot still is."""
    same = pick.affinity >> 32 & 0x7FFFFFFF == pick.slots[slot].generation
    return bool(pick.affinity) and pick.affinity & 0xFF == slot and same


def usable(slot: layout.LoggedSlot, need: int) -> Reason:
    if need & ~slot.flags:
        return Reason.UNHEALTHY
    return Reason.SUSPENDED if slot.suspended else Reason.NONE


def test_receipts_of_open_connections_are_what_was_decided_on(busy: Site) -> None:
    """What lies with the sockets agrees with the log of the same choices, and with the rule by itself."""
    key, names = TCP, [f"w{i}" for i in range(5)]
    table = tables(busy, key, names)
    busy.service(table, LISTENER)
    maps = Maps(str(busy.host.pins))
    position = max((one.sequence for one in maps.picks()), default=0)
    held = [connect(*LISTENER) for _ in range(200)]
    log = {one.choice: one for one in maps.picks() if one.sequence > position}
    records = list(maps.placements())
    assert len(records) == len(log) == 200
    for record in records:
        pick = log[record.choice]
        assert (record.slot, record.version) == (pick.winner, pick.version)
        for weighed in (record.winner, record.runner):
            slot = pick.slots[weighed.slot]
            assert (weighed.path_cost, weighed.capacity) == (slot.path_cost, slot.capacity)
            assert weighed.open == slot.mine + slot.others
    now = busy.engine.services.read()[key]
    for receipt in busy.engine.connections():
        assert rule.replay(receipt, now) == ""
    for one in held:
        one.close()
    maps.close()
