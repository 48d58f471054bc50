"""One table knows what each engine can do; nothing else of the pure code knows an engine by name."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skedge.core import abilities
from skedge.core.abilities import ABILITIES
from skedge.core.desired.forwarding import host_forwards
from skedge.core.desired.listener_addresses import REST
from skedge.core.linkstate.own_records import endpoint_ports, services_record
from skedge.core.model import EngineKind, Link, Listener
from skedge.core.objects import ServiceKey
from skedge.core.reasons import Reason
from skedge.core.routing.lan_prefixes import judge
from skedge.core.routing.overlay_addresses import Skipped
from tests.fakes.networks import configs, connector, desired_at, healthy, map_of

PACKAGE = Path(abilities.__file__).parents[1]
KNOW_ENGINES = {"core/model.py", "core/abilities.py"}
PURE = sorted(path for room in ("core", "config/checks", "daemon/api") for path in (PACKAGE / room).rglob("*.py"))


def engines_named(source: str) -> Iterator[str]:
    """Yield every member of EngineKind, every name of an engine and every comparison of an ``engine`` in a text."""
    names = {kind.value for kind in EngineKind}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "EngineKind":
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and node.value in names:
            yield repr(node.value)
        elif isinstance(node, ast.Compare):
            sides = (node.left, *node.comparators)
            if any(isinstance(side, ast.Attribute) and side.attr == "engine" for side in sides):
                yield ast.unparse(node)


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_engine_is_known_by_name(path: Path) -> None:
    if str(path.relative_to(PACKAGE)) not in KNOW_ENGINES:
        assert list(engines_named(path.read_text())) == []


@pytest.mark.parametrize(
    "line", ["config.engine is EngineKind.IPVS", "spec.engine == other", 'name == "ipvs"', "f(EngineKind.AUTO)"]
)
def test_a_name_would_be_found(line: str) -> None:
    assert list(engines_named(line))


def test_the_table_has_every_engine_and_refuses_nothing_before_one_is_decided() -> None:
    assert set(ABILITIES) == set(EngineKind)
    assert ABILITIES[EngineKind.AUTO] == ABILITIES[EngineKind.EBPF]


# ---- each ability alone decides what it says -------------------------------------------------------------------

HOST = "10.0.0.5"
HOSTS = {"near": HOST, "loop4": "127.0.0.1", "loop6": "::1", "far": "10.0.0.99"}
NETWORKS = configs([("A", "B", 10)], "B")
SITE = replace(
    NETWORKS["A"],
    engine=EngineKind.EBPF,
    listeners=(Listener("web", 80),),
    connectors=tuple(connector(name, host=host) for name, host in HOSTS.items()),
    prefixes=("192.168.6.0/24",),
)
THERE = replace(NETWORKS["B"], prefixes=("192.168.7.0/24",))
MAP = map_of({"A": SITE, "B": THERE})
PORTS = endpoint_ports(SITE, {})


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the site's engine be one that can do all but one thing."""

    def forget(ability: str) -> None:
        can = replace(ABILITIES[EngineKind.EBPF], **{ability: False})
        monkeypatch.setitem(ABILITIES, EngineKind.EBPF, can)  # type: ignore[arg-type]

    return forget


def served() -> tuple[set[str], set[str], set[str], set[str]]:
    """Who may serve clients here, who is published, who is offered to others, and where the listener is."""
    made = desired_at(SITE, MAP, (f"{HOST}/24",))
    own = [one for one in made.services[ServiceKey("web")].candidates if one.workload.site == "A"]
    said = services_record(SITE, healthy(SITE), PORTS, own_addresses=[HOST])
    return (
        {one.workload.connector for one in own if one.out is Reason.NONE},
        {one.workload.connector for one in made.endpoints.values()},
        {one.connector for one in said.workloads if one.ipv4 or one.ipv6},
        {key.address for key in made.listeners},
    )


EVERY, ADDRESSES = set(HOSTS), {"127.0.0.1", "::1", HOST, *REST}


def test_who_can_do_all_serves_all() -> None:
    assert served() == (EVERY, EVERY, EVERY, ADDRESSES)


@pytest.mark.parametrize(
    ("ability", "expected"),
    [
        ("loopback_listeners", (EVERY, EVERY, EVERY, {HOST, *REST})),
        ("whole_prefixes", (EVERY, EVERY, EVERY, ADDRESSES - {*REST})),
        ("loopback_workloads", ({"near", "far"}, EVERY, EVERY, ADDRESSES)),
        ("loopback6_endpoints", (EVERY, EVERY - {"loop6"}, EVERY - {"loop6"}, ADDRESSES)),
        ("off_host", (EVERY - {"far"}, EVERY - {"far"}, EVERY - {"far"}, ADDRESSES)),
        ("preserves_src", (EVERY, EVERY, EVERY, ADDRESSES)),
    ],
)
def test_each_ability_decides_what_it_says_and_nothing_else(
    without: Callable[[str], None], ability: str, expected: tuple[set[str], ...]
) -> None:
    without(ability)
    assert served() == expected


def test_clients_under_their_own_addresses_only_pass_through_where_they_cannot_be_taken(
    without: Callable[[str], None],
) -> None:
    assert judge(SITE, MAP, ()).refused == frozenset()
    without("preserves_src")
    found = judge(SITE, MAP, ())
    assert (found.own, set(found.refused)) == (("192.168.6.0/24",), {"192.168.7.0/24"})
    assert found.skipped == (Skipped("prefix", "B: 192.168.7.0/24", Reason.ENGINE),)


def test_the_host_forwards_for_transit_and_where_replies_to_lan_clients_pass_through_it() -> None:
    line = configs([("A", "B", 10), ("B", "C", 10)])
    silent = {site: replace(config, listeners=()) for site, config in line.items()}
    assert [host_forwards(config) for config in line.values()] == [False, True, False]
    assert not host_forwards(replace(line["B"], overload=True)), "no transit"
    twice = replace(line["A"], links=(Link("B"), Link("B", "two")))
    assert not host_forwards(twice), "two links to one site are no transit"
    ipvs = {site: replace(config, engine=EngineKind.IPVS) for site, config in line.items()}
    assert all(host_forwards(config) for config in ipvs.values())
    assert not host_forwards(replace(silent["A"], engine=EngineKind.IPVS)), "nobody is led anywhere"
