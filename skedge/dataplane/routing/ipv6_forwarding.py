"""IPv6 between links, where the kernel has one switch for the whole host.

IPv4 is forwarded by what the arriving device says, and since Linux 6.17 IPv6 may be too (``force_forwarding``): the
link driver sets that on our devices and the host's own switches are left alone. Before 6.17 a site that passes IPv6
on needs ``net.ipv6.conf.all.forwarding=1``, which would make the host a router between all of its devices, and deaf
to router advertisements. So where it was off, and only there:

* every device that listens to advertisements goes on listening (``accept_ra=2``), set before the switch;
* the devices that nothing was forwarded between are closed to each other by `forward_guard`, before the switch. Bridges
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

from skedge.core.engine import Driver
from skedge.core.errors import DataplaneError
from skedge.core.names import PREFIX
from skedge.core.objects import ChainGroup
from skedge.dataplane.host.netlink import Netlink, per_device_forwarding6, read_sysctl6, set_sysctl6, sysctl6_devices
from skedge.dataplane.host.state_file import where
from skedge.dataplane.links.device import kind
from skedge.dataplane.nftables import forward_guard

MEMORY = "forwarding.json"
_IFF_LOOPBACK = 0x8
_LASTING = ("", "vlan", "bond", "team")  # hardware and what stands on it; others may be a container's


@dataclass(frozen=True)
class Switched:
    """What was changed with the host's switch: devices that were closed, that listen now, that had forwarding on."""

    where: str
    closed: tuple[str, ...] = ()
    listening: tuple[str, ...] = ()
    forwarding: tuple[str, ...] = ()


class Forwarding:
    """The switch of one host and its guard, one of ``chains``. ``memory`` is the file that says what was changed."""

    def __init__(self, netlink: Netlink, chains: Driver[str, ChainGroup], memory: Path) -> None:
        self._netlink = netlink
        self._chains = chains
        self._memory = memory

    def wanted(self, *, transit: bool) -> Mapping[str, ChainGroup]:
        """Return the guard as `ensure` would write it; nothing is changed."""
        known = self._remembered()
        if _switches(transit=transit):
            known = self._changing(known)
        return {forward_guard.NAME: forward_guard.group(self._closed(known))}

    def ensure(self, *, transit: bool) -> bool:
        """Write the guard and, for a site that passes packets on, see that the kernel forwards; return if it changed.

        Raises:
            DataplaneError: the kernel or the file's directory refused.
        """
        known = self._remembered()
        switch = _switches(transit=transit)
        if switch:
            known = self._remember(known)
        chain = forward_guard.group(self._closed(known))
        guard = self._chains.read().get(forward_guard.NAME) != chain
        if guard:
            self._chains.put(forward_guard.NAME, chain)
        if switch and known is not None:
            for device in known.listening:
                _set_if_there(device, "accept_ra", 2)
            set_sysctl6("all", "forwarding", 1)
        return guard or switch

    def undo(self) -> bool:
        """Take back what was changed with the switch, if it was ours; return whether it was."""
        known = self._remembered()
        if known is None:
            return False
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
        return True

    def _closed(self, known: Switched | None) -> frozenset[str]:
        """Return the closed devices: those of then, and hardware that came later (a slow card, a new one)."""
        if known is None:
            return frozenset()
        return frozenset(known.closed) | lasting(self._netlink.dump("links"))

    def _remembered(self) -> Switched | None:
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

    def _changing(self, known: Switched | None) -> Switched:
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

    def _remember(self, known: Switched | None) -> Switched:
        made = self._changing(known)
        new = self._memory.with_suffix(".new")
        try:
            new.write_text(json.dumps(asdict(made)) + "\n", encoding="utf-8")
            new.replace(self._memory)
        except OSError as error:
            raise DataplaneError(f"write {self._memory}: {error.strerror}; IPv6 is not passed on") from error
        return made


def _switches(*, transit: bool) -> bool:
    """Return whether the host's switch is off and must be on."""
    return transit and not per_device_forwarding6() and read_sysctl6("all", "forwarding") == "0"


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
