# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""A host of the inventory, as the controller node sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Host:
    """One host of the inventory: its ``skedge_*`` variables as plain values, and the file each was written in.

    ``address`` is where its neighbours reach it, ``endpoint`` the same or a host name; ``local`` is set where its own
    interface has another one (NAT). One that is not ``reachable`` calls its neighbours. ``unread`` says, one sentence
    each, which values could not be made from their templates.
    """

    name: str
    values: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    local: str = ""
    endpoint: str = ""
    reachable: bool = True
    unread: tuple[str, ...] = ()

    @property
    def site(self) -> str:
        """Return the name of the host's site: the host's own, unless skedge_site says another."""
        given = self.values.get("skedge_site")
        return given if isinstance(given, str) and given else self.name

    def where(self, variable: str) -> str:
        """Return the file that holds a variable, as an error names it."""
        return self.files.get(variable) or self.files.get("") or f"inventory host {self.name}"
