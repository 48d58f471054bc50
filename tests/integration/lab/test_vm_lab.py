"""The lab of VMs: hosts that boot Debian's own kernel, links that can be cut, disks that stay, no trace afterwards."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.lab import inventory, net
from tests.lab import lab as labs
from tests.lab.host import cgroup2_root
from tests.lab.sh import LabError
from tests.lab.topology import load_topology

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[labs.Lab]:
    """A pair of VMs, gone afterwards."""
    pair = labs.create(f"t-vm-{os.getpid()}", "vm-pair")
    try:
        pair.up()
        yield pair
    finally:
        pair.down()


def said(lab: labs.Lab, host: str, command: str) -> str:
    """Return what a command says on a host."""
    return lab.ssh(host, command).stdout.strip()


def test_hosts_are_debian_with_its_own_kernel_and_everything_runs(lab: labs.Lab) -> None:
    look = "cat /proc/1/comm; hostname; uname -r; findmnt -no FSTYPE /; systemctl is-system-running"
    comm, hostname, release, root, state = said(lab, "edge-a", look).splitlines()
    assert (comm, hostname, root, state) == ("systemd", "edge-a", "ext4", "running")
    assert release.startswith("6.1.")
    assert release != os.uname().release
    running = said(lab, "edge-b", "systemctl is-active systemd-udevd systemd-networkd ssh").split()
    assert running == ["active"] * 3


def test_what_containers_here_do_not_have_can_be_loaded(lab: labs.Lab) -> None:
    loaded = said(lab, "edge-a", "modprobe -a wireguard ip_vs sch_netem && ls /sys/module").split()
    assert {"wireguard", "ip_vs", "sch_netem"} <= set(loaded)


def test_the_inventory_says_where_the_hosts_are(lab: labs.Lab) -> None:
    variables = yaml.safe_load((lab.directory / "inventory/host_vars/edge-b.yml").read_text())
    assert variables["ansible_host"] == str(lab.plan.address("edge-b"))
    addresses = said(lab, "edge-b", "ip -o -4 addr show dev host0; ip -o -4 addr show dev u-edge-a")
    assert f" {variables['ansible_host']}/" in addresses
    assert f" {variables['lab_segments'][0]['local']}/" in addresses


def ping(lab: labs.Lab, address: object) -> bool:
    """Tell whether edge-a reaches an address."""
    return lab.ssh("edge-a", f"ping -q -c 3 -i 0.3 -W 3 {address}", check=False).returncode == 0


def test_a_cut_silences_link_and_management_between_two_hosts_only(lab: labs.Lab) -> None:
    far = lab.plan.segment_address(lab.plan.segment("edge-a", "edge-b"), "edge-b")
    ways = (far, lab.plan.address("edge-b"))
    assert all(ping(lab, way) for way in ways)
    net.cut(lab.plan, "edge-a", "edge-b")
    assert not any(ping(lab, way) for way in ways)
    assert said(lab, "edge-b", "cat /sys/class/net/u-edge-a/carrier") == "1"
    net.heal(lab.plan, "edge-b", "edge-a")
    assert all(ping(lab, way) for way in ways)


def test_a_restarted_host_keeps_its_disk_and_comes_back(lab: labs.Lab) -> None:
    before = said(lab, "edge-b", "touch /root/kept; sync; cat /proc/sys/kernel/random/boot_id")
    lab.restart("edge-b")
    after = said(lab, "edge-b", "ls /root/kept; cat /proc/sys/kernel/random/boot_id; hostname").splitlines()
    assert after[0] == "/root/kept"
    assert after[1] != before
    assert after[2] == "edge-b"


def test_a_lab_of_containers_does_not_take_its_name(lab: labs.Lab) -> None:
    with pytest.raises(LabError, match=f"LAB={lab.plan.lab} is up with hosts of kind vm: take another name"):
        labs.create(lab.plan.lab, "pair")


def traces(lab: labs.Lab) -> str:
    """Return what this machine has of a lab, but for its registration."""
    seen = "ip netns list; ip link; cat /proc/mounts; ps -wweo args | grep [q]emu-system"
    said = subprocess.run(seen, shell=True, capture_output=True, text=True, check=False).stdout
    names = lab.plan.lab, lab.plan.tag
    return "\n".join(line for line in said.splitlines() if any(name in line for name in names))


@pytest.mark.parametrize("stage", ["ports only", "while booting", "one killed"])
def test_nothing_is_left_after_an_interruption(stage: str) -> None:
    broken = labs.create(f"t-vmx-{os.getpid()}", "vm-pair")
    try:
        net.build(broken.plan)
        if stage != "ports only":
            inventory.make_keys(broken.plan, broken.directory)
            for host in broken.hosts:
                broken._start(host, Path())
            end = time.monotonic() + 30
            while traces(broken).count("qemu-system") < 2:  # a process of the host is there a moment before it is qemu
                assert time.monotonic() < end
                time.sleep(0.05)
        if stage == "one killed":
            broken.host("edge-a").kill()
            assert not broken.host("edge-a").running()
            assert broken.host("edge-b").running()
        assert traces(broken)
    finally:
        broken.down()
    assert not traces(broken)
    assert not broken.directory.exists()
    assert not Path(cgroup2_root() / "skedge-lab" / broken.plan.lab).exists()
    assert broken.plan.lab not in labs.registered()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("kind: cloud", r"kind: cloud is none of container, vm"),
        ("kind: vm\nmachines: [{name: x, at: edge-a}]", r"machines: only container hosts have machines"),
    ],
)
def test_a_wrong_topology_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(f"hosts: [edge-a]\n{line}\n")
    with pytest.raises(LabError, match=problem):
        load_topology(str(file))
