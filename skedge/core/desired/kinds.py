"""One kind of kernel object: its driver, what this site wants of it, and how long a change by others may stand.

The registry of a site is a sequence of kinds in the order of creation: what others refer to comes first, and goes last.
Everything that the controller changes on a host is an object of one of them, so that `skedge plan` is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from skedge.core.desired.compute import Desired
from skedge.core.engine import Driver, K, V
from skedge.core.model import SiteConfig

Merge = Callable[[V, V], V]
"""Join what the kernel has with what is wanted, so that nothing is lost before this site is in sync."""

TRAFFIC_S = 2.0  # what carries or admits traffic is whole again so soon after somebody else changed it


@dataclass(frozen=True, slots=True)
class Kind(Generic[K, V]):
    """One row of the registry.

    Args:
        name: as `skedge plan`, the journal, metrics and docs print it.
        driver: reads and writes the objects.
        wanted: what should be, from configuration, desired state and what the kernel has now; None: leave them as
            they are found. May raise DataplaneError where it has to ask the host.
        waits: nothing is deleted before this site is in sync: what is wanted is learned from others.
        merge: joins values that exist with wanted ones, as long as nothing may be deleted.
        remakes: whether a put of this value takes the object away and makes it anew.
        fall: what the kernel leaves of these objects when those link devices are made anew.
        bound_s: seconds within which a change by somebody else is repaired.
        rests_on: what the driver adds to the wanted values by itself; another value of it is no change by others.
        glance: a value that changes with every change of these objects that the kernel does not announce; cheap.
    """

    name: str
    driver: Driver[K, V]
    wanted: Callable[[SiteConfig, Desired, Mapping[K, V]], Mapping[K, V] | None]
    waits: bool = False
    merge: Merge[V] | None = None
    remakes: Callable[[K, V], bool] | None = None
    fall: Callable[[Collection[str], Mapping[K, V]], Mapping[K, V]] | None = None
    bound_s: float = TRAFFIC_S
    rests_on: Callable[[], Hashable] | None = None
    glance: Callable[[], Hashable] | None = None


Registry = tuple[Kind[Any, Any], ...]


def field(name: str) -> Callable[[SiteConfig, Desired, Mapping[Any, Any]], Mapping[Any, Any]]:
    """Return a `Kind.wanted` that is a field of the desired state."""

    def wanted(_config: SiteConfig, desired: Desired, _held: Mapping[Any, Any]) -> Mapping[Any, Any]:
        found: Mapping[Any, Any] = getattr(desired, name)
        return found

    return wanted
