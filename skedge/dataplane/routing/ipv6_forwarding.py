"""IPv6 between links, where the kernel has one switch for the whole host.

IPv4 is forwarded by what the arriving device says, and since Linux 6.17 IPv6 may be too (``force_forwarding``): the
link driver sets that on our devices and the host's own switches are left alone. Before 6.17 a site that passes IPv6
on needs ``net.ipv6.conf.all.forwarding=1``, which would make the host a router between all of its devices, and deaf
to router advertisements. So where it was off, and only there:

* every device that listens to advertisements goes on listening (``accept_ra=2``), set before the switch;
* the devices that nothing was forwarded between are closed to each other by `ForwardGuard`, before the switch. Bridges
  of container and virtual machine software are left out, and so are devices of theirs that come later: that software
  throws the switch itself when it needs it, and must find that it works.

What was changed is kept in a file for this boot and this network namespace; `undo` takes it back. A host whose
operator has the switch on already is not touched and not guarded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skedge.core.errors import DataplaneError
from skedge.core.names import PREFIX
from skedge.dataplane.host.netlink import Netlink, per_device_forwarding6, read_sysctl6, set_sysctl6, sysctl6_devices
from skedge.dataplane.host.state_file import where
from skedge.dataplane.links.device import kind

MEMORY = "forwarding.json"
KEY, ON = "ipv6", "on"
_IFF_LOOPBACK = 0x8
_LASTING = ("", "vlan", "bond", "team")  # hardware and what stands on it; others may be a container's


@dataclass(frozen=True)
class Switched:
    """What was changed with the host's switch: devices that were closed, that listen now, that had forwarding on."""

    where: str
    closed: tuple[str, ...] = ()
    listening: tuple[str, ...] = ()
    forwarding: tuple[str, ...] = ()


class ForwardingDriver:
    """Driver[str, str]: the host's switch, ``ipv6`` -> ``on``, where skedge threw it. ``memory``: what was changed."""

    def __init__(self, netlink: Netlink, memory: Path) -> None:
        self._netlink = netlink
        self._memory = memory

    def wanted(self, held: Mapping[str, str], *, transit: bool) -> Mapping[str, str]:
        """Return what should be: ``on`` for a site that passes packets on, where the host's switch is off.

        What skedge threw once stays, for as long as the host is up.
        """
        return {KEY: ON} if transit and self._off() else held

    def closed(self, *, transit: bool) -> frozenset[str]:
        """Return the devices to be closed to each other, with the switch as it is about to be.

        Those of the moment when it was thrown, and hardware that came later (a slow card, a new one).
        """
        known = self._saved()
        if transit and self._off():
            known = self._prospect(known)
        if known is None:
            return frozenset()
        return frozenset(known.closed) | lasting(self._netlink.dump("links"))

    @staticmethod
    def _off() -> bool:
        return not per_device_forwarding6() and read_sysctl6("all", "forwarding") == "0"

    def read(self) -> Mapping[str, str]:
        """Return the switch, if it is on and was thrown by skedge. Raises DataplaneError."""
        thrown = self._saved() is not None and read_sysctl6("all", "forwarding") == "1"
        return {KEY: ON} if thrown else {}

    def thrown(self) -> Mapping[str, str]:
        """Return what there is to take back, also where somebody has switched it off since. Raises DataplaneError."""
        return {KEY: ON} if self._saved() is not None else {}

    def put(self, key: str, value: str) -> None:
        """Throw the switch; the chain that closes devices must be there. Raises DataplaneError."""
        if (key, value) != (KEY, ON):
            raise DataplaneError(f"forwarding: {key} {value} is not {KEY} {ON}")
        known = self._prospect(self._saved())
        self._save(known)
        for device in known.listening:
            _set_if_there(device, "accept_ra", 2)
        set_sysctl6("all", "forwarding", 1)

    def delete(self, key: str) -> None:
        """Take back what was changed with the switch, if it was ours. Raises DataplaneError."""
        known = self._saved()
        if known is None or key != KEY:
            return
        set_sysctl6("all", "forwarding", 0)
        for device in known.listening:
            if read_sysctl6(device, "accept_ra") == "2":
                set_sysctl6(device, "accept_ra", 1)
        for device in known.forwarding:
            _set_if_there(device, "forwarding", 1)
        try:
            self._memory.unlink(missing_ok=True)
        except OSError as error:
            raise DataplaneError(f"remove {self._memory}: {error.strerror}") from error

    def _saved(self) -> Switched | None:
        try:
            data = json.loads(self._memory.read_text(encoding="utf-8"))
            found = Switched(data["where"], *(tuple(data[key]) for key in ("closed", "listening", "forwarding")))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataplaneError(f"read {self._memory}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError):
            return None  # damaged: as if the operator had thrown the switch
        return found if found.where == where() else None

    def _prospect(self, known: Switched | None) -> Switched:
        """Return what is about to be changed, together with what was (the switch may have been thrown back)."""
        before = known or Switched("")
        links = self._netlink.dump("links")
        listening = {d for d in _host_devices() if _says(d, accept_ra="1", forwarding="0")}
        forwarding = {d for d in _host_devices() if _says(d, forwarding="1")}
        return Switched(
            where(),
            tuple(sorted({*before.closed, *outward(links)})),
            tuple(sorted({*before.listening, *listening})),
            before.forwarding if known else tuple(sorted(forwarding)),
        )

    def _save(self, known: Switched) -> None:
        new = self._memory.with_suffix(".new")
        try:
            new.write_text(json.dumps(asdict(known)) + "\n", encoding="utf-8")
            new.replace(self._memory)
        except OSError as error:
            raise DataplaneError(f"write {self._memory}: {error.strerror}; IPv6 is not passed on") from error


def outward(links: Sequence[Any]) -> frozenset[str]:
    """Return the devices of the host that are neither ours nor a bridge with no hardware in it."""
    hardware = {link.get_attr("IFLA_MASTER") for link in links if kind(link) in _LASTING}
    return frozenset(
        name for name, link in _named(links).items() if kind(link) != "bridge" or link["index"] in hardware
    )


def lasting(links: Sequence[Any]) -> frozenset[str]:
    """Return the devices that are hardware or stand on it alone."""
    return frozenset(name for name, link in _named(links).items() if kind(link) in _LASTING)


def _named(links: Sequence[Any]) -> Mapping[str, Any]:
    names = {str(link.get_attr("IFLA_IFNAME")): link for link in links if not link["flags"] & _IFF_LOOPBACK}
    return {name: link for name, link in names.items() if not name.startswith(PREFIX)}


def _host_devices() -> list[str]:
    """Return what has settings and is the host's: its devices, and ``default`` for those to come."""
    return [name for name in sysctl6_devices() if name not in ("all", "lo") and not name.startswith(PREFIX)]


def _says(device: str, **settings: str) -> bool:
    return all(read_sysctl6(device, name) == value for name, value in settings.items())


def _set_if_there(device: str, name: str, value: int) -> None:
    if read_sysctl6(device, name) is not None:
        set_sysctl6(device, name, value)
