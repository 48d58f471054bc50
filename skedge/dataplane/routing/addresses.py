"""The overlay addresses of this site, on ``lo``.

Ours carry our protocol number (IFA_PROTO, Linux 5.18); an older kernel drops the mark silently, so an unmarked host
address inside an overlay network is ours too.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from skedge.core.errors import DataplaneError
from skedge.dataplane.host.netlink import PROTOCOL, Netlink, kernel_errors

LOOPBACK = "lo"
_LO = 1
_NODAD = 0x02
_NOPREFIXROUTE = 0x200


class AddressDriver:
    """Driver[str, str]: ``addr/len`` -> ``lo``."""

    def __init__(self, netlink: Netlink, overlay: Iterable[str]) -> None:
        """Take the overlay's networks (IPv4 and IPv6), in which unmarked addresses are ours."""
        self._netlink = netlink
        self._overlay = [ip_network(prefix) for prefix in overlay]

    def _ours(self, message: Any) -> bool:
        if message.get_attr("IFA_PROTO") is not None:
            return bool(message.get_attr("IFA_PROTO") == PROTOCOL)
        address = ip_address(message.get_attr("IFA_ADDRESS"))
        return message["prefixlen"] == address.max_prefixlen and any(
            address in network for network in self._overlay if network.version == address.version
        )

    def read(self) -> Mapping[str, str]:
        """Return our addresses on ``lo``."""
        return {
            f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}": LOOPBACK
            for message in self._netlink.dump("addr", index=_LO)
            if message["index"] == _LO and self._ours(message)
        }

    def put(self, key: str, value: str) -> None:
        """Add the address. Raises DataplaneError (IPv6 switched off on ``lo`` among others)."""
        if value != LOOPBACK:
            raise DataplaneError(f"overlay address {key}: it belongs on {LOOPBACK}, not on {value}")
        interface = ip_interface(key)
        extra: dict[str, object] = {}
        if interface.version == 6:
            # Deprecated at once: never the source of other traffic of the host; our routes name it themselves.
            extra = {"flags": _NODAD | _NOPREFIXROUTE, "IFA_CACHEINFO": {"ifa_preferred": 0, "ifa_valid": 0xFFFFFFFF}}
        with kernel_errors(f"add overlay address {key} to {LOOPBACK}"):
            try:
                self._netlink.ipr.addr(
                    "replace",
                    index=_LO,
                    address=str(interface.ip),
                    prefixlen=interface.network.prefixlen,
                    proto=PROTOCOL,
                    **extra,
                )
            except NetlinkError as error:
                if interface.version == 6 and error.code == errno.EACCES:
                    raise DataplaneError(
                        f"overlay address {key}: IPv6 is switched off on lo; set net.ipv6.conf.lo.disable_ipv6=0"
                    ) from error
                raise

    def delete(self, key: str) -> None:
        """Remove the address, if it is there and ours."""
        if key not in self.read():
            return
        interface = ip_interface(key)
        with kernel_errors(f"remove overlay address {key}"):
            try:
                self._netlink.ipr.addr(
                    "del", index=_LO, address=str(interface.ip), prefixlen=interface.network.prefixlen
                )
            except NetlinkError as error:
                if error.code != errno.EADDRNOTAVAIL:
                    raise
