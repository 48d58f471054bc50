"""A site that came back without what it had: each record carries what changes with a boot of its host. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from skedge.core.records import LinksRecord

BOOT_MAX = 64  # characters
AGE_MAX_MS = 1 << 53


@dataclass(frozen=True, slots=True)
class Boot:
    """This host's boot: what names it ("" where that is not known), and when it was first seen (monotonic seconds).

    No controller ran in it before, so no connection over the overlay is older.
    """

    identity: str = ""
    began: float = 0.0

    def age_ms(self, now: float) -> int:
        """Return how long ago it was first seen."""
        return min(max(0, int((now - self.began) * 1000)), AGE_MAX_MS) if self.identity else 0


@dataclass(frozen=True, slots=True)
class Returned:
    """A site that lost all its connections: those of before ``began`` (monotonic seconds of this host) are dead."""

    site: str
    began: float


def returned(known: Mapping[str, str], heard: Mapping[str, tuple[LinksRecord, float]]) -> Iterator[Returned]:
    """Yield the sites that say another boot than the one that is known of them.

    Args:
        known: site -> the boot that it said last.
        heard: site -> its record, and when it was made (monotonic seconds of this host).
    """
    for site, (record, made) in sorted(heard.items()):
        if record.boot and known.get(site, record.boot) != record.boot:
            yield Returned(site, made - record.boot_age_ms / 1000)


def learnt(known: Mapping[str, str], heard: Mapping[str, tuple[LinksRecord, float]]) -> Mapping[str, str]:
    """Return what is known after these records.

    A site that cannot be heard is remembered. One that says no boot runs a version that knows of none: what it says
    after its next upgrade may be the boot of a long time ago, so nothing is remembered of it.
    """
    said = {site: record.boot for site, (record, _) in heard.items()}
    return {site: boot for site, boot in {**known, **said}.items() if boot}
