"""A host's engine is changed while connections are open, in both directions, with real loaders and controllers.

B -10- A -20- C. A changes its engine; the others have ipvs. Service web is at B, service home at A.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from skedge.core.names import overlay_address, overlay_network
from tests.integration.daemon.kit import NETWORK, WORKLOADS, Clients, Line, Machine, Site, running, telling, until

HOME = "10.94.1.1"
EACH = 3
DRAIN_S = 1800.0  # only where a test says so is anything cut

pytestmark = pytest.mark.long  # each change compiles, which takes emulated processors minutes


class Switching(Line):
    """The sites, a machine on A's LAN, and clients of all kinds."""

    LINKS = (("a", "b", 10, "10.93.1"), ("a", "c", 20, "10.93.2"))

    def document(self, name: str, costs=None) -> dict[str, Any]:
        web, home = {"service": "web", "port": 8080}, {"service": "home", "port": 8081}
        own = {
            "a": {"listeners": [web, home], "connectors": [{"service": "home", "host": HOME, "port": 9091}]},
            "b": {"listeners": [home], "connectors": [{"service": "web", "host": "127.0.0.1", "port": 9090}]},
            "c": {"listeners": [web], "connectors": []},
        }[name]
        more = {"engine": "ipvs", "engine_drain_s": DRAIN_S, "hold_time_s": 3600}  # emulated, compiling takes minutes
        return {**super().document(name, costs), **own, **more}

    def make(self) -> None:
        self.build()
        self.a = self.sites["a"]
        self.machine = Machine(self.a, "box", "10.94.1")
        self.a.spawn("/usr/bin/python3", WORKLOADS / "server.py", "--name", "home", "--port", 9091, "--address", HOME)
        for site in self.sites.values():
            site.start()
        for site in self.sites.values():
            until(site.works, 20, f"{site.name} ready")
        until(lambda: len(self.usable()) == 2, 20, "both services are served")

    def usable(self) -> set[str]:
        rows = [row for row in self.a.rows("services") for row in row.candidates if row.reason == "none"]
        return {row.site for row in rows}

    def clients(self) -> dict[str, Clients]:
        b, c = self.sites["b"], self.sites["c"]
        return {
            "host to b": Clients(self.a, f"{HOME}:8080"),
            "host to a": Clients(self.a, f"{HOME}:8081"),
            "lan to b": Clients(self.machine, f"{HOME}:8080"),
            "lan to a": Clients(self.machine, f"{HOME}:8081"),
            "b to a": Clients(b, "10.93.1.2:8081"),
            "c to b by a": Clients(c, "10.93.2.2:8080"),
        }

    def switch(self, engine: str, drain_s: float = DRAIN_S) -> None:
        """Do what the playbook does: the configuration, and a restart of the unit."""
        assert self.a.daemon is not None
        self.a.write(engine=engine, engine_drain_s=drain_s)
        self.a.daemon.terminate()
        self.a.daemon.wait(60)
        self.a.load(engine)
        self.a.start()

    def why(self) -> str:
        with contextlib.suppress(Exception):
            (row,) = self.a.rows("site")
            return f"{row.engine}: {row.engine_why}"
        return ""

    def logs(self, lines: int = 40) -> str:
        """Return the daemons' logs, and what the kernel of A has."""
        commands = (("nft", "list", "ruleset"), ("cat", "/proc/net/ip_vs"), ("cat", "/proc/net/ip_vs_conn"))
        found = [self.a.inside(*command, check=False).stdout for command in commands] if hasattr(self, "a") else []
        return "\n".join([super().logs(lines), *found])

    def close(self) -> None:
        if hasattr(self, "machine"):
            self.machine.close()
        super().close()


@pytest.fixture(scope="module")
def running_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switching]:
    with running(Switching(tmp_path_factory.mktemp("switch"))) as made:
        yield made


@pytest.fixture
def line(running_line: Switching, request: pytest.FixtureRequest) -> Iterator[Switching]:
    with telling(running_line, request.session):
        yield running_line


