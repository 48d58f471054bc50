"""When one engine hands over to the other, and when what is left of it goes."""

from __future__ import annotations

import pytest

from skedge.core.desired.compute import Desired
from skedge.core.errors import DataplaneError
from skedge.core.model import ANY_DEVICE, Lan, SiteConfig
from skedge.core.objects import ListenerKey, ListenerTarget, ServiceKey
from skedge.daemon.kernel.handover import Handover
from skedge.daemon.kernel.kernel import Kernel
from tests.unit.daemon.kit import fake_kernel

LISTENER = ListenerKey("10.0.0.1", 80)
DESIRED = Desired(listeners={LISTENER: ListenerTarget(ServiceKey("web"))})
CONFIG = SiteConfig("net", "a", "100.64.0.0/10", "100.64.0.1", "fd00::1", engine_drain_s=60.0)


class Rest:
    """What is left of an engine, as numbers."""

    name = "ipvs"

    def __init__(self, open_: int = 2) -> None:
        self.did: list[object] = []
        self.opened, self.broken = open_, False

    def hand_over(self, listeners) -> None:
        if self.broken:
            raise DataplaneError("refused")
        self.did.append(("hand over", tuple(listeners)))

    def open(self) -> int:
        return self.opened

    def remove(self) -> None:
        self.did.append("remove")


def made(open_: int = 2) -> tuple[Handover, Rest, list[float]]:
    rest, now = Rest(open_), [0.0]
    return Handover(rest, lambda _: rest.did.append("begin"), lambda: now[0]), rest, now


def test_the_other_engine_serves_until_all_is_ready_and_then_drains_till_its_last_connection() -> None:
    handover, rest, now = made()
    assert handover.waiting
    assert not handover.step(CONFIG, DESIRED, ready=False)
    assert (rest.did, handover.note) == ([], "; ipvs serves until all is known")
    assert handover.step(CONFIG, DESIRED, ready=True)
    assert rest.did == ["begin", ("hand over", (LISTENER,))], "the new one serves first"
    assert not handover.waiting
    now[0] = 12.5
    assert not handover.step(CONFIG, DESIRED, ready=False)
    assert handover.note == "; 2 connections of ipvs go on, for 48 s at most"
    rest.opened = 0
    assert handover.step(CONFIG, DESIRED, ready=False)
    assert (rest.did[2:], handover.draining, handover.note) == (["remove"], False, "")
    assert not handover.step(CONFIG, DESIRED, ready=True)


def test_at_the_deadline_it_goes_with_what_is_open() -> None:
    handover, rest, now = made()
    handover.step(CONFIG, DESIRED, ready=True)
    now[0] = 59.9
    assert not handover.step(CONFIG, DESIRED, ready=True)
    now[0] = 60.0
    assert handover.step(CONFIG, DESIRED, ready=True)
    assert rest.did[-1] == "remove"


def test_what_the_kernel_refuses_is_tried_again() -> None:
    handover, rest, _ = made()
    rest.broken = True
    with pytest.raises(DataplaneError):
        handover.step(CONFIG, DESIRED, ready=True)
    assert handover.waiting
    rest.broken = False
    assert handover.step(CONFIG, DESIRED, ready=True)


@pytest.mark.parametrize(("devices", "listeners"), [((ANY_DEVICE,), (LISTENER,)), ((), ())])
def test_only_a_site_with_a_lan_has_listeners_that_packets_come_to(devices, listeners) -> None:
    handover, rest, _ = made()
    config = SiteConfig("net", "a", "100.64.0.0/10", "100.64.0.1", "fd00::1", lan=Lan(devices))
    handover.step(config, DESIRED, ready=True)
    assert rest.did[-1] == ("hand over", listeners)


def test_a_kernel_without_its_packet_check_keeps_the_other_engine() -> None:
    fake = fake_kernel()
    handover, rest, _ = made()
    kernel = Kernel(fake.drivers.with_rules(), fake.engine, fake.host, why="configured", handover=handover)
    fake.drivers.rules.broken.add("rule inet")
    assert kernel.apply(CONFIG, DESIRED, allow_delete=True).draining
    fake.drivers.rules.broken.clear()
    fake.drivers.links.unreadable = True
    kernel.apply(CONFIG, DESIRED, allow_delete=True)
    fake.drivers.links.unreadable = False
    kernel.apply(CONFIG, DESIRED, allow_delete=False)
    assert rest.did == [], "nor one that is not in sync"
    assert "engine" in kernel.apply(CONFIG, DESIRED, allow_delete=True).changed
    assert kernel.why.startswith("configured; ")
    rest.opened = 0
    assert not kernel.apply(CONFIG, DESIRED, allow_delete=True).draining
    assert kernel.why == "configured"
