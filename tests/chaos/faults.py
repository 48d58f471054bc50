"""The faults: how each is made and mended, and what clients may see of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from skedge.dataplane.host.netlink import TABLE
from tests.chaos import network
from tests.chaos.measure import Bounds
from tests.chaos.network import inside
from tests.lab import net, traffic
from tests.lab.image import base_image
from tests.lab.lab import Lab
from tests.lab.sh import run, unmount

Act = Callable[[Lab], object]
UNSEEN = Bounds(failed=0, lost=0, stall=0.45, again=0.45, served=1.6)  # a SYN that is lost is sent again after 1 s
OUTAGE_S = 5.0
ANSWERED_AGAIN_S = 1.0  # after the path is back
REPAIR_S = 2.0  # of what somebody else changed
SEEN_DEAD = 20  # connects of the pool to a site that has lost power, until it is known
SEEN_STOPPED = 8  # the same of a process that has ended


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: what happens.
        make: makes it.
        mend: takes it back; nothing where it ends by itself.
        lasts: seconds from the one to the other.
        bounds: by service, what its clients may see.
    """

    name: str
    make: Act
    mend: Act = bool
    lasts: float = 2.0
    bounds: Mapping[str, Bounds] = field(default_factory=lambda: {"web": UNSEEN, "pool": UNSEEN})


def both(one: Bounds) -> Mapping[str, Bounds]:
    """Return the same bounds for the clients of both services."""
    return dict.fromkeys(network.SERVED, one)


# ---- links -----------------------------------------------------------------------------------------------------


def cut(one: str, other: str, lab: Lab) -> None:
    """Drop everything between two hosts, with carrier at both ends."""
    net.cut(lab.plan, one, other)


def heal(one: str, other: str, lab: Lab) -> None:
    """Take back what is between two hosts."""
    net.heal(lab.plan, one, other)


def lose(percent: int, lab: Lab) -> None:
    """Lose a share of the packets on the link in use."""
    net.lose(lab.plan, network.ENTRY, "edge-b", percent)


def cut_all(lab: Lab) -> None:
    """Leave the clients' site no way out."""
    for far in ("edge-b", "edge-c"):
        cut(network.ENTRY, far, lab)


def heal_all(lab: Lab) -> None:
    """Take that back."""
    for far in ("edge-b", "edge-c"):
        heal(network.ENTRY, far, lab)


def underlay(state: str, host: str, far: str, lab: Lab) -> None:
    """Set the device below a link up or down; what is down loses its carrier at neither end of the tunnel."""
    inside(lab, host, "ip", "link", "set", f"u-{far}", state)


def tunnel(command: str, host: str, far: str, lab: Lab) -> None:
    """Do something to the device of a link: what ``ip link`` takes after its name, or ``delete``."""
    rows = json.loads(lab.ssh(host, "skedge show links --json").stdout)
    device = next(row["device"] for row in rows["links"] if row["to"] == far)
    inside(lab, host, "ip", "link", *(["del", device] if command == "delete" else ["set", device, command]))


# ---- hosts and their programs ----------------------------------------------------------------------------------


def kill_controller(host: str, lab: Lab) -> None:
    """Kill a controller as the kernel would; systemd starts it again."""
    lab.ssh(host, "systemctl kill --signal=KILL skedge")


def kill_server(host: str, lab: Lab) -> None:
    """Kill the pool's server at a host."""
    traffic.stop_server(lab, host, network.SERVER_PORT["pool"])


def start_servers(host: str, lab: Lab) -> None:
    """Start what a host serves."""
    network.start_servers(lab, host)


def pull_plug(host: str, lab: Lab) -> None:
    """Take a host's power: nothing of it says goodbye."""
    for port in net.ports(lab.plan, host):
        run("ip", "-n", lab.plan.switch, "link", "del", port)
    lab.host(host).kill()


def boot(host: str, lab: Lab) -> None:
    """Boot a host that has lost its power, and what it serves."""
    machine = lab.host(host)
    unmount(machine.bpffs)
    net.reset_host(lab.plan, host)
    machine.mount(base_image(lab.plan.suite(host)))
    machine.start()
    lab.wait(machine)
    network.start_servers(lab, host)


def busy(host: str, lab: Lab) -> None:
    """Give a host more to compute than it has processors, for a while."""
    lab.ssh(host, "for i in 1 2 3 4; do systemd-run -q timeout 4 sh -c 'while :; do :; done'; done")


# ---- other agents ----------------------------------------------------------------------------------------------


def flush_rules(host: str, lab: Lab) -> None:
    """Take every nft rule away, as a firewall that is loaded again does."""
    inside(lab, host, "nft", "flush", "ruleset")


def flush_routes(host: str, lab: Lab) -> None:
    """Take all of our routes away."""
    for family in ("-4", "-6"):
        inside(lab, host, "ip", family, "route", "flush", "table", str(TABLE), check=False)


FAULTS = (
    Fault("silent cut, first link", partial(cut, "edge-a", "edge-b"), partial(heal, "edge-a", "edge-b")),
    Fault("silent cut, second link", partial(cut, "edge-b", "edge-d"), partial(heal, "edge-b", "edge-d")),
    Fault(
        "underlay down at the clients' site",
        partial(underlay, "down", "edge-a", "edge-b"),
        partial(underlay, "up", "edge-a", "edge-b"),
    ),
    Fault(
        "underlay down at the serving site",
        partial(underlay, "down", "edge-d", "edge-b"),
        partial(underlay, "up", "edge-d", "edge-b"),
    ),
    Fault("tunnel set down at the clients' site", partial(tunnel, "down", "edge-a", "edge-b")),
    Fault("tunnel deleted at the transit site", partial(tunnel, "delete", "edge-b", "edge-d")),
    Fault(
        "no way out for 5 s",
        cut_all,
        heal_all,
        OUTAGE_S,
        both(Bounds(failed=None, stall=OUTAGE_S + ANSWERED_AGAIN_S)),
    ),
    Fault(
        "10 % of packets lost",
        partial(lose, 10),
        partial(heal, "edge-a", "edge-b"),
        5.0,
        both(Bounds()),
    ),
    Fault("controller of the clients' site killed", partial(kill_controller, "edge-a")),
    Fault("controller of the transit site killed", partial(kill_controller, "edge-b")),
    Fault("controller of the serving site killed", partial(kill_controller, "edge-d")),
    Fault("rules flushed at the clients' site", partial(flush_rules, "edge-a")),
    Fault("rules flushed at the serving site", partial(flush_rules, "edge-d")),
    Fault(
        "routes flushed at the clients' site",
        partial(flush_routes, "edge-a"),
        bounds=both(Bounds(failed=None, stall=REPAIR_S, again=REPAIR_S)),
    ),
    Fault("processors busy at the clients' site", partial(busy, "edge-a"), bounds=both(Bounds())),
    Fault(
        "server of the pool killed",
        partial(kill_server, "edge-b"),
        partial(start_servers, "edge-b"),
        bounds={"web": UNSEEN, "pool": Bounds(failed=SEEN_STOPPED, lost=None, stall=0.45, again=0.45)},
    ),
    Fault(
        "power lost at the transit site",
        partial(pull_plug, "edge-b"),
        partial(boot, "edge-b"),
        bounds={"web": UNSEEN, "pool": Bounds(failed=SEEN_DEAD, lost=None, again=0.45)},
    ),
)
