"""Whether the LAN programs ask the host's own input rules about new flows, and how often (bpf/nat/admission/ask.h)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.model import LanFirewall
from skedge.core.reasons import Reason
from skedge.dataplane.bpf import syscall

MAP, COUNTS_MAP = "host_rules_v1", "host_rules_counts_v1"
LAN = "lan"
_SWITCH, _COUNT = struct.Struct("=I"), struct.Struct("=Q")
_ASKED, _ACCEPTED = 0, 1


class HostRulesDriver:
    """Driver[str, str]: `LAN` -> ``honour`` while the host's rules are asked; not there while they are by-passed."""

    def __init__(self, pin_dir: str) -> None:
        self._pins = Path(pin_dir)
        self._refused = 0

    def read(self) -> Mapping[str, str]:
        """Return what the programs do. Raises DataplaneError."""
        return {LAN: LanFirewall.HONOUR} if self._word(MAP, 0, _SWITCH) else {}

    def put(self, key: str, value: str) -> None:
        """Let the programs ask. Raises DataplaneError."""
        if (key, value) != (LAN, LanFirewall.HONOUR):
            raise DataplaneError(f"host rules: {key} {value} is not {LAN} {LanFirewall.HONOUR}")
        self._switch(1)

    def delete(self, key: str) -> None:  # noqa: ARG002  (there is one)
        """Let the programs ask no more. Raises DataplaneError."""
        self._switch(0)

    def refused(self) -> Mapping[Reason, int]:
        """Return how many packets the host's rules have refused: those that never came back. It does not fall."""
        accepted = self._word(COUNTS_MAP, _ACCEPTED, _COUNT)
        self._refused = max(self._refused, self._word(COUNTS_MAP, _ASKED, _COUNT) - accepted)
        return {Reason.HOST_FIREWALL: self._refused}

    def _word(self, name: str, index: int, form: struct.Struct) -> int:
        with syscall.Fd(syscall.obj_get(str(self._pins / name))) as fd:
            raw = syscall.map_lookup(fd, _SWITCH.pack(index), form.size)
        return int(form.unpack(raw)[0]) if raw else 0

    def _switch(self, word: int) -> None:
        with syscall.Fd(syscall.obj_get(str(self._pins / MAP))) as fd:
            syscall.map_update(fd, _SWITCH.pack(0), _SWITCH.pack(word))


def wanted(*, honoured: bool) -> Mapping[str, str]:
    """Return what the programs should do."""
    return {LAN: LanFirewall.HONOUR} if honoured else {}
