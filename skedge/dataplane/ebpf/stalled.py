"""The connections that stand still, as iterators find them: sockets of this host, and flows of its LAN."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from skedge.core.stalls import Stalled, StallKind
from skedge.dataplane.ebpf.lan.flow_table import read_iterator
from skedge.dataplane.host import unreachable

SOCKETS, FLOWS = "iterate_stalled_v1", "iterate_stalled_nat_v1"
RECORD = struct.Struct("=16s16s16sHHIIBBH")  # struct stalled_record


def unpack_all(raw: bytes) -> Iterator[Stalled]:
    """Yield all records of an iterator's output; part of one at the end is left out."""
    whole = raw[: len(raw) - len(raw) % RECORD.size]
    for local, remote, far, local_port, remote_port, sequence, quiet, kind, backoff, _ in RECORD.iter_unpack(whole):
        yield Stalled(
            StallKind(kind), local, local_port, remote, remote_port, far, sequence, backoff=backoff, unanswered_ms=quiet
        )


class StalledConnections:
    """Those of the calling thread's network namespace, by the programs that are pinned in ``pin_dir``."""

    def __init__(self, pin_dir: str) -> None:
        self._pins = Path(pin_dir)
        self.tell = unreachable.tell

    def sockets(self) -> list[Stalled]:
        """Return those of this host's sockets; what had no route is sent. Raises DataplaneError."""
        return self._read(SOCKETS)

    def flows(self) -> list[Stalled]:
        """Return those of the LAN's machines. Raises DataplaneError."""
        return self._read(FLOWS)

    def _read(self, pin: str) -> list[Stalled]:
        return list(unpack_all(b"".join(read_iterator(self._pins / pin))))
