"""One kind of kernel object made as it should be, for a fixture."""

from __future__ import annotations

from collections.abc import Mapping

from skedge.core.desired.reconcile import reconcile
from skedge.core.engine import Driver, K, V


def match(driver: Driver[K, V], wanted: Mapping[K, V]) -> bool:
    """Make the kernel's objects equal ``wanted``; return whether anything changed. Every key is tried first.

    Raises:
        DataplaneError: the kernel could not be read, or refused.
    """
    report = reconcile(driver, wanted)
    if report.unread is not None:
        raise report.unread
    for error in report.failed.values():
        raise error
    return bool(report.changed)
