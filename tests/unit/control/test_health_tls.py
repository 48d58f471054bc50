"""Health checks that speak TLS, and that send a Host header, against real servers; what they say where it fails."""

from __future__ import annotations

import asyncio
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from skedge.control.health.monitor import CheckedWorkload, HealthMonitor, HealthState
from skedge.control.health.tls import name_of
from skedge.core.model import Health, HealthType, WorkloadId

W = WorkloadId("edge-a", "shop")
HTTP, TCP = HealthType.HTTP, HealthType.TCP
SHOP = {"host": "shop.example"}
FAILED = "TLS: certificate verify failed: "


class Shop(http.server.BaseHTTPRequestHandler):
    """Answers 400 to whom does not name it."""

    def do_GET(self) -> None:
        good = self.headers.get("Host", "").split(":")[0] == "shop.example"
        self.send_response(200 if good else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing: a check breaks off as it likes."""


class Servers:
    """One with TLS, one without, one whose certificate is of the past, one that wants the client's."""

    def __init__(self, directory: Path) -> None:
        ca = trustme.CA()
        self.ca = str(directory / "ca.pem")
        ca.cert_pem.write_to_path(self.ca)
        cert = ca.issue_cert("shop.example", "127.0.0.1")
        old = trustme.CA().issue_cert("shop.example")
        self._running: list[Server] = []
        self.ports = {
            "plain": self._run(None),
            "tls": self._run(cert),
            "strangers": self._run(old),
            "mutual": self._run(cert, ca),
        }

    def _run(self, cert: trustme.LeafCert | None, clients: trustme.CA | None = None) -> int:
        server = Server(("127.0.0.1", 0), Shop)
        if cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            cert.configure_cert(context)
            if clients is not None:
                clients.configure_trust(context)
                context.verify_mode = ssl.CERT_REQUIRED
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        self._running.append(server)
        return int(server.server_port)

    def close(self) -> None:
        for server in self._running:
            server.shutdown()
            server.server_close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(tmp_path_factory.mktemp("servers"))
    yield made
    made.close()


def checked(port: int, **health: Any) -> HealthState:
    async def check() -> HealthState:
        known: asyncio.Future[HealthState] = asyncio.get_running_loop().create_future()
        monitor = HealthMonitor(lambda _w, state: known.done() or known.set_result(state))
        target = CheckedWorkload("127.0.0.1", port, Health(**{"interval_s": 60, "timeout_s": 5, **health}))
        monitor.set_targets({W: target})
        try:
            return await asyncio.wait_for(known, 10)
        finally:
            await monitor.close()

    return asyncio.run(check())


@pytest.mark.parametrize(
    ("server", "health", "cause"),
    [
        ("plain", {"type": HTTP}, "answered 400"),
        ("plain", {"type": HTTP, **SHOP}, ""),
        ("plain", {"type": HTTP, "host": "shop.example:8443"}, ""),
        ("tls", {"type": HTTP, **SHOP}, "TLS: the server speaks TLS; give the check tls: true"),
        ("plain", {"type": TCP, "tls": True}, "the server does not speak TLS at this port"),
        ("plain", {"type": HTTP, "tls": True, **SHOP}, "the server does not speak TLS at this port"),
        ("tls", {"type": HTTP, "tls": True, **SHOP}, FAILED + "unable to get local issuer certificate"),
        ("tls", {"type": HTTP, "tls": True, "tls_verify": False}, "answered 400"),
        ("tls", {"type": HTTP, "tls": True, "tls_verify": False, **SHOP}, ""),
        ("tls", {"type": HTTP, "tls": True, "tls_ca": "CA", **SHOP}, ""),
        ("tls", {"type": TCP, "tls": True, "tls_ca": "CA"}, ""),
        ("tls", {"type": TCP, "tls": True, "tls_ca": "CA", "tls_server_name": "shop.example"}, ""),
        (
            "tls",
            {"type": TCP, "tls": True, "tls_ca": "CA", "tls_server_name": "x.example"},
            FAILED + "Hostname mismatch",
        ),
        ("tls", {"type": HTTP, "tls": True, "tls_ca": "CA", "host": "x.example"}, FAILED + "Hostname mismatch"),
        ("strangers", {"type": TCP, "tls": True, "tls_ca": "CA", "tls_server_name": "shop.example"}, FAILED),
        ("mutual", {"type": HTTP, "tls": True, "tls_ca": "CA", **SHOP}, "TLS: "),
        (
            "tls",
            {"type": TCP, "tls": True, "tls_ca": "/nowhere/ca.pem"},
            "TLS: /nowhere/ca.pem cannot be read (no such",
        ),
        ("tls", {"type": TCP, "tls": True, "tls_ca": "/etc/passwd"}, "TLS: /etc/passwd has no certificate"),
    ],
)
def test_a_check_speaks_as_it_is_told_and_says_what_it_got(
    servers: Servers, server: str, health: dict[str, Any], cause: str
) -> None:
    if health.get("tls_ca") == "CA":
        health = {**health, "tls_ca": servers.ca}
    seen = checked(servers.ports[server], **health)
    assert seen.healthy == (not cause), seen
    assert cause in seen.cause


def test_a_ca_file_that_changes_is_read_again(servers: Servers, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    health = {"type": TCP, "tls": True, "tls_ca": str(file)}
    assert checked(servers.ports["tls"], **health).cause.startswith(FAILED)
    file.write_bytes(Path(servers.ca).read_bytes())
    assert checked(servers.ports["tls"], **health).healthy


@pytest.mark.parametrize(
    ("header", "name"),
    [("a.example", "a.example"), ("a.example:80", "a.example"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("", "")],
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    assert name_of(header) == name
