"""The LAN prefixes that the packet programs know (bpf/common/lan_prefixes.h): this site's own, and those of other
sites; and the prefixes that are the host's own as a whole.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf.layout_placement import pack_address, unpack_address

OWN_MAP, OTHERS_MAP, HOST_MAP = "lan_prefixes_v1", "link_prefixes_v1", "host_prefixes_v1"
HERE = 1
KEY = struct.Struct("=I16s")
VALUE = struct.Struct("=II")
_MAPPED_BITS = 96


class PrefixTable:
    """One of the tables, pinned in ``pin_dir``: prefix -> PREFIX_* flags."""

    def __init__(self, pin_dir: str, name: str = OTHERS_MAP) -> None:
        self._path = Path(pin_dir) / name

    def _map(self) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self._path)))

    def read(self) -> Mapping[str, int]:
        """Return all prefixes with their flags. Raises DataplaneError."""
        with self._map() as fd:
            return {_unpack(key): VALUE.unpack(value)[0] for key, value in syscall.map_items(fd, KEY.size, VALUE.size)}

    def put(self, prefix: str, flags: int = 0) -> None:
        """Take a prefix in. Raises DataplaneError, also when there is no room."""
        with self._map() as fd:
            syscall.map_update(fd, _pack(prefix), VALUE.pack(flags, 0))

    def delete(self, prefix: str) -> None:
        """Leave a prefix out; one that is not there is success."""
        with self._map() as fd:
            syscall.map_delete(fd, _pack(prefix))


def _pack(prefix: str) -> bytes:
    network = ip_network(prefix)
    bits = network.prefixlen + (_MAPPED_BITS if isinstance(network, IPv4Network) else 0)
    return KEY.pack(bits, pack_address(str(network.network_address)))


def _unpack(raw: bytes) -> str:
    bits, address = KEY.unpack(raw)
    text = unpack_address(address)
    return f"{text}/{bits if ':' in text else bits - _MAPPED_BITS}"
