"""Every program of packets is taken by the verifier with room to spare, whichever bcc compiled it."""

from __future__ import annotations

from pathlib import Path

from tests.kit import verifier

from .kit import Bench


def test_every_program_is_taken_with_room_to_spare(standing: Bench) -> None:
    found = verifier.walked(Path(standing.site.pin_dir))
    assert {name for name in found if name.startswith("lan_")} >= {"lan_begin_v1", "lan_open_v1", "lan_odd_v1"}
    assert {name: count for name, count in found.items() if count > verifier.ROOM} == {}
