"""How long the site's certificate is valid, in `skedge show site`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers import HERE

from skedge.cli import columns


@pytest.mark.parametrize(
    ("days", "shown"),
    [
        (89.5, "89d12h"),
        (30.0, "30d00h"),
        (29.9, "29d21h; run the deploy playbook"),
        (0.5, "12h00m; run the deploy playbook"),
        (-2.0, "expired; run the deploy playbook"),
        (None, "-"),
    ],
)
def test_what_is_to_be_done_when_little_is_left(days: float | None, shown: str) -> None:
    (cell,) = [column.cell for column in columns.SITE if column.head == "CERTIFICATE"]
    assert cell(replace(HERE, certificate_days=days)) == shown
