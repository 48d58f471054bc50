"""Host names of far ends -> addresses, looked up beside the kernel's thread: a slow DNS server holds nothing up."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

VALID_S = 30.0
WAIT_S = 0.5  # for a name that is asked for the first time


@dataclass
class _Name:
    addresses: tuple[str, ...] = ()
    at: float = 0.0
    running: Future[None] | None = field(default=None, repr=False)


class PeerResolver:
    """Answers at once with what is known, and keeps looking. What resolved once stays known while the DNS is down."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="resolver")

    def addresses(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host name (of an address: itself), best first; none when it does not resolve."""
        try:
            return (str(ip_address(host)),)
        except ValueError:
            pass
        with self._lock:
            name = self._names.setdefault(host, _Name())
            old = time.monotonic() - name.at > VALID_S
            if (old or not name.addresses) and (name.running is None or name.running.done()):
                name.running = self._pool.submit(self._look_up, host, name)
            running, first = name.running, name.at == 0.0
        if first and running is not None:
            with suppress(TimeoutError):
                running.result(WAIT_S)
        return name.addresses

    @staticmethod
    def _look_up(host: str, name: _Name) -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        except OSError:
            found = []
        addresses = tuple(dict.fromkeys(str(item[4][0]) for item in found if "%" not in str(item[4][0])))
        name.addresses, name.at = addresses or name.addresses, time.monotonic()
