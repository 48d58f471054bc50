"""What a map of an older layout holds goes into the one that follows it, so that an upgrade has no gap."""

from __future__ import annotations

from pathlib import Path

from skedge.dataplane.bpf import reason_counts, syscall
from skedge.dataplane.ebpf.layout_listener import ListenerValue
from skedge.dataplane.ebpf.layout_placement import LISTENER
from skedge.dataplane.ebpf.prefix_table import KEY, VALUE

_LISTENER_V1_SIZE = 8  # the service id and a spare word


def carry_over(pins: Path) -> None:
    """Fill the new maps, before the programs at the cgroup and the links work on them. Raises DataplaneError."""
    for old, new, move in (
        (pins / "listeners_v1", pins / "listeners_v2", _listeners),
        (pins / "host_prefixes_v1", pins / "host_prefixes_v2", _prefixes),
        (pins / "link_drops_v1", pins / "link_drops_v2", reason_counts.move),
    ):
        if old.exists() and new.exists():
            with syscall.Fd(syscall.obj_get(str(old))) as source, syscall.Fd(syscall.obj_get(str(new))) as to:
                move(source, to)


def _listeners(source: int, to: int) -> None:
    """Copy what a newer controller has not written there already."""
    for key, value in syscall.map_items(source, LISTENER.size, _LISTENER_V1_SIZE):
        if syscall.map_lookup(to, key, ListenerValue.STRUCT.size) is None:
            syscall.map_update(to, key, ListenerValue(int.from_bytes(value[:4], "little")).pack())


def _prefixes(source: int, to: int) -> None:
    """Copy prefixes into the larger map."""
    for key, value in syscall.map_items(source, KEY.size, VALUE.size):
        syscall.map_update(to, key, value)
