"""Three sites in a line: what reaches a site over its links, and what does not."""

from __future__ import annotations

import pytest

from skedge.core.model import WorkloadId
from skedge.core.state import Endpoint, EndpointKey

from .kit import client, listen

PORT = 61001


def exchange(client_socket, address, port, server):
    client_socket.connect((address, port))
    accepted, peer = server.accept()
    accepted.sendall(b"hello")
    assert client_socket.recv(5) == b"hello"
    client_socket.sendall(b"yes")
    assert accepted.recv(3) == b"yes"
    return accepted, peer


@pytest.mark.parametrize(("bound", "family"), [("127.0.0.1", 4), ("0.0.0.0", 4), ("::1", 6), ("::", 4), ("::", 6)])
@pytest.mark.parametrize("entry", ["a", "b"])
def test_endpoint_reaches_the_workload_wherever_it_is_bound(line, bound, family, entry):
    site, c = getattr(line, entry), line.c
    host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(bound, bound)
    c.endpoints.put(EndpointKey(PORT), Endpoint(WorkloadId("c", "w"), host, 9090))
    server = c.ns(listen, bound, 9090)
    to = c.overlay4 if family == 4 else c.overlay6
    mine = site.ns(client, to)
    try:
        accepted, peer = exchange(mine, to, PORT, server)
        assert accepted.getsockname()[0] == (to if ":" not in bound or family == 6 else f"::ffff:{to}")
        assert accepted.getsockname()[1] == PORT
        assert peer[0].removeprefix("::ffff:") == (site.overlay4 if family == 4 else site.overlay6)
        accepted.close()
    finally:
        server.close()
        mine.close()
        c.endpoints.delete(EndpointKey(PORT))
