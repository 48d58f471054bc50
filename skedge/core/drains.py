"""Drains by command: what an operator took out of use at this site, beside what the configuration says (pure).

Command and configuration add up: what either drains is drained, and neither takes the other's back. A drain by command
stands until it is taken back by command, over restarts, reboots and deploys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from skedge.core.errors import ApiError
from skedge.core.model import COST_MAX, Connector, Link, LinkId, SiteConfig, WorkloadId


class DrainKind(StrEnum):
    """What can be drained."""

    SITE = "site"
    WORKLOAD = "workload"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Drain:
    """One drain by command. ``name`` is the connector's, or the link's written form; "" of the site.

    ``entry``: the site's own listeners take nothing, either. ``by`` is a user's name, ``since`` seconds since 1970.
    """

    what: DrainKind
    name: str = ""
    entry: bool = False
    by: str = ""
    since: float = 0.0


Drains = tuple[Drain, ...]


def drained(drains: Drains, new: Drain) -> Drains:
    """Return the drains with one more; one that stands keeps its time unless it becomes another."""
    same = find(drains, new.what, new.name)
    if same is not None and same.entry == new.entry:
        return drains
    return (*undrained(drains, new.what, new.name), new)


def undrained(drains: Drains, what: DrainKind, name: str) -> Drains:
    """Return the drains without one."""
    return tuple(one for one in drains if (one.what, one.name) != (what, name))


def find(drains: Iterable[Drain], what: DrainKind, name: str = "") -> Drain | None:
    """Return the drain of something, None where there is none."""
    return next((one for one in drains if (one.what, one.name) == (what, name)), None)


def applied(config: SiteConfig, drains: Drains) -> SiteConfig:
    """Return the configuration with what is drained by command; what does not exist (any more) is passed over.

    A drained site is no transit, either. A drained link has the largest cost, also for each service, and the larger
    cost of both ends holds: so all sites agree, whatever their version, and it goes on where there is no other path.
    """
    site = find(drains, DrainKind.SITE)
    names = {(one.what, one.name) for one in drains}
    return replace(
        config,
        drain=config.drain or site is not None,
        overload=config.overload or site is not None,
        entry_drain=site is not None and site.entry,
        connectors=tuple(_connector(one, (DrainKind.WORKLOAD, one.name) in names) for one in config.connectors),
        links=tuple(_link(one, (DrainKind.LINK, str(_id(config, one))) in names) for one in config.links),
    )


def _connector(connector: Connector, out: bool) -> Connector:
    return replace(connector, drain=True) if out else connector


def _link(link: Link, out: bool) -> Link:
    if not out:
        return link
    return replace(link, cost=COST_MAX, service_costs=dict.fromkeys(link.service_costs, COST_MAX))


def _id(config: SiteConfig, link: Link) -> LinkId:
    return LinkId.between(config.site, link.to, link.name)


def named(config: SiteConfig, what: str, name: str) -> tuple[DrainKind, str]:
    """Return what an operator means, by the name that it is kept under.

    A workload is named by its connector, with or without the site; a link as `skedge show links` writes it.

    Raises:
        ApiError: there is no such thing at this site.
    """
    match what:
        case DrainKind.SITE:
            if name and name != config.site:
                raise ApiError(f"{name} is another site; a site is drained on its own host")
            return DrainKind.SITE, ""
        case DrainKind.WORKLOAD:
            return DrainKind.WORKLOAD, _workload(config, name)
        case DrainKind.LINK:
            known = sorted(str(_id(config, link)) for link in config.links)
            if name not in known:
                raise ApiError(f"this site has no link {name!r}; it has: {_listed(known)}")
            return DrainKind.LINK, name
    raise ApiError(f"{what!r} cannot be drained; give site, workload NAME or link NAME")


def _workload(config: SiteConfig, name: str) -> str:
    site, _, connector = name.rpartition("/")
    if site and site != config.site:
        raise ApiError(f"{name} is a workload of another site; it is drained on that site's host")
    known = sorted(one.name for one in config.connectors)
    if connector not in known:
        raise ApiError(f"this site has no workload {name!r}; it has: {_listed(known)}")
    return connector


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def workloads(config: SiteConfig, what: DrainKind, name: str) -> frozenset[WorkloadId]:
    """Return the workloads of this site that a drain is about."""
    return frozenset(
        WorkloadId(config.site, one.name)
        for one in config.connectors
        if what is DrainKind.SITE or (what is DrainKind.WORKLOAD and one.name == name)
    )
