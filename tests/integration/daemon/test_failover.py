"""A diamond of real sites, 200 new connects a second across it: no connect fails while another path is there."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from .kit import WORKLOADS, Line, Site, running, telling, until

RATE, HELD = 200, 20
SERVED_S, STALL_S = 0.45, 0.45  # what is promised of a silent cut; asserted four times that
LOST_S = 0.5  # a connect that took so long lost a SYN


class Diamond(Line):
    """A -10- B -10- D and A -15- C -15- D; the server is at D. A and B share a cable, the other links are tunnels."""

    NAMES = "abcd"
    LINKS = (
        ("a", "b", 10, "10.93.1"),
        ("b", "d", 10, "10.93.2"),
        ("a", "c", 15, "10.93.3"),
        ("c", "d", 15, "10.93.4"),
    )

    def document(self, name: str, costs: Any = None) -> dict[str, Any]:
        made = super().document(name, costs)
        for link in made["links"]:
            if {name, link["to"]} == {"a", "b"}:
                del link["local"], link["remote"]
                link |= {"transport": "direct", "device": f"u-{link['to']}"}
        return made if name == "d" else {**made, "connectors": []}

    def settle(self, sites: Any = "abcd") -> None:
        for name in sites:
            site = self.sites[name]
            until(lambda site=site: site.reasons() == {"d": "none"}, 15, f"the workload usable at {name}")
            until(lambda site=site: all(row.up for row in site.rows("links")), 15, f"links of {name}")
            until(site.at_rest, 10, f"{name} at rest")
        until(lambda: self.sites["a"].candidates()["d"].path_cost == 20, 10, "the cheap side")


@dataclass
class Seen:
    """What the clients saw; times from the fault on, in seconds."""

    errors: Counter[str]
    made: int
    slow: int
    served_s: float
    stall_s: float
    dead: list[str]

    @classmethod
    def of(cls, told: dict[str, Any], fault: float) -> Seen:
        new = sorted(told["new"])
        slow = [start for start, took, _ in new if took > LOST_S]
        after = [start for start, took, _ in new if start > (slow[-1] if slow else fault)]
        held = told["held"]
        return cls(
            errors=Counter(error for _, _, error in new if error),
            made=len(new),
            slow=len(slow),
            served_s=min(after, default=fault + 99) - fault if slow else 0.0,
            stall_s=max(took for _, took, _ in held),
            dead=[error for _, _, error in held if error],
        )


def through(diamond: Diamond, fault: Callable[[], object], seconds: float = 2.5, before: float = 0.8) -> Seen:
    """Run the clients at A, let the fault come, and return what they saw."""
    a, out = diamond.sites["a"], diamond.directory / f"through{time.monotonic_ns()}"
    clients = a.spawn(
        "/usr/bin/python3", WORKLOADS / "through.py", "127.0.0.1", 8080, seconds, RATE, HELD, log=out
    )  # fmt: skip
    until(lambda: "begun" in out.read_text(), 10, "clients")
    time.sleep(before)
    at = time.monotonic()
    fault()
    clients.wait(60)
    seen = Seen.of(json.loads(out.read_text().removeprefix("begun")), at)
    print(f"\n{seen}")
    assert seen.made == seconds * RATE
    return seen


def device(site: Site, to: str) -> str:
    return str(next(row.device for row in site.rows("links") if row.to == to))


@pytest.fixture(scope="module")
def running_diamond(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Diamond]:
    with running(Diamond(tmp_path_factory.mktemp("diamond"))) as made:
        yield made


@pytest.fixture
def diamond(running_diamond: Diamond, request: pytest.FixtureRequest) -> Iterator[Diamond]:
    running_diamond.settle()
    with telling(running_diamond, request.session):
        yield running_diamond


def test_a_silent_cut(diamond: Diamond) -> None:
    try:
        seen = through(diamond, lambda: diamond.cut("a", "b"))
    finally:
        diamond.mend("a", "b")
    assert (seen.errors, seen.dead) == ({}, [])
    assert seen.served_s < 4 * SERVED_S
    assert seen.stall_s < 4 * STALL_S


def test_a_device_that_somebody_sets_down(diamond: Diamond) -> None:
    a = diamond.sites["a"]
    name = device(a, "b")
    seen = through(diamond, lambda: a.inside("ip", "link", "set", name, "down"))
    assert (seen.errors, seen.dead) == ({}, [])


@pytest.mark.long
def test_the_far_sides_device_is_set_down(diamond: Diamond) -> None:
    """B has no alternate towards D, as A's way there is through B, and for a moment no route at all."""
    b = diamond.sites["b"]
    name = device(b, "d")
    seen = through(diamond, lambda: b.inside("ip", "link", "set", name, "down"))
    assert (seen.errors, seen.dead) == ({}, [])


@pytest.mark.long
@pytest.mark.parametrize(("near", "far"), [("a", "b"), ("b", "d")], ids=["direct", "under a tunnel"])
def test_a_cable_is_pulled_at_its_far_end(diamond: Diamond, near: str, far: str) -> None:
    end = diamond.sites[far]
    try:
        seen = through(diamond, lambda: end.inside("ip", "link", "set", f"u-{near}", "down"))
    finally:
        end.inside("ip", "link", "set", f"u-{near}", "up")
    assert (seen.errors, seen.dead) == ({}, [])


def test_what_is_protected_is_shown(diamond: Diamond) -> None:
    a, b = diamond.sites["a"], diamond.sites["b"]
    shown = {row.site: (row.protection, len(row.alternates)) for row in a.rows("routes")}
    assert shown == {"b": ("none", 0), "c": ("none", 0), "d": ("node", 1)}
    assert {row.site: row.protection for row in b.rows("routes")} == {"a": "none", "c": "node", "d": "none"}
    status = a.status()
    assert (status.reachable, status.protected) == (3, 1)
    assert "1 of 3 sites protected" in a.skedge("status").stdout
    kept = a.inside("ip", "route", "show", "table", "7400", "proto", "75").stdout.split()
    address = kept[0]
    a.inside("ip", "route", "del", address, "table", "7400", "proto", "75")
    until(lambda: a.inside("ip", "route", "show", "table", "7400", "proto", "75").stdout.split() == kept, 2, "repaired")
