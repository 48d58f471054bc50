"""Which of the connections or flows a request asks for (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from skedge.core.api.documents import Request


@dataclass(frozen=True, slots=True)
class Filter:
    """What must be so; "" and 0 say nothing. ``client`` is IP or IP:PORT; ``since`` is in seconds since boot."""

    service: str = ""
    workload: str = ""
    client: str = ""
    since: float = 0.0

    @classmethod
    def of(cls, request: Request) -> Filter:
        """Return what a request asks for."""
        return cls(request.service, request.workload, request.client, request.since)

    def matches(self, client: str, service: str, workload: str, placed_at: float) -> bool:
        """Return whether one connection is asked for."""
        return (
            self.service in ("", service)
            and self.workload in ("", workload)
            and self.client in ("", client, address(client))
            and placed_at >= self.since
        )


def address(client: str) -> str:
    """Return the address of ``IP:PORT``."""
    return client.rpartition(":")[0].strip("[]")
