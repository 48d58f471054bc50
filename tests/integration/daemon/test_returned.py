"""A site loses power and comes back: what the others had with it is ended at once, and nothing else is."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from .kit import PATIENCE, Clients, Line, Machine, Site, until

HELD = 30


@pytest.fixture
def machine(line: Line) -> Iterator[Machine]:
    """A machine of A's LAN."""
    made = Machine(line.sites["a"], "lone", "10.94.7")
    yield made
    made.close()


def sockets_to(site: Site, overlay: str) -> int:
    """How many sockets of a site are connected to another one, whoever opened the connection."""
    return len(site.inside("ss", "-Htn", "state", "established", "dst", overlay).stdout.splitlines())


def ended(site: Site, since: int) -> list[str]:
    return [line for line in site.log_since(since).splitlines() if "op=end " in line]


def by(site: str, clients: Clients) -> int:
    return clients.names().get(site, 0)


def test_what_was_held_with_it_ends_at_once_and_the_rest_lives(line: Line, machine: Machine) -> None:
    a, b, c = (line.sites[name] for name in "abc")
    until(lambda: "skedge" in a.inside("tc", "filter", "show", "dev", machine.device, "ingress").stdout, 5, "attached")
    here, lan, there = Clients(a), Clients(machine, f"{machine.gateway}:8080"), Clients(b)
    here.open(100)
    lan.open(20)
    there.open(100)
    of_b, lan_of_b, to_a = by("b", here), by("b", lan), by("a", there)
    others, lan_others = 100 - of_b, 20 - lan_of_b
    assert of_b >= HELD
    assert min(to_a, lan_of_b) >= 3
    overlay_b = b.rows("site")[0].overlay4
    until(lambda: a.opens()["b"] == of_b + lan_of_b, 5, "all counted")
    assert sockets_to(a, overlay_b) == of_b + to_a
    before, before_c = a.log_size(), c.log_size()
    line.lose_power("b")
    until(lambda: a.reasons()["b"] == "unreachable", 10, "B is away")
    assert here.do("cuts")["how"] == {}, "nothing tells its clients"
    assert a.opens()["b"] == of_b + lan_of_b, "they are counted"
    line.power("b")
    until(b.works, 30, "B is back")
    back = time.monotonic()
    until(lambda: by("b", here) == 0 and by("b", lan) == 0, 5, "the dead are gone")
    cuts, lan_cuts = here.do("cuts"), lan.do("cuts")
    took = max(cuts["last"], lan_cuts["last"]) - back
    print(f"\n{of_b} and {lan_of_b} ended {took * 1000:.0f} ms after B was ready: {ended(a, before)}")
    assert took < 0.5 * PATIENCE
    assert cuts["how"] == {"Software caused connection abort": of_b}
    assert lan_cuts["how"] == {"Connection reset by peer": lan_of_b}
    until(lambda: a.opens()["b"] == 0, 1, "the counts")
    until(lambda: sockets_to(a, overlay_b) == 0, 1, "the serving side's sockets are free")
    assert (here.do("check")["alive"], lan.do("check")["alive"]) == (others, lan_others)
    until(lambda: a.reasons()["b"] == "none" and a.at_rest(), 10, "B serves again")
    here.open(60)
    assert by("b", here) >= HELD, "as many again"

    for site in (a, b):
        site.kill()
        site.start()
    until(lambda: a.works() and b.works(), 20, "the next controllers")
    time.sleep(0.5)
    assert here.do("check")["dead"] == 0, "a controller's restart ends nothing"
    assert len(ended(a, before)) == len(ended(c, before_c)) == 1, "once, and nothing else"
    for clients in (here, lan):
        clients.quit()


@pytest.mark.long
def test_a_controller_that_was_down_meanwhile_finds_it(line: Line) -> None:
    a, b = line.sites["a"], line.sites["b"]
    here = Clients(a)
    here.open(100)
    of_b = by("b", here)
    a.kill()
    line.lose_power("b")
    line.power("b")
    before = a.log_size()
    a.start()
    until(lambda: a.works() and b.works(), 30, "both are back")
    until(lambda: by("b", here) == 0, 5, "the dead are gone")
    assert here.do("cuts")["how"] == {"Software caused connection abort": of_b}
    until(lambda: a.opens()["b"] == 0, 1, "the counts")
    assert len(ended(a, before)) == 1
    assert here.do("check")["alive"] == 100 - of_b
    here.quit()
