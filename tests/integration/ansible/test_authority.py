"""One authority a network: who deploys is asked for before anything changes. Hosts are directories of this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ansible_collections.skedge.edge.plugins.module_utils import lease
from ansible_collections.skedge.edge.plugins.plugin_utils.authority import Authority
from ansible_collections.skedge.edge.plugins.plugin_utils.membership import of_certificate

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
ENV = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "PYTHONPATH": str(ROOT)}
PLAYBOOK = """\
- hosts: skedge_edge
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: skedge, tasks_from: authority/claim}
    - {ansible.builtin.debug: {msg: "now things change"}}
    - ansible.builtin.import_role: {name: skedge, tasks_from: authority/prolong}
      when: go_on | default(false)
    - ansible.builtin.import_role: {name: skedge, tasks_from: authority/release}
      when: end | default(false)
"""


@dataclass(frozen=True)
class World:
    """Three hosts on this machine, each a directory, and control nodes, each a directory of an authority."""

    at: Path

    def given(self, ca: str, **more: object) -> str:
        """Return the variables of a run from a control node. (Those of a role are stronger than an inventory's.)"""
        places = {"__skedge_etc": "{{ playbook_dir }}/{{ item | default(inventory_hostname) }}"}
        places["__skedge_lease_path"] = places["__skedge_etc"] + "/lease"
        return json.dumps({"skedge_ca_dir": str(self.at / ca), "skedge_network": "demo", **places, **more})

    def play(self, ca: str, *words: str, **given: object) -> str:
        """Return what a run from a control node says; it ends with CHANGED where it would have changed something."""
        command = [str(BIN / "ansible-playbook"), "-i", "hosts.yml", "play.yml", "-e", self.given(ca, **given), *words]
        done = subprocess.run(command, cwd=self.at, env=ENV, capture_output=True, text=True, check=False, timeout=120)
        changed = "now things change" in done.stdout
        assert changed == (done.returncode == 0), done.stdout + done.stderr
        return done.stdout.replace("\\n", "\n") + ("CHANGED" if changed else "")

    def play_as(self, playbook: str, ca: str, **given: object) -> str:
        """Return what a run with another playbook says."""
        (self.at / "play.yml").write_text(playbook)
        return self.play(ca, **given)

    def authority(self, ca: str, network: str = "demo") -> str:
        """Make an authority, and return its fingerprint."""
        made = Authority(str(self.at / ca), network)
        with made.locked():
            return of_certificate(made.certificate()).fingerprint

    def joins(self, host: str, ca: str) -> None:
        """Let a host trust the authority of a control node."""
        (self.at / host / "identity").mkdir(parents=True, exist_ok=True)
        shutil.copy(self.at / ca / "ca.crt", self.at / host / "identity")

    def lease(self, host: str) -> Path:
        return self.at / host / "lease"


@pytest.fixture
def world(tmp_path: Path) -> World:
    names = ("edge-a", "edge-b", "edge-c")
    hosts = {
        name: {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
        }
        for name in names
    }
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "hosts.yml").write_text(json.dumps({"skedge_edge": {"hosts": hosts}}))
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    return World(tmp_path)


def test_a_first_deploy_makes_its_authority(world: World):
    assert world.play("ca", end=True).endswith("CHANGED")
    assert not world.lease("edge-a").exists()


def test_a_control_node_without_the_authority_stops_and_says_what_to_restore(world: World):
    fingerprint = world.authority("ca")
    for host in ("edge-a", "edge-b"):
        world.joins(host, "ca")
    said = world.play("empty")
    assert "Nothing was changed on any host" in said
    assert "edge-a, edge-b trust the authority of network demo" in said
    assert fingerprint in said
    assert f"{world.at / 'empty'} on this control node has none" in said
    assert not (world.at / "empty/ca.key").exists()
    assert not world.lease("edge-a").exists(), "others may deploy"
    assert world.play("empty", skedge_new_authority=True).endswith("CHANGED")


def test_another_authority_stops_it_and_a_copy_of_the_right_one_does_not(world: World):
    right, wrong = world.authority("ca"), world.authority("other")
    world.joins("edge-b", "ca")
    said = world.play("other")
    assert right in said
    assert wrong in said
    shutil.copytree(world.at / "ca", world.at / "moved")
    assert world.play("moved").endswith("CHANGED")
    assert world.play("other", skedge_new_authority=True).endswith("CHANGED")


def test_with_limit_the_hosts_that_are_left_out_are_asked(world: World):
    right = world.authority("ca")
    world.joins("edge-b", "ca")
    assert right in world.play("empty", "--limit", "edge-c")
    world.authority("other")
    assert right in world.play("other", "--limit", "edge-c")
    assert world.play("ca", "--limit", "edge-c").endswith("CHANGED")


def test_check_mode_tells_it_and_marks_nothing(world: World):
    right = world.authority("ca")
    world.joins("edge-b", "ca")
    assert right in world.play("empty", "--check")
    assert not world.lease("edge-b").exists()
    assert not (world.at / "empty").exists()


def test_hosts_of_another_network_are_not_taken_over(world: World):
    world.authority("theirs", "office")
    world.joins("edge-a", "theirs")
    assert "edge-a trusts the authority of network office" in world.play("ca")


def test_an_authority_that_lost_its_key_stops_it(world: World):
    world.authority("ca")
    (world.at / "ca/ca.key").unlink()
    assert "ca.key is missing beside ca.crt; restore the directory from backup" in world.play("ca")


