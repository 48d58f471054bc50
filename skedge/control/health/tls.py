"""TLS of health checks: how a server's certificate is verified, and what went wrong in a few words."""

from __future__ import annotations

import functools
import ssl
from ipaddress import ip_address
from pathlib import Path

from skedge.control.health.probe_failed import ProbeFailed
from skedge.core.model import Health


def context(health: Health) -> ssl.SSLContext:
    """Return how to verify a workload's certificate. Raises ProbeFailed when the CA file cannot be read."""
    if not health.tls_ca or not health.tls_verify:
        return _context(health.tls_verify, "", 0)
    try:
        return _context(True, health.tls_ca, Path(health.tls_ca).stat().st_mtime_ns)
    except ssl.SSLError as error:
        raise ProbeFailed(f"TLS: {health.tls_ca} has no certificate that can be read") from error
    except OSError as error:
        raise ProbeFailed(f"TLS: {health.tls_ca} cannot be read ({(error.strerror or '').lower()})") from error


@functools.lru_cache(maxsize=64)
def _context(verify: bool, ca: str, _changed: int) -> ssl.SSLContext:
    """Return a context, made once: to read the system's certificates takes as long as a thousand probes."""
    made = ssl.create_default_context(cafile=ca or None)
    if not verify:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def server_name(health: Health, host: str) -> str:
    """Return the name that the certificate must be for: as given, else that of the Host header, else the address."""
    return health.tls_server_name or name_of(health.host) or host


def name_of(host: str) -> str:
    """Return a Host header's name without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    try:
        return str(ip_address(host))
    except ValueError:
        return host.partition(":")[0]


def sentence(error: ssl.SSLError) -> str:
    """Return what went wrong, in OpenSSL's own words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: certificate verify failed: {error.verify_message.rstrip('.')}"
    words = (error.reason or str(error.args[-1])).replace("_", " ").lower()
    if words in ("wrong version number", "record layer failure", "packet length too long"):
        return f"TLS: {words}; the server does not speak TLS at this port"
    return f"TLS: {words}"
