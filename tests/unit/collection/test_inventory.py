"""The topology action on real inventories: what a user sees. No host is contacted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.skedge.edge.plugins.filter.skedge import (
    skedge_overlay_address,
    skedge_overlays,
    skedge_preflight_problems,
)
from ansible_collections.skedge.edge.plugins.plugin_utils.inventory import plain

ROOT = Path(__file__).parents[3]
TASKS = [
    {"skedge.edge.topology": {}, "run_once": True, "delegate_to": "localhost", "register": "found"},
    {
        "ansible.builtin.copy": {"content": "{{ found.sites | to_nice_yaml }}", "dest": "{{ out }}"},
        "run_once": True,
        "delegate_to": "localhost",
        "connection": "local",
    },
]


def validate(inventory: Path, tmp_path: Path, *more: str, hosts: str = "skedge_edge") -> tuple[int, str, dict]:
    """Return exit code, output and the sites of a run of the action."""
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": hosts, "gather_facts": False, "tasks": TASKS}]))
    out = tmp_path / "sites.yml"
    command = [
        str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), str(tmp_path / "play.yml"),
        "-e", f"out={out}", "-e", "ansible_python_interpreter=/usr/bin/python3", *more,
    ]  # fmt: skip
    env = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),  # the package beside this collection, not one that is installed
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    return done.returncode, done.stdout + done.stderr, yaml.safe_load(out.read_text()) if out.exists() else {}


@pytest.mark.parametrize(("name", "more"), [("demo", ("--limit", "edge-b")), ("example", ())])
def test_the_inventories_that_we_ship_are_valid(name: str, more: tuple[str, ...], tmp_path: Path):
    code, output, sites = validate(ROOT / "inventories" / name, tmp_path, *more)
    assert code == 0, output
    assert len(sites) == 3
    assert all(len(config["links"]) >= 1 for config in sites.values())


def test_problems_name_the_file_that_the_value_was_written_in(tmp_path: Path):
    inventory = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventories/demo", inventory, ignore=shutil.ignore_patterns(".skedge-ca"))
    (inventory / "host_vars/edge-a.yml").write_text("skedge_links: [{to: edge-b, cost: 0}]\n")
    (inventory / "group_vars/skedge_edge.yml").write_text("skedge_listeners: [{service: x, port: 80, prot: tcp}]\n")
    (inventory / "host_vars/edge-c.yml").write_text("skedge_overlay_address: 10.0.0.1\n")
    code, output, sites = validate(inventory, tmp_path)
    assert code != 0
    assert sites == {}
    for sentence in (
        "nothing was changed on any host:",
        "host_vars/edge-a.yml: skedge_links[0].cost: 0 is not a cost; give an integer from 1 to 65535, or auto",
        "group_vars/skedge_edge.yml: skedge_listeners[0].prot: unknown key; did you mean",
        "host_vars/edge-c.yml: skedge_overlay_address: 10.0.0.1 is not a host address of the overlay",
    ):
        assert sentence in output


def test_an_inventory_without_the_group_says_so(tmp_path: Path):
    (tmp_path / "hosts.yml").write_text("skedge_edge: {hosts: {}}\nother: {hosts: {edge-a: }}\n")
    code, output, _ = validate(tmp_path / "hosts.yml", tmp_path, hosts="all")
    assert code != 0
    assert "has no host in group skedge_edge; put the edge hosts into it" in output


# ---- filters ---------------------------------------------------------------------------------------------------


def test_overlay_filters():
    assert skedge_overlay_address("edge-a", "demo").startswith("100.")
    assert skedge_overlay_address("edge-a", "demo", "10.9.0.0/16").startswith("10.9.")
    assert skedge_overlay_address("edge-a", "demo", version=6).startswith("fd")
    assert skedge_overlays({"network": "demo", "overlay_cidr": "10.9.0.0/16"})[0] == "10.9.0.0/16"
    assert skedge_overlays({"network": "demo", "overlay_cidr": "10.9.0.0/16"})[1].endswith("/48")


def test_problems_of_all_hosts_are_one_list_with_those_that_did_not_answer():
    hostvars = {
        "edge-a": {"pre": {"problems": ["port 80/tcp is held by x"]}},
        "edge-b": {
            "pre": {"unreachable": True, "msg": "ssh: warning\nPermission denied (publickey)."},
            "ansible_host": "10.0.0.2",
        },
        "edge-c": {"pre": {"failed": True, "msg": "Missing sudo password"}},
        "edge-d": {"pre": {"problems": []}},
    }
    assert skedge_preflight_problems(hostvars, list(hostvars), "pre") == [
        "edge-a: port 80/tcp is held by x",
        "edge-b: the control node cannot log in to 10.0.0.2 (Permission denied (publickey)); start the host, "
        "or correct ansible_host, ansible_user or its key",
        "edge-c: nothing can be run as root (Missing sudo password); see that the user may become root and has python3",
    ]


def test_tagged_values_become_plain_ones():
    class Tagged(str):
        pass

    value = plain({Tagged("a"): [Tagged("b"), 1, True, None, (Tagged("c"),)]})
    assert value == {"a": ["b", 1, True, None, ["c"]]}
    assert type(next(iter(value))) is str
    assert type(value["a"][0]) is str


def test_every_undefined_variable_is_named_with_its_file_and_once_for_a_group(tmp_path: Path):
    inventory = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventories/demo", inventory, ignore=shutil.ignore_patterns(".skedge-ca"))
    group = inventory / "group_vars/skedge_edge.yml"
    group.write_text(group.read_text() + 'skedge_underlay_address: "{{ ansible_default_ipv4.address }}"\n')
    (inventory / "host_vars/edge-a.yml").write_text(
        'skedge_prefixes: ["{{ lan_prefx }}", 10.1.0.0/16, "{{ other_prefx }}"]\n'
        'skedge_metrics: {address: "{{ metrics_adress }}"}\nskedge_overlay_address: "{{ x | nofilter }}"\n'
    )
    (inventory / "host_vars/edge-c.yml").write_text('ansible_port: "{{ ssh_prt }}"\nskedge_link: []\n')
    code, output, sites = validate(inventory, tmp_path)
    assert (code != 0, sites) == (True, {})
    facts = "facts are gathered of no host before the network is validated: write the value itself"
    for sentence in (
        f"group_vars/skedge_edge.yml: skedge_underlay_address: 'ansible_default_ipv4' is undefined; {facts}",
        "host_vars/edge-a.yml: skedge_prefixes[0]: 'lan_prefx' is undefined; define it, or correct its name",
        "host_vars/edge-a.yml: skedge_prefixes[2]: 'other_prefx' is undefined",
        "host_vars/edge-a.yml: skedge_metrics.address: 'metrics_adress' is undefined",
        "host_vars/edge-a.yml: skedge_overlay_address: ",
        "host_vars/edge-c.yml: ansible_port: 'ssh_prt' is undefined",
        "host_vars/edge-c.yml: skedge_link: unknown variable",
    ):
        assert output.split("PLAY RECAP")[0].split("fatal:")[1].count(sentence) == 1, output
    assert "7 problems in the inventory" in output


def test_a_problem_of_a_group_is_told_once(tmp_path: Path):
    inventory = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventories/demo", inventory, ignore=shutil.ignore_patterns(".skedge-ca"))
    group = inventory / "group_vars/skedge_edge.yml"
    group.write_text(group.read_text() + "skedge_hold_time_s: soon\n")
    _, output, _ = validate(inventory, tmp_path)
    assert "1 problem in the inventory" in output
    assert "group_vars/skedge_edge.yml: skedge_hold_time_s" in output


def test_hosts_with_the_same_problem_share_a_sentence():
    hostvars = {f"edge-{n}": {"pre": {"problems": ["no BTF", f"port {n % 2}"]}} for n in range(10)}
    assert skedge_preflight_problems(hostvars, list(hostvars), "pre") == [
        "edge-0, edge-1, edge-2, edge-3, edge-4, edge-5, edge-6, edge-7 and 2 more hosts: no BTF",
        "edge-0, edge-2, edge-4, edge-6, edge-8: port 0",
        "edge-1, edge-3, edge-5, edge-7, edge-9: port 1",
    ]
