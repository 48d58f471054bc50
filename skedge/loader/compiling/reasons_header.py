"""The closed list of reasons as C: `python -m skedge.loader.compiling.reasons_header > skedge/bpf/common/reasons.h`."""

from __future__ import annotations

from skedge.core.reasons import MAX_REASONS, Reason

_HEAD = """\
/* Generated from skedge/core/reasons.py by python -m skedge.loader.compiling.reasons_header */
#ifndef SKEDGE_REASONS_H
#define SKEDGE_REASONS_H

#define MAX_REASONS {size} /* places in every array that is indexed by a reason */

enum {{
"""
_TAIL = """\
    REASONS_END
};

_Static_assert(REASONS_END <= MAX_REASONS, "a reason has no place in the arrays of counters");

#endif
"""


def text() -> str:
    """Return the header, reasons in the order of their codes, so that the compiler sees the largest one last."""
    members = (f"    REASON_{one.name} = {one.code}, /* {one.sentence} */\n" for one in sorted(Reason))
    return _HEAD.format(size=MAX_REASONS) + "".join(members) + _TAIL


if __name__ == "__main__":
    print(text(), end="")
