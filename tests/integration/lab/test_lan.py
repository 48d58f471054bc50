"""Machines behind edge hosts: with real programs, reached by nobody else, no trace afterwards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import lab as labs
from tests.lab.host import cgroup2_root
from tests.lab.sh import LabError
from tests.lab.topology import load_topology

pytestmark = [pytest.mark.needs_root, pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")]

PROGRAMS = "curl haproxy iperf3 nc nginx psql redis-benchmark redis-server ssh wrk /usr/lib/postgresql/15/bin/pgbench"


@pytest.fixture(scope="module")
def lab() -> Iterator[labs.Lab]:
    """The line with its machines, gone afterwards."""
    line = labs.create(f"t-lan-{os.getpid()}", "lan")
    try:
        line.up()
        yield line
    finally:
        line.down()


def reaches(lab: labs.Lab, name: str, address: object) -> bool:
    """Tell whether a machine gets answers from an address."""
    return lab.lan(name).run(f"ping -q -c 2 -i 0.2 -W 1 {address}", check=False).returncode == 0


@pytest.mark.parametrize("name", ["a-client", "a-lone", "a-box", "b-server", "b-box", "c-server"])
def test_a_machine_reaches_its_edge_host_in_both_families(lab: labs.Lab, name: str) -> None:
    machine = lab.lan(name)
    assert reaches(lab, name, machine.gateway)
    assert reaches(lab, name, machine.gateway6)


def test_machines_of_one_lan_reach_each_other(lab: labs.Lab) -> None:
    assert reaches(lab, "a-client", lab.lan("a-server").address)
    assert reaches(lab, "a-lone", lab.lan("a-server").address6)


def test_a_machine_reaches_nothing_beyond_its_host(lab: labs.Lab) -> None:
    for far in (lab.plan.address("edge-b"), lab.lan("b-server").address, lab.lan("b-server").gateway, lab.plan.control):
        assert not reaches(lab, "a-client", far), far


def test_a_machine_without_a_route_knows_only_its_lan(lab: labs.Lab) -> None:
    assert reaches(lab, "a-client", lab.plan.address("edge-a"))
    done = lab.lan("a-lone").run(f"ping -c 1 -W 1 {lab.plan.address('edge-a')}", check=False)
    assert "unreachable" in done.stderr.lower()


def test_a_container_is_in_its_hosts_cgroup_but_not_in_its_network(lab: labs.Lab) -> None:
    box = lab.lan("a-box")
    box.start("sleep 60")
    assert "populated 1" in seen_by_host(lab, "edge-a")
    assert "host0" not in box.run("ip -br link").stdout
    box.stop()
    assert seen_by_host(lab, "edge-a") == ""


def seen_by_host(lab: labs.Lab, host: str) -> str:
    """Return what an edge host knows of the processes in its containers' cgroups."""
    where = "$(findmnt -n -o TARGET -t cgroup2 | head -1)"
    return lab.ssh(host, f"cat {where}/box-*/cgroup.events 2>/dev/null", check=False).stdout


def test_every_program_that_the_tests_run_is_there(lab: labs.Lab) -> None:
    missing = lab.lan("a-client").run(f"for p in {PROGRAMS}; do command -v $p >/dev/null || echo $p; done").stdout
    assert missing == ""


def test_a_real_program_serves_a_lan_and_goes_with_its_machine_alone(lab: labs.Lab) -> None:
    server, other = lab.lan("a-server"), lab.lan("a-lone")
    other.start("python3 -m http.server 81", listens="sport = :81")
    server.run("echo from the LAN > /var/www/html/index.html")
    server.start("nginx -g 'daemon off;'", listens="sport = :80")
    assert lab.lan("a-client").run(f"curl -sf http://{server.address}/").stdout == "from the LAN\n"
    server.stop()
    assert not server.listening("sport = :80")
    assert other.listening("sport = :81")
    other.stop()


def test_a_program_that_does_not_listen_is_told_with_its_words(lab: labs.Lab) -> None:
    with pytest.raises(LabError, match=r"a-lone: .* does not listen: .*no such program"):
        lab.lan("a-lone").start("sh -c 'echo no such program; exit 3'", listens="sport = :82")


def test_a_restarted_host_has_its_lan_and_its_containers_again(lab: labs.Lab) -> None:
    lab.lan("b-box").start("sleep 614")
    lab.restart("edge-b")
    for name in ("b-server", "b-box"):
        assert reaches(lab, name, lab.lan(name).gateway), name
    assert "sleep 614" not in subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True).stdout


@pytest.mark.parametrize("stage", ["programs run", "hosts killed"])
def test_nothing_is_left_after_an_interruption(stage: str) -> None:
    name = f"t-lct-{os.getpid()}"
    broken = labs.create(name, "lan-pair")
    broken.up()
    broken.lan("client").start("sleep 613")
    if stage == "hosts killed":
        broken.host("edge-a").kill()
    broken.down()
    traces = subprocess.run(
        "ip netns list; ip link; cat /proc/mounts; ps -A -o args=", shell=True, capture_output=True, text=True
    ).stdout
    assert name not in traces
    assert broken.plan.tag not in traces
    assert "sleep 613" not in traces
    assert not broken.directory.exists()
    assert not Path(cgroup2_root() / "skedge-lab" / name).exists()


@pytest.mark.parametrize(
    ("machine", "problem"),
    [
        ("{name: edge-a, at: edge-a}", "edge-a is there twice"),
        ("{name: pc, at: edge-z}", "edge-z is none of its first 16 hosts"),
    ],
)
def test_a_wrong_machine_is_refused_by_name(tmp_path: Path, machine: str, problem: str) -> None:
    file = tmp_path / "wrong.yml"
    file.write_text(f"hosts: [edge-a]\nmachines: [{machine}]\n")
    with pytest.raises(LabError, match=problem):
        load_topology(str(file))
