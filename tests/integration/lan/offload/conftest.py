from __future__ import annotations

import pytest

from tests.integration.lan.world import World

from .devices import kernel_has_big_tcp


@pytest.fixture(params=[4, 6])
def big(world: World, request: pytest.FixtureRequest) -> int:
    """IP versions in which this kernel makes packets of more than 64 KiB."""
    if not kernel_has_big_tcp(world.client, "eth0", request.param):
        pytest.skip(f"this kernel has no BIG TCP for IPv{request.param}")
    return int(request.param)
