"""IPv6 that is switched off is named, with the file that does it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.skedge.edge.plugins.module_utils import ipv6

OFF = "net.ipv6.conf.all.disable_ipv6 = 1\n"


@pytest.mark.parametrize("switch", ["0\n", ""])
def test_what_is_on_is_no_problem_whatever_files_say(switch: str):
    assert ipv6.problems(switch, {"/etc/sysctl.d/50.conf": OFF}) == []


def test_the_file_that_switches_it_off_is_named():
    files = {"/etc/sysctl.d/10.conf": OFF, "/etc/sysctl.d/50.conf": "# x\n-net/ipv6/conf/lo/disable_ipv6=1\n"}
    (sentence,) = ipv6.problems("1\n", files)
    assert sentence.startswith(
        "IPv6 is switched off on lo (net.ipv6.conf.lo.disable_ipv6 = 1 in /etc/sysctl.d/50.conf)"
    )
    assert "sysctl -w net.ipv6.conf.lo.disable_ipv6=0, and write the same below that line" in sentence


@pytest.mark.parametrize(
    "text", ["", "#" + OFF, OFF + "net.ipv6.conf.lo.disable_ipv6 = 0\n", OFF.replace("all", "eth0")]
)
def test_a_switch_that_no_file_throws_is_named_itself(text: str):
    (sentence,) = ipv6.problems("1\n", {"/etc/sysctl.conf": text})
    assert "(net.ipv6.conf.lo.disable_ipv6 = 1)" in sentence
    assert "into /etc/sysctl.d/99-lo.conf" in sentence


def test_files_are_read_in_the_order_of_booting(tmp_path: Path):
    for name in ("etc/sysctl.d/50.conf", "usr/lib/sysctl.d/50.conf", "usr/lib/sysctl.d/10.conf", "etc/sysctl.conf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    texts = list(ipv6.sysctl_files(str(tmp_path)).values())
    assert texts == ["usr/lib/sysctl.d/10.conf", "etc/sysctl.d/50.conf", "etc/sysctl.conf"]
