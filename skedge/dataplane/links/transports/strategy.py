"""What the driver of link devices asks of each transport. The facts about them are in `core.transports`."""
# ruff: noqa: ARG002 (one shape for all)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skedge.core.errors import DataplaneError
from skedge.core.objects import LinkDevice


class Strategy:
    """Creates and reads what is one transport's own of its devices; here that of one that has nothing of its own.

    ``fixed``: the fields of `LinkDevice` that a living device cannot change, besides transport and underlay.
    """

    fixed: tuple[str, ...] = ()

    def attributes(self, want: LinkDevice, underlay: int | None) -> Mapping[str, object]:
        """Return what the message that creates a device says besides its name and MAC address, and the usual kind.

        ``underlay`` is the index of the interface that the device lies on.
        """
        return {}

    def shape(self, data: Any) -> Mapping[str, object]:
        """Return the values of the ``fixed`` fields as the kernel has them, from a device's IFLA_INFO_DATA."""
        return {}

    def lacking(self, name: str, kind: str) -> str:
        """Return what to say of a kernel that has no devices of this kind."""
        return f"this kernel has no {kind} devices; load or install the module"

    def refuse(self, want: LinkDevice) -> None:
        """Raise DataplaneError when the device cannot be as it is wanted, Waiting while something is to come first."""

    def read(self, name: str, link: Any, device: LinkDevice) -> tuple[LinkDevice, bool]:
        """Return the device with what may change on it, and whether the rest of that is right."""
        return device, True

    def put(self, name: str, link: Any, want: LinkDevice) -> None:
        """Set what may change on a living device, before it is up."""

    def refuse_unresolved(self, want: LinkDevice) -> None:
        """Raise DataplaneError when the far end's name has no address; it may still call us meanwhile."""

    def underlay(self, name: str, device: LinkDevice) -> str:
        """Return the address that the device's packets go to, as far as it is known."""
        return device.remote

    def far_ends(self, name: str, device: LinkDevice) -> frozenset[str]:
        """Return the addresses at which the far end may be, as far as they are known."""
        return frozenset({device.remote} if device.remote else ())

    def forget(self, name: str) -> None:
        """Forget a device that goes."""


def used(want: LinkDevice) -> DataplaneError:
    """Return the error for a UDP port that another program has."""
    return DataplaneError(
        f"link {want.link}: UDP port {want.port} is in use by another program; stop that, or give the link another port"
    )
