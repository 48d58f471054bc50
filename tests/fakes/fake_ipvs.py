"""IPVS in memory: virtual services and real servers, with the kernel's scheduler and counters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from skedge.core.errors import DataplaneError
from skedge.core.objects import ListenerKey, Target
from skedge.core.placement.ipvs_weights import pick
from skedge.dataplane.ipvs.procfs import MARK, MARK_MASK, Found, RealServer, VirtualService


@dataclass
class FakeIpvs:
    """`ipvs_table.Table`. ``cut`` counts connections that ended because their server or service was removed."""

    ours: dict[int, dict[Target, RealServer]] = field(default_factory=dict)
    persistent: dict[int, int] = field(default_factory=dict)
    others: set[ListenerKey] = field(default_factory=set)
    given: dict[tuple[int, Target], int] = field(default_factory=dict)
    writes: int = 0
    cut: int = 0
    broken: bool = False
    refused: set[int] = field(default_factory=set)

    def read(self) -> Found:
        if self.broken:
            raise DataplaneError("read /proc/net/ip_vs: refused")
        made = {
            mark: VirtualService(bool(self.persistent[mark]), dict(servers))
            for mark, servers in self.ours.items()
            if mark & MARK_MASK == MARK
        }
        return Found(made, frozenset(self.others))

    def foreign(self, keys: Collection[ListenerKey]) -> frozenset[ListenerKey]:
        return frozenset(keys) & self.others

    def put_service(self, mark: int, persistent_s: int) -> None:
        self._write()
        self.ours.setdefault(mark, {})
        self.persistent[mark] = persistent_s

    def delete_service(self, mark: int) -> None:
        self._write()
        self.cut += sum(one.active for one in self.ours.pop(mark, {}).values())

    def put_server(self, mark: int, target: Target, weight: int) -> None:
        self._write()
        if mark in self.refused:
            raise DataplaneError(f"real server of {mark:#x}: refused")
        servers = self._service(mark)
        assert 0 <= weight < 2**31
        servers[target] = replace(servers.get(target, RealServer(0)), weight=weight)

    def delete_server(self, mark: int, target: Target) -> None:
        self._write()
        gone = self._service(mark).pop(target, None)
        self.cut += gone.active if gone else 0

    def chosen(self, mark: int) -> Mapping[Target, int]:
        return {target: self.given.get((mark, target), 0) for target in self._service(mark)}

    def _write(self) -> None:
        if self.broken:
            raise DataplaneError("virtual service: refused")
        self.writes += 1

    def _service(self, mark: int) -> dict[Target, RealServer]:
        if mark not in self.ours:
            raise DataplaneError(f"no virtual service {mark:#x}")
        return self.ours[mark]

    # ---- traffic ----

    def connect(self, mark: int, *, udp: bool = False) -> Target | None:
        """Open one connection, or one flow of UDP, which never is active; None is refused."""
        servers = self._service(mark)
        rows = list(servers.items())
        chosen = pick(
            [one.weight for _, one in rows], [one.active for _, one in rows], [one.inactive for _, one in rows]
        )
        if chosen is None:
            return None
        target, server = rows[chosen]
        more = {"inactive": server.inactive + 1} if udp else {"active": server.active + 1}
        servers[target] = replace(server, **more)
        self.given[mark, target] = self.given.get((mark, target), 0) + 1
        return target

    def close(self, mark: int, target: Target, *, forgotten: bool = False) -> None:
        """Close one connection; the kernel counts it as inactive until it forgets it."""
        server = self._service(mark)[target]
        inactive = server.inactive + (0 if forgotten else 1)
        self.ours[mark][target] = replace(server, active=server.active - 1, inactive=inactive)

    def forget(self, mark: int) -> None:
        self.ours[mark] = {target: replace(one, inactive=0) for target, one in self.ours[mark].items()}

    def weights(self, mark: int) -> Mapping[Target, int]:
        return {target: one.weight for target, one in self.ours[mark].items()}
