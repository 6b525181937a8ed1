"""An instance for tests that only ask it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import Instance, serving


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One worker on a small signed root, shared by the tests of a module."""
    directory: Path = tmp_path_factory.mktemp("instance")
    with serving(directory) as served:
        yield served
