"""What is left of the engine that served before the one of now: it places nothing new, and carries what is open.

From eBPF, flows of the LAN are translated by its packet programs; sockets that it placed need no program. From IPVS,
connections are in its own table and in the kernel's connection tracking, which translates them by itself as long as
there is any chain that does so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Protocol

from skedge.core import model
from skedge.core.errors import DataplaneError
from skedge.core.names import PREFIX
from skedge.core.objects import ListenerKey
from skedge.dataplane.bpf import pins
from skedge.dataplane.bpf.programs import PROGRAMS
from skedge.dataplane.ebpf.lan import devices as lan_devices
from skedge.dataplane.ebpf.lan.flow_table import FlowTable
from skedge.dataplane.ebpf.lan.layout_flow import FlowBits, Kind
from skedge.dataplane.ebpf.maps import Maps
from skedge.dataplane.ebpf.packet_check import LEFT, PacketCheck
from skedge.dataplane.host import sock_diag
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.ipvs import chains, marks, names_file, purge
from skedge.dataplane.ipvs.procfs import PROC, Found
from skedge.dataplane.ipvs.table import KernelTable
from skedge.dataplane.ipvs.weight_loop import FAMILIES, target_of
from skedge.dataplane.nftables import default_deny, notrack, syntax
from skedge.dataplane.nftables.accepted import AcceptedDriver
from skedge.dataplane.nftables.chain_groups import adding, base
from skedge.dataplane.nftables.syntax import ACCEPT, match
from skedge.dataplane.nftables.table import NftTable

_ESTABLISHED_TO_CLOSING = sum(
    1 << state for state in range(1, 12) if state not in (6, 7, 10)
)  # no TIME_WAIT, no LISTEN
_NAME = "engine ipvs"
_PARTS = ("map", "chain", "set", "counter")  # in the order in which they may go: referring ones first


class RetiredEngine(Protocol):
    """One engine's rest."""

    name: str

    def hand_over(self, listeners: Collection[ListenerKey]) -> None:
        """Place nothing new and check nothing any more; what is open goes on. Raises DataplaneError."""
        ...

    def open(self) -> int:
        """Return how many connections would end with it. Raises DataplaneError."""
        ...

    def remove(self) -> None:
        """Take it out of the kernel. Raises DataplaneError."""
        ...


class RetiredEbpf:
    """Programs and maps in ``pin_dir``, which the loader has lent to the controller."""

    name = "ebpf"

    def __init__(self, pin_dir: Path, netlink: Netlink) -> None:
        self._pins, self._netlink = pin_dir, netlink
        self._check = PacketCheck(str(pin_dir), netlink)

    @staticmethod
    def found(pin_dir: Path) -> bool:
        """Return whether there is anything."""
        return (pin_dir / pins.FIRST).exists()

    def hand_over(self, listeners: Collection[ListenerKey]) -> None:  # noqa: ARG002  (one shape for both)
        """Take the listeners away, but not the marks of their ports: by those, packets of flows are found."""
        maps = Maps(str(self._pins))
        try:
            for key in maps.listeners():
                maps.delete_listener(key)
        finally:
            maps.close()
        self._check.give_way()

    def open(self) -> int:
        """Return the number of flows that are translated; a client's connection to a socket of this host is not."""
        return sum(
            one.forward.kind != Kind.LOCAL and not one.forward.state & FlowBits.ENDED
            for one in FlowTable(str(self._pins)).records()
        )

    def remove(self) -> None:
        """Take the programs off all devices, then off the cgroup, then the chains and the pins away."""
        for name in lan_devices.attached(self._netlink):
            lan_devices.detach(self._netlink, name)
        for index, name in self._netlink.names().items():
            if name.startswith(PREFIX):
                self._check.detach(index)
        for name in (accepted := AcceptedDriver()).names():
            accepted.remove(name)
        pins.remove_all(self._pins, PROGRAMS)


