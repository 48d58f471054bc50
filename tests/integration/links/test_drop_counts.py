"""Every reason of the list is counted, whatever its code, and what was counted outlives an upgrade."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from skedge.core.reasons import MAX_REASONS, Reason
from skedge.dataplane.bpf import syscall
from skedge.loader import host_requirements, map_migration
from skedge.loader.compiling.sources import source_text
from skedge.loader.constants import kernel_defines

from .kit import Site, run

LOAD_SCRIPT = """
import ctypes, json, os, sys
from bcc import BPF, lib
todo = json.load(sys.stdin)
os.makedirs(todo["pin_dir"], exist_ok=True)
for name, text in todo["programs"].items():
    program = BPF(text=text, cflags=['-DPIN_DIR="%s"' % todo["pin_dir"], *todo["defines"]])
    function = program.load_func(name, BPF.SCHED_CLS)
    if lib.bpf_obj_pin(function.fd, ("%s/%s_v1" % (todo["pin_dir"], name)).encode()):
        raise OSError(ctypes.get_errno(), "pin " + name)
"""

ETHERNET = bytes(12) + b"\x08\x00"
PROGRAM = """
int count_code(struct __sk_buff *skb)
{
	__u32 code = 0;

	bpf_skb_load_bytes(skb, ETH_LENGTH, &code, sizeof(code));
	drop_count(code);
	return 0;
}
"""


def load(pin_dir: str, text: str) -> str:
    """Compile, load and pin the program; return what the compiler has against it."""
    defines = [f"-D{name}={value}" for name, value in kernel_defines().items()]
    todo = {"pin_dir": pin_dir, "programs": {"count_code": text}, "defines": defines}
    with host_requirements.headers():
        result = run(sys.executable, "-c", LOAD_SCRIPT, input=json.dumps(todo), check=False)
    return result.stderr[-2000:] if result.returncode else ""


@pytest.fixture
def counting(bpffs: Path) -> Iterator[Site]:
    """One site alone, whose counts nobody else changes."""
    made = Site("counting", bpffs)
    try:
        assert not load(made.pin_dir, source_text("link/egress.c") + PROGRAM)
        yield made
    finally:
        made.close()


def count(site: Site, codes: Iterable[int]) -> None:
    """Count one packet for each code, as the packet programs do."""
    with syscall.Fd(syscall.obj_get(f"{site.pin_dir}/count_code_v1")) as program:
        for code in codes:
            syscall.prog_test_run(program, ETHERNET + code.to_bytes(4, "little") + bytes(46))


def test_a_reason_is_counted_whatever_its_code(counting: Site) -> None:
    reasons = [one for one in Reason if one is not Reason.NONE]
    assert max(one.code for one in reasons) >= 64
    count(counting, [one.code for one in reasons])
    assert counting.filter.drops() == dict.fromkeys(reasons, 1)


def test_a_code_of_another_version_is_no_error(counting: Site) -> None:
    count(counting, [MAX_REASONS - 1, MAX_REASONS, Reason.STALE.code])
    assert counting.filter.drops() == {Reason.STALE: 1}


def test_counts_of_the_older_layout_are_carried_over_once(counting: Site) -> None:
    """An upgrade finds a map of 64 places with the counts of the version before."""
    from bcc import BPF

    pins = Path(counting.pin_dir)
    old = pins / "link_drops_v1"
    table = f'BPF_TABLE_PINNED("percpu_array", __u32, __u64, link_drops_v1, 64, "{old}");'
    with host_requirements.headers():
        BPF(text=f"#include <uapi/linux/bpf.h>\n{table}\n".encode()).cleanup()
    cpus = syscall.possible_cpus()
    counts = {Reason.NOT_OVERLAY: range(1, cpus + 1), Reason.ONE_WAY: [5] * cpus}
    with syscall.Fd(syscall.obj_get(str(old))) as fd:
        for reason, values in counts.items():
            syscall.map_update(fd, reason.code.to_bytes(4, "little"), struct.pack(f"={cpus}Q", *values))
    count(counting, [Reason.NOT_OVERLAY.code, Reason.OVERLOAD.code])
    for _ in range(2):
        map_migration.carry_over(pins)
        assert counting.filter.drops() == {
            Reason.NOT_OVERLAY: sum(counts[Reason.NOT_OVERLAY]) + 1,
            Reason.ONE_WAY: 5 * cpus,
            Reason.OVERLOAD: 1,
        }


def test_a_code_without_a_place_does_not_compile(counting: Site) -> None:
    text = source_text("link/egress.c") + PROGRAM
    small = text.replace(f"#define MAX_REASONS {MAX_REASONS}", f"#define MAX_REASONS {int(max(Reason))}")
    assert small != text
    assert "a reason has no place in the arrays of counters" in load(counting.pin_dir, small)
