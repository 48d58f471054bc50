"""Random networks, candidates and kernels for the property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from skedge.core.model import LinkId, SiteConfig, WorkloadId
from skedge.core.objects import Candidate, Target
from skedge.core.reasons import Reason
from skedge.core.records import NetworkMap
from tests.fakes.networks import configs, map_of

OUTS = (Reason.NONE,) * 6 + (Reason.SUSPENDED, Reason.UNHEALTHY, Reason.DRAINED, Reason.UNREACHABLE)


@st.composite
def networks(draw: st.DrawFn, max_sites: int = 9) -> tuple[dict[str, SiteConfig], NetworkMap]:
    """Multigraphs with small costs (so that equal paths abound), parallel links, overload, links that are down."""
    sites = [f"s{index}" for index in range(draw(st.integers(1, max_sites)))]
    pairs = [(a, b) for a in sites for b in sites if a < b]
    links, down, costs = [], [], {}
    for a, b in pairs:
        for name in "xy"[: draw(st.sampled_from((0, 0, 1, 1, 2)))]:
            links.append((a, b, draw(st.integers(1, 4)), name))
            if draw(st.integers(0, 9)) == 0:
                down.append(LinkId(a, b, name))
        if draw(st.integers(0, 3)) == 0:
            costs[draw(st.sampled_from(((a, b), (b, a))))] = {"web": draw(st.integers(1, 9))}
    servers = {site: draw(st.integers(1, 4)) for site in sites if draw(st.booleans())}
    overload = [site for site in sites if draw(st.integers(0, 4)) == 0]
    made = configs(links, servers, sites=sites, overload=overload, service_costs=costs)
    return made, map_of(made, down=down)


@st.composite
def candidate_lists(draw: st.DrawFn, max_size: int = 8, max_cost: int = 40) -> tuple[Candidate, ...]:
    """Candidates in workload order; costs and capacities small, so that ties are frequent."""
    size = draw(st.integers(1, max_size))
    return tuple(
        Candidate(
            WorkloadId(f"s{index}", "web"),
            draw(st.integers(0, max_cost)),
            capacity=draw(st.sampled_from((1, 1, 1, 2, 3, 4, 7, 65535))),
            others=draw(st.sampled_from((0, 0, 0, 1, 5, 12))),
            target4=Target("127.0.0.1", 1),
            out=draw(st.sampled_from(OUTS)),
        )
        for index in range(size)
    )
