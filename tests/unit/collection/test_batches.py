"""How many hosts are deployed at a time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.skedge.edge.plugins.filter.skedge import skedge_batches

ROOT = Path(__file__).parents[3]
NEW: dict[str, Any] = {"__skedge_preflight": {"host": {"unit": False}}}
OLD: dict[str, Any] = {"__skedge_preflight": {"host": {"unit": True}}}
LOST: dict[str, Any] = {"__skedge_preflight": {"unreachable": True}}


@pytest.mark.parametrize(
    ("hosts", "batches"),
    [
        ([NEW, NEW], "100%"),
        ([NEW, LOST, {}], "100%"),
        ([NEW, OLD, LOST], [1, "25%"]),
        ([OLD | {"skedge_serial": ""}, OLD], [1, "25%"]),
        ([OLD | {"skedge_serial": "100%"}, OLD], "100%"),
        ([OLD, OLD | {"skedge_serial": 2}], 2),
        ([], "100%"),
    ],
)
def test_one_host_goes_first_where_there_is_something_to_lose(hosts: list[dict[str, Any]], batches: object) -> None:
    named = {f"h{number}": one for number, one in enumerate(hosts)}
    assert skedge_batches(named, list(named)) == batches


def test_the_first_bad_host_ends_a_deployment_of_a_network_that_runs(tmp_path: Path) -> None:
    deploy = yaml.safe_load((ROOT / "deploy.yml").read_text())
    (own,) = (play for play in deploy if play["name"] == "Install, configure and run the controller")
    taken = {key: own[key] for key in ("serial", "max_fail_percentage")}
    found = {"set_fact": {"__skedge_preflight": {"host": {"unit": True}}}}
    bad = {"fail": {"msg": "bad"}, "when": "inventory_hostname == 'h2'"}
    taken["vars"] = {"skedge_serial": ""}  # as the default of the role that the play imports
    plays: list[dict[str, Any]] = [
        {"tasks": [found]},
        {**taken, "tasks": [bad]},
        {"tasks": [{"debug": {"msg": "sync"}}]},
    ]
    common = {"hosts": "skedge_edge", "gather_facts": False, "connection": "local"}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([common | play for play in plays]))
    hosts = {"skedge_edge": {"hosts": {f"h{number}": {} for number in range(1, 9)}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(hosts))
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", tmp_path / "hosts.yml", tmp_path / "play.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    told = dict(re.findall(r"^(h\d) +: ok=(\d+) .*failed=0", done.stdout, re.M))
    skipped = set(re.findall(r"^skipping: \[(h\d)\]", done.stdout, re.M))
    assert done.returncode != 0
    assert "h2" not in told, done.stdout
    assert skipped == {"h1", "h3"}, "one first, then a quarter of eight; nobody after it"
    assert "sync" not in done.stdout


def test_a_check_of_the_syntax_knows_hosts_by_name_alone() -> None:
    assert skedge_batches({}, ["h1"]) == "100%"
    play = [Path(sys.executable).with_name("ansible-playbook"), "--syntax-check", ROOT / "deploy.yml"]
    done = subprocess.run(play, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
