"""A server on PostgreSQL that is killed with -9 in a transactional handler, whose client never comes back."""

import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy
from grpc_idempotency.records import State
from grpc_idempotency.stores._postgres.sql import SERVER_CLOCK

from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import ms, until
from .conftest import Make, Place

pytestmark = pytest.mark.slow

POLICY = Policy(effects=Effects.TRANSACTIONAL, lease=ms(600), renew_every=ms(150))
SERVING = """
    import asyncio, sys, time
    from datetime import timedelta
    from google.protobuf.wrappers_pb2 import StringValue
    from grpc_idempotency import Effects, Policy
    from grpc_idempotency.aio import IdempotencyInterceptor, PostgresStore
    from tests.harness.handlers import generic_handler
    from tests.harness.servers import Server

    async def main():
        store = PostgresStore(sys.argv[1], schema=sys.argv[2])

        def insert(db):
            db.execute("INSERT INTO things VALUES ('first')")
            print("began", flush=True)
            time.sleep(600)
            return StringValue(value="never")

        async def do(request, context):
            return await store.transaction(insert)

        policy = Policy(
            effects=Effects.TRANSACTIONAL,
            lease=timedelta(milliseconds=600),
            renew_every=timedelta(milliseconds=150),
        )
        server = Server("async", [IdempotencyInterceptor(store, policy=policy)])
        server.add(generic_handler("async", {"Do": do}))
        print(await server.start(), flush=True)
        await server.wait_for_termination()

    asyncio.run(main())
"""


@pytest.fixture
async def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Servers]:
    monkeypatch.setattr("grpc_idempotency._server.aio.interceptor.EVERY", 0.05)
    async with AsyncExitStack() as stack:
        yield Servers("async", tmp_path, stack, policy=POLICY)


async def test_an_operation_whose_server_was_killed_leaves_no_record(place: Place, make: Make, serve: Servers) -> None:
    """Nothing of it has happened. A live server releases its record though its client never retries (4.5, 5.4)."""
    place.db.execute("CREATE TABLE things (value text)")
    store = make(_clock=SERVER_CLOCK)
    await store.open()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(SERVING),
        place.url,
        place.schema,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    key = new_key()
    try:
        target = (await process.stdout.readline()).decode().strip()
        call = (await serve.client(target)).start("Do", "a", key=key)
        assert await process.stdout.readline() == b"began\n"
        process.kill()
        await call.end()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    (record,) = await store.list()
    assert (record.state, record.effects) == (State.RUNNING, Effects.TRANSACTIONAL)

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return await store.transaction(lambda db: (db.execute("INSERT INTO things VALUES ('again')"), text("done"))[1])

    service = await serve({"Do": do}, store=make(_clock=SERVER_CLOCK))

    async def released() -> bool:
        return await store.get(record.name) is None

    await until(released)
    assert place.db.execute("SELECT * FROM things").fetchall() == []
    reply = await service.call("Do", "a", key=key)
    assert (reply.text, reply.mark) == ("done", "executed")
    assert place.db.execute("SELECT * FROM things").fetchall() == [("again",)]
