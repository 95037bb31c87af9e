"""What the subprocesses of test_sqlite_processes.py do; the first argument says which."""

import asyncio
import os
import sys
from datetime import timedelta

from grpc_idempotency.errors import FenceRefused
from grpc_idempotency.records import Claim, Effects
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import OUTCOME, TTL, a_claim, a_step, keyed
from grpc_idempotency.transactions import Database


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def contend(path: str, names: int, first: int, seed: str) -> None:
    """Claims the same operations as everybody else, a few at a time, and says which it won."""
    store = AsyncSQLiteStore(path, busy_timeout=timedelta(seconds=60))
    await store.open()
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    won = []
    for start in range(first, first + names, 10):
        claims = [a_claim(f"{seed}{n % names:010}".encode()) for n in range(start, start + 10)]
        answers = await asyncio.gather(*map(store.claim, claims))
        won += [claim for claim, answer in zip(claims, answers, strict=True) if answer is None]
        assert all(await asyncio.gather(*(store.complete(w.name, w.fence, OUTCOME, TTL) for w in won[-10:])))
    for claim in won:
        say(claim.name.hex())
    await store.close()


async def race(path: str, names: int) -> None:
    """Runs the same operations as everybody else, none of which is claimed, and says which it committed."""
    store = AsyncSQLiteStore(path, busy_timeout=timedelta(seconds=60))
    await store.open()
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    for start in range(0, names, 10):
        claims = [a_claim(f"{n:016}".encode(), effects=Effects.TRANSACTIONAL) for n in range(start, start + 10)]
        answers = await asyncio.gather(*(asyncio.create_task(pay(store, claim)) for claim in claims))
        for name in filter(None, answers):
            say(name)
    await store.close()


async def pay(store: AsyncSQLiteStore, claim: Claim) -> str | None:
    """Two rows and the record of an operation; ``None`` where it has a record already."""
    async with keyed(store, claim, unclaimed=True):
        try:
            return await store.transaction(lambda db: pair(db, claim.name.decode() + " "))
        except FenceRefused:
            return None


async def hammer(path: str) -> None:
    """Writes for ever, and says what was acknowledged: claims, steps, completions, and transactions of two rows."""
    store = AsyncSQLiteStore(path)
    await store.transaction(lambda db: db.execute("CREATE TABLE IF NOT EXISTS pairs (name TEXT, half INTEGER)"))
    say("ready")

    async def write() -> None:
        while True:
            claim = a_claim()
            assert await store.claim(claim) is None
            say(f"claimed {claim.name.hex()}")
            assert await store.record_step(claim.name, claim.fence, a_step("first"))
            say(f"stepped {claim.name.hex()} first done")
            async with keyed(store, claim):
                paired = await store.transaction(pair_of_step, step=lambda name: a_step("pair", result=name.encode()))
            say(f"stepped {claim.name.hex()} pair {paired}")
            assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
            say(f"completed {claim.name.hex()}")
            say(f"paired {await store.transaction(pair)}")

    await asyncio.gather(*(write() for _ in range(16)))


def pair_of_step(db: Database) -> str:
    return pair(db, "step")


def pair(db: Database, prefix: str = "") -> str:
    name = prefix + os.urandom(8).hex()
    for half in (1, 2):
        db.execute("INSERT INTO pairs VALUES (?, ?)", (name, half))
    return name


async def forget(path: str) -> None:
    """Uses a store and does not close it."""
    store = AsyncSQLiteStore(path)
    claim = a_claim()
    assert await store.claim(claim) is None
    say(claim.name.hex())
    kept.append(store)


kept: list[object] = []


def fork(path: str) -> None:
    """Forks with the store open; parent and child each go on."""
    store = AsyncSQLiteStore(path)
    asyncio.run(forget_into(store))
    child = os.fork()
    asyncio.run(forget_into(store))
    if child:
        assert os.waitpid(child, 0)[1] == 0
    asyncio.run(store.close())
    os._exit(0)


async def forget_into(store: AsyncSQLiteStore) -> None:
    claim = a_claim()
    assert await store.claim(claim) is None
    say(claim.name.hex())


if __name__ == "__main__":
    what, path, *rest = sys.argv[1:]
    if what == "contend":
        asyncio.run(contend(path, int(rest[0]), int(rest[1]), rest[2]))
    elif what == "race":
        asyncio.run(race(path, int(rest[0])))
    elif what == "hammer":
        asyncio.run(hammer(path))
    elif what == "fork":
        fork(path)
    else:
        asyncio.run(forget(path))
