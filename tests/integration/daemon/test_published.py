"""Workloads that are not what they seem: published container ports, sockets that nobody accepts on, wrong checks.

A container is a machine behind a device of A; A publishes it by DNAT, as container engines do, with a socket that only
reserves the port, and without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from .kit import WORKLOADS, Clients, Line, Machine, Site, changes, until

WEB = {"service": "web", "host": "127.0.0.1", "port": 9090}
HOST, PORT = "10.93.1.1", 8085  # of A
LISTENERS = [{"service": "web", "port": 8080}, {"service": "box", "port": 8081}]
DNAT = (
    "table ip published {{ "
    "chain pre {{ type nat hook prerouting priority -100; {rule} }}; "
    "chain out {{ type nat hook output priority -100; {rule} }}; }}"
)
BOX = {"service": "box", "host": HOST, "port": PORT}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def container(line: Line) -> Iterator[Machine]:
    made = Machine(line.sites["a"], "box", "10.94.1")
    made.inside("ip", "route", "add", "default", "via", made.gateway)
    yield made
    unpublish(line.sites["a"])
    made.close()
    for site in line.sites.values():
        site.write()
        site.reload()
    line.settle()


def publish(site: Site, address: str, port: int) -> None:
    unpublish(site)
    rule = f"ip daddr {HOST} tcp dport {PORT} dnat to {address}:{port};"
    site.inside("nft", DNAT.format(rule=rule))


def unpublish(site: Site) -> None:
    site.inside("nft", "delete table ip published", check=False)


def listening(site: Site, port: int, *arguments: object) -> None:
    site.spawn("/usr/bin/python3", WORKLOADS / "deaf.py", "--port", port, *arguments)
    until(lambda: f":{port} " in site.inside("ss", "-Hltn").stdout, 10, f"port {port}")


def serve(line: Line, *connectors: dict[str, Any]) -> None:
    """Let A offer these, and everybody listen to box."""
    a, c = line.sites["a"], line.sites["c"]
    a.write(connectors=[WEB, *connectors], listeners=LISTENERS)
    c.write(listeners=LISTENERS)
    for site in (a, c):
        site.reload()


def reasons(site: Site) -> list[str]:
    return [one.reason for row in site.rows("services") if row.service == "box" for one in row.candidates]


def target(site: Site) -> str:
    return next((one.target for row in site.rows("services") if row.service == "box" for one in row.candidates), "")


def problems(site: Site) -> dict[str, str]:
    return {one.what: one.cause for one in site.status().problems}


def clients(stack: ExitStack, *arguments: Any) -> Clients:
    made = Clients(*arguments)
    stack.callback(made.quit)
    return made


@pytest.mark.parametrize("reserved", [True, False], ids=["a socket reserves the port", "no socket"])
def test_a_published_port_is_served_where_the_hosts_dnat_leads(
    line: Line, container: Machine, stack: ExitStack, reserved: bool
) -> None:
    a, c = line.sites["a"], line.sites["c"]
    container.serve("first", 9191)
    publish(a, container.address, 9191)
    if reserved:
        listening(a, PORT)
    serve(line, BOX)
    until(lambda: reasons(a) == reasons(c) == ["none"], 10, "box may be chosen everywhere")
    until(lambda: a.at_rest() and c.at_rest(), 5, "at rest")
    for where in ((a, "127.0.0.1:8081"), (c, "127.0.0.1:8081")):
        assert clients(stack, *where).open(3) == {"first": 3}
    assert target(a) == f"{container.address}:9191"
    assert not [what for what in problems(a) if "box" in what]

    second = f"{container.address[:-1]}10"  # the container is started again, at another address
    container.inside("ip", "addr", "add", f"{second}/24", "dev", "eth0")
    container.spawn(
        "/usr/bin/python3", WORKLOADS / "server.py", "--name", "second", "--port", 9191, "--address", second
    )
    publish(a, second, 9191)
    until(lambda: target(a) == f"{second}:9191" and a.at_rest(), 5, "followed to the next one")
    late = clients(stack, c, "127.0.0.1:8081")
    assert late.open(3) == {"second": 3}

    a.kill()
    assert late.open(1) == {"second": 1}
    before = a.log_size()
    a.start()
    until(a.works, 20, "a ready")
    assert not [one for one in changes(a.log_since(before)) if "endpoint" in one], "it was left as it was found"
    assert late.open(1) == {"second": 1}
    assert late.do("check")["dead"] == 0


def test_a_socket_that_nobody_accepts_on_is_said_to_be_one(line: Line, container: Machine, stack: ExitStack) -> None:
    a, c = line.sites["a"], line.sites["c"]
    accept = a.directory / "accept"
    stack.callback(lambda: accept.unlink(missing_ok=True))
    listening(a, 8086, "--name", "deaf", "--until", accept, "--backlog", 128)
    serve(line, {"service": "box", "host": "127.0.0.1", "port": 8086, "health": {"type": "tcp"}})
    until(lambda: reasons(a) == reasons(c) == ["unhealthy"], 8, "found out")
    said = "unhealthy: the health check of 127.0.0.1:8086: listens, but does not accept"
    assert problems(a)["workload box"] == said
    assert "(listens, but does not accept)" in a.skedge("explain", "box").stdout
    assert "workload=a/box healthy=False cause='listens, but does not accept'" in a.log.read_text()
    accept.touch()
    until(lambda: reasons(a) == reasons(c) == ["none"], 5, "it accepts now")
    assert clients(stack, c, "127.0.0.1:8081").open(2) == {"deaf": 2}
    assert "workload box" not in problems(a)
