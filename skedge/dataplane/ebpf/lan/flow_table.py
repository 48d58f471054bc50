"""The flow table of packet-time NAT, in the pinned maps of the LAN programs (bpf/nat/flow/types.h): told, read and
swept.

The flows are the programs' own: nothing here makes or changes one. Sweeping ends idle ones in the kernel.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf.lan.layout_flow import FlowRecord, NatAddresses, NatConfig
from skedge.dataplane.ebpf.layout_placement import pack_address, unpack_address

CONFIG_MAP, SOURCE_MAP, PLACEMENT_MAP = "nat_config_v1", "nat_sources_v1", "nat_placements_v1"
ADDRESSES_MAP = "nat_addresses_v1"
RECORDS, SWEEP = "iterate_nat_v1", "sweep_nat_v1"
NAT = "nat"
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

    def records(self) -> Iterator[FlowRecord]:
        """Yield every flow."""
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


class NatConfigDriver:
    """Driver[str, NatConfig]: what the NAT programs are told, under the one key `NAT`."""

    def __init__(self, pin_dir: str) -> None:
        self._pins = Path(pin_dir)

    def _map(self, name: str) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self._pins / name)))

    def read(self) -> Mapping[str, NatConfig]:
        """Return the configuration, nothing before there was one."""
        with self._map(CONFIG_MAP) as fd, self._map(ADDRESSES_MAP) as addresses_fd:
            raw = syscall.map_lookup(fd, bytes(4), NatConfig.STRUCT.size)
            addresses = syscall.map_lookup(addresses_fd, bytes(4), NatAddresses.STRUCT.size)
        if not raw or not any(raw) or addresses is None:
            return {}
        return {NAT: NatConfig.unpack(raw, NatAddresses.unpack(addresses))}

    def put(self, key: str, value: NatConfig) -> None:
        """Tell the programs. Raises DataplaneError."""
        if key != NAT:
            raise DataplaneError(f"nat: {key} is not {NAT}")
        with self._map(CONFIG_MAP) as fd, self._map(ADDRESSES_MAP) as addresses_fd:
            syscall.map_update(addresses_fd, bytes(4), value.addresses.pack())
            syscall.map_update(fd, bytes(4), value.pack())

    def delete(self, key: str) -> None:
        """Do nothing: NAT is switched off by its configuration, and goes with the pins."""


class NatSourceDriver:
    """Driver[str, str]: address of a workload that is not on this host -> this host's address it is reached from.

    Flows that exist keep their address.
    """

    def __init__(self, pin_dir: str) -> None:
        self._pin = Path(pin_dir) / SOURCE_MAP

    def _map(self) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self._pin)))

    def read(self) -> Mapping[str, str]:
        """Return all of them."""
        with self._map() as fd:
            items = syscall.map_items(fd, _ADDRESS, _ADDRESS)
            return {unpack_address(key): unpack_address(value) for key, value in items}

    def put(self, key: str, value: str) -> None:
        """Set the source towards one address. Raises DataplaneError."""
        with self._map() as fd:
            syscall.map_update(fd, pack_address(key), pack_address(value))

    def delete(self, key: str) -> None:
        """Forget an address; one that is not there is success."""
        with self._map() as fd:
            syscall.map_delete(fd, pack_address(key))
