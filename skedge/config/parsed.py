"""The valid part of a file, which the checks look at."""

from __future__ import annotations

from dataclasses import dataclass

from skedge.config.schema import ConnectorSpec, LinkSpec, ListenerSpec, SiteSpec
from skedge.config.validation import join

Problem = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """The valid part of a file: ``spec`` has defaults in the place of the keys in ``bad``; lists carry their paths."""

    spec: SiteSpec
    links: tuple[tuple[str, LinkSpec], ...]
    listeners: tuple[tuple[str, ListenerSpec], ...]
    connectors: tuple[tuple[str, ConnectorSpec], ...]
    bad: frozenset[str] = frozenset()
    prefix: str = ""

    def at(self, key: str) -> str:
        """Return the path of a top-level key."""
        return join(self.prefix, key)

    def good(self, *keys: str) -> bool:
        """Return whether all of these top-level keys are valid."""
        return self.bad.isdisjoint(keys)
