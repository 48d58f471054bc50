"""The flow table of packet-time NAT, in the pinned maps of the LAN programs (bpf/nat/types.h): told, read and swept.

The flows are the programs' own: nothing here makes or changes one. Sweeping ends idle ones in the kernel.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf.layout_flow import FlowRecord, NatConfig
from skedge.dataplane.ebpf.layout_placement import pack_address, unpack_address

CONFIG_MAP, SOURCE_MAP, PLACEMENT_MAP = "nat_config_v1", "nat_sources_v1", "nat_placements_v1"
RECORDS, SWEEP = "iterate_nat_v1", "sweep_nat_v1"
_ADDRESS = 16
_CHUNK = 1 << 20


def read_iterator(path: Path) -> Iterator[bytes]:
    """Run a pinned iterator and yield what it writes. Raises DataplaneError."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataplaneError(f"{path}: {error.strerror}; run `skedge-loader load`") from error
    try:
        while True:
            with contextlib.suppress(BlockingIOError):  # the kernel takes a breath in a long table
                chunk = os.read(fd, _CHUNK)
                if not chunk:
                    return
                yield chunk
    except OSError as error:
        raise DataplaneError(f"{path}: {error.strerror}") from error
    finally:
        os.close(fd)


class FlowTable:
    """The flows of one site, whose programs and maps are pinned in ``pin_dir``."""

    def __init__(self, pin_dir: str) -> None:
        self._pins = Path(pin_dir)

    def _map(self, name: str) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self._pins / name)))

    def configure(self, config: NatConfig) -> bool:
        """Tell the programs NAT ports and time-outs; return whether that changed anything."""
        with self._map(CONFIG_MAP) as fd:
            if syscall.map_lookup(fd, bytes(4), NatConfig.STRUCT.size) == config.pack():
                return False
            syscall.map_update(fd, bytes(4), config.pack())
            return True

    def sources(self) -> Mapping[str, str]:
        """Return for each address of a workload elsewhere which address of this host it is reached from."""
        with self._map(SOURCE_MAP) as fd:
            items = syscall.map_items(fd, _ADDRESS, _ADDRESS)
            return {unpack_address(key): unpack_address(value) for key, value in items}

    def set_sources(self, sources: Mapping[str, str]) -> bool:
        """Make `sources` return this; return whether that changed anything. Flows that exist keep their address."""
        have = self.sources()
        with self._map(SOURCE_MAP) as fd:
            for target, source in sources.items():
                if have.get(target) != source:
                    syscall.map_update(fd, pack_address(target), pack_address(source))
            for target in have.keys() - sources.keys():
                syscall.map_delete(fd, pack_address(target))
        return have != dict(sources)

    def records(self) -> Iterator[FlowRecord]:
        """Yield every flow; those that were idle for too long are ended on the way."""
        rest = b""
        for chunk in read_iterator(self._pins / RECORDS):
            rest += chunk
            whole = len(rest) - len(rest) % FlowRecord.SIZE
            yield from FlowRecord.unpack_all(rest[:whole])
            rest = rest[whole:]

    def sweep(self) -> None:
        """End the flows that were idle for too long, and take away those that ended some time ago."""
        for _ in read_iterator(self._pins / SWEEP):
            pass

    def room(self) -> int:
        """Return how many flows the table was made for."""
        with self._map(PLACEMENT_MAP) as fd:
            return syscall.map_info(fd).max_entries
