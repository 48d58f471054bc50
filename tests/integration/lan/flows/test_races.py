"""Two processors at one flow: its state words are said first and looked at then, and what frees comes last."""

from __future__ import annotations

import contextlib
import random
import struct
import threading
from collections.abc import Iterator

import pytest

from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf.lan.layout_flow import FlowEntry, FlowKey, NatConfig
from skedge.dataplane.ebpf.layout_service import Service
from tests.integration.links.packets import ACK, FIN, RST, SYN, ip, tcp
from tests.kit.rows import configure_nat

from ..kit import CLIENT, HOST, LISTEN, PORTS, Bench, far_overlay
from ..test_packets import FAR_PORT, Flow, one_far
from .racing import Arrival, from_lan, from_link, race

BATCH, BATCHES = 50, 40
PACKETS = 2000


@contextlib.contextmanager
def sweeping(bench: Bench) -> Iterator[None]:
    """Sweep the flows all the time."""
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            bench.site.flows.sweep()

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def client(bench: Bench, flow: Flow, flags: int) -> Arrival:
    return from_lan(bench, ip(CLIENT[4], HOST[4], tcp(flow.client_port, LISTEN, flags)))


def workload(bench: Bench, flow: Flow, flags: int) -> Arrival:
    return from_link(bench, ip(far_overlay()[4], bench.site.overlay4, tcp(FAR_PORT, flow.port, flags)))


def established(bench: Bench, port: int) -> Flow:
    flow = Flow(bench, 4, port)
    flow.workload(SYN | ACK)
    flow.client(ACK)
    return flow


def test_two_fins_at_the_same_moment(bench: Bench) -> None:
    one_far(bench, 4)
    missed = 0
    for batch in range(BATCHES):
        flows = [established(bench, 20000 + batch * BATCH + number) for number in range(BATCH)]
        race(
            bench,
            [client(bench, flow, FIN | ACK) for flow in flows],
            [workload(bench, flow, FIN | ACK) for flow in flows],
        )
        missed += bench.site.open()
        bench.site.end_flows()
    assert missed == 0, f"{missed} of {BATCH * BATCHES} are still counted"
    assert bench.site.engine.reconcile_counts() == 0


def entries(bench: Bench) -> int:
    """Return how many entries the table has, also those that no placement leads to."""
    with syscall.Fd(syscall.obj_get(f"{bench.site.pin_dir}/nat_flows_v1")) as fd:
        return len(list(syscall.map_items(fd, FlowKey.SIZE, FlowEntry.SIZE)))


@pytest.mark.parametrize("seed", range(3))
def test_any_packets_at_the_same_moment_while_flows_are_swept(bench: Bench, seed: int) -> None:
    """Few clients and few ports: every packet meets a flow that another processor makes, ends, sweeps or takes from."""
    one_far(bench, 4)
    pick = random.Random(seed)
    few = (PORTS[0], PORTS[0] + 1)

    def any_packet() -> Arrival:
        flags = pick.choice([SYN, SYN, SYN, ACK, ACK, FIN | ACK, FIN | ACK, RST])
        if pick.random() < 0.6:
            return from_lan(bench, ip(CLIENT[4], HOST[4], tcp(20000 + pick.randrange(3), LISTEN, flags)))
        flags |= ACK if flags == SYN else 0
        return from_link(bench, ip(far_overlay()[4], bench.site.overlay4, tcp(FAR_PORT, pick.choice(few), flags)))

    try:
        for closed_s in (0.0, 0.002, 10.0):
            configure_nat(bench.site, NatConfig(ports=few, syn_s=0.002, fin_s=0.002, closed_s=closed_s))
            with sweeping(bench):
                race(bench, *([any_packet() for _ in range(PACKETS)] for _ in range(2)))
            assert bench.site.engine.reconcile_counts() == 0
    finally:
        configure_nat(bench.site, NatConfig(ports=PORTS))
    bench.site.end_flows()
    assert (bench.site.open(), nat_count(bench), entries(bench)) == (0, 0, 0)
    assert bench.site.engine.reconcile_counts() == 0


def nat_count(bench: Bench, name: str = "far") -> int:
    bench.site.engine.services._maps.read_anew()
    (ident,) = bench.site.engine.services.ids.values()
    return next(slot.nat for _, workload, slot in bench.site.engine.services.slots(ident) if workload.site == name)


def bend_nat_count(bench: Bench, by: int) -> None:
    """Make the count of NAT ports of slot 0 wrong, as a lost update would."""
    (ident,) = bench.site.engine.services.ids.values()
    with syscall.Fd(syscall.obj_get(f"{bench.site.pin_dir}/services_v1")) as fd:
        raw = bytearray(syscall.map_lookup(fd, ident.to_bytes(4, "little"), Service.SIZE) or b"")
        at = Service.HEADER.size + Service.SLOT.size - 4
        struct.pack_into("=I", raw, at, struct.unpack_from("=I", raw, at)[0] + by)
        syscall.map_update(fd, ident.to_bytes(4, "little"), bytes(raw))


def test_the_count_of_nat_ports_is_compared_with_the_flows(bench: Bench) -> None:
    one_far(bench, 4)
    flows = [established(bench, 20000 + number) for number in range(5)]
    for wrong in (7, -3):
        bend_nat_count(bench, wrong)
        bench.site.engine.services.read()  # what is remembered of the table is looked at anew
        assert bench.site.engine.reconcile_counts() == abs(wrong)
        assert (nat_count(bench), bench.site.open()) == (5, 5)
        assert bench.site.engine.reconcile_counts() == 0
    bend_nat_count(bench, -5)
    flows[0].workload(RST)
    assert (nat_count(bench), bench.site.open()) == (0, 4), "it does not fall below nothing"
    assert Flow(bench, 4, 30000).port, "so the workload is not left out for want of ports"
    assert bench.site.engine.reconcile_counts() == 4
    assert (nat_count(bench), bench.site.open()) == (5, 5)
