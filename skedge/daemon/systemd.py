"""systemd readiness and watchdog (sd_notify through the sdnotify package)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import sdnotify


class Notifier:
    """Tells systemd how the service is; does nothing when it was not started by systemd."""

    def __init__(self) -> None:
        self._systemd = sdnotify.SystemdNotifier()
        usec = os.environ.get("WATCHDOG_USEC", "")
        self.watchdog_s: float | None = int(usec) / 2e6 if usec.isdigit() else None

    def ready(self, status: str) -> None:
        """Say that start or reload is done."""
        self._systemd.notify(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Say that the configuration is being re-read."""
        self._systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._systemd.notify(f"STATUS={text}")

    def alive(self) -> None:
        """Pat the watchdog."""
        self._systemd.notify("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the service stops on purpose."""
        self._systemd.notify("STOPPING=1")

    async def watch(self, healthy: Callable[[], bool]) -> None:
        """Pat the watchdog while the loop turns and what is looked at is healthy."""
        while True:
            if healthy():
                self.alive()
            await asyncio.sleep(self.watchdog_s or 5.0)
