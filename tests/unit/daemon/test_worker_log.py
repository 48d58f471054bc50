"""What the kernel refuses is logged once, not at every retry."""

from __future__ import annotations

import asyncio
import logging

import pytest

from skedge.core.desired.compute import Desired
from skedge.daemon.kernel import worker as workers
from skedge.daemon.kernel.kernel import Applied
from tests.fakes.networks import site_config

OFF = "IPv6 is switched off on lo"


class Refusing:
    """Refuses as it is told, one word a run; the last one for ever."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.runs = list(texts), 0

    def moved(self) -> bool:
        return False

    def want_routes(self, routes: object) -> None:
        pass

    def apply(self, _config: object, _desired: object, *, allow_delete: bool) -> Applied:
        self.runs += 1
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        return Applied([], {"address fd00::1/128": text} if text else {})


def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *texts: str) -> list[str]:
    monkeypatch.setattr(workers, "RETRY_S", 0.001)
    kernel = Refusing(*texts)

    async def main() -> None:
        worker = workers.Worker(kernel, lambda *_: None)  # type: ignore[arg-type]
        task = asyncio.create_task(worker.run())
        worker.want(site_config("a"), Desired(), allow_delete=False)
        while len(kernel.texts) > 1 or kernel.runs < 4:
            worker.again()
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        task.cancel()
        worker.close()

    with caplog.at_level(logging.INFO, "skedge.kernel"):
        asyncio.run(main())
    return [f"{one.levelname} {one.getMessage()}" for one in caplog.records]


def test_a_refusal_is_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert said(monkeypatch, caplog, OFF) == [f"WARNING op=reconcile key='address fd00::1/128' failed={OFF!r}"]


def test_another_reason_and_the_end_are_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    lines = said(monkeypatch, caplog, OFF, OFF, "no memory", "")
    assert [line.split("failed=")[1] for line in lines] == [repr(OFF), repr("no memory"), "no"]
