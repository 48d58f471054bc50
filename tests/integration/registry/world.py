"""The network that site a is in, as data that a test changes step by step: configurations and the map of all sites."""

from __future__ import annotations

import random
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from skedge.config import from_dict
from skedge.core.desired.compute import Desired
from skedge.core.model import Link, LinkId, SiteConfig
from skedge.core.records import NetworkMap
from tests.fakes.networks import CIDR, NETWORK, connector, desired_at, map_of, site_config

HERE = "10.95.0.5"
FAR = {"b": "10.95.0.2", "c": "10.95.0.3"}
MACHINE = {4: "10.55.0.20", 6: "fd55::20"}
LINKS = {
    "x": {"to": "b", "transport": "vxlan", "local": HERE, "remote": FAR["b"], "port": 4790},
    "y": {"to": "b", "transport": "vxlan", "local": HERE, "remote": FAR["b"], "port": 4790},
    "z": {"to": "c", "transport": "vxlan", "remote": FAR["c"], "port": 4790},
    "d": {"to": "b", "transport": "direct", "device": "direct0"},
    "e": {"to": "c", "transport": "direct", "device": "direct2"},
}
LISTENERS = [
    {"service": "web", "port": 8080},
    {"service": "web", "port": 8081, "affinity": "client"},
    {"service": "web", "port": 8083, "address": HERE},
    {"service": "web", "port": 8084, "address": "127.0.0.1"},
    {"service": "dns", "port": 53, "protocol": "udp"},
    {"services": [{"service": "web", "weight": 2}, {"service": "api"}], "policy": "weighted", "port": 8082},
]
CONNECTORS = [
    {"service": "web", "name": "local", "host": "127.0.0.1", "port": 9090},
    {"service": "web", "name": "host", "host": HERE, "port": 9090},
    {"service": "web", "name": "machine", "host": MACHINE[4], "port": 9090},
    {"service": "api", "name": "api", "host": MACHINE[6], "port": 9091},
    {"service": "dns", "name": "dns", "host": "127.0.0.1", "port": 5353, "protocol": "udp"},
]
OWN_PREFIXES = ["10.55.0.0/24", "fd55::/64"]
OTHERS_PREFIXES = {"b": ["10.66.0.0/16", "fd66::/48"], "d": ["10.77.0.0/16", "10.55.0.0/25"]}


@dataclass
class World:
    """What site a is configured with, and what the others say."""

    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    listeners: list[dict[str, Any]] = field(default_factory=list)
    connectors: list[dict[str, Any]] = field(default_factory=list)
    lan: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)
    serving: set[str] = field(default_factory=lambda: {"b"})
    down: set[str] = field(default_factory=set)
    flags: dict[str, bool] = field(default_factory=dict)
    engine: str = "ebpf"

    def config(self) -> SiteConfig:
        links = [{"name": name, **one} for name, one in self.links.items()]
        said = {"network": NETWORK, "site": "a", "engine": self.engine, "links": links, "listeners": self.listeners}
        said |= {"connectors": self.connectors, "lan_devices": self.lan, "prefixes": self.own, **self.flags}
        said |= {"overlay_cidr": CIDR}
        return from_dict(said, "test")

    def desired(self, addresses: Iterable[str]) -> Desired:
        return desired_at(self.config(), self.map(), addresses)

    def map(self) -> NetworkMap:
        """What is known when all links are up but those that are ``down``; d is behind b and c."""
        config = self.config()
        ends = {"b": [Link("d")], "c": [Link("d")], "d": [Link("b"), Link("c")]}
        for name, one in self.links.items():
            ends[one["to"]].append(Link("a", name))
        sites = {
            site: site_config(
                site,
                links=tuple(links),
                connectors=(connector(), connector("more", capacity=3)) if site in self.serving else (),
                prefixes=tuple(self.others.get(site, ())),
            )
            for site, links in ends.items()
        }
        dead = [LinkId.between("a", self.links[name]["to"], name) for name in self.down if name in self.links]
        return map_of({"a": config, **sites}, down=dead)


