"""The bounds that docs/benchmarks.md gives for several entering sites whose reports come late."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.load_delay import LOADS, Load, measure, picture

LOAD = dict(LOADS)
TEN_S = Load(20.0, 10.0, 15.0)


@pytest.mark.parametrize("name", LOAD)
def test_one_entering_site_is_exact_whatever_the_delay(name: str) -> None:
    assert max(measure(LOAD[name], 1, 1.0).off) == 0


@pytest.mark.parametrize(
    ("sites", "delay_s", "share"), [(2, 0.01, 0.01), (2, 1.0, 0.02), (5, 0.3, 0.03), (20, 0.3, 0.04)]
)
def test_connections_of_ten_seconds_are_where_the_exact_rule_has_them(sites: int, delay_s: float, share: float) -> None:
    assert measure(TEN_S, sites, delay_s).share <= share


def test_what_is_off_grows_with_the_delay_and_with_the_sites() -> None:
    one_s = Load(200.0, 1.0, 6.0)
    late = [measure(one_s, 5, delay_s).share for delay_s in (0.01, 0.3, 1.0)]
    assert late == sorted(late)
    many = [measure(one_s, sites, 0.3).share for sites in (1, 2, 5, 20)]
    assert many == sorted(many)


def test_no_herd_grows_without_end() -> None:
    """Connections of a tenth of the delay are the worst: the herd turns once a delay, and is not larger later."""
    off = measure(Load(1000.0, 0.1, 6.0), 5, 0.3).off
    third = len(off) // 3
    assert max(off[-third:]) <= 1.5 * max(off[:third])


def test_the_mean_in_the_place_of_the_counters_is_worse_where_many_sites_have_long_connections() -> None:
    """Why reports are not damped: it helps few sites with connections shorter than the delay, and costs the others."""
    assert measure(TEN_S, 20, 0.1).share < measure(TEN_S, 20, 0.1, mean_s=2.0).share


@pytest.mark.long
def test_the_plot_in_the_docs_is_of_this_code() -> None:
    assert Path("docs/load-reports.svg").read_text() == picture()
