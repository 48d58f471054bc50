"""Three real sites that are apart and meet again, and one whose wall clock is set."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from .kit import Clients, Line, until

DAY_S = 86400
WITH_A_CLOCK = """
import sys, time
from pathlib import Path
path, true = Path(sys.argv.pop(1)), time.time
time.time = lambda: true() + float(path.read_text())
from skedge.daemon.main import main
sys.exit(main())
"""


def test_both_halves_serve_with_what_they_have_and_agree_again(line: Line, clients: Clients) -> None:
    a, b, c = line.sites.values()
    others = Clients(b)
    assert clients.open(20) == {"a": 15, "b": 5}
    try:
        line.cut("a", "b")
        line.cut("a", "c")
        until(lambda: a.reasons() == {"a": "none", "b": "unreachable", "c": "unreachable"}, 1, "A is alone")
        until(lambda: b.reasons() == {"a": "unreachable", "b": "none", "c": "none"}, 1, "B and C are left")
        assert clients.open(5) == {"a": 5}
        until(b.at_rest, 3, "B's kernel has it")
        assert others.open(25) == {"b": 23, "c": 2}
        c.unserve()
        until(lambda: b.reasons()["c"] == "unhealthy", 3, "C's server is gone")
        assert a.reasons()["c"] == "unreachable"
        line.mend("a", "b")
        line.mend("a", "c")
        until(lambda: a.reasons() == {"a": "none", "b": "none", "c": "unhealthy"}, 3, "A knows what happened to C")
        until(lambda: b.reasons()["a"] == "none", 3, "B may choose A")
        assert {row.path_cost for row in a.rows("sites")} == {0, 10, 30}
        until(lambda: a.others()["b"] == 23, 3, "A knows B's connections")
        assert clients.do("check")["dead"] == 0, "who held a connection over the cut link has it still"
    finally:
        line.mend("a", "b")
        line.mend("a", "c")
        others.quit()
        if c.server is None or c.server.poll() is not None:
            c.serve()


def test_a_wall_clock_that_is_set_by_a_day_changes_nothing(line: Line, clients: Clients, tmp_path: Path) -> None:
    """Also while streams are made anew: certificates are valid a day longer at both ends than they say."""
    b, clock = line.sites["b"], tmp_path / "clock"
    clock.write_text("0")
    b.kill()
    b.start(sys.executable, "-c", WITH_A_CLOCK, clock)
    until(b.works, 20, "B with a clock that can be set")
    line.settle()
    clients.open(60)
    before = {name: site.log_size() for name, site in line.sites.items()}
    for jump in (DAY_S, -DAY_S):
        clock.write_text(str(jump))
        time.sleep(0.5)  # longer than it takes to give a link up
        assert {row.up for row in b.rows("links")} == {True}
        line.cut("b", "c")
        until(lambda: "c" not in {row.to for row in b.rows("links") if row.up}, 2, "B's link to C is down")
        line.mend("b", "c")
        until(lambda: {(row.up, row.state) for row in b.rows("links")} == {(True, "full")}, 3, "B's links are full")
    for name, site in line.sites.items():
        said = site.log_since(before[name])
        assert "reason=expired" not in said
        assert "reason=bad-signature" not in said
    assert clients.do("check")["dead"] == 0
    clients.open(40)
    assert clients.names() == {"a": 47, "b": 37, "c": 16}
    b.kill()
    b.start()
    until(b.works, 20, "B as it was")
