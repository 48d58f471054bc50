"""The lab's network: a namespace a host, and one "switch" namespace with all bridges; a VM has taps there instead.

This machine's own namespace gets one device (``skl-<tag>``) with the control node's address, nothing else. Links are
cut silently, by dropping frames on the bridges: carrier stays up at both ends, as with a broken cable far away.
"""

from __future__ import annotations

import subprocess

from tests.lab.sh import LabError, run
from tests.lab.topology import Plan, Segment

TABLE = "lab"


def namespaces() -> set[str]:
    """Return the names of all network namespaces of this machine."""
    return {line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip()}


def build(plan: Plan) -> None:
    """Make all namespaces, bridges and addresses that are not there yet."""
    there = namespaces()
    if plan.switch not in there:
        _build_switch(plan)
    if plan.topology.kind == "vm":
        _build_taps(plan)
        return
    for host in plan.topology.hosts:
        if plan.namespace(host) not in there:
            _build_host(plan, host)
    for segment in plan.topology.segments:
        _build_segment(plan, segment.number)


def batch(namespace: str, *lines: str) -> None:
    """Run lines of ip(8) in a namespace."""
    run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")


def quiet(namespace: str) -> None:
    """Switch IPv6 autoconfiguration noise off for devices to come; link-local addresses stay."""
    run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.default.accept_ra=0")


def _build_switch(plan: Plan) -> None:
    run("ip", "netns", "add", plan.switch)
    batch(
        plan.switch,
        "link set lo up",
        "link add mgmt type bridge",
        "link set mgmt up",
        *(f"link add seg{s.number} type bridge" for s in plan.topology.segments),
        *(f"link set seg{s.number} up" for s in plan.topology.segments),
    )
    run("ip", "netns", "exec", plan.switch, "nft", "-f", "-", stdin=_rules())
    run("ip", "link", "add", f"skl-{plan.tag}", "type", "veth", "peer", "name", "uplink", "netns", plan.switch)
    batch(plan.switch, "link set uplink master mgmt up")
    run("ip", "addr", "add", f"{plan.control}/25", "dev", f"skl-{plan.tag}")
    run("ip", "link", "set", f"skl-{plan.tag}", "up")


def _rules() -> str:
    return f"table bridge {TABLE} {{\n chain cuts {{\n type filter hook forward priority 0;\n }}\n}}\n"


def _build_host(plan: Plan, host: str) -> None:
    name = plan.namespace(host)
    run("ip", "netns", "add", name)
    quiet(name)
    port = management_port(plan, host)
    batch(plan.switch, f"link add {port} type veth peer name host0 address {plan.mac(host)} netns {name}")
    batch(plan.switch, f"link set {port} master mgmt up")
    batch(name, "link set lo up", f"addr add {plan.address(host)}/25 dev host0", "link set host0 up")


def management_port(plan: Plan, host: str) -> str:
    """Return the switch's port of a host in the management network."""
    return f"m{plan.topology.hosts.index(host)}"


def segment_port(segment: Segment, host: str) -> str:
    """Return the switch's port of a host on a link's own segment."""
    return f"s{segment.number}{'a' if host == segment.a else 'b'}"


def _build_taps(plan: Plan) -> None:
    """Give each VM a port on each of its bridges. A port stays when its VM goes: it is the switch's."""
    for host in plan.topology.hosts:
        ports = {management_port(plan, host): "mgmt"}
        ports |= {segment_port(s, host): f"seg{s.number}" for s in plan.segments_of(host)}
        for port, bridge in ports.items():
            if not run("ip", "-n", plan.switch, "link", "show", port, check=False):
                run("ip", "-n", plan.switch, "tuntap", "add", "dev", port, "mode", "tap")
                batch(plan.switch, f"link set {port} master {bridge} up")


def _build_segment(plan: Plan, number: int) -> None:
    segment = plan.topology.segments[number]
    for host in (segment.a, segment.b):
        port, device, name = segment_port(segment, host), segment.device(host), plan.namespace(host)
        if run("ip", "-n", plan.switch, "link", "show", port, check=False):
            continue
        batch(plan.switch, f"link add {port} type veth peer name {device} netns {name}")
        batch(plan.switch, f"link set {port} master seg{number} up")
        address = plan.segment_address(segment, host)
        batch(name, f"addr add {address}/30 dev {device}", f"link set {device} up")


def reset_host(plan: Plan, host: str) -> None:
    """Give a host a new namespace, as a reboot does: no devices, addresses or routes of its past life."""
    if plan.topology.kind == "vm":  # its kernel goes with it
        return
    name = plan.namespace(host)
    if name in namespaces():
        run("ip", "netns", "del", name)
    for end in [e for e in ports(plan, host) if run("ip", "-n", plan.switch, "link", "show", e, check=False)]:
        run("ip", "-n", plan.switch, "link", "del", end, check=False)  # its peer's end may have taken it away by now
    build(plan)


def ports(plan: Plan, host: str) -> list[str]:
    """Return the switch's ports that lead to a host."""
    return [management_port(plan, host), *(segment_port(s, host) for s in plan.segments_of(host))]


def tear_down(plan: Plan) -> None:
    """Remove all of it; what is gone already is fine."""
    subprocess.run(["ip", "link", "del", f"skl-{plan.tag}"], capture_output=True, check=False)
    names = (*plan.topology.hosts, *(machine.name for machine in plan.topology.machines))
    for name in namespaces() & {plan.switch, *map(plan.namespace, names)}:
        run("ip", "netns", "del", name)


def cut(plan: Plan, one: str, other: str) -> None:
    """Drop every frame between two hosts: on the link's own segment, and on the management network."""
    _impair(plan, one, other, "drop")


def lose(plan: Plan, one: str, other: str, percent: int) -> None:
    """Drop that share of the frames between two hosts, at random, in each direction."""
    if not 0 < percent < 100:
        raise LabError("loss is 1 to 99 percent; use cut for all")
    _impair(plan, one, other, f"numgen random mod 100 < {percent} drop")


def _impair(plan: Plan, one: str, other: str, verdict: str) -> None:
    heal(plan, one, other)
    mark = f'comment "{_mark(one, other)}"'
    macs = plan.mac(one), plan.mac(other)
    lines = [f"ether saddr {x} ether daddr {y} {verdict} {mark}" for x, y in (macs, macs[::-1])]
    for segment in plan.topology.segments:
        if {segment.a, segment.b} == {one, other}:
            lines += [f'iifname "s{segment.number}{end}" {verdict} {mark}' for end in "ab"]
    rules = "".join(f"add rule bridge {TABLE} cuts {line}\n" for line in lines)
    run("ip", "netns", "exec", plan.switch, "nft", "-f", "-", stdin=rules)


def heal(plan: Plan, one: str, other: str) -> None:
    """Take back a cut or a loss between two hosts."""
    listing = run("ip", "netns", "exec", plan.switch, "nft", "-a", "list", "chain", "bridge", TABLE, "cuts")
    for line in listing.splitlines():
        if f'"{_mark(one, other)}"' in line:
            handle = line.rsplit("handle ", 1)[1].strip()
            run("ip", "netns", "exec", plan.switch, "nft", "delete", "rule", "bridge", TABLE, "cuts", "handle", handle)


def _mark(one: str, other: str) -> str:
    return "--".join(sorted((one, other)))