def full(engine: str = "ebpf") -> World:
    """Everything at once."""
    lan = engine == "ebpf"
    return World(
        deepcopy(LINKS),
        deepcopy(LISTENERS if lan else [one for one in LISTENERS if one.get("address") != "127.0.0.1"]),
        deepcopy(CONNECTORS if lan else CONNECTORS[1:2]),
        ["lan0"] if lan else [],
        list(OWN_PREFIXES) if lan else [],
        deepcopy(OTHERS_PREFIXES),
        {"b", "d"},
        engine=engine,
    )


def change(world: World, draw: random.Random) -> str:
    """Change one thing; return what, in words."""
    chosen = draw.choice([_link, _link, _tunnel, _cost, _listener, _connector, _lan, _prefix, _others, _site])
    return chosen(world, draw)


def _flip(held: list[Any], every: list[Any], draw: random.Random) -> str:
    one = draw.choice(every)
    if one in held:
        held.remove(one)
        return f"{one} goes"
    held.append(deepcopy(one))
    return f"{one} comes"


def _link(world: World, draw: random.Random) -> str:
    name = draw.choice(sorted(LINKS))
    if world.links.pop(name, None) is not None:
        return f"link {name} goes"
    world.links[name] = deepcopy(LINKS[name])
    return f"link {name} comes"


def _tunnel(world: World, draw: random.Random) -> str:
    """Another MTU, which is changed on the device, or another tunnel, which makes it anew."""
    if not world.links:
        return "nothing"
    name = draw.choice(sorted(world.links))
    link = world.links[name]
    options: list[dict[str, Any]] = [{"mtu": draw.choice([0, 1280, 1400])}]
    if link["transport"] == "vxlan":
        options += [{"port": draw.choice([4790, 4791])}, {"remote": draw.choice([FAR[link["to"]], "10.95.0.9"])}]
        options += [{"remote": "10.95.0.9", "mtu": 1300}]
    chosen = draw.choice(options)
    link |= chosen
    return f"link {name}: {chosen}"


def _cost(world: World, draw: random.Random) -> str:
    if not world.links:
        return "nothing"
    name = draw.choice(sorted(world.links))
    if draw.random() < 0.3:
        world.down ^= {name}
        return f"link {name} is {'down' if name in world.down else 'up'}"
    world.links[name]["cost"] = draw.choice([1, 1, 5])
    return f"link {name} costs {world.links[name]['cost']}"


def _listener(world: World, draw: random.Random) -> str:
    return _flip(world.listeners, LISTENERS, draw)


def _connector(world: World, draw: random.Random) -> str:
    if draw.random() < 0.3 and world.connectors:
        one = draw.choice(world.connectors)
        one["capacity"] = one.get("capacity", 1) + 1
        return f"{one['name']} has more capacity"
    name = draw.choice(CONNECTORS)["name"]
    held = [one for one in world.connectors if one["name"] == name]
    if held:
        world.connectors.remove(held[0])
        return f"connector {name} goes"
    world.connectors.append(deepcopy(next(one for one in CONNECTORS if one["name"] == name)))
    return f"connector {name} comes"


def _lan(world: World, draw: random.Random) -> str:
    world.lan = draw.choice([one for one in ([], ["lan0"], ["lan0", "eth0"]) if one != world.lan])
    return f"LAN devices {world.lan}"


def _prefix(world: World, draw: random.Random) -> str:
    return f"own prefix {_flip(world.own, OWN_PREFIXES, draw)}"


def _others(world: World, draw: random.Random) -> str:
    site = draw.choice(sorted(OTHERS_PREFIXES))
    if draw.random() < 0.5:
        world.serving ^= {site}
        return f"{site} {'serves' if site in world.serving else 'serves no more'}"
    return f"{site}'s prefix {_flip(world.others.setdefault(site, []), OTHERS_PREFIXES[site], draw)}"


def _site(world: World, draw: random.Random) -> str:
    name = draw.choice(["drain", "overload"])
    world.flags[name] = not world.flags.get(name, False)
    return f"{name} {world.flags[name]}"
