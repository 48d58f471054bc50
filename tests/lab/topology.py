"""What a lab consists of, as plain values: hosts, the segment of each link, and every address and name.

A lab has one /24. The lower half is the management network (``.1`` is this machine, hosts follow from ``.11``), by
which Ansible reaches the hosts and which is the default underlay of links. Each link also has a segment of its own, a
/30 in the upper half, with a device ``u-<far host>`` at both ends.

An edge host may have machines behind it: on a LAN of its own (its device there is ``lan0``), or as containers behind a
bridge inside of it (``box0``). Each of these networks is a /28 and a /64 of the lab's, known to its edge host only.

The hosts of a lab are all containers, or all VMs (``kind``).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import yaml

from tests.lab.image import DEFAULT_SUITE
from tests.lab.sh import LabError

TOPOLOGIES = Path(__file__).parent / "topologies"
RANGE = IPv4Network("10.77.0.0/16")
LANS, BOXES = "78", "79"  # the second byte of a LAN's addresses, and of a container bridge's: IPv4 10.78, IPv6 fd78:
LAN_HOSTS, LAN_MACHINES = 16, 12
NAME = re.compile(r"[a-z][a-z0-9_-]{0,23}")
DEFAULT_LAB = "demo"
KINDS = ("container", "vm")


@dataclass(frozen=True)
class Segment:
    """The underlay of one link: two ends on a bridge of its own."""

    a: str
    b: str
    cost: int
    number: int

    def device(self, at: str) -> str:
        """Return the device's name at one end."""
        return f"u-{self.far(at)}"[:15]

    def far(self, at: str) -> str:
        """Return the host at the other end."""
        return self.b if at == self.a else self.a


@dataclass(frozen=True)
class Machine:
    """A plain network namespace behind an edge host: a machine of its LAN, or a container inside of it."""

    name: str
    at: str
    inside: bool = False
    routed: bool = True  # has a default route, by the edge host

    @property
    def device(self) -> str:
        """The edge host's device of the network that the machine is on."""
        return "box0" if self.inside else "lan0"


@dataclass(frozen=True)
class Topology:
    """Hosts and links of a lab, before it has addresses, and the machines behind the hosts."""

    name: str
    hosts: tuple[str, ...]
    segments: tuple[Segment, ...]
    machines: tuple[Machine, ...] = ()
    kind: str = "container"

    def machine(self, name: str) -> Machine:
        """Return the machine of that name."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise LabError(f"topology {self.name} has no machine {name}: {', '.join(m.name for m in self.machines)}")

    def behind(self, host: str, device: str) -> list[Machine]:
        """Return the machines on one device of an edge host; none is no such device."""
        return [m for m in self.machines if (m.at, m.device) == (host, device)]


@dataclass(frozen=True)
class Plan:
    """A lab with its addresses: ``slot`` is the third byte of its /24. Its hosts are of ``suites`` in turn."""

    lab: str
    topology: Topology
    slot: int
    suites: tuple[str, ...] = (DEFAULT_SUITE,)

    def suite(self, host: str) -> str:
        """Return the suite of Debian that a host is installed with."""
        return self.suites[self.topology.hosts.index(host) % len(self.suites)]

    @property
    def network(self) -> IPv4Network:
        """The lab's /24."""
        return list(RANGE.subnets(new_prefix=24))[self.slot]

    @property
    def control(self) -> IPv4Address:
        """This machine's address in the management network."""
        return self.network[1]

    def _number(self, host: str) -> int:
        if host not in self.topology.hosts:
            raise LabError(f"lab {self.lab} has no host {host}: {', '.join(self.topology.hosts)}")
        return 11 + self.topology.hosts.index(host)

    def address(self, host: str) -> IPv4Address:
        """Return a host's management address."""
        return self.network[self._number(host)]

    def mac(self, host: str) -> str:
        """Return the hardware address of a host's management device."""
        return f"02:5e:{self.slot:02x}:00:00:{self._number(host):02x}"

    def segment_mac(self, segment: Segment, host: str) -> str:
        """Return the hardware address of a VM's device on a link's own segment."""
        return f"02:5e:{self.slot:02x}:01:{segment.number:02x}:{self._number(host):02x}"

    def segments_of(self, host: str) -> list[Segment]:
        """Return the segments that a host is on."""
        return [s for s in self.topology.segments if host in (s.a, s.b)]

    def segment_address(self, segment: Segment, host: str) -> IPv4Address:
        """Return a host's address on a link's own segment."""
        return self.network[128 + 4 * segment.number + (1 if host == segment.a else 2)]

    def lan(self, host: str, device: str) -> tuple[IPv4Network, IPv6Network]:
        """Return the networks of an edge host's LAN (``lan0``) or container bridge (``box0``)."""
        kind, number = LANS if device == "lan0" else BOXES, self.topology.hosts.index(host)
        ipv6 = IPv6Network(f"fd{kind}:0:{self.slot:x}:{number:x}::/64")
        return IPv4Network(f"10.{kind}.{self.slot}.{16 * number}/28"), ipv6

    def lan_addresses(self, host: str, device: str) -> tuple[IPv4Address, IPv6Address]:
        """Return an edge host's own addresses there."""
        ipv4, ipv6 = self.lan(host, device)
        return ipv4[1], ipv6[1]

    def machine_addresses(self, machine: Machine) -> tuple[IPv4Address, IPv6Address]:
        """Return a machine's addresses."""
        ipv4, ipv6 = self.lan(machine.at, machine.device)
        number = 2 + self.topology.behind(machine.at, machine.device).index(machine)
        return ipv4[number], ipv6[number]

    @property
    def tag(self) -> str:
        """Six characters for names that the kernel keeps short."""
        return hashlib.sha256(self.lab.encode()).hexdigest()[:6]

    def namespace(self, host: str) -> str:
        """Return the name of a host's network namespace."""
        return f"skl-{self.lab}-{host}"

    @property
    def switch(self) -> str:
        """The network namespace that holds all bridges of the lab."""
        return f"skl-{self.lab}.switch"

    def segment(self, one: str, other: str) -> Segment:
        """Return the segment between two hosts."""
        for segment in self.topology.segments:
            if {segment.a, segment.b} == {one, other}:
                return segment
        raise LabError(f"lab {self.lab} has no link between {one} and {other}")


