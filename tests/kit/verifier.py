"""What the kernel's verifier made of pinned programs."""

from __future__ import annotations

from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.dataplane.bpf import syscall

PATIENCE = 1_000_000  # instructions that it walks, branch by branch, before it refuses a program
ALL_ROOM = 1_000_000  # what all that are shipped may take together: a host pays for it at each boot
ROOM = 300_000  # what ours may take: other compilers make more of the same text, and so do later versions


def walked_by(fd: int) -> int:
    """Return how many instructions the verifier walked for this program, 0 for what is none."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("verified_insns:"))


def walked(pin_dir: Path) -> dict[str, int]:
    """Return for each program that is pinned there how many instructions the verifier walked."""
    found = {}
    for pin in sorted(pin_dir.iterdir()):
        try:
            fd = syscall.obj_get(str(pin))
        except DataplaneError:
            continue
        with syscall.Fd(fd):
            count = walked_by(fd)
        if count:
            found[pin.name] = count
    return found
