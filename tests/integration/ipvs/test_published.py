"""A published container port at a site whose engine is ipvs, with real loaders and controllers: refused, and said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.daemon.kit import Line, Machine, running, until
from tests.integration.daemon.test_published import (
    BOX,
    HOST,
    LISTENERS,
    PORT,
    listening,
    problems,
    publish,
    reasons,
    unpublish,
)


class WithoutPrograms(Line):
    """A and B have the engine ipvs, C stands alone; A's container is there before."""

    LINKS = (("a", "b", 10, "10.93.1"),)

    def document(self, name: str, costs: Mapping[str, int] | None = None) -> dict[str, Any]:
        connectors = {"a": [{**BOX, "health": {"interval_s": 0.2}}], "b": [], "c": []}[name]
        made = {**super().document(name, costs), "listeners": LISTENERS[1:], "connectors": connectors}
        return {**made, "engine": "ipvs"}

    def make(self) -> None:
        self.build()
        self.container = Machine(self.sites["a"], "box", "10.94.1")
        self.container.inside("ip", "route", "add", "default", "via", self.container.gateway)
        self.container.serve("first", 9191)
        for name in "ab":
            self.sites[name].start()
        for name in "ab":
            until(self.sites[name].works, 20, f"{name} ready")

    def close(self) -> None:
        if hasattr(self, "container"):
            self.container.close()
        super().close()


def test_without_programs_a_published_port_is_refused_by_name(tmp_path: Path) -> None:
    with running(WithoutPrograms(tmp_path)) as line:
        a, b = line.sites["a"], line.sites["b"]
        listening(a, PORT)
        publish(a, line.container.address, 9191)
        until(lambda: reasons(a) == ["published-by-dnat"] and reasons(b) == ["no-family"], 10, "chosen nowhere")
        what = "the host's own DNAT leads its port to where this site does not deliver"
        where = f"port {PORT} of {HOST} is published by DNAT to {line.container.address}:9191"
        way_out = "give engine: ebpf, or let the server listen on the host itself"
        assert problems(a)["workload a/box"] == f"{what}: {where}; {way_out}"
        unpublish(a)
        until(lambda: problems(a).get("workload box", "").endswith(": listens, but does not accept"), 10, "found out")
