"""Whether the LAN programs ask the host's own input rules about new flows, and how often (bpf/nat/flow/ask.h)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.dataplane.bpf import syscall

MAP = "host_rules_v1"
LAN = "lan"
HONOUR = "honour"
_WORD = struct.Struct("=Q")
_HONOURED, _ASKED, _ACCEPTED = 0, 1, 2


class HostRulesDriver:
    """Driver[str, str]: under the one key `LAN`, that the host's rules are honoured; not there: they are by-passed."""

    def __init__(self, pin_dir: str) -> None:
        self._pin = Path(pin_dir) / MAP
        self._refused = 0

    def read(self) -> Mapping[str, str]:
        """Return what the programs do. Raises DataplaneError."""
        return {LAN: HONOUR} if self._words()[_HONOURED] else {}

    def put(self, key: str, value: str) -> None:
        """Let the programs ask. Raises DataplaneError."""
        if (key, value) != (LAN, HONOUR):
            raise DataplaneError(f"host rules: {key} {value} is not {LAN} {HONOUR}")
        self._write(1)

    def delete(self, key: str) -> None:  # noqa: ARG002  (there is one)
        """Let the programs ask no more. Raises DataplaneError."""
        self._write(0)

    def refused(self) -> int:
        """Return how many packets the host's rules have refused: those that did not come back. Never falls."""
        words = self._words()
        self._refused = max(self._refused, words[_ASKED] - words[_ACCEPTED])
        return self._refused

    def _words(self) -> dict[int, int]:
        with syscall.Fd(syscall.obj_get(str(self._pin))) as fd:
            found = {at: syscall.map_lookup(fd, _key(at), _WORD.size) for at in (_HONOURED, _ACCEPTED, _ASKED)}
        return {at: _WORD.unpack(raw or bytes(_WORD.size))[0] for at, raw in found.items()}

    def _write(self, word: int) -> None:
        with syscall.Fd(syscall.obj_get(str(self._pin))) as fd:
            syscall.map_update(fd, _key(_HONOURED), _WORD.pack(word))


def _key(at: int) -> bytes:
    return at.to_bytes(4, "little")
