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
from skedge.dataplane.ebpf.lan.layout_flow import FlowRecord, FlowTotals, NatAddresses, NatConfig
from skedge.dataplane.ebpf.layout_placement import PlacementRecord, pack_address, unpack_address

CONFIG_MAP, SOURCE_MAP, PLACEMENT_MAP = "nat_config_v1", "nat_sources_v1", "nat_placements_v1"
ADDRESSES_MAP, SUMS_MAP = "nat_addresses_v1", "flow_sums_v1"
RECORDS, SWEEP = "iterate_nat_v1", "sweep_nat_v1"
NAT = "nat"
_ADDRESS = 16
_CHUNK = 1 << 20


def read_iterator(path: Path, size: int = _CHUNK) -> Iterator[bytes]:
    """Run a pinned iterator and yield what it writes, at most ``size`` bytes at once. Raises DataplaneError."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataplaneError(f"{path}: {error.strerror}; run `skedge-loader load`") from error
    try:
        while True:
            with contextlib.suppress(BlockingIOError):  # the kernel takes a breath in a long table
                chunk = os.read(fd, size)
                if not chunk:
                    return
                yield chunk
    except OSError as error:
        raise DataplaneError(f"{path}: {error.strerror}") from error
    finally:
        os.close(fd)


def read_records(path: Path, size: int) -> Iterator[bytes]:
    """Run a pinned iterator that writes records of ``size`` bytes and yield whole ones, several at once."""
    rest = b""
    for chunk in read_iterator(path):
        rest += chunk
        whole = len(rest) - len(rest) % size
        yield rest[:whole]
        rest = rest[whole:]


class FlowTable:
    """The flows of one site, whose programs and maps are pinned in ``pin_dir``."""

    def __init__(self, pin_dir: str) -> None:
        self._pins = Path(pin_dir)

    def _map(self, name: str) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self._pins / name)))

    def records(self) -> Iterator[FlowRecord]:
        """Yield every flow."""
        for raw in read_records(self._pins / RECORDS, FlowRecord.SIZE):
            yield from FlowRecord.unpack_all(raw)

    def placements(self, since: int) -> Iterator[PlacementRecord]:
        """Yield what each flow was placed on since then (ns since boot)."""
        for raw in read_records(self._pins / RECORDS, FlowRecord.SIZE):
            yield from FlowRecord.placements(raw, since)

    def sweep(self) -> None:
        """End the flows that were idle for too long, and take away those that ended some time ago.

        It is the walk of a recount through them, too. The kernel pauses after each byte: others are let in.
        """
        with self._map(SUMS_MAP) as fd:
            syscall.map_update(fd, bytes(4), bytes(FlowTotals.STRUCT.size))
        for _ in read_iterator(self._pins / SWEEP, size=1):
            pass

    def totals(self) -> FlowTotals:
        """Return what the last sweep found."""
        with self._map(SUMS_MAP) as fd:
            return FlowTotals.unpack(syscall.map_lookup(fd, bytes(4), FlowTotals.STRUCT.size) or b"")

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
