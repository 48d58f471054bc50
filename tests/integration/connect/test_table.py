"""The reference table of the balancing rule, row by row, with real connections held open one after another."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from .kit import FAR4, OVERLAY4, Site, candidate, connect

ROWS = [
    ("A alone with B at cost 1", {"a": (0, 1), "b": (1, 1)}, {20: (11, 9)}),
    ("A alone with B at cost 9999", {"a": (0, 1), "b": (9999, 1)}, {20: (20, 0), 1000: (1000, 0)}),
    (
        "A -10- B -20- C",
        {"a": (0, 1), "b": (10, 1), "c": (30, 1)},
        {11: (11, 0, 0), 12: (11, 1, 0), 14: (12, 2, 0), 50: (30, 20, 0), 100: (47, 37, 16)},
    ),
    ("the same, no server at B", {"a": (0, 1), "c": (30, 1)}, {100: (65, 35)}),
    ("A-B 10, A-D 50, B-D 100", {"a": (0, 1), "b": (10, 1), "d": (50, 1)}, {100: (54, 43, 3)}),
    (
        "no server at A; B cost 1, C cost 50",
        {"b": (1, 1), "c": (50, 1)},
        {100: (75, 25), 400: (225, 175), 500: (275, 225), 600: (325, 275)},
    ),
    ("capacity 4 at B, 1 at C, equal cost", {"b": (10, 4), "c": (10, 1)}, {100: (80, 20)}),
]


@pytest.fixture
def held() -> Iterator[list[socket.socket]]:
    connections: list[socket.socket] = []
    yield connections
    for one in connections:
        one.close()


@pytest.mark.parametrize(("workloads", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_reference_row(
    site: Site,
    held: list[socket.socket],
    workloads: dict[str, tuple[int, int]],
    expected: dict[int, tuple[int, ...]],
) -> None:
    addresses = dict(zip(workloads, [OVERLAY4, *FAR4], strict=False))
    servers = {name: site.server(addresses[name]) for name in workloads}
    site.service(
        [candidate(name, cost, servers[name].target, capacity=size) for name, (cost, size) in workloads.items()],
        ("127.0.0.1", 8080),
    )
    for number, split in sorted(expected.items()):
        while len(held) < number:
            held.append(connect("127.0.0.1", 8080))
        assert tuple(site.open(name) for name in workloads) == split
        # What the kernel counted is where the connections really went.
        assert tuple(_reached(held, servers[name].target.address) for name in workloads) == split
    assert site.engine.stale_picks() == 0
    for one in held:
        one.close()
    assert site.open() == 0


def _reached(held: list[socket.socket], address: str) -> int:
    """How many sockets are really connected to the address (the source is the same as it on this one host)."""
    return sum(one.getsockname()[0] == address for one in held)
