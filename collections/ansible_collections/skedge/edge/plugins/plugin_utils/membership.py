# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Whether hosts belong to a network already, and whether this control node has the authority of that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.skedge.edge.plugins.plugin_utils.authority import Authority, AuthorityError
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

NEW = "-e skedge_new_authority=true"


@dataclass(frozen=True, order=True)
class Known:
    """One authority by its certificate; the fingerprint is that of ``openssl x509 -fingerprint -sha256``."""

    network: str
    fingerprint: str
    made: str

    def __str__(self) -> str:
        return f"the authority of network {self.network} (made {self.made}, SHA-256 fingerprint {self.fingerprint})"


def of_certificate(certificate: x509.Certificate) -> Known:
    """Return what tells an authority from others."""
    names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    network = str(names[0].value) if names else "without a name"
    made = certificate.not_valid_before_utc.date().isoformat()
    return Known(network, certificate.fingerprint(SHA256()).hex(":").upper(), made)


def trusted(pem: str) -> Known | None:
    """Return the authority that a host trusts, by what it has as ca.crt; None for none, or what is no certificate."""
    try:
        return of_certificate(x509.load_pem_x509_certificate(pem.encode())) if pem.strip() else None
    except ValueError:
        return None


def problems(hosts: Mapping[str, str], directory: str, network: str, *, new: bool) -> list[str]:
    """Return why certificates of the directory's authority must not go to these hosts, one sentence each.

    ``hosts`` has each one's ca.crt ("" where it has none); ``new`` says that another authority is to replace theirs.
    """
    try:
        own = _own(directory, network)
    except AuthorityError as error:
        return [str(error)]
    if new:
        return []
    others: dict[Known, list[str]] = {}
    for host, pem in sorted(hosts.items()):
        known = trusted(pem)
        if known is not None and known != own:
            others.setdefault(known, []).append(host)
    return [_sentence(known, names, own, directory) for known, names in sorted(others.items())]


def _own(directory: str, network: str) -> Known | None:
    """Return the control node's authority, None where it has none. Raises AuthorityError when it is not whole."""
    authority = Authority(directory, network)
    if authority.exists:
        return of_certificate(authority.certificate())
    if (Path(directory) / "ca.crt").exists():
        raise AuthorityError(f"{directory}/ca.key is missing beside ca.crt; restore the directory from backup")
    return None


def _sentence(known: Known, hosts: list[str], own: Known | None, directory: str) -> str:
    who = f"{hosts[0]} trusts" if len(hosts) == 1 else f"{', '.join(hosts)} trust"
    here = f"{directory} on this control node has {'none' if own is None else str(own)}"
    return (
        f"{who} {known}, but {here}. Restore that authority's directory from backup or copy it from the control node "
        f"that deployed last (its ca.crt has this fingerprint), or let skedge_ca_dir name it. {NEW} replaces it, "
        "which cuts each site off from all that are not deployed yet"
    )
