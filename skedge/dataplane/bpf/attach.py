"""Our packet programs on a device, through tcx where the kernel has it (Linux 6.6), else through tc filters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from skedge.dataplane.bpf import syscall, tc, tcx
from skedge.dataplane.host.netlink import Netlink


class Hooks:
    """The programs of one kind of device: ``pins`` maps a direction (ingress, egress) to the pin of its program."""

    def __init__(self, netlink: Netlink, pin_dir: str, pins: Mapping[str, str]) -> None:
        self._netlink = netlink
        self._pins = {direction: str(Path(pin_dir) / pin) for direction, pin in pins.items()}

    def pinned(self, directions: Collection[str]) -> Mapping[str, int]:
        """Return the kernel's id of the pinned program of each of these directions. Raises DataplaneError."""
        ids = {}
        for direction in directions:
            with syscall.Fd(syscall.obj_get(self._pins[direction])) as fd:
                ids[direction] = syscall.prog_id(fd)
        return ids

    def attached(self, index: int, previous: Collection[int] = ()) -> Mapping[str, tuple[int, ...]]:
        """Return the ids of our programs on the interface: the pinned ones, and those ``previous`` from before."""
        if tcx.supported():
            return tcx.attached(index, {*self.pinned(self._pins).values(), *previous})
        return {direction: (ident,) for direction, ident in tc.attached(index).items()}

    def all(self, index: int) -> tuple[int, ...]:
        """Return the ids of all programs that are attached through tcx; tc's changes are announced by the kernel."""
        return tcx.everything(index) if tcx.supported() else ()

    def right(self, index: int, directions: Collection[str], previous: Collection[int] = ()) -> bool:
        """Return whether exactly the pinned programs of these directions are attached."""
        wanted = {direction: (ident,) for direction, ident in self.pinned(directions).items()}
        return self.attached(index, previous) == wanted

    def attach(self, index: int, directions: Collection[str], previous: Collection[int] = ()) -> Mapping[str, int]:
        """Make exactly the pinned programs of these directions the attached ones, without a gap; return their ids."""
        have = self.attached(index, previous)
        if tcx.supported():
            self._leave_tc(index)
        for direction, pin in self._pins.items():
            with syscall.Fd(syscall.obj_get(pin)) as fd:
                if direction in directions:
                    self._attach(index, direction, fd, have.get(direction, ()))
                elif direction in have:
                    self._detach(index, direction, fd)
        return self.pinned(directions)

    def detach(self, index: int, directions: Collection[str]) -> None:
        """Take our pinned programs of these directions off the interface."""
        for direction in directions:
            with syscall.Fd(syscall.obj_get(self._pins[direction])) as fd:
                self._detach(index, direction, fd)

    def _leave_tc(self, index: int) -> None:
        """Detach what an older version attached through tc: it would run beside."""
        for direction in tc.attached(index):
            tc.detach(self._netlink, index, direction)

    def _attach(self, index: int, direction: str, fd: int, have: tuple[int, ...]) -> None:
        if tcx.supported():
            tcx.attach(index, direction, fd, have)
        elif have != (syscall.prog_id(fd),):
            tc.attach(self._netlink, index, direction, fd)

    def _detach(self, index: int, direction: str, fd: int) -> None:
        if tcx.supported():
            tcx.detach(index, direction, fd)
        elif direction in tc.attached(index):
            tc.detach(self._netlink, index, direction)
