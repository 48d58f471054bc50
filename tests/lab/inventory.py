"""What Ansible and ssh need to reach a lab: keys, known hosts, connection variables."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.lab.sh import run
from tests.lab.topology import Plan

# An emulated host is ten times slower: everything that waits for one gets more time than by default.
EMULATED: dict[str, object] = {
    "skedge_start_timeout_s": 1800,  # the loader's compiler
    "ansible_ssh_timeout": 60,
    "skedge_gate_timeout_s": 600,
    "skedge_network_revert_s": 300,
}


def make_keys(plan: Plan, directory: Path) -> None:
    """Make the login key and each host's key, once; host keys are known before the first contact."""
    ssh = directory / "ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    ssh.chmod(0o700)
    for name in ("id_ed25519", *(f"host_{h}" for h in plan.topology.hosts)):
        if not (ssh / f"{name}.pub").exists():
            (ssh / name).unlink(missing_ok=True)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab-{plan.lab}", "-f", ssh / name)
    lines = []
    for host in plan.topology.hosts:
        kind, key = (ssh / f"host_{host}.pub").read_text().split()[:2]
        lines.append(f"{plan.address(host)},{host} {kind} {key}\n")
    (ssh / "known_hosts").write_text("".join(lines))


def connection(plan: Plan, directory: Path, host: str) -> dict[str, object]:
    """Return the variables by which Ansible reaches one host, and what the lab knows of it."""
    ssh = directory / "ssh"
    segments: list[dict[str, object]] = [
        {
            "to": s.far(host),
            "cost": s.cost,
            "device": s.device(host),
            "local": str(plan.segment_address(s, host)),
            "remote": str(plan.segment_address(s, s.far(host))),
        }
        for s in plan.segments_of(host)
    ]
    variables: dict[str, object] = {
        "ansible_host": str(plan.address(host)),
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_private_key_file": str(ssh / "id_ed25519"),
        "ansible_ssh_common_args": f"-F none -o UserKnownHostsFile={ssh / 'known_hosts'} -o StrictHostKeyChecking=yes",
        "skedge_ca_dir": str(directory / "ca"),
        "lab_segments": segments,
    }
    if plan.topology.kind == "vm":
        variables |= EMULATED
    if plan.topology.machines:
        variables["lab_lans"] = _lans(plan, host)
        variables["lab_machines"] = {m.name: _pair(plan.machine_addresses(m)) for m in plan.topology.machines}
    return variables


def _lans(plan: Plan, host: str) -> dict[str, dict[str, object]]:
    """Return own addresses and networks of a host by device: its LAN and container bridge as far as it has them."""
    devices = [device for device in ("lan0", "box0") if plan.topology.behind(host, device)]
    return {
        device: {**_pair(plan.lan_addresses(host, device)), "networks": [str(n) for n in plan.lan(host, device)]}
        for device in devices
    }


def _pair(addresses: tuple[object, object]) -> dict[str, str]:
    return dict(zip(("address", "address6"), map(str, addresses), strict=True))


def write(plan: Plan, directory: Path) -> None:
    """Write ``inventory/``: given after another inventory, it redirects the same hosts to this lab."""
    inventory = directory / "inventory"
    (inventory / "host_vars").mkdir(parents=True, exist_ok=True)
    at_once = {"skedge_serial": "100%"}  # a lab is there to be tried, not to be spared
    hosts = {"all": {"hosts": dict.fromkeys(plan.topology.hosts), "vars": at_once}}
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    for host in plan.topology.hosts:
        text = yaml.safe_dump(connection(plan, directory, host), sort_keys=False)
        (inventory / "host_vars" / f"{host}.yml").write_text(text)
