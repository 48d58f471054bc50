"""What is tested on Debian's own kernel; ``python -m tests.lab.vm_tests [long] [JUNIT_FILE [OPTION...]]`` runs in it.

Every program is loaded, chooses by the rule, places real connections of all kinds of sockets, checks packets and
delivers them. Emulated code is slow, above all the compiler, so what compiles again and again is left out, and what is
marked ``slow_in_vm``. What is marked ``long`` runs with ``long`` as the first argument, and nothing else then.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

LONG_S = 2000
CONNECT, LINKS = "tests/integration/connect", "tests/integration/links"
WANTED = [
    f"{CONNECT}/test_loader.py",
    f"{CONNECT}/test_table.py",
    f"{CONNECT}/test_families.py",
    f"{CONNECT}/test_counts.py",
    f"{CONNECT}/test_pick.py",
    f"{CONNECT}/test_policies.py",
    f"{CONNECT}/test_affinity.py",
    f"{LINKS}/test_verdicts.py",
    "tests/integration/lan/test_packets.py",
    "tests/integration/lan/test_kept_packets.py",
    "tests/integration/lan/test_vlans.py",
    "tests/integration/control/test_netem.py",
    "tests/integration/control/test_unsent.py::test_a_wireguard_device_without_a_session_says_so",
    f"{LINKS}/test_forwarding.py",
    f"{LINKS}/test_wireguard.py",
    f"{LINKS}/test_line.py::test_endpoint_reaches_the_workload_wherever_it_is_bound",
    f"{LINKS}/test_line.py::test_reuseport_listeners",
    f"{LINKS}/test_line.py::test_ports_of_a_closed_connection_can_be_used_again_at_once",
    f"{LINKS}/test_line.py::test_syn_cookies_are_accepted",
    "tests/integration/ipvs",
]
COMPILES_OFTEN = [
    f"{CONNECT}/test_loader.py::test_the_whole_life",
    f"{CONNECT}/test_loader.py::test_a_foreign_program_and_a_foreign_pin_stay",
]


def main() -> int:
    """Run the tests; pytest's exit code."""
    arguments = sys.argv[1:]
    long = arguments[:1] == ["long"]
    kernel = "needs_bpf or needs_ipvs or needs_netem or needs_wireguard"
    which = "needs_ipvs and long" if long else f"({kernel}) and not (slow_in_vm or long)"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", which, "--durations=6"]
    options += [f"--deselect={test}" for test in COMPILES_OFTEN]
    options += ["-o", f"timeout={LONG_S if long else 400}"]
    if arguments := arguments[long:]:
        options += [f"--junitxml={Path(arguments[0])}", *arguments[1:]]
    return int(pytest.main([*options, *WANTED]))


if __name__ == "__main__":
    sys.exit(main())
