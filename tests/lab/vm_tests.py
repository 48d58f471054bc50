"""What is tested on kernels of Debian's: ``python -m tests.lab.vm_tests [WHICH] [JUNIT_FILE [OPTION...]]`` in a VM.

Every program is loaded, chooses by the rule, places real connections of all kinds of sockets, checks packets and
delivers them. Emulated code is slow, above all the compiler, so what compiles again and again is left out, and what is
marked ``slow_in_vm``. ``WHICH`` is one of

* ``short``: what differs between kernels: the verifier on each program, and one test of each program's path.
* ``rest``: the others.
* ``old``: a kernel that runs no program: the engine ipvs.
* ``long``: what is marked so, and nothing else.

Without it all but the last two run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.kit import builders
from tests.lab.image import own_suite

LONG_S = 2000
CONNECT, LINKS, LAN, IPVS = (f"tests/integration/{room}" for room in ("connect", "links", "lan", "ipvs"))
SHORT = [
    f"{CONNECT}/loading/test_loader.py::test_every_program_is_taken_with_room_to_spare",
    f"{CONNECT}/loading/test_builders.py",
    f"{CONNECT}/test_pick.py::test_medium_services",
    f"{CONNECT}/test_pick.py::test_a_hundred_choices_of_256_workloads",
    f"{CONNECT}/test_families.py",
    f"{CONNECT}/test_recount.py",
    f"{CONNECT}/test_stalled.py",
    f"{LINKS}/test_verdicts.py",
    f"{LAN}/test_verifier.py",
    f"{LAN}/test_packets.py",
    f"{LINKS}/devices/test_wireguard.py",
]
REST = [
    f"{CONNECT}/loading/test_loader.py",
    f"{CONNECT}/test_pick.py",
    f"{CONNECT}/test_table.py",
    f"{CONNECT}/test_counts.py",
    f"{CONNECT}/test_policies.py",
    f"{CONNECT}/test_affinity.py",
    f"{LAN}/test_kept_packets.py",
    f"{LAN}/admission/test_vlans.py",
    "tests/integration/control/test_netem.py",
    "tests/integration/control/test_unsent.py::test_a_wireguard_device_without_a_session_says_so",
    f"{LINKS}/test_forwarding.py",
    f"{LINKS}/test_line.py::test_endpoint_reaches_the_workload_wherever_it_is_bound",
    f"{LINKS}/test_line.py::test_reuseport_listeners",
    f"{LINKS}/test_line.py::test_ports_of_a_closed_connection_can_be_used_again_at_once",
    f"{LINKS}/test_line.py::test_syn_cookies_are_accepted",
    IPVS,
]
COMPILES_OFTEN = [
    f"{CONNECT}/loading/test_loader.py::test_the_whole_life",
    f"{CONNECT}/loading/test_loader.py::test_a_foreign_program_and_a_foreign_pin_stay",
]
WITH_PROGRAMS = [f"{IPVS}/test_switch.py", f"{IPVS}/test_published.py"]  # need both engines
KERNEL = "needs_bpf or needs_ipvs or needs_netem or needs_wireguard"
QUICK = f"({KERNEL}) and not (slow_in_vm or long)"
# name: files and tests, those left out of them, which marks, seconds for a test
LISTS: dict[str, tuple[list[str], list[str], str, int]] = {
    "all": ([*SHORT, *REST], COMPILES_OFTEN, QUICK, 400),
    "short": (SHORT, [], QUICK, 400),
    "rest": (REST, [*COMPILES_OFTEN, *SHORT], QUICK, 400),
    "old": ([IPVS], WITH_PROGRAMS, f"({KERNEL}) and not (needs_bpf or slow_in_vm or long)", 1200),
    "long": ([*SHORT, *REST], COMPILES_OFTEN, "needs_ipvs and long", LONG_S),
}


def arguments_of(words: list[str]) -> list[str]:
    """Return pytest's arguments for those of the command line."""
    which, words = (words[0], words[1:]) if words and words[0] in LISTS else ("all", words)
    wanted, left_out, marks, seconds = LISTS[which]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", marks, "--durations=12"]
    options += [f"--deselect={test}" for test in left_out]
    options += ["-o", f"timeout={seconds}"]
    if words:
        options += [f"--junitxml={Path(words[0])}", *words[1:]]
    return [*options, *wanted]


def main() -> int:
    """Run the tests; pytest's exit code."""
    compiled = builders.directory(own_suite())  # beforehand, by the compiler of this userland's Debian
    if compiled.is_dir():
        os.environ.setdefault("SKEDGE_TEST_BYTECODE", str(compiled))
    return int(pytest.main(arguments_of(sys.argv[1:])))


if __name__ == "__main__":
    sys.exit(main())
