"""A browser for the tests of one file."""

from collections.abc import Iterator
from typing import Any

import pytest
from reviewed import open_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as chromium:
        yield chromium
