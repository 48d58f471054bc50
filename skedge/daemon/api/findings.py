"""What is wrong, as findings for `skedge status`: the cause in one sentence each (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from skedge.core.abilities import ABILITIES
from skedge.core.api.documents import CERTIFICATE_WARN_DAYS
from skedge.core.api.shown import LinkRow
from skedge.core.desired.compute import Desired
from skedge.core.desired.drift import RECENT_S
from skedge.core.linkstate.own_records import led_on_to
from skedge.core.model import WorkloadId
from skedge.core.names import address_port
from skedge.core.observed import ProgramsReport
from skedge.core.placement.nat_ports import WARN_SHARE, port_limit
from skedge.core.placement.policies import service_keys
from skedge.core.reasons import Reason
from skedge.core.routing.overlay_addresses import Skipped
from skedge.core.routing.surroundings import clashes, too_wide
from skedge.daemon.api import drain_causes, link_causes
from skedge.daemon.api.problems import Finding
from skedge.daemon.kernel.kernel import Applied
from skedge.daemon.state import State

_ANY_CULPRIT = "find the program that does it, and let it leave what is skedge's alone"
_CULPRITS = {
    "rule": "does systemd-networkd (ManageForeignRoutingPolicyRules=no), a VPN client or a script flush rules?",
    "route": "does systemd-networkd (ManageForeignRoutes=no), a VPN client or a script flush routes?",
    "chain": "does a firewall service or a script flush the whole rule set? Let it flush its own tables alone",
    "accepted": "does a firewall service or a script flush the whole rule set? Let it flush its own tables alone",
    "setting": "does a sysctl file, tuned or a hardening script set it?",
    "forwarding": "does a sysctl file, tuned or a hardening script set it?",
}  # kind of object -> who does such a thing, and how it is kept from it
_OTHER_AUTHORITY = "deploy both sites from the control node that has the network's authority"
LOADS_S = 30.0  # a site that is silent for so long has lost more than one report
REFUSAL_S = 60.0  # how long a refused message stays a problem


@dataclass(frozen=True)
class Look:
    """Everything that is judged, at one moment (``now`` in monotonic seconds)."""

    now: float
    state: State
    desired: Desired
    applied: Applied
    link_rows: Iterable[LinkRow]
    refusals: Iterable[tuple[float, Reason, str]]
    synced: bool
    config_error: str
    certificate_days: float
    drift: int
    stream_causes: Mapping[str, str]
    ports: str = ""
    unproven: Mapping[str, str] = field(default_factory=dict)
    in_force: bool = True
    programs: ProgramsReport = field(default_factory=ProgramsReport)


def findings(look: Look) -> list[Finding]:
    """Return every problem there is."""
    return [
        *_controller(look),
        *_links(look),
        *_sites(look),
        *_loads(look),
        *_services(look),
        *_ports(look),
        *_surroundings(look),
        *_marks(look),
        *_strays(look),
        *_kernel(look),
        *_drift(look),
        *_waiting(look),
        *_refusals(look),
    ]


def _controller(look: Look) -> Iterator[Finding]:
    if look.config_error:
        yield Finding("error", "configuration", f"{look.config_error} (the last good one is in force)")
    yield from drain_causes.findings(look.state, synced=look.synced)
    if not look.synced:
        cause = "waiting for neighbours, or for the first routes; nothing is deleted from the kernel before"
        yield Finding("info", "sync", cause)
    if look.certificate_days < CERTIFICATE_WARN_DAYS:
        severity = "error" if look.certificate_days <= 0 else "warning"
        yield Finding(severity, "certificate", f"{look.certificate_days:.0f} days left; run the deploy playbook")
    if not look.in_force:
        cause = "the certificates on disk are not those in force; if that stays so, systemctl reload skedge"
        yield Finding("warning", "identity", cause)
    if look.ports:
        yield Finding("warning", "reserved ports", look.ports)
    if look.programs.refused:
        cause = f"{look.programs.refused}; those from before serve: mend it, then restart skedge.service"
        yield Finding("error", "programs", cause)
    if look.programs.trouble:
        yield Finding("warning", "bytecode", f"{look.programs.trouble}; other bytecode serves")
    if look.drift:
        yield Finding("warning", "counters", f"open connections were off by {look.drift} and have been repaired")


def _links(look: Look) -> Iterator[Finding]:
    for row in look.link_rows:
        if not row.up and f"link {row.device}" in look.applied.waiting:
            continue  # said there
        if row.link in look.unproven:
            yield Finding("error", f"certificate {row.link}", f"{look.unproven[row.link]}; {_OTHER_AUTHORITY}")
        if not row.up:
            yield Finding("warning", f"link {row.link}", f"{row.reason}: {link_causes.cause(row)}")
        elif row.reason in link_causes.LAST_RESORT:
            yield Finding("warning", f"link {row.link}", f"{row.reason}: {link_causes.last_resort(row)}")
        elif row.state != "full":
            cause = look.stream_causes.get(row.link, "") or "the far controller has not been heard"
            yield Finding("warning", f"adjacency {row.link}", cause)


def _sites(look: Look) -> Iterator[Finding]:
    for site in sorted(look.state.network_map.links):
        if site != look.state.config.site and site not in look.state.rib.paths:
            yield Finding("error", f"site {site}", f"unreachable: {Reason.UNREACHABLE.sentence}")
        elif site in look.state.config.removed_sites:
            via = ", ".join(link.to for link in look.state.network_map.links[site].links if link.up)
            cause = f"the inventory has it no more, but it is linked with {via}; deploy there, and purge the host"
            yield Finding("warning", f"site {site}", cause)


def _loads(look: Look) -> Iterator[Finding]:
    """Yield what is reckoned with for want of news: a site with open connections repeats its report every second."""
    for site, heard in sorted(look.state.heard.items()):
        age = look.now - heard.at
        if any(heard.report.open.values()) and age > LOADS_S and site in look.state.rib.paths:
            cause = (
                f"no load report for {age:.0f} s, so its last one still counts; does UDP port "
                f"{look.state.config.load_port} pass, and does the controller of {site} run?"
            )
            yield Finding("warning", f"loads {site}", cause)


def _services(look: Look) -> Iterator[Finding]:
    empty = {
        key
        for key, table in look.desired.services.items()
        if not any(one.out in (Reason.NONE, Reason.ENTRY_DRAINED) for one in table.candidates)
    }
    for key in sorted(empty):
        backed = all(
            key not in keys or not empty.issuperset(keys) for keys in map(service_keys, look.state.config.listeners)
        )  # every listener that names it has another service, which gets its connections
        severity = "warning" if backed else "error"
        yield Finding(severity, f"service {key.name}/{key.protocol}", Reason.NO_WORKLOAD.sentence)
    for connector in look.state.config.connectors:
        if look.state.health.get(connector.name) is False:
            where = f"{connector.host}:{connector.port}"
            cause = look.state.causes.get(connector.name) or "failed"
            yield Finding("error", f"workload {connector.name}", f"unhealthy: the health check of {where}: {cause}")
    usable = {
        (key, one.workload)
        for key, table in look.desired.services.items()
        for one in table.candidates
        if one.out is Reason.NONE
    }  # what is out for a better reason is not waited for
    for service, workload in sorted(look.state.suspended & usable):
        yield Finding("warning", f"workload {workload} of {service.name}", Reason.SUSPENDED.sentence)
    for skipped in look.desired.skipped:
        yield Finding("warning", f"{skipped.kind} {skipped.key}", skipped.reason.sentence + _led_on(look, skipped))


def _ports(look: Look) -> Iterator[Finding]:
    """Yield the workloads towards which NAT ports are running out."""
    far = any(look.desired.nat_remote)
    for key, table in sorted(look.desired.services.items()):
        for one in table.candidates:
            counts = look.state.counts.get((key, one.workload))
            limit = port_limit(look.state.config.lan, far=far and not one.own_site)
            if counts is None or counts.nat < WARN_SHARE * limit:
                continue
            cause = (
                f"{counts.nat} of {limit} source ports towards it are held by connections of the LAN; beyond them it "
                f"is left out ({Reason.NO_PORT}). Add workloads"
            )
            way_out = "" if far and not one.own_site else ", or give skedge_nat_ports a wider range"
            yield Finding("warning", f"ports to {one.workload} of {key.name}", cause + way_out)


def _led_on(look: Look, skipped: Skipped) -> str:
    """Return where the host leads what goes to a workload that is skipped for that, and the way out; else nothing."""
    state = look.state
    if skipped.reason is not Reason.PUBLISHED_BY_DNAT:
        return ""
    for one in state.config.connectors:
        to = led_on_to(one, state.resolved)
        if to is not None and skipped.key == str(WorkloadId(state.config.site, one.name)):
            way_out = "give skedge_lan_devices" if ABILITIES[state.config.engine].off_host else "give engine: ebpf"
            where = f"port {one.port} of {one.host} is published by DNAT to {address_port(to.address, to.port)}"
            return f": {where}; {way_out}, or let the server listen on the host itself"
    return ""


def _surroundings(look: Look) -> Iterator[Finding]:
    """Yield what this site announces and does not have, and addresses that are a site's and something else's."""
    found, addresses = look.applied.surroundings, look.state.host_addresses
    for prefix in too_wide(found, addresses):
        cause = (
            "announced to all sites, but no network of this host and no route of its own has all of it (the default "
            "route does not count); give skedge_prefixes the LAN's own prefix"
        )
        yield Finding("warning", f"prefix {prefix}", cause)
    for address, what in sorted(clashes(found, addresses, look.desired.sites).items()):
        cause = (
            f"the overlay address of another site is {what}, too, which cannot be reached; give that site another "
            "skedge_overlay_address, or the network another skedge_overlay_cidr"
        )
        yield Finding("error", f"address {address}", cause)
    if found.filtered:
        cause = (
            f"the chain {found.filtered} drops what comes from {look.state.config.overlay_cidr} by another device than "
            "the VPN's, so nothing from other sites arrives; accept -i sk-+ before it (Tailscale: then tailscale set "
            "--netfilter-mode=nodivert, or it goes first again), or give the network a range outside of 100.64.0.0/10"
        )
        yield Finding("error", "firewall", cause)
    by_way: dict[str, list[str]] = {}
    for address, where in sorted(found.astray.items()):
        by_way.setdefault(where, []).append(address)
    for where, astray in sorted(by_way.items()):
        more = f" and {len(astray) - 1} more" if len(astray) > 1 else ""
        cause = (
            f"what is for other sites ({astray[0]}{more}) goes {where}, by a rule of this host that is asked before "
            "skedge's own (see `ip rule`); let the program that made it (a VPN: its exit node, or peers with sites' "
            "addresses) leave them out, or give it a number above 7400 (NetBird: NB_USE_LEGACY_ROUTING=true)"
        )
        yield Finding("error", "way to sites", cause)


def _strays(look: Look) -> Iterator[Finding]:
    """Yield the links that leave by another device than the one that has their local address."""
    for name, device in sorted(look.desired.links.items()):
        away = look.applied.strays.get(device.mark) if device.mark else None
        if away is not None:
            cause = (
                f"leaves by {away}, which does not have its local {look.desired.uplinks.get(name, '')}: this host has "
                "no other route to the far end; add one (ip rule from that address to a table with the uplink's "
                "gateway), or both links fail with one uplink"
            )
            yield Finding("warning", f"link {device.link}", cause)


def _marks(look: Look) -> Iterator[Finding]:
    """Yield the marks by which the host routes packets, but not those of flows."""
    if not look.state.config.lan.devices or not ABILITIES[look.state.config.engine].off_host:
        return
    for mark, table in sorted(look.applied.surroundings.marked.items()):
        cause = (
            f"a rule of this host leads packets with it to table {table}; what netfilter marks in prerouting does not "
            "take flows' packets there, as they are routed before. A rule by address does, and so does the mark of a "
            "tc filter (Linux 6.10 and later)"
        )
        yield Finding("info", f"mark {mark}", cause)


def _kernel(look: Look) -> Iterator[Finding]:
    for key, text in sorted(look.applied.failed.items()):
        yield Finding("error", key, text)


def _drift(look: Look) -> Iterator[Finding]:
    """Yield one finding for each kind of object that others changed of late: also that it keeps happening."""
    for kind, told in sorted(look.applied.recent.items()):
        recent = [(at, drift) for at, drift in told if look.now - at < RECENT_S]
        if not recent:
            continue
        (at, drift), again = recent[-1], len(recent) - 1
        often = f", and {again} more such changes in ten minutes" if again else ""
        cause = f"{drift} by somebody else {look.now - at:.0f} s ago, and was put back{often}"
        yield Finding("warning", f"drift {kind}", f"{cause}; {_CULPRITS.get(kind, _ANY_CULPRIT)}")


def _waiting(look: Look) -> Iterator[Finding]:
    for key, text in sorted(look.applied.waiting.items()):
        yield Finding("warning", key, text)


def _refusals(look: Look) -> Iterator[Finding]:
    last = {(reason, text): at for at, reason, text in look.refusals}
    for (reason, text), at in last.items():
        if look.now - at < REFUSAL_S:
            yield Finding("warning", f"control {reason.word}", text)
