"""Reserved source ports: what is needed, what lacks, and which file at boot undid it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from skedge.core.model import Lan, Listener, Protocol
from skedge.dataplane.host.reserved_ports import at_next_boot, complaint, needed
from tests.fakes.networks import site_config

CONFIG = site_config("a", listeners=(Listener("dns", 40000, protocol=Protocol.UDP), Listener("web", 8080)))


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    folder.mkdir()
    return folder


def said(proc: Path, ephemeral: str, reserved: str) -> str:
    (proc / "ip_local_port_range").write_text(ephemeral.replace("-", "\t") + "\n")
    (proc / "ip_local_reserved_ports").write_text(reserved + "\n")
    return complaint(CONFIG, proc, proc.parent) or at_next_boot(CONFIG, proc, proc.parent)


def test_ports_of_endpoints_nat_and_udp_listeners_are_needed() -> None:
    assert needed(CONFIG) == {40000, *range(61000, 65536)}
    assert needed(replace(CONFIG, lan=Lan(devices=()))) == {40000, *range(61000, 63000)}


def test_nothing_is_said_where_all_are_kept_back_or_never_given_out(proc: Path) -> None:
    assert said(proc, "32768-60999", "40000") == ""
    assert said(proc, "1024-65535", "40000,61000-65535") == ""


def test_what_lacks_is_named_with_the_file_that_wins(proc: Path) -> None:
    assert "lacks 40000," in said(proc, "32768-60999", "")
    etc = proc.parent / "etc"
    (etc / "sysctl.d").mkdir(parents=True)
    (etc / "sysctl.d/60-skedge.conf").write_text("net.ipv4.ip_local_reserved_ports = 40000,61000-65535\n")
    text = said(proc, "1024-65535", "8080")
    assert "lacks 40000, 61000-65535," in text
    assert "a program has changed it" in text
    (etc / "sysctl.conf").write_text("# x\nnet/ipv4/ip_local_reserved_ports=8080\n")
    assert "/etc/sysctl.conf sets it last" in said(proc, "1024-65535", "8080")
    (etc / "sysctl.conf").write_text("# net.ipv4.ip_local_reserved_ports=8080\n")
    (etc / "sysctl.d/99-hardening.conf").write_text("net.ipv4.ip_local_reserved_ports=8080\n")
    assert "/etc/sysctl.d/99-hardening.conf sets it last" in said(proc, "1024-65535", "8080")


@pytest.mark.parametrize("name", ["sysctl.conf", "sysctl.d/99-hardening.conf"])
def test_a_file_that_will_win_at_the_next_boot_is_named_while_all_is_well_still(proc: Path, name: str) -> None:
    """Case 14: all was green until the host was started again."""
    etc = proc.parent / "etc"
    (etc / "sysctl.d").mkdir(parents=True)
    (etc / "sysctl.d/60-skedge.conf").write_text("net.ipv4.ip_local_reserved_ports = 40000,61000-65535\n")
    (etc / "sysctl.d/10-first.conf").write_text("net.ipv4.ip_local_reserved_ports = 1\n")
    assert said(proc, "1024-65535", "40000,61000-65535") == ""
    (etc / name).write_text("net.ipv4.ip_local_port_range = 1024 65535\nnet.ipv4.ip_local_reserved_ports = 8080\n")
    text = said(proc, "32768-60999", "40000,61000-65535")
    assert text.startswith(
        f"/etc/{name} sets net.ipv4.ip_local_reserved_ports without 40000, 61000-65535 at the next boot"
    )
    assert text.endswith("; add them there")
    (etc / name).write_text("net.ipv4.ip_local_reserved_ports = 8080,40000,61000-65535\n")
    assert said(proc, "1024-65535", "40000,61000-65535") == ""


def test_what_cannot_be_read_is_not_complained_of(proc: Path) -> None:
    assert complaint(CONFIG, proc, proc.parent) == at_next_boot(CONFIG, proc, proc.parent) == ""
