"""What is tested on Debian's own kernel; runs inside the VM: ``python -m tests.lab.vm_tests [JUNIT_FILE]``.

All that loads eBPF programs or makes link devices, without what only takes long: tests marked ``slow_in_vm``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.lab.sh import REPO

TREES = ["tests/integration/connect", "tests/integration/links", "tests/integration/vm"]


def main() -> int:
    """Run the tests; pytest's exit code."""
    trees = [tree for tree in TREES if (REPO / tree).is_dir()]
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "needs_bpf and not slow_in_vm",
        "-o",
        "timeout=200",
        "--durations=5",
    ]
    if len(sys.argv) > 1:
        options.append(f"--junitxml={Path(sys.argv[1])}")
    return int(pytest.main([*options, *trees]))


if __name__ == "__main__":
    sys.exit(main())