@pytest.mark.parametrize("where", ["edge-b/lease", "ca/.deploying"])
def test_a_second_deploy_stops_where_another_is_under_way(world: World, where: str):
    world.authority("ca")
    (world.at / where).parent.mkdir(exist_ok=True)
    lease.take(str(world.at / where), {"id": "x/y/pid:[1]#77#5", "who": "carol@other (process 77)"}, 900)
    said = world.play("ca")
    assert "another deployment, of carol@other (process 77), is under way there since" in said
    assert "Nothing was changed" in said
    assert not world.lease("edge-a").exists(), "what it had marked itself is free"
    assert world.play("ca", skedge_seize_lease=True, end=True).endswith("CHANGED")
    assert world.play("ca").endswith("CHANGED"), "a run that is no more keeps nobody away from the same control node"
    assert lease.take(str(world.lease("edge-b")), {"id": "z#1#1", "who": "dave"}, 900), "but others, for a while"


def test_a_removal_waits_for_a_deploy_and_is_waited_for(world: World):
    world.authority("ca")
    (world.at / "play.yml").write_text(PLAYBOOK.replace("authority/claim", "authority/exclusive"))
    mark = str(world.lease("edge-b"))
    lease.take(mark, {"id": "x/y/pid:[1]#77#5", "who": "carol@other (process 77)"}, 180)
    said = world.play("ca")
    assert "edge-b: another deployment, of carol@other (process 77), is under way there since" in said
    assert not world.lease("edge-a").exists(), "what it had marked itself is free"
    assert world.play("ca", skedge_seize_lease=True).endswith("CHANGED")
    assert lease.take(mark, {"id": "z#1#1", "who": "dave"}, 180), "it has marked the host itself"


def test_a_host_that_is_gone_can_be_removed(world: World):
    world.authority("ca")
    (world.at / "play.yml").write_text(PLAYBOOK.replace("authority/claim", "authority/exclusive"))
    hosts = json.loads((world.at / "hosts.yml").read_text())
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_ssh_retries": 0}
    hosts["skedge_edge"]["hosts"]["edge-b"] = gone
    (world.at / "hosts.yml").write_text(json.dumps(hosts))
    assert world.play("ca").endswith("CHANGED")
    assert "edge-b: it cannot be marked" in world.play_as(PLAYBOOK, "ca"), "but not deployed to"


def test_a_run_that_was_broken_off_keeps_other_control_nodes_away_for_three_minutes_at_most(world: World):
    """Each step prolongs the mark, by what the step itself may wait besides."""
    world.authority("ca")
    defaults = yaml.safe_load((ROOT / "roles/skedge/defaults/main.yml").read_text())
    world.play("ca", go_on=True)
    left = json.loads(world.lease("edge-a").read_text())["until"] - lease.boot_time()
    assert 60 < left <= defaults["skedge_lease_s"] == 180
    world.play("ca", go_on=True, __skedge_step_s=100)
    assert 180 < json.loads(world.lease("edge-a").read_text())["until"] - lease.boot_time() <= 280


@pytest.mark.parametrize(("step_s", "asked"), [(0, False), (60, False), (100, True)])
def test_a_host_whose_mark_lasts_is_not_asked_for_it_again(world: World, step_s: int, asked: bool):
    """Half of skedge_lease_s beside the step is enough; a mark that is gone shows whether the host was asked."""
    world.authority("ca")
    take_away = "    - {ansible.builtin.file: {path: '{{ __skedge_lease_path }}', state: absent}}\n"
    said = 'msg: "now things change"}}\n'
    world.play_as(PLAYBOOK.replace(said, said + take_away), "ca", go_on=True, __skedge_step_s=step_s)
    assert world.lease("edge-a").exists() == asked


def test_of_two_runs_at_the_same_time_the_second_stops(world: World):
    waits = "- {ansible.builtin.wait_for: {path: go, timeout: 60}, run_once: true, delegate_to: localhost}"
    (world.at / "slow.yml").write_text(f"{PLAYBOOK}    {waits}\n")
    command = [str(BIN / "ansible-playbook"), "-i", "hosts.yml", "slow.yml", "-e", world.given("ca")]
    first = subprocess.Popen(command, cwd=world.at, env=ENV, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        for line in first.stdout:
            if "now things change" in line:
                break
        assert f"(process {first.pid}), is under way there" in world.play("ca", "--limit", "edge-b")
        assert f"(process {first.pid}), is under way there" in world.play("another")
    finally:
        (world.at / "go").touch()
        first.communicate(timeout=60)
    assert first.returncode == 0
    assert world.play("ca", "--limit", "edge-b").endswith("CHANGED")


def test_a_host_that_cannot_be_marked_stops_it(world: World):
    world.lease("edge-b").mkdir()
    assert "edge-b: it cannot be marked as being deployed to" in world.play("ca")


def test_a_run_that_lost_its_mark_goes_no_further(world: World):
    """Its mark was over, and somebody else began."""
    said = 'msg: "now things change"}}'
    steal = f"    - {{ansible.builtin.command: {{cmd: {sys.executable} steal.py}}, run_once: true}}"
    stolen = PLAYBOOK.replace(said, f"{said}\n{steal}")
    (world.at / "play.yml").write_text(stolen)
    take = f"lease.take({str(world.lease('edge-b'))!r}, {{'id': 'other#1#1', 'who': 'erin'}}, 900)"
    module = "ansible_collections.skedge.edge.plugins.module_utils"
    (world.at / "steal.py").write_text(
        f"import sys, time; sys.path.insert(0, {str(ROOT / 'collections')!r})\nfrom {module} import lease\n"
        f"time.sleep(1.1)\nassert not {take}\n"
    )
    extra = world.given("ca", skedge_lease_s=1, go_on=True)
    command = [str(BIN / "ansible-playbook"), "-i", "hosts.yml", "play.yml", "-e", extra]
    done = subprocess.run(command, cwd=world.at, env=ENV, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "of erin" in done.stdout
