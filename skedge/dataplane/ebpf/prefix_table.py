"""What the packet programs know of others' addresses: LAN prefixes (bpf/common/lan_prefixes.h), this site's own and
those of other sites, with the addresses of this host among them; the prefixes that are the host's own as a whole; and
the sites' overlay addresses.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.dataplane.bpf import syscall
from skedge.dataplane.ebpf.layout_placement import pack_address, unpack_address

OWN_MAP, OTHERS_MAP, HOST_MAP, SITES_MAP = "lan_prefixes_v1", "link_prefixes_v1", "host_prefixes_v2", "link_sites_v1"
HERE, OWN, BOTH = 1, 2, 4
KEY = struct.Struct("=I16s")
VALUE = struct.Struct("=II")
_LENGTH = 24  # from this bit of the flags on: the entry's own bits, as a look-up finds what is around it, too
_FLAGS = (1 << _LENGTH) - 1
_SITE = 16
_MAPPED_BITS = 96


class PrefixTable:
    """One of the tables, pinned in ``pin_dir``: prefix -> PREFIX_* flags, and by which links its packets may come.

    An entry is there because a site announces it, because this host has the addresses, or for both; each is written
    and taken away by itself.
    """

    def __init__(self, pin_dir: str, name: str = OTHERS_MAP) -> None:
        self._path = Path(pin_dir) / name

    def _map(self) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self._path)))

    def _items(self) -> Mapping[str, tuple[int, int]]:
        with self._map() as fd:
            found = list(syscall.map_items(fd, KEY.size, VALUE.size))
        values = ((_unpack(key), VALUE.unpack(value)) for key, value in found)
        return {prefix: (flags & _FLAGS, paths) for prefix, (flags, paths) in values}

    def read(self) -> Mapping[str, int]:
        """Return all announced prefixes with their flags. Raises DataplaneError."""
        return {prefix: flags & ~(OWN | BOTH) for prefix, (flags, _) in self._items().items() if _announced(flags)}

    def put(self, prefix: str, flags: int = 0) -> None:
        """Take an announced prefix in. Raises DataplaneError, also when there is no room."""
        with self._map() as fd:
            before, paths = self._of(fd, prefix)
            self._write(fd, prefix, flags | (OWN | BOTH if before & OWN else 0), paths)

    def delete(self, prefix: str) -> None:
        """Leave an announced prefix out; one that is not there is success."""
        with self._map() as fd:
            before, _ = self._of(fd, prefix)
            self._write(fd, prefix, OWN, 0) if before & OWN else self._remove(fd, prefix)

    def own(self) -> Mapping[str, str]:
        """Return the addresses of this host, as prefixes. Raises DataplaneError."""
        return {prefix: "" for prefix, (flags, _) in self._items().items() if flags & OWN}

    def put_own(self, prefix: str) -> None:
        """Take addresses of this host in. Raises DataplaneError, also when there is no room."""
        with self._map() as fd:
            before, paths = self._exactly(fd, prefix) or (OWN, 0)
            self._write(fd, prefix, before if before & OWN else before | OWN | BOTH, paths)

    def delete_own(self, prefix: str) -> None:
        """Leave addresses of this host out; what is not there is success."""
        with self._map() as fd:
            before, paths = self._of(fd, prefix)
            if before & BOTH:
                self._write(fd, prefix, before & ~(OWN | BOTH), paths)
            elif before & OWN:
                self._remove(fd, prefix)

    def paths(self) -> Mapping[str, int]:
        """Return by which links packets of each announced prefix may come. Raises DataplaneError."""
        return {prefix: paths for prefix, (flags, paths) in self._items().items() if _announced(flags)}

    def put_paths(self, prefix: str, paths: int) -> None:
        """Tell by which links packets of an announced prefix may come; of one that is not there, nothing."""
        with self._map() as fd:
            found = self._exactly(fd, prefix)
            if found and _announced(found[0]):
                self._write(fd, prefix, found[0], paths)

    def _of(self, fd: int, prefix: str) -> tuple[int, int]:
        return self._exactly(fd, prefix) or (0, 0)

    def _exactly(self, fd: int, prefix: str) -> tuple[int, int] | None:
        """Return flags and paths of this very prefix. A look-up alone answers with those of one around it as well."""
        key = _pack(prefix)
        raw = syscall.map_lookup(fd, key, VALUE.size)
        if not raw:
            return None
        flags, paths = VALUE.unpack(raw)
        if length := flags >> _LENGTH:
            return (flags & _FLAGS, paths) if length == KEY.unpack(key)[0] else None
        return self._items().get(_unpack(key))  # written by a version that did not note it

    @staticmethod
    def _write(fd: int, prefix: str, flags: int, paths: int) -> None:
        key = _pack(prefix)
        syscall.map_update(fd, key, VALUE.pack(flags | KEY.unpack(key)[0] << _LENGTH, paths))

    @staticmethod
    def _remove(fd: int, prefix: str) -> None:
        syscall.map_delete(fd, _pack(prefix))


class OwnAddressDriver:
    """Driver[str, str]: addresses of this host, as prefixes, to which nothing goes that comes over a link."""

    def __init__(self, prefixes: PrefixTable) -> None:
        self._prefixes = prefixes

    def read(self) -> Mapping[str, str]:
        """Return what the programs know. Raises DataplaneError."""
        return self._prefixes.own()

    def put(self, key: str, value: str) -> None:  # noqa: ARG002  (one shape for all drivers)
        """Tell the programs. Raises DataplaneError."""
        try:
            self._prefixes.put_own(key)
        except ValueError as error:
            raise DataplaneError(f"address {key} of this host: {error}") from error

    def delete(self, key: str) -> None:
        """Take it back; one that is not known is success."""
        self._prefixes.delete_own(key)


class PathDriver:
    """Driver[str, int]: overlay address or LAN prefix of another site -> the links that its packets may come by.

    A prefix is there with its route, which another driver writes; here it is only told of.
    """

    def __init__(self, pin_dir: str, prefixes: PrefixTable) -> None:
        self._path, self._prefixes = Path(pin_dir) / SITES_MAP, prefixes

    def _map(self) -> syscall.Fd:
        return syscall.Fd(syscall.obj_get(str(self._path)))

    def read(self) -> Mapping[str, int]:
        """Return what the programs know, of announced prefixes too where anything was told. Raises DataplaneError."""
        with self._map() as fd:
            found = list(syscall.map_items(fd, _SITE, VALUE.size))
        lans = {prefix: paths for prefix, paths in self._prefixes.paths().items() if paths}
        return {**{_site(key): VALUE.unpack(value)[0] for key, value in found}, **lans}

    def put(self, key: str, value: int) -> None:
        """Tell the programs. Raises DataplaneError, also when there is no room."""
        if "/" in key:
            self._prefixes.put_paths(key, value)
            return
        with self._map() as fd:
            syscall.map_update(fd, ip_address(key).packed.ljust(_SITE, b"\0"), VALUE.pack(value, 0))

    def delete(self, key: str) -> None:
        """Forget a site's address; one that is not known is success."""
        if "/" in key:
            self._prefixes.put_paths(key, 0)
            return
        with self._map() as fd:
            syscall.map_delete(fd, ip_address(key).packed.ljust(_SITE, b"\0"))


def _announced(flags: int) -> bool:
    return not flags & OWN or bool(flags & BOTH)


def _site(raw: bytes) -> str:
    return str(ip_address(raw if any(raw[4:]) else raw[:4]))


def _pack(prefix: str) -> bytes:
    network = ip_network(prefix)
    bits = network.prefixlen + (_MAPPED_BITS if isinstance(network, IPv4Network) else 0)
    return KEY.pack(bits, pack_address(str(network.network_address)))


def _unpack(raw: bytes) -> str:
    bits, address = KEY.unpack(raw)
    text = unpack_address(address)
    return f"{text}/{bits if ':' in text else bits - _MAPPED_BITS}"
