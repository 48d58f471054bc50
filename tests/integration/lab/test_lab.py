"""The lab itself: hosts that boot, that share nothing in the kernel, links that can be cut, and no trace afterwards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import lab as labs
from tests.lab import net
from tests.lab.host import cgroup2_root
from tests.lab.sh import LabError

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_bpf,
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root"),
]

DENY = r"""
import os, platform
from bcc import BPF
modules = "/lib/modules/" + platform.release()
os.makedirs(modules, exist_ok=True)
for link, tail in (("build", "-amd64"), ("source", "-common")):
    headers = [h for h in os.listdir("/usr/src") if h.startswith("linux-headers") and h.endswith(tail)]
    if not os.path.exists(modules + "/" + link):
        os.symlink("/usr/src/" + headers[0], modules + "/" + link)
program = BPF(text="#include <uapi/linux/bpf.h>\nint deny(struct bpf_sock_addr *c) { return c->user_port != 0x0900; }")
where = next(l.split()[1] for l in open("/proc/mounts") if l.split()[2] == "cgroup2")
BPF.attach_func(program.load_func("deny", 18, attach_type=10), os.open(where, os.O_RDONLY), 10)
"""
CONNECT = "python3 -c \"import socket; s = socket.socket(); s.settimeout(3); print(s.connect_ex(('127.0.0.1', 9)))\""
ECONNREFUSED, EPERM = "111", "1"


@pytest.fixture(scope="module")
def lab() -> Iterator[labs.Lab]:
    """A pair of hosts, gone afterwards."""
    pair = labs.create(f"t-lab-{os.getpid()}", "pair")
    try:
        pair.up()
        yield pair
    finally:
        pair.down()


def said(lab: labs.Lab, host: str, command: str) -> str:
    """Return what a command says on a host."""
    return lab.ssh(host, command).stdout.strip()


def test_hosts_boot_with_systemd_and_their_own_name(lab: labs.Lab) -> None:
    assert said(lab, "edge-a", "cat /proc/1/comm; hostname") == "systemd\nedge-a"
    assert said(lab, "edge-b", "systemctl is-system-running") == "running"


def test_a_pin_in_one_host_is_invisible_in_the_other(lab: labs.Lab) -> None:
    create = "bpftool map create /sys/fs/bpf/mine type array key 4 value 4 entries 1 name mine"
    said(lab, "edge-a", create)
    assert "mine" in said(lab, "edge-a", "ls /sys/fs/bpf")
    assert "mine" not in said(lab, "edge-b", "ls /sys/fs/bpf")


def test_an_attach_in_one_host_does_not_act_in_the_other(lab: labs.Lab) -> None:
    assert said(lab, "edge-a", CONNECT) == ECONNREFUSED
    said(lab, "edge-a", f"python3 - <<'END'\n{DENY}\nEND")
    assert said(lab, "edge-a", CONNECT) == EPERM
    assert said(lab, "edge-b", CONNECT) == ECONNREFUSED


def ping(lab: labs.Lab, address: object) -> bool:
    """Tell whether edge-a reaches an address."""
    return lab.ssh("edge-a", f"ping -q -c 2 -i 0.2 -W 1 {address}", check=False).returncode == 0


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
    before = said(lab, "edge-b", "touch /root/kept; cat /proc/sys/kernel/random/boot_id")
    lab.restart("edge-b")
    after = said(lab, "edge-b", "ls /root/kept; cat /proc/sys/kernel/random/boot_id").splitlines()
    assert after[0] == "/root/kept"
    assert after[1] != before


def test_two_labs_share_no_range_and_one_goes_without_the_other(lab: labs.Lab) -> None:
    other = labs.create(f"t-oth-{os.getpid()}", "pair")
    try:
        other.up()
        assert other.plan.network != lab.plan.network
        assert said(other, "edge-a", "hostname") == "edge-a"
    finally:
        other.down()
    assert said(lab, "edge-a", "hostname") == "edge-a"


@pytest.mark.parametrize("stage", ["registered", "half network", "hosts killed"])
def test_nothing_is_left_after_an_interruption(stage: str) -> None:
    name = f"t-cut-{os.getpid()}"
    broken = labs.create(name, "pair")
    if stage == "half network":
        net._build_switch(broken.plan)
    elif stage == "hosts killed":
        broken.up()
        broken.host("edge-a").kill()
    broken.down()
    traces = subprocess.run(
        "ip netns list; ip link; cat /proc/mounts", shell=True, capture_output=True, text=True
    ).stdout
    assert name not in traces
    assert broken.plan.tag not in traces
    assert not broken.directory.exists()
    assert not Path(cgroup2_root() / "skedge-lab" / name).exists()
    assert name not in labs.registered()
    with pytest.raises(LabError, match="make lab-up"):
        labs.get(name)