def check_lab_name(name: str) -> str:
    """Return the name if a lab may be called so."""
    if not NAME.fullmatch(name):
        raise LabError(f"LAB={name}: a lab's name is 1 to 24 of a-z, 0-9, - and _, and starts with a letter")
    return name


def load_topology(name_or_path: str) -> Topology:
    """Read a topology from ``topologies/`` by name, or from a file."""
    path = Path(name_or_path) if "/" in name_or_path else TOPOLOGIES / f"{name_or_path}.yml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in TOPOLOGIES.glob("*.yml")))
        raise LabError(f"no topology {name_or_path}: there are {known}; or give a file's path")
    raw = yaml.safe_load(path.read_text())
    hosts = tuple(raw["hosts"])
    links = raw.get("links", [])
    if len(hosts) > 100 or len(links) > 32:
        raise LabError(f"{path}: a lab has room for 100 hosts and 32 links")
    segments = []
    for number, link in enumerate(links):
        a, b = link["between"]
        if a not in hosts or b not in hosts or a == b:
            raise LabError(f"{path}: links[{number}].between: {a}, {b} are not two of its hosts")
        segments.append(Segment(a, b, int(link.get("cost", 1)), number))
    kind, machines = str(raw.get("kind", "container")), _machines(path, raw.get("machines", []), hosts)
    if kind not in KINDS:
        raise LabError(f"{path}: kind: {kind} is none of {', '.join(KINDS)}")
    if kind == "vm" and machines:
        raise LabError(f"{path}: machines: only container hosts have machines behind them; leave them out")
    return Topology(path.stem, hosts, tuple(segments), machines, kind)


def _machines(path: Path, rows: list[dict[str, Any]], hosts: tuple[str, ...]) -> tuple[Machine, ...]:
    machines = tuple(Machine(**row) for row in rows)
    names = [*hosts, *(machine.name for machine in machines)]
    for number, machine in enumerate(machines):
        if names.count(machine.name) > 1:
            raise LabError(f"{path}: machines[{number}].name: {machine.name} is there twice")
        if machine.at not in hosts[:LAN_HOSTS]:
            raise LabError(f"{path}: machines[{number}].at: {machine.at} is none of its first {LAN_HOSTS} hosts")
        if sum((m.at, m.device) == (machine.at, machine.device) for m in machines) > LAN_MACHINES:
            raise LabError(f"{path}: {machine.at} has room for {LAN_MACHINES} machines on {machine.device}")
    return machines
