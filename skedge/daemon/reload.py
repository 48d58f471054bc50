"""The configuration read anew while the controller runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from skedge import config
from skedge.core.model import EngineKind, SiteConfig

NEED_RESTART: Final = (
    "network",
    "site",
    "engine",
    "overlay_cidr",
    "overlay4",
    "overlay6",
    "nat4",
    "control_port",
    "load_port",
    "metrics",
)


def read(path: str, running: SiteConfig) -> SiteConfig:
    """Return what the file says now; which engine ``auto`` is was decided when the process started.

    Raises:
        ConfigError: the file is not a good configuration.
    """
    new = config.load(path)
    return replace(new, engine=running.engine) if new.engine is EngineKind.AUTO else new


def need_restart(running: SiteConfig, new: SiteConfig) -> list[str]:
    """Return the names of what changed and only a new process can take."""
    return [name for name in NEED_RESTART if getattr(running, name) != getattr(new, name)]
