"""The role's argument specification, its defaults, the tables in docs, and the parser name the same variables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.skedge.edge.plugins.module_utils.checks import SKIPPABLE
from ansible_collections.skedge.edge.plugins.plugin_utils import topology

from skedge.config import schema
from skedge.core.transports import Transport

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles/skedge"
SPECS = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]
SPEC = SPECS["main"]["options"]
DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
# Defaults that the role takes from the inventory, where the parser has none or ""
FROM_INVENTORY = {"skedge_site", "skedge_network"}


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (heading, name, type, default) of each row of the tables that have these columns."""
    heading, wanted = "", False
    for line in text.splitlines():
        if line.startswith("## "):
            heading, wanted = line[3:], False
        elif re.fullmatch(r"\| (variable|key) \| type \| default \| meaning \|", line):
            wanted = True
        elif wanted and line.startswith("| `"):
            name, kind, default, _ = [
                part.strip().replace("\\|", "|") for part in re.split(r" (?<!\\)\| ", line.strip("|"))
            ][:4]
            yield heading, name.strip(" `"), f"{kind} {default}"


DOCUMENTED = list(rows((ROOT / "docs/inventory.md").read_text()))


def cell(option: dict[str, Any]) -> str:
    """Return an option's type and default as the tables show them."""
    kind = f"list of {option['elements']}" if option["type"] == "list" else option["type"]
    if option.get("required"):
        return f"{kind} required"
    if "default" not in option:
        return f"{kind} none"
    value = option["default"]
    text = json.dumps(value).replace('"', "") if isinstance(value, bool | list | dict) else str(value) or '""'
    return f"{kind} `{text}`"


def flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, option in options.items():
        if "options" in option:
            yield from flat(option["options"], f"{prefix}{name}.")
        else:
            yield prefix + name, cell(option)


def test_specification_and_defaults_agree():
    assert {name: option["default"] for name, option in SPEC.items()} == DEFAULTS


def test_the_tables_show_every_variable():
    shown = {name: cells for _, name, cells in DOCUMENTED if name.startswith("skedge_")}
    assert shown == {name: cell(option) for name, option in SPEC.items()}


NESTED = ("skedge_links", "skedge_listeners", "skedge_connectors", "skedge_flow_times", "skedge_metrics")


@pytest.mark.parametrize("variable", NESTED)
def test_the_tables_show_every_key(variable: str):
    shown = {name: cells for heading, name, cells in DOCUMENTED if heading.endswith(variable)}
    assert shown == dict(flat(SPEC[variable]["options"]))


def test_the_control_node_knows_the_same_variables():
    known = {topology.PREFIX + key for key in (*topology.SITE_KEYS, *topology.DEPLOY_KEYS)}
    assert known == SPEC.keys()
    assert DEFAULTS["skedge_network"] == topology.DEFAULT_NETWORK


def test_the_parser_has_the_same_keys_and_defaults():
    fields = {field.name: field for field in msgspec.structs.fields(schema.SiteSpec)}
    assert set(topology.SITE_KEYS) == fields.keys() - {"version", "removed_sites"}  # those the deployment itself writes
    for key in set(topology.SITE_KEYS) - {"network", "site"}:
        default = msgspec.to_builtins(schema.SiteSpec(network="n", site="s"))[key]
        assert msgspec.to_builtins(DEFAULTS[f"skedge_{key}"]) == (
            list(default) if isinstance(default, tuple) else default
        )


STRUCTS = {
    "skedge_links": schema.LinkSpec,
    "skedge_listeners": schema.ListenerSpec,
    "skedge_connectors": schema.ConnectorSpec,
    "skedge_flow_times": schema.FlowTimesSpec,
    "skedge_metrics": schema.MetricsSpec,
}


@pytest.mark.parametrize("variable", STRUCTS)
def test_the_parser_has_the_same_keys_of_items(variable: str):
    options = SPEC[variable]["options"]
    fields = {field.name: field for field in msgspec.structs.fields(STRUCTS[variable])}
    assert options.keys() == fields.keys()
    for name, option in options.items():
        assert bool(option.get("required")) == fields[name].required
        if "options" not in option and not option.get("required") and fields[name].default is not msgspec.NODEFAULT:
            assert option["default"] == msgspec.to_builtins(fields[name].default), name


def test_checks_that_can_be_skipped_are_the_ones_there_are():
    for entry in ("main", "preflight"):
        assert sorted(SKIPPABLE) == SPECS[entry]["options"]["skedge_preflight_skip"]["choices"]


def test_the_role_takes_every_transport():
    assert SPEC["skedge_links"]["options"]["transport"]["choices"] == list(Transport)


def test_entries_may_leave_out_what_has_a_default():
    """Ansible fills the keys of a missing dictionary into its default, which all entries of a list share."""
    connectors = [{"service": name, "host": "127.0.0.1", "port": 9000} for name in ("a", "b", "c")]
    links = [{"to": "b"}, {"to": "c"}]
    checked = ArgumentSpecValidator(SPEC).validate({"skedge_connectors": connectors, "skedge_links": links})
    assert checked.error_messages == []
