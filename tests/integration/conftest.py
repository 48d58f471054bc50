from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave in the report that a test needed another try: `make test` names those."""
    tries = getattr(item, "execution_count", 1)  # pytest-rerunfailures counts
    if tries > 1:
        item.user_properties.append(("tries", tries))
