# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""The hosts' public WireGuard keys, remembered beside the network's authority: one file a site, one key a line."""

from __future__ import annotations

import binascii
import os
from base64 import b64decode
from pathlib import Path


def read_keys(ca_dir: str, site: str) -> list[str]:
    """Return a site's keys: its own, and the next one while it changes; none before it was deployed."""
    try:
        return _file(ca_dir, site).read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []


def write_keys(ca_dir: str, site: str, keys: list[str]) -> None:
    """Remember a site's keys; none: forget the site. Raises ValueError for what is no key, OSError."""
    path = _file(ca_dir, site)
    for key in keys:
        check_key(site, key)
    if not keys:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text("".join(f"{key}\n" for key in keys), encoding="ascii")
    os.replace(temporary, path)


def check_key(site: str, key: str) -> None:
    """Raise ValueError unless a text is a public key."""
    try:
        right = len(b64decode(key, validate=True)) == 32
    except binascii.Error:
        right = False
    if not right:
        raise ValueError(
            f"{site}: what the host gave is no WireGuard key; remove its wireguard.key and deploy it again"
        )


def _file(ca_dir: str, site: str) -> Path:
    return Path(ca_dir) / "wireguard" / f"{os.path.basename(site)}.pub"
