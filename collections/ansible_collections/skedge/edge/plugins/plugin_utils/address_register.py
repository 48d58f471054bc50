# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""The overlay addresses that were given out, remembered beside the network's authority in ``addresses.json`` (0600).

A site keeps what it was given, whatever names are added or made to collide later. What a site leaves behind is kept
for it for `HELD_DAYS` days after the first deployment that missed it. A register that is lost is read back from hosts.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any

from skedge.core.model import SiteConfig

FILE = "addresses.json"
HELD_DAYS = 30
_VERSION = 1


class RegisterError(Exception):
    """The operator must act; the text is one sentence."""


@dataclass(frozen=True)
class Given:
    """The addresses of one site; "" for none. ``gone``: the day (ISO 8601) on which no inventory had it any more."""

    overlay_address: str = ""
    overlay_address6: str = ""
    nat_address: str = ""
    gone: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return all of them."""
        return tuple(one for one in (self.overlay_address, self.overlay_address6, self.nat_address) if one)

    def held(self, today: dt.date) -> bool:
        """Return whether nobody else may have them."""
        return not self.gone or (today - dt.date.fromisoformat(self.gone)).days < HELD_DAYS


@dataclass(frozen=True)
class Register:
    """What one network's sites were given, and from which IPv4 range; empty before the first deployment."""

    network: str = ""
    overlay_cidr: str = ""
    sites: Mapping[str, Given] = field(default_factory=dict)

    @property
    def deployed(self) -> Mapping[str, Given]:
        """Return the sites that have their addresses now."""
        return {site: one for site, one in self.sites.items() if not one.gone}

    def document(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "version": _VERSION,
            **asdict(self),
            "sites": {name: asdict(self.sites[name]) for name in sorted(self.sites)},
        }

    def learn(self, present: Mapping[str, SiteConfig]) -> Register:
        """Return the register with what hosts have now, which is the truth; ``present`` are their configurations."""
        mine = {site: config for site, config in present.items() if config.network == self.network}
        found = {site: Given(config.overlay4, config.overlay6, config.nat4) for site, config in sorted(mine.items())}
        ranges = [IPv4Network(config.overlay_cidr) for config in mine.values()]
        widest = str(min(ranges, key=lambda one: one.prefixlen)) if ranges else ""
        return replace(self, overlay_cidr=self.overlay_cidr or widest, sites={**self.sites, **found})

    def without(self, site: str, today: dt.date) -> Register:
        """Return the register of a network that a site has left."""
        one = self.sites.get(site)
        if one is None or one.gone:
            return self
        return replace(self, sites={**self.sites, site: replace(one, gone=today.isoformat())})


def parse(document: Any, where: str) -> Register:
    """Return the register that a document is. Raises RegisterError."""
    try:
        if document["version"] != _VERSION:
            raise RegisterError(f"{where} is of a later version of skedge; deploy with that one")
        sites = {str(name): Given(**one) for name, one in document["sites"].items()}
        for one in sites.values():
            for text in one.addresses:
                ip_address(text)
            dt.date.fromisoformat(one.gone or "2000-01-01")
        cidr = str(IPv4Network(document["overlay_cidr"]))
        return Register(str(document["network"]), cidr, sites)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RegisterError(
            f"{where} is no register of addresses ({error}); restore it from backup, or remove it: the next deployment "
            "to all hosts reads it back from them"
        ) from error


def read(ca_dir: str, network: str) -> Register:
    """Return the register of the network; an empty one where there is none. Raises RegisterError, OSError."""
    path = Path(ca_dir) / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Register(network)
    try:
        document = json.loads(text)
    except ValueError as error:
        document = str(error)
    register = parse(document, str(path))
    if register.network != network:
        raise RegisterError(
            f"{path} is the register of network {register.network}, not of {network}; "
            "give each network its own skedge_ca_dir"
        )
    return register


def write(ca_dir: str, register: Register) -> bool:
    """Replace the register in one step; return whether it was another. Raises RegisterError, OSError.

    What another deployment gave out since ``register`` was read stays; the same address twice is refused.
    """
    with _locked(ca_dir):
        before = read(ca_dir, register.network)
        holders = {address: site for site, one in before.deployed.items() for address in one.addresses}
        for site, one in register.sites.items():
            for address in one.addresses:
                holder = holders.get(address, site)
                if holder != site and address in register.sites.get(holder, before.sites[holder]).addresses:
                    raise RegisterError(
                        f"{address} was given to {holder} by another deployment meanwhile; run this one again"
                    )
        after = replace(register, sites={**before.sites, **register.sites})
        if after == before:
            return False
        path = Path(ca_dir) / FILE
        temporary = path.with_name(path.name + ".new")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(after.document(), file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o600)
        os.replace(temporary, path)
        return True


@contextlib.contextmanager
def _locked(ca_dir: str) -> Iterator[None]:
    directory = Path(ca_dir)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / f".{FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
