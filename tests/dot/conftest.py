"""An instance with DNS over TLS for tests that only ask it."""

from collections.abc import Iterator

import pytest

from tests.dot.client import Dot, serving_dot


@pytest.fixture(scope="module")
def dot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dot]:
    """One worker, and DNS over TLS beside it, shared by the tests of a module."""
    with serving_dot(tmp_path_factory.mktemp("dot")) as made:
        yield made
