"""The examples of the documentation that need a PostgreSQL."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from ..docs.servers import call, example
from .conftest import Place


@pytest.mark.slow
def test_two_hosts_share_their_keys(tmp_path: Path, place: Place) -> None:
    """A retry that comes to another server gets the first reply."""
    with ExitStack() as servers:
        addresses = []
        for name in ("one", "other"):
            (folder := tmp_path / name).mkdir()
            addresses.append(servers.enter_context(example("many_hosts.py", folder, DATABASE_URL=place.url)))
        first, how = call(addresses[0], ("idempotency-key", place.schema))
        assert how == "executed"
        for address in addresses:
            assert call(address, ("idempotency-key", place.schema)) == (first, "replayed")
