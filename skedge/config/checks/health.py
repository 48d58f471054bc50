"""Keys of a health check that go together, or not."""

from __future__ import annotations

from collections.abc import Iterator

from skedge.config.schema import ConnectorSpec
from skedge.core.model import HealthType, Protocol

Problem = tuple[str, str]


def health_type(connector: ConnectorSpec) -> HealthType:
    """Return how a connector is checked, by its own word or by default."""
    if connector.protocol is Protocol.UDP:
        return connector.health.type or HealthType.SOCKET
    return connector.health.type or (HealthType.TCP if connector.health.tls else HealthType.LISTEN)


def check_keys(path: str, connector: ConnectorSpec) -> Iterator[Problem]:
    """Yield every key of a connector's health check that its type has no use for."""
    health = connector.health
    kind = health_type(connector)
    if health.host and kind is not HealthType.HTTP:
        yield f"{path}.host", f"the Host header is of an http check, this is {kind.value}; give type: http"
    if health.tls and kind not in (HealthType.TCP, HealthType.HTTP):
        yield f"{path}.tls", f"a check of type {kind.value} speaks no TLS; give type: tcp or http"
    if not health.tls:
        given = {
            "tls_verify": not health.tls_verify,
            "tls_ca": health.tls_ca,
            "tls_server_name": health.tls_server_name,
        }
        for key in (key for key, value in given.items() if value):
            yield f"{path}.{key}", "means nothing to a check without TLS; give tls: true beside it"
    elif not health.tls_verify and health.tls_ca:
        yield f"{path}.tls_ca", "a certificate that is not verified needs no CA; remove it, or tls_verify: false"
