"""What a map of an older layout holds goes into the one that follows it, so that an upgrade has no gap."""

from __future__ import annotations

from pathlib import Path

from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf.layout_listener import ListenerValue
from skedge.dataplane.ebpf.layout_placement import LISTENER

_LISTENER_V1_SIZE = 8  # the service id and a spare word


def carry_over(pins: Path) -> None:
    """Fill the new maps, before any program works on them. What a newer controller wrote there already stays."""
    old = pins / "listeners_v1"
    if not old.exists():
        return
    with syscall.Fd(syscall.obj_get(str(old))) as source, syscall.Fd(syscall.obj_get(str(pins / "listeners_v2"))) as to:
        size = ListenerValue.STRUCT.size
        for key, value in syscall.map_items(source, LISTENER.size, _LISTENER_V1_SIZE):
            if syscall.map_lookup(to, key, size) is None:
                syscall.map_update(to, key, ListenerValue(int.from_bytes(value[:4], "little")).pack())
