"""Reads ``skedge.yaml``: the one parser of daemon, ``skedge config check`` and Ansible's validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from msgspec import convert
from msgspec.structs import asdict, replace

from skedge.config import validation
from skedge.config.addresses import canonical, overlay_range
from skedge.config.checks.health import health_type
from skedge.config.checks.links import link_port, remote_port
from skedge.config.checks.site import check
from skedge.config.parsed import ParsedFile
from skedge.config.schema import ConnectorSpec, LinkSpec, ListenerSpec, SiteSpec
from skedge.config.validation import INVALID
from skedge.core.errors import ConfigError
from skedge.core.model import Connector, Link, Listener, SiteConfig
from skedge.core.names import nat_address, nat_address6, overlay_address, overlay_address6

SIZE_MAX = 4 * 1024 * 1024  # bytes; 1,024 services with listeners and connectors are about a tenth of it
DEPTH_MAX = 16  # the schema's deepest path has 4


def load(path: str) -> SiteConfig:
    """Return the configuration in the file. Raises ConfigError with every problem, one a line."""
    return loads(read(path), path)


def loads(text: str, where: str) -> SiteConfig:
    """Return the configuration in a YAML text; ``where`` names it in errors. Raises ConfigError."""
    return from_dict(parse(text, where), where)


def from_dict(data: object, where: str) -> SiteConfig:
    """Return the configuration in parsed data. Raises ConfigError with every problem, one a line."""
    config, found = _examine(data, where, "")
    if config is None:
        raise ConfigError("\n".join(found))
    return config


def problems(data: object, where: str, *, prefix: str = "") -> list[str]:
    """Return every problem of parsed data, one sentence each; ``prefix`` (such as ``skedge_``) goes before each key."""
    return _examine(data, where, prefix)[1]


def read(path: str) -> str:
    """Return the text of a file. Raises ConfigError when it cannot be read, is too large or not UTF-8."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(SIZE_MAX + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"{path}: cannot be read ({reason}); give a file that this user may read") from error
    except ValueError as error:
        raise ConfigError(f"{validation.shown(path)}: is not the name of a file; give a path") from error
    if len(raw) > SIZE_MAX:
        raise ConfigError(f"{path}: larger than {SIZE_MAX} bytes; give a smaller file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


# ---- YAML ------------------------------------------------------------------------------------------------------


class _Loader(yaml.CSafeLoader):
    """CSafeLoader that refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Refused(key.start_mark, f"the key {validation.shown(key.value)} is there twice; remove one")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Refused(Exception):
    def __init__(self, mark: Any, sentence: str) -> None:
        super().__init__(f"{_place(mark)}{sentence}")


def _place(mark: Any) -> str:
    """Return the line and column of a parser's mark, counted from 1; "" without a mark."""
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def parse(text: str, where: str) -> Any:
    """Return the plain data in a YAML text. Raises ConfigError, also for YAML features that a config has no use for."""
    if len(text) > SIZE_MAX:
        raise ConfigError(f"{where}: larger than {SIZE_MAX} bytes; give a smaller file")
    try:
        _guard(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a CSafeLoader
    except _Refused as error:
        raise ConfigError(f"{where}: {error}") from error
    except yaml.MarkedYAMLError as error:
        place = _place(error.problem_mark or error.context_mark)
        raise ConfigError(f"{where}: {place}{error.problem or error.context}; correct the YAML there") from error
    except (yaml.YAMLError, ValueError) as error:
        line = " ".join(str(error).split()).split(";")[0]
        raise ConfigError(f"{where}: {line}; correct the YAML there") from error


def _guard(text: str) -> None:
    """Refuse what could exhaust the parser (it recurses in C) or hide what the file says: depth, aliases, tags."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_MAX:
            raise _Refused(event.start_mark, f"nested deeper than {DEPTH_MAX}; correct the brackets or indentation")
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(event.start_mark, "YAML aliases are not accepted here; write the value out")
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):  # "!" is how libyaml marks a quoted scalar
            raise _Refused(event.start_mark, f"YAML tags such as {tag} are not accepted here; remove it")


# ---- from data to the model ------------------------------------------------------------------------------------


def _examine(data: object, where: str, prefix: str) -> tuple[SiteConfig | None, list[str]]:
    found: list[str] = []

    def complain(path: str, sentence: str) -> None:
        found.append(f"{where}: {path}: {sentence}" if path else f"{where}: {sentence}")

    if not isinstance(data, Mapping):
        what = "the file is empty" if data is None else f"{validation.shown(data)} is not a mapping"
        complain("", f"{what}; give keys and values, at least network and site")
        return None, found
    file = _parsed(data, prefix, complain)
    for path, sentence in check(file):
        complain(path, sentence)
    return (None if found else build(file.spec)), found


def _parsed(data: Mapping[Any, Any], prefix: str, complain: validation.Complain) -> ParsedFile:
    parts = validation.fields(SiteSpec, data, prefix, complain)
    bad = frozenset(key for key, value in parts.items() if value is INVALID)
    lists: dict[str, tuple[tuple[str, Any], ...]] = {}
    for key in ("links", "listeners", "connectors"):
        items = [] if key in bad else parts[key]
        path = validation.join(prefix, key)
        lists[key] = tuple((f"{path}[{i}]", item) for i, item in enumerate(items) if item is not INVALID)
        parts[key] = [item for _, item in lists[key]]
    valid = {key: value for key, value in parts.items() if value is not INVALID}
    spec = SiteSpec(**{"network": "", "site": "", **valid})
    return ParsedFile(spec, lists["links"], lists["listeners"], lists["connectors"], bad, prefix)


def build(spec: SiteSpec) -> SiteConfig:
    """Return the model of a checked file: addresses canonical, defaults that depend on names filled in."""
    network = overlay_range(spec.overlay_cidr, spec.network, spec.overlay_address)
    if isinstance(network, str):
        raise TypeError(network)  # only of a file that was not checked
    overlay4 = spec.overlay_address or str(overlay_address(network, spec.network, spec.site))
    made = {
        "overlay_cidr": str(network),
        "overlay4": overlay4,
        "overlay6": canonical(spec.overlay_address6) or str(overlay_address6(spec.network, spec.site)),
        "nat4": spec.nat_address or str(nat_address(network, spec.network, spec.site, IPv4Address(overlay4))),
        "nat6": str(nat_address6(spec.network, spec.site)),
        "links": [_link(link) for link in spec.links],
        "listeners": [_listener(listener) for listener in spec.listeners],
        "connectors": [_connector(connector) for connector in spec.connectors],
        "metrics": replace(spec.metrics, address=canonical(spec.metrics.address)),
        "lan": {
            "devices": spec.lan_devices,
            "ports": spec.nat_ports,
            "times": spec.flow_times,
            "firewall": spec.lan_firewall,
        },
    }
    return convert({**asdict(spec), **made}, SiteConfig, from_attributes=True)


def _link(spec: LinkSpec) -> Link:
    made = {
        "local": canonical(spec.local),
        "remote": canonical(spec.remote),
        "port": link_port(spec),
        "remote_port": remote_port(spec),
        "keys": sorted(spec.keys),
    }
    link = convert({**asdict(spec), **made}, Link, from_attributes=True)
    return dataclasses.replace(link, service_costs=MappingProxyType(dict(spec.service_costs)))


def _listener(spec: ListenerSpec) -> Listener:
    made = replace(spec, service=spec.names[0], address=canonical(spec.address))
    return convert(made, Listener, from_attributes=True)


def _connector(spec: ConnectorSpec) -> Connector:
    kind = health_type(spec)
    made = replace(
        spec,
        name=spec.name or spec.service,
        host=str(ip_address(spec.host)),
        health=replace(spec.health, type=kind),
    )
    return convert(made, Connector, from_attributes=True)
