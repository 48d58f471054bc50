"""Three real sites: where real connections go, what the command says of it."""

from __future__ import annotations

from .kit import Clients, Line


def test_100_held_connections_split_47_37_16(line: Line, clients: Clients) -> None:
    a = line.sites["a"]
    assert clients.open(100) == {"a": 47, "b": 37, "c": 16}
    assert a.opens() == {"a": 47, "b": 37, "c": 16}
    assert clients.do("check")["dead"] == 0
