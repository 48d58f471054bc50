"""The networks behind edge hosts: a LAN (a bridge in the switch namespace), and a bridge in the host for containers.

Nothing but the edge host knows these networks: no other host has a route to them.
"""

from __future__ import annotations

from tests.lab.net import batch, namespaces, quiet
from tests.lab.sh import run
from tests.lab.topology import Machine, Plan


def build(plan: Plan) -> None:
    """Make all LANs, container bridges and machines that are not there yet."""
    for host in plan.topology.hosts:
        if plan.topology.behind(host, "lan0"):
            _build_lan(plan, host)
        if plan.topology.behind(host, "box0"):
            _build_bridge(plan, host)
    for machine in plan.topology.machines:
        _build_machine(plan, machine)


def _there(namespace: str, device: str) -> bool:
    return bool(run("ip", "-n", namespace, "link", "show", device, check=False))


def _build_lan(plan: Plan, host: str) -> None:
    name, port, bridge = plan.namespace(host), _port(plan, host), _bridge(plan, host)
    if not _there(plan.switch, bridge):
        batch(plan.switch, f"link add {bridge} type bridge", f"link set {bridge} up")
    if not _there(plan.switch, port):
        batch(plan.switch, f"link add {port} type veth peer name lan0 address {_mac(plan, host)} netns {name}")
        batch(plan.switch, f"link set {port} master {bridge} up")
        batch(name, *_addresses(plan.lan_addresses(host, "lan0"), "lan0"), "link set lan0 up")


def _build_bridge(plan: Plan, host: str) -> None:
    name = plan.namespace(host)
    if not _there(name, "box0"):
        batch(
            name, "link add box0 type bridge", "link set box0 up", *_addresses(plan.lan_addresses(host, "box0"), "box0")
        )


def _build_machine(plan: Plan, machine: Machine) -> None:
    name, number = plan.namespace(machine.name), plan.topology.machines.index(machine)
    if machine.inside:
        where, port, bridge = plan.namespace(machine.at), f"port{number}", "box0"
    else:
        where, port, bridge = plan.switch, f"p{number}", _bridge(plan, machine.at)
    if name not in namespaces():
        run("ip", "netns", "add", name)
        quiet(name)
        batch(name, "link set lo up")
    if not _there(where, port):
        batch(where, f"link add {port} type veth peer name eth0 netns {name}", f"link set {port} master {bridge} up")
        batch(name, *_addresses(plan.machine_addresses(machine), "eth0"), "link set eth0 up")
        if machine.routed:
            ipv4, ipv6 = plan.lan_addresses(machine.at, machine.device)
            batch(name, f"route add default via {ipv4}", f"route add default via {ipv6}")


def _addresses(pair: tuple[object, object], device: str) -> list[str]:
    return [f"addr add {pair[0]}/28 dev {device}", f"addr add {pair[1]}/64 dev {device} nodad"]


def _mac(plan: Plan, host: str) -> str:
    """Return a hardware address that stays over a reboot: the LAN's machines remember it."""
    return f"02:5f:{plan.slot:02x}:00:00:{plan.topology.hosts.index(host):02x}"


def _bridge(plan: Plan, host: str) -> str:
    return f"lan{plan.topology.hosts.index(host)}"


def _port(plan: Plan, host: str) -> str:
    return f"l{plan.topology.hosts.index(host)}"


def reset_host(plan: Plan, host: str) -> None:
    """Give a host that has a new namespace its LAN again; its containers went with it and are new, too."""
    if plan.topology.behind(host, "lan0") and _there(plan.switch, _port(plan, host)):
        run("ip", "-n", plan.switch, "link", "del", _port(plan, host), check=False)  # its far end goes when it likes
    for machine in plan.topology.behind(host, "box0"):
        if plan.namespace(machine.name) in namespaces():
            run("ip", "netns", "del", plan.namespace(machine.name))
    build(plan)
