"""Random input: nothing but ConfigError, and what is valid survives a round trip."""

from __future__ import annotations

import contextlib
import dataclasses
from enum import Enum
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from skedge.config import from_dict, loads, problems, schema
from skedge.core.errors import ConfigError
from skedge.core.model import SiteConfig

KEYS = sorted(
    {
        name
        for spec in vars(schema).values()
        if isinstance(spec, type) and issubclass(spec, msgspec.Struct)
        for name in spec.__struct_fields__
    }
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-10, 70000)
    | st.integers()
    | st.floats()
    | st.text(max_size=70)
    | st.sampled_from(["*", "tcp", "direct", "10.0.0.1", "::1", "fe80::1%x", "100.64.0.0/10", "a", "edge-b"])
    | st.dates()
)
keys = st.sampled_from(KEYS) | st.text(max_size=5) | st.integers()
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=6), max_leaves=25
)


@given(st.dictionaries(keys, junk, max_size=12) | junk)
@settings(max_examples=300, deadline=None)
def test_random_data_gives_sentences_only(data: Any) -> None:
    found = problems(data, "f.yml")
    for line in found:
        assert line.startswith("f.yml: ")
        assert "\n" not in line
        assert ";" in line, "no way out is named"
        line.encode()
    if found:
        with pytest.raises(ConfigError) as error:
            from_dict(data, "f.yml")
        assert str(error.value) == "\n".join(found)
    else:
        from_dict(data, "f.yml")


@given(st.text(max_size=200) | junk.map(lambda data: yaml.safe_dump(data)))
@settings(max_examples=200, deadline=None)
def test_random_text_raises_config_error_only(text: str) -> None:
    with contextlib.suppress(ConfigError):
        loads(text, "f.yml")


labels = st.from_regex(schema.DNS_LABEL, fullmatch=True).filter(lambda name: name != "here")
service_names = st.from_regex(r"^[!-~]{1,63}\Z", fullmatch=True)
ports = st.integers(10_000, 60_999)
costs = st.integers(1, 65535)


@st.composite
def links(draw: Any) -> list[dict[str, Any]]:
    pairs = draw(st.lists(st.tuples(labels, labels), max_size=5, unique=True))
    return [
        {
            "to": to,
            "name": name,
            "cost": draw(costs),
            "service_costs": draw(st.dictionaries(service_names, costs, max_size=3)),
            **draw(
                st.sampled_from(
                    [
                        {"transport": "vxlan", "remote": "10.0.0.2"},
                        {"transport": "vxlan", "remote": "FD00:0::2", "local": "fd00::1", "port": 4791},
                        {"transport": "direct", "device": "eth1", "mtu": 1500},
                    ]
                )
            ),
        }
        for to, name in pairs
    ]


@st.composite
def configs(draw: Any) -> dict[str, Any]:
    listen = draw(st.lists(ports, max_size=5, unique=True))
    names = draw(st.lists(service_names, max_size=5, unique=True))
    return {
        "network": draw(labels),
        "site": "here",
        "overlay_cidr": draw(st.sampled_from(["100.64.0.0/10", "10.1.0.0/16", "192.168.5.0/24"])),
        "links": draw(links()),
        "listeners": [
            {"service": draw(service_names), "port": port, "address": draw(st.sampled_from(["*", "10.0.0.1", "::1"]))}
            for port in listen
        ],
        "connectors": [
            {
                "service": draw(service_names),
                "name": name,
                "host": "127.0.0.1",
                "port": draw(ports),
                "capacity": draw(costs),
                "protocol": draw(st.sampled_from(["tcp", "udp"])),
                "drain": draw(st.booleans()),
            }
            for name in names
        ],
        "hold_time_s": draw(st.floats(1, 86400)),
        "overload": draw(st.booleans()),
        "engine": draw(st.sampled_from(["auto", "ebpf"])),
        "engine_drain_s": draw(st.floats(0, 86400)),
        "lan_devices": draw(st.sampled_from([["*"], [], ["eth0", "docker0"]])),
        "lan_firewall": draw(st.sampled_from(["honour", "bypass"])),
        "nat_ports": [draw(st.integers(63000, 64000)), 65535],
        "flow_times": {"udp_s": draw(st.integers(1, 604_800))},
        "prefixes": draw(st.sampled_from([[], ["172.16.0.0/16"], ["172.16.0.0/16", "fd12:3456::/48"]])),
        "log_placements": draw(st.booleans()),
    }


def as_data(value: Any) -> Any:
    """Return a configuration as the plain data of a file that says the same."""
    if isinstance(value, SiteConfig):
        data = {field.name: as_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
        data.pop("entry_drain")  # by command only, not by the file
        lan = data.pop("lan")
        data |= {"lan_devices": lan["devices"], "nat_ports": lan["ports"], "flow_times": lan["times"]}
        data["lan_firewall"] = lan["firewall"]
        del data["nat6"]  # always made from the names
        keys = {"overlay4": "overlay_address", "overlay6": "overlay_address6", "nat4": "nat_address"}
        return {keys.get(k, k): v for k, v in data.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: as_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [as_data(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return dict(value) if hasattr(value, "items") else value


@given(configs())
@settings(max_examples=150, deadline=None)
def test_valid_ones_round_trip(data: dict[str, Any]) -> None:
    config = from_dict(data, "f.yml")
    assert from_dict(as_data(config), "again") == config
    assert loads(yaml.safe_dump(as_data(config)), "as text") == config


class Tagged(str):
    """A string as a program with tagged values (Ansible) hands it over."""


def test_subclasses_of_plain_types_become_plain() -> None:
    config = from_dict({Tagged("network"): Tagged("demo"), "site": Tagged("edge-a")}, "x")
    assert type(config.network) is type(config.site) is str
