"""wireguard-go for tests where the kernel has no WireGuard: each process with the socket directory of its site."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from ..kit import Namespace, run


def kernel_has_wireguard() -> bool:
    """Return whether the kernel makes wireguard devices."""
    name = "wgtry0"
    made = run("ip", "link", "add", name, "type", "wireguard", check=False).returncode == 0
    run("ip", "link", "del", name, check=False)
    return made


class Go:
    """One wireguard-go in the foreground, as its systemd unit runs it."""

    def __init__(self, ns: Namespace, sockets: Path, device: str) -> None:
        sockets.mkdir(exist_ok=True)
        self._device, self._sockets = device, sockets
        self.log = sockets / f"{device}.log"
        script = 'mkdir -p /run/wireguard && mount --bind "$1" /run/wireguard &&'
        script += ' exec ip netns exec "$2" wireguard-go -f "$3"'
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", script, "sh", str(sockets), ns.name, device], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while not (sockets / f"{device}.sock").exists():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "wireguard-go makes no socket"
            time.sleep(0.02)

    def ends(self, device: str) -> bool:
        """Wait for the end of the process of a device that was deleted; False where it is another's."""
        if device != self._device or self._process.poll() is not None:
            return False
        self._process.wait(10)
        (self._sockets / f"{device}.sock").unlink(missing_ok=True)
        return True

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
