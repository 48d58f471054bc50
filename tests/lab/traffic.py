"""Workloads and held connections on lab hosts, as systemd units of the lab: what the demo and the tests drive."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from skedge.core.model import WorkloadId
from skedge.core.objects import Candidate
from skedge.core.placement.rule import fill
from tests.lab.lab import Lab

SOCKET = "/run/lab-hold"


def start_server(lab: Lab, host: str, *, port: int = 9090, name: str = "", address: str = "127.0.0.1") -> None:
    """Start a workload server on a host, listening when this returns."""
    unit = f"lab-server-{port}"
    serve = f"/usr/bin/python3 /opt/lab/server.py --name {name or host} --port {port} --address {address}"
    lab.ssh(
        host,
        f"systemctl stop {unit} 2>/dev/null; systemctl reset-failed {unit} 2>/dev/null; "
        f"systemd-run --quiet --unit={unit} --property=KillSignal=SIGKILL {serve} && "
        f"for i in $(seq 100); do ss -Hltn 'sport = :{port}' | grep -q . && exit 0; sleep 0.05; done; exit 1",
    )


def stop_server(lab: Lab, host: str, port: int = 9090) -> float:
    """Kill a workload server; return when, on the clock that all hosts of this machine share (seconds)."""
    clock = "python3 -c 'import time; print(time.monotonic())'"
    return float(lab.ssh(host, f"{clock}; systemctl stop lab-server-{port}").stdout)


@dataclass(frozen=True)
class Holder:
    """The program on one host that holds connections to one listener."""

    lab: Lab
    host: str
    address: str = "127.0.0.1"
    port: int = 8080
    name: str = "hold"

    @property
    def socket(self) -> str:
        """Where it takes commands, on its host."""
        return f"{SOCKET}-{self.name}"

    @property
    def unit(self) -> str:
        """Its systemd unit."""
        return f"lab-{self.name}"

    def start(self) -> None:
        """Start it with no connection open; an earlier one is stopped."""
        hold = f"/usr/bin/python3 /opt/lab/hold.py serve {self.socket} {self.address} {self.port}"
        self.lab.ssh(
            self.host,
            f"systemctl stop {self.unit} 2>/dev/null; systemctl reset-failed {self.unit} 2>/dev/null; "
            f"rm -f {self.socket}; systemd-run --quiet --unit={self.unit} {hold} && "
            f"for i in $(seq 100); do test -S {self.socket} && exit 0; sleep 0.05; done; exit 1",
        )

    def stop(self) -> None:
        """Stop it; all its connections close."""
        self.lab.ssh(self.host, f"systemctl stop {self.unit}", check=False)

    def ask(self, *words: object) -> dict:  # type: ignore[type-arg]
        """Send one command of hold.py, return its answer."""
        text = shlex.join(map(str, words))
        return json.loads(self.lab.ssh(self.host, f"/usr/bin/python3 /opt/lab/hold.py ask {self.socket} {text}").stdout)

    def names(self) -> dict[str, int]:
        """Count the held connections by the server's name."""
        return dict(self.ask("count")["names"])


def expected(costs: Mapping[str, int], n: int, held: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return how ``n`` more connections split among sites, by the rule itself.

    Args:
        costs: path cost of each site that has a server.
        n: how many are opened, one after another.
        held: connections that are open already, by site.
    """
    before = held or {}
    candidates = [
        Candidate(WorkloadId(site, "backend"), cost, capacity=1, others=before.get(site, 0))
        for site, cost in costs.items()
    ]
    return dict(zip(costs, fill(candidates, n), strict=True))
