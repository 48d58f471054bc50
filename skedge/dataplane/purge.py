"""Removing everything of ours from the kernel's network state: what `skedge purge` does. Pins are the loader's."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from pathlib import Path

from skedge.core.errors import DataplaneError, ExitCode, SkedgeError
from skedge.dataplane.ebpf.lan import devices as lan_devices
from skedge.dataplane.host.netlink import Netlink, kernel_errors
from skedge.dataplane.host.sysctls import LoopSettingDriver
from skedge.dataplane.ipvs import purge as ipvs_purge
from skedge.dataplane.links.device import is_ours
from skedge.dataplane.nftables.accepted import AcceptedDriver
from skedge.dataplane.nftables.table import NftTable
from skedge.dataplane.routing.addresses import AddressDriver
from skedge.dataplane.routing.ipv6_forwarding import MEMORY, ForwardingDriver
from skedge.dataplane.routing.routes import RouteDriver
from skedge.dataplane.routing.rules import RuleDriver
from skedge.dataplane.routing.uplinks import UplinkDriver

STATE_DIR = Path("/var/lib/skedge")


@dataclass(frozen=True, slots=True)
class Row:
    """One kind that is known to be ours by itself, without configuration and pins."""

    name: str
    found: Callable[[], Iterable[str]]
    delete: Callable[[str], object]


def rows(
    netlink: Netlink,
    overlay: Iterable[str],
    state: Path,
    table: NftTable | None = None,
    accepted: AcceptedDriver | None = None,
) -> tuple[Row, ...]:
    """Return the rows of the registry that `purge` removes, in the order of removal.

    Packets come in no more before the check goes, and the chain that closes devices goes after the switch.
    """
    nft, asked = table or NftTable(), accepted or AcceptedDriver()
    routes, rules, addresses = RouteDriver(netlink), RuleDriver(netlink), AddressDriver(netlink, overlay)
    uplinks = UplinkDriver(netlink)
    loop, forwarding = LoopSettingDriver(), ForwardingDriver(netlink, state / MEMORY)
    return (
        Row("route", routes.read, routes.delete),
        Row("rule", rules.read, rules.delete),
        Row("uplink", lambda: map(str, uplinks.read()), lambda mark: uplinks.delete(int(mark))),
        Row("setting", lambda: loop.read() if lan_devices.looped() else (), loop.delete),
        Row("lan", lambda: lan_devices.attached(netlink), partial(lan_devices.detach, netlink)),
        Row("device", lambda: _devices(netlink), partial(_delete_device, netlink)),
        Row("address", addresses.read, addresses.delete),
        Row("forwarding", forwarding.thrown, forwarding.delete),
        Row("engine ipvs", lambda: ipvs_purge.found(state), lambda key: ipvs_purge.remove(key, state)),
        Row("accepted", asked.names, asked.remove),
        Row("table", nft.names, lambda _: nft.remove()),
    )


def purge(netlink: Netlink, overlay: tuple[str, ...] = (), state: Path = STATE_DIR) -> list[str]:
    """Remove all that is ours but the pins; return what was removed, one word pair each.

    Each is tried even when another fails. ``overlay``: networks in which unmarked addresses on ``lo`` are ours.
    ``state``: the controller's directory, where it says whether it threw the host's switch for IPv6.

    Raises:
        DataplaneError: with all failures in one sentence, after everything was tried.
    """
    removed: list[str] = []
    failed: list[str] = []
    for row in rows(netlink, overlay, state):
        try:
            found = list(row.found())
        except DataplaneError as error:
            failed.append(str(error))
            continue
        for key in found:
            try:
                row.delete(key)
                removed.append(f"{row.name} {key}")
            except DataplaneError as error:
                failed.append(str(error))
    if failed:
        raise DataplaneError("; ".join(failed))
    return removed


def _devices(netlink: Netlink) -> list[str]:
    return [str(link.get_attr("IFLA_IFNAME")) for link in netlink.dump("links") if is_ours(link)]


def _delete_device(netlink: Netlink, name: str) -> None:
    index = netlink.index(name)
    if index is not None:
        with kernel_errors(f"remove device {name}"):
            netlink.ipr.link("del", index=index)


def main(argv: Sequence[str] | None = None) -> int:
    """Purge and print what was removed, one a line; a failure is one sentence on stderr and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m skedge.dataplane.purge", description="Remove skedge's links, routes, rules and addresses."
    )
    parser.add_argument(
        "--overlay", action="append", default=[], metavar="NETWORK", help="unmarked addresses on lo inside it are ours"
    )
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR, metavar="DIR", help="the controller's own")
    arguments = parser.parse_args(argv)
    try:
        overlay = tuple(str(ip_network(text)) for text in arguments.overlay)
        for line in purge(Netlink(), overlay, arguments.state_dir):
            print(line)
    except (SkedgeError, ValueError) as error:
        print(f"purge: {error}", file=sys.stderr)
        return int(ExitCode.FAILED)
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
