"""Connections through IPVS that are ended on purpose: a socket of this host's with its entry, others stay."""

from __future__ import annotations

from contextlib import suppress

import pytest

from skedge.core.ending import Ends, Selection
from skedge.dataplane.ending.ipvs import IpvsEnder

from .conftest import HOST, Line
from .kit import PATIENCE_S, Clients, Site
from .test_line import until


def active(site: Site) -> int:
    """How many connections to B's workload the kernel counts at a site."""
    return site.open().get("b", 0)


def test_those_of_this_host_end_and_those_of_its_lan_are_told_of(line: Line) -> None:
    host, lan = Clients(line.a.ns), Clients(line.lan)
    ender, selection = IpvsEnder(), Selection((Ends(far=line.b.overlay4),))
    try:
        of_b, lan_of_b = host.open(HOST, 20)["b"], lan.open(HOST, 20)["b"]
        assert min(of_b, lan_of_b) > 0
        found = line.a.ns(ender.find, selection)
        assert len(found) == of_b + lan_of_b
        assert line.a.ns(ender.end, found) == of_b
        for made, name in host.held:
            if name == "b":
                with pytest.raises(ConnectionAbortedError):
                    made.recv(1)
            else:
                made.setblocking(False)
                with pytest.raises(BlockingIOError):
                    made.recv(1)
        until(lambda: active(line.a) == lan_of_b, "the entries are closed", PATIENCE_S)
    finally:
        for clients in (host, lan):
            with suppress(OSError):
                clients.close()