@pytest.fixture
def clients(line: Switching) -> Iterator[dict[str, Clients]]:
    made = line.clients()
    for one in made.values():
        one.open(EACH)
    yield made
    for one in made.values():
        one.quit()


def alive(clients: dict[str, Clients]) -> dict[str, int]:
    """The number of dead connections of each kind of client, where there is any."""
    return {kind: dead for kind, one in clients.items() if (dead := one.do("check", 20)["dead"])}


def opening(clients: dict[str, Clients], until_: Any) -> None:
    """Open one connection after another from everywhere until something is so: none may fail."""
    for _ in range(40):
        for kind, one in clients.items():
            answer = one.do("open", 1)
            assert not answer["failures"], (kind, answer)
        if until_():
            return
    raise AssertionError("never")


def ipvs_active(site: Site) -> int:
    words = [line.split() for line in site.inside("cat", "/proc/net/ip_vs").stdout.splitlines()]
    return sum(int(line[4]) for line in words if line[0] == "->" and len(line) == 6 and line[4].isdigit())


def flows(site: Site) -> list[Any]:
    return [row for row in site.rows("flows") if row.state == "established"]


def test_from_ipvs_to_ebpf(line: Switching, clients: dict[str, Clients]) -> None:
    a = line.a
    peers = line.sites["b"].inside("ss", "-Htn", "state", "established", "sport = :9090").stdout
    transit = str(overlay_address(overlay_network(NETWORK), NETWORK, "c"))
    assert peers.count(f" {transit}:") == EACH, "what passes through a site keeps its source"
    line.switch("ebpf")
    opening(clients, lambda: "ebpf: configured; " in line.why() and "go on" in line.why())
    assert alive(clients) == {}
    active = ipvs_active(a)
    assert active >= 4 * EACH, "of this host and its LAN"
    before = len(flows(a))
    for one in clients.values():
        one.open(EACH)
    assert ipvs_active(a) == active, "new ones do not go by the old engine"
    assert len(flows(a)) == before + EACH, "but by the new one"
    assert alive(clients) == {}
    line.switch("ebpf", drain_s=1)
    fresh = line.clients()
    for one in fresh.values():
        one.open(1)
    until(lambda: line.why() == "ebpf: configured", 30, "the deadline is over")
    assert "FWM" not in a.inside("cat", "/proc/net/ip_vs").stdout
    left = a.inside("nft", "list", "ruleset").stdout
    assert not [name for name in ("overlay-in", "endpoints", "sources", "listeners4", "to-") if f" {name}" in left]
    assert a.inside("sysctl", "-n", "net.ipv4.vs.conntrack").stdout.strip() == "0"
    for one in fresh.values():
        one.open(EACH)
    assert alive(fresh) == {}, "what the new engine placed stays"
    for one in fresh.values():
        one.quit()


def test_from_ebpf_to_ipvs(line: Switching, clients: dict[str, Clients]) -> None:
    a = line.a
    assert len(flows(a)) == EACH, "this starts where the other test ended"
    line.switch("ipvs")
    opening(clients, lambda: "ipvs: configured; " in line.why() and "go on" in line.why())
    assert alive(clients) == {}
    active = ipvs_active(a)
    for one in clients.values():
        one.open(EACH)
    assert ipvs_active(a) == active + 4 * EACH, "new ones of this host and its LAN go by the new engine"
    assert alive(clients) == {}
    assert (a.pin_dir / "config_v1").exists(), "what carries the flows of the LAN stays"
    clients["lan to b"].do("close")
    clients["lan to b"].open(EACH)
    until(lambda: line.why() == "ipvs: configured", 30, "nothing needs the programs")
    assert not any(a.pin_dir.iterdir())
    assert "skedge" not in a.inside("tc", "filter", "show", "dev", line.machine.device, "ingress").stdout
    assert alive(clients) == {}
    for one in clients.values():
        one.open(EACH)
