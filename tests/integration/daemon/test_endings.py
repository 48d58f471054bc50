"""Connections that end in every way there is leave every count at nothing, and counters that were never off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .kit import WORKLOADS, Line, Site, until

FEW = 4_000
MANY = int(os.environ.get("ENDINGS", "1000000"))
AT_ONCE = 3  # processes a site
CHECK_S = 65.0  # counters are compared each half a minute


def make(site: Site, count: int, seed: int, log: Path) -> subprocess.Popen[bytes]:
    return site.spawn("/usr/bin/python3", WORKLOADS / "endings.py", "127.0.0.1", 8080, count, seed, log=log)


def run_endings(line: Line, tmp_path: Path, count: int) -> None:
    """Let clients at two sites make so many connections; nothing of them may stay."""
    sites = [line.sites[name] for name in "ab"]
    for site in line.sites.values():
        site.inside("sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1")  # more of them than there are ports a minute
    logs, running = [], []
    for number in range(AT_ONCE * len(sites)):
        logs.append(tmp_path / f"{number}.json")
        running.append(make(sites[number % len(sites)], count // (AT_ONCE * len(sites)), number, logs[-1]))
    assert [one.wait() for one in running] == [0] * len(running), [log.read_text() for log in logs]
    said = [json.loads(log.read_text()) for log in logs]
    print(*said, sep="\n", file=sys.stderr)
    assert [one["errors"] for one in said] == [{}] * len(said)
    for site in line.sites.values():
        until(lambda site=site: not any(site.opens().values()), CHECK_S, f"nothing open at {site.name}")
        until(lambda site=site: not any(site.others().values()), CHECK_S, f"no load of others at {site.name}")
        assert site.connections() == []
        assert site.document_of("show", "sync")["count_drift"] == 0


def test_some_thousand_connections_of_every_ending_leave_nothing(line: Line, tmp_path: Path) -> None:
    run_endings(line, tmp_path, FEW)


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_a_million_connections_of_every_ending_leave_nothing(line: Line, tmp_path: Path) -> None:
    run_endings(line, tmp_path, MANY)
