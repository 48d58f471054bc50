"""Settings of devices of the host that are not ours: lo's, which packets of flows are looked up as from.

``forwarding`` lets routes be looked up so. The others are for packets that the programs hand to sockets on 127/8;
nothing but what this host sends itself comes in by lo.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.dataplane.host.netlink import set_devconf4, set_sysctl6

LOOPBACK = "lo"
_LOOPBACK_INDEX = 1
_DEVCONF4 = {"forwarding": 1, "accept_local": 23, "route_localnet": 26}  # IPV4_DEVCONF_*
_PROC = Path("/proc/sys/net")
LOOP: Mapping[str, str] = {
    **{f"net.ipv4.conf.{LOOPBACK}.{name}": "1" for name in _DEVCONF4},
    f"net.ipv6.conf.{LOOPBACK}.forwarding": "1",
}


class LoopSettingDriver:
    """Driver[str, str]: the settings of `LOOP`. One that is as the host has it everywhere is none of ours.

    The glance of the links sees their changes, too.
    """

    def read(self) -> Mapping[str, str]:
        """Return the settings that differ from what lo would have without us."""
        found = {key: setting(key) for key in LOOP}
        return {key: value for key, value in found.items() if value is not None and value != default(key)}

    def put(self, key: str, value: str) -> None:
        """Set one. Raises DataplaneError."""
        self._refuse(key)
        _set(key, value)

    def delete(self, key: str) -> None:
        """Set one back to what the host has everywhere; one that the kernel does not have is success."""
        self._refuse(key)
        if (value := default(key)) is not None:
            _set(key, value)

    @staticmethod
    def _refuse(key: str) -> None:
        if key not in LOOP:
            raise DataplaneError(f"setting {key} is none of ours; they are {', '.join(LOOP)}")


def loop_settings() -> Mapping[str, str]:
    """Return the settings of `LOOP` that this kernel has, and that do not hold by themselves."""
    return {key: value for key, value in LOOP.items() if default(key) not in (None, value)}


def default(key: str) -> str | None:
    """Return what lo has of a setting without us: the host's own switch for forwarding, else 0; None: no such thing."""
    if setting(key) is None:
        return None
    if not key.endswith(".forwarding"):
        return "0"
    return setting(key.replace(f".{LOOPBACK}.", ".all."))


def setting(key: str) -> str | None:
    """Return the value of a setting by its name with dots; None when the kernel has none of that name."""
    try:
        return (_PROC / key.removeprefix("net.").replace(".", "/")).read_text(encoding="ascii").strip()
    except OSError:
        return None


def _set(key: str, value: str) -> None:
    family, name = key.split(".")[1], key.rsplit(".", 1)[1]
    if family == "ipv4":
        set_devconf4(_LOOPBACK_INDEX, {_DEVCONF4[name]: int(value)})
    else:
        set_sysctl6(LOOPBACK, name, int(value))
