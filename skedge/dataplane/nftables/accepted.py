"""What the host's own input rules let through, of what the LAN programs ask them about (`bpf/nat/admission/ask.h`).

One chain in each of the families ip and ip6 (there is no ``dup`` in inet), behind every rule of the host: a packet that
comes so far was accepted. A copy goes over ``lo`` to our program there, which makes the flow; the packet itself is
dropped, so no socket of the host gets it. One that comes again by ``lo`` found no program there and is dropped, too.

While a chain is gone nothing is asked in vain: the packet ends at the host's own stack, which refuses it. Connections
that are open do not come by here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from skedge.core.objects import ChainGroup
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver, Owned, base
from skedge.dataplane.nftables.syntax import ASKED, DROP, match, meant
from skedge.dataplane.nftables.table import NftTable

NAME, CHAIN = "accepted", "accepted"
OWNED = Owned(NAME, (CHAIN,), exact=True)
LOOPBACK = {"ip": "127.0.0.1", "ip6": "::1"}
LAST = (1 << 31) - 2  # behind everybody's; before connection tracking takes in what was accepted


class AcceptedDriver:
    """Driver[str, ChainGroup]: family of nftables -> our chain in it. A table of ours that is empty goes with it."""

    def __init__(self, make: Callable[[str], NftTable] = lambda family: NftTable(family=family)) -> None:
        self._tables = {family: make(family) for family in LOOPBACK}
        self._chains = {family: ChainGroupDriver(table, OWNED) for family, table in self._tables.items()}

    def read(self) -> Mapping[str, ChainGroup]:
        """Return the chains that are there. Raises DataplaneError."""
        found = {family: driver.read().get(NAME) for family, driver in self._chains.items()}
        return {family: one for family, one in found.items() if one is not None}

    def put(self, key: str, value: ChainGroup) -> None:
        """Write a chain, in one change from what it was. Raises DataplaneError."""
        self._chains[key].put(NAME, value)

    def delete(self, key: str) -> None:
        """Remove a chain with its table; one that is gone is success. Raises DataplaneError."""
        self._tables[key].remove()

    def names(self) -> list[str]:
        """Return the tables that are there, for `purge`. Raises DataplaneError."""
        return [name for table in self._tables.values() for name in table.names()]

    def remove(self, name: str) -> None:
        """Remove a table by its name of `names`. Raises DataplaneError."""
        self._tables[name.split()[0]].remove()

    def forget(self) -> None:
        """Read anew at the next question. Never waits."""
        for table in self._tables.values():
            table.forget()


def wanted(*, honoured: bool) -> Mapping[str, ChainGroup]:
    """Return the chains as they should be: none where the host's rules are not asked."""
    return {family: _group(address) for family, address in LOOPBACK.items()} if honoured else {}


def _group(address: str) -> ChainGroup:
    not_again = match({"meta": {"key": "iifname"}}, "lo", "!=")
    rules = [
        meant([ASKED, not_again, {"dup": {"addr": address, "dev": "lo"}}, DROP], "to lo"),
        meant([ASKED, DROP], "came again"),
    ]
    return ChainGroup((base(CHAIN, "filter", "input", LAST, rules),))