class RetiredIpvs:
    """Virtual services, nftables chains and settings; ``state`` has the engine's memory, ``check`` is eBPF's."""

    name = "ipvs"

    def __init__(self, state: Path, overlays: Iterable[str], check: PacketCheck, table: NftTable | None = None) -> None:
        self._state, self._check, self._nft = state, check, table or NftTable()
        self._overlays = [ip_network(one) for one in overlays]
        check.beside = LEFT

    @staticmethod
    def found(state: Path, table: NftTable | None = None) -> bool:
        """Return whether there is anything."""
        with suppress(DataplaneError):  # what cannot even be looked at serves nobody
            items = (table or NftTable()).items(_NAME)
            chained = any(kind == "chain" and value["name"] == default_deny.CHAIN for kind, value in items)
            return chained or bool(purge.found(state))
        return False

    def hand_over(self, listeners: Collection[ListenerKey]) -> None:
        """Empty the chains, in one step with leaving packets that open a connection notracked (see `notrack`).

        The chains stay, with one rule that changes nothing: the kernel translates only where there is a chain of type
        nat, and tracks only where a rule asks for it.
        """
        asking = [match({"ct": {"key": "state"}}, "established", "in"), ACCEPT]
        items = self._nft.fresh(_NAME)
        emptied = [
            _flush(kind, name)
            for kind, name in self._ours()
            if kind == "map" or (kind == "chain" and not name.startswith(marks.TO))
        ]
        sources = adding(base(chains.SOURCES, "nat", "postrouting", chains.SOURCES_PRIORITY))
        asks = syntax.rule(chains.SOURCES, asking)
        notracked = notrack.OWNED.writing(notrack.OWNED.find(items), notrack.group(listeners, opening=True))
        self._nft.change(_NAME, [*emptied, sources, asks, *notracked])
        self._weaken()

    def _weaken(self) -> None:
        """Let no service choose a workload of another site, which nobody would translate for any more.

        Only a service that is known by its address (`affinity: client`) is still asked at all: for a client of the LAN
        that eBPF has led to a workload here.
        """
        candidates = [one for table in self._memory().tables.values() for one in table.candidates if one.own_site]
        here = {target_of(one, family) for one in candidates for family in FAMILIES}
        table, found = self._table()
        for mark, service in found.ours.items():
            for target, server in service.servers.items():
                if server.weight and target not in here:
                    table.put_server(mark, target, 0)

    def open(self) -> int:
        """Return the number of connections that IPVS has, and of those of other sites that are translated."""
        servers = [server for one in self._table()[1].ours.values() for server in one.servers.values()]
        return sum(one.active + one.inactive for one in servers) + self._delivered()

    def _table(self) -> tuple[KernelTable, Found]:
        table = KernelTable(self._memory().places)
        return table, table.read() if PROC.exists() else Found()

    def _memory(self) -> names_file.Memory:
        return names_file.load(self._state / names_file.FILE)

    def _delivered(self) -> int:
        """Count the sockets of workloads with a site at the far end: eBPF's have the endpoint's port."""
        ports = {to.port for key, to in self._memory().endpoints.items() if key.protocol is model.Protocol.TCP}
        found = [one for port in ports for one in sock_diag.dump(model.Protocol.TCP, _ESTABLISHED_TO_CLOSING, port)]
        return sum(self._in_overlay(one.remote.address) for one in found)

    def _in_overlay(self, text: str) -> bool:
        address = ip_address(text)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any((mapped or address) in network for network in self._overlays)

    def remove(self) -> None:
        """Take services, chains and settings away, and the memory of them last."""
        ours = sorted(self._ours(), key=lambda one: _PARTS.index(one[0]))
        emptied = [_flush(*one) for one in ours if one[0] in ("chain", "map")]
        self._nft.change(_NAME, [*emptied, *(syntax.delete(*one) for one in ours)])
        for key in purge.found(self._state):
            purge.remove(key, self._state)
        self._check.beside = 0

    def _ours(self) -> list[tuple[str, str]]:
        """Return kind and name of what this engine has in our table."""
        owned = (chains.OWNED, default_deny.OWNED)
        names = {name for one in owned for name in (*one.chains, *one.sets)}
        return [
            (kind, str(value["name"]))
            for kind, value in self._nft.fresh(_NAME)
            if kind in _PARTS
            and (
                value["name"] in names
                or (kind == "chain" and value["name"].startswith(marks.TO))
                or (kind == "counter" and value["name"].startswith(default_deny.COUNTER))
            )
        ]


def _flush(kind: str, name: str) -> dict[str, Any]:
    return {"flush": {kind: {**syntax.PLACE, "name": name}}}
