"""The network that faults are made in: four sites in a diamond, deployed with the playbook, and its clients at one end.

edge-a has the clients, edge-d is the only site that serves ``web``: edge-b is on the way there, edge-c on the way
round. ``pool`` is served at both of those.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import traffic
from tests.lab.lab import Lab
from tests.lab.play import play, write_hosts
from tests.lab.sh import LabError, run

ENTRY = "edge-a"
PATH_COST = 20  # from the clients to web, by edge-b
SERVED = {"web": ("edge-d",), "pool": ("edge-b", "edge-c")}
SERVER_PORT = {"web": 9090, "pool": 9091}
LISTENER_PORT = {"web": 8080, "pool": 8081}
SETTLE_S = 60.0
LOOK_S = 0.3


@dataclass(frozen=True)
class Load:
    """Clients of one service: ``held`` connections that ask every ``period`` seconds, ``rate`` new ones a second."""

    held: int
    period: float
    rate: int


LOADS = {"web": Load(200, 0.25, 200), "pool": Load(40, 0.25, 40)}


def write_inventory(lab: Lab) -> Path:
    """Write the inventory that goes before the lab's own, and return its directory."""
    links: dict[str, list[dict[str, Any]]] = {host: [] for host in lab.plan.topology.hosts}
    for one in lab.plan.topology.segments:
        ends = {"local": one.a, "remote": one.b}
        addresses = {key: str(lab.plan.segment_address(one, host)) for key, host in ends.items()}
        links[one.a].append({"to": one.b, "cost": one.cost, "transport": "vxlan", **addresses})
    hosts = {
        host: {
            "skedge_links": links[host],
            "skedge_connectors": [
                {"service": service, "host": "127.0.0.1", "port": SERVER_PORT[service]}
                for service, sites in SERVED.items()
                if host in sites
            ],
        }
        for host in lab.plan.topology.hosts
    }
    listeners = [{"service": service, "port": port} for service, port in LISTENER_PORT.items()]
    directory = lab.directory / "chaos"
    write_hosts(directory, hosts, {"skedge_listeners": listeners})
    return directory


def deploy(lab: Lab) -> None:
    """Deploy with the playbook. Raises LabError with its last lines."""
    done = play(lab, write_inventory(lab), "deploy.yml")
    if done.returncode != 0:
        raise LabError(f"the playbook failed (exit {done.returncode}):\n{done.stdout[-3000:]}{done.stderr[-1000:]}")


def start_servers(lab: Lab, host: str) -> None:
    """Start what a host serves."""
    for service, sites in SERVED.items():
        if host in sites:
            traffic.start_server(lab, host, port=SERVER_PORT[service])


def inside(lab: Lab, host: str, *command: str, check: bool = True) -> str:
    """Run a command of this machine in a host's network, without the time that logging in takes."""
    return run("nsenter", f"--net=/run/netns/{lab.plan.namespace(host)}", *command, check=check)


# ---- clients ---------------------------------------------------------------------------------------------------


def start_clients(lab: Lab) -> None:
    """Start the clients of all services."""
    for service, load in LOADS.items():
        stop, out = f"/run/lab-{service}-stop", f"/run/lab-{service}"
        to = f"127.0.0.1 {LISTENER_PORT[service]}"
        lab.ssh(
            ENTRY,
            f"rm -f {stop} {out}-*.json; "
            f"systemd-run -q --unit=lab-{service}-rate -p StandardOutput=file:{out}-rate.json "
            f"/usr/bin/python3 /opt/lab/rate.py {to} {load.rate} {stop}; "
            f"systemd-run -q --unit=lab-{service}-pulse -p StandardOutput=file:{out}-pulse.json "
            f"/usr/bin/python3 /opt/lab/steady.py {to} {load.held} {load.period} {stop}",
        )


def stop_clients(lab: Lab) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Stop them; return by service what those that came said, and those that held."""
    lab.ssh(ENTRY, " ".join(["touch", *(f"/run/lab-{service}-stop" for service in LOADS)]))
    found = {}
    for service in LOADS:
        units = f"lab-{service}-rate lab-{service}-pulse"
        lab.ssh(ENTRY, f"while systemctl is-active -q {units}; do sleep 0.1; done")
        said = [lab.ssh(ENTRY, f"cat /run/lab-{service}-{kind}.json").stdout for kind in ("rate", "pulse")]
        found[service] = (json.loads(said[0]), json.loads(said[1]))
    return found


# ---- its state -------------------------------------------------------------------------------------------------


def settle(lab: Lab) -> str:
    """Wait until clients reach every workload by the cheapest path; return what is not so after a minute."""
    end, trouble = time.monotonic() + SETTLE_S, "never looked"
    while trouble and time.monotonic() < end:
        trouble = _trouble(lab)
        if trouble:
            time.sleep(LOOK_S)
    return trouble


def _trouble(lab: Lab) -> str:
    for service, sites in SERVED.items():
        done = lab.ssh(ENTRY, f"skedge explain {service} --json", check=False)
        try:
            rows = json.loads(done.stdout)["candidates"]
        except ValueError:
            return f"{ENTRY}: {done.stderr.strip()[-200:]}"
        usable = {row["site"]: row["path_cost"] for row in rows if row["reason"] == "none"}
        if set(usable) != set(sites):
            return f"{service}: {sorted(usable)} can be used, not {list(sites)}"
        if service == "web" and usable["edge-d"] != PATH_COST:
            return f"web: at path cost {usable['edge-d']}, not {PATH_COST}"
    return ""


def require_settled(lab: Lab) -> None:
    """Raise LabError if the network does not come to rest."""
    if trouble := settle(lab):
        raise LabError(f"the network does not come to rest: {trouble}")
