from __future__ import annotations

import signal

import pytest


def pytest_configure() -> None:
    """Let a run that is ended (SIGTERM, as by timeout(1)) clean up as one that is interrupted does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave in the report that a test needed another try: `make test` names those."""
    tries = getattr(item, "execution_count", 1)  # pytest-rerunfailures counts
    if tries > 1:
        item.user_properties.append(("tries", tries))
