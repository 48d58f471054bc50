"""What a lab consists of, as plain values: hosts, the segment of each link, and every address and name.

A lab has one /24. The lower half is the management network (``.1`` is this machine, hosts follow from ``.11``), by
which Ansible reaches the hosts and which is the default underlay of links. Each link also has a segment of its own, a
/30 in the upper half, with a device ``u-<far host>`` at both ends.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import yaml

from tests.lab.sh import LabError

TOPOLOGIES = Path(__file__).parent / "topologies"
RANGE = IPv4Network("10.77.0.0/16")
NAME = re.compile(r"[a-z][a-z0-9_-]{0,23}")
DEFAULT_LAB = "demo"


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
class Topology:
    """Hosts and links of a lab, before it has addresses."""

    name: str
    hosts: tuple[str, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Plan:
    """A lab with its addresses: ``slot`` is the third byte of its /24."""

    lab: str
    topology: Topology
    slot: int

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

    def segment_address(self, segment: Segment, host: str) -> IPv4Address:
        """Return a host's address on a link's own segment."""
        return self.network[128 + 4 * segment.number + (1 if host == segment.a else 2)]

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
    return Topology(path.stem, hosts, tuple(segments))
