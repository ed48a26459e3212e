"""The shard of a test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.cluster.one_shard import OneShard


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[OneShard]:
    one = OneShard(tmp_path / "data")
    one.path.mkdir()
    yield one
    await one.stop()
    assert one.errors == []
