"""What a map of an older layout holds goes into the one that follows it, so that an upgrade has no gap."""

from __future__ import annotations

from pathlib import Path

from skedge.dataplane import bpfsys
from skedge.dataplane.ebpf_structs import LISTENER
from skedge.dataplane.listener_structs import ListenerValue

_LISTENER_V1_SIZE = 8  # the service id and a spare word


def carry_over(pins: Path) -> None:
    """Fill the new maps, before any program works on them. What a newer controller wrote there already stays."""
    old = pins / "listeners_v1"
    if not old.exists():
        return
    with bpfsys.Fd(bpfsys.obj_get(str(old))) as source, bpfsys.Fd(bpfsys.obj_get(str(pins / "listeners_v2"))) as to:
        size = ListenerValue.STRUCT.size
        for key, value in bpfsys.map_items(source, LISTENER.size, _LISTENER_V1_SIZE):
            if bpfsys.map_lookup(to, key, size) is None:
                bpfsys.map_update(to, key, ListenerValue(int.from_bytes(value[:4], "little")).pack())
