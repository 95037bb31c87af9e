"""The contract for searches by name, for methods and for counts, for operators."""

from grpc_idempotency.records import State
from grpc_idempotency.testing.harness import AsyncOperatorHarness
from grpc_idempotency.testing.makers import FAILURE, LEASE, METHOD, OUTCOME, TTL, a_claim
from grpc_idempotency.testing.raising import raises
from grpc_idempotency.testing.states import (
    put_completed,
    put_held,
    put_running,
    put_undoing,
    put_waiting,
    record_of,
)


class CountContract:
    """Searches by name, methods, and counts."""

    async def test_records_are_found_by_the_beginnings_of_their_names(self, harness: AsyncOperatorHarness) -> None:
        """Any number of digits will do, also an odd one; the records are whole, and in the order of their names."""
        store = await harness.store()
        names = [bytes.fromhex(digits + "0" * (32 - len(digits))) for digits in ("ab", "abc0ff", "abcf", "abd", "ac")]
        claims = [a_claim(name) for name in (*names, b"\xff" * 16, b"\0" * 16)]
        for claim in claims[::-1]:
            assert await store.claim(claim) is None
        expected = {"abc": 2, "ABC": 2, "abcf": 1, "ab": 4, "a": 5, "f": 1, "0": 1, "b": 0, claims[0].name.hex(): 1}
        for prefix, count in expected.items():
            found = await store.find(prefix, limit=10)
            assert [one.name.hex()[: len(prefix)] for one in found] == [prefix.lower()] * count
            assert [one.name for one in found] == sorted(one.name for one in found)
        assert list(await store.find("abd")) == [await record_of(store, claims[3])]
        assert len(await store.find("a")) == 2
        assert len(await store.find("", limit=100)) == len(claims)

    async def test_expired_records_are_not_found(self, harness: AsyncOperatorHarness) -> None:
        """From the instant of its expiry on, a record is not found."""
        store = await harness.store()
        claim = await put_completed(store)
        assert [one.name for one in await store.find(claim.name.hex()[:5], limit=100)] == [claim.name]
        await harness.elapse(TTL)
        assert list(await store.find(claim.name.hex()[:5], limit=100)) == []

    async def test_what_no_name_begins_with_is_an_error(self, harness: AsyncOperatorHarness) -> None:
        """Other characters than hexadecimal digits, and too many of them, raise ``ValueError``."""
        store = await harness.store()
        for prefix in ("x", "0x", "a b", "-1", "a_b", "٣", "0" * 33):
            with raises(ValueError):
                await store.find(prefix)

    async def test_the_methods_of_records(self, harness: AsyncOperatorHarness) -> None:
        """Each method with a record is there once, in whatever state its records are."""
        store = await harness.store()
        assert list(await store.methods()) == []
        await put_running(store)
        assert list(await store.methods()) == [METHOD]
        claims = [a_claim(method=f"/a.B/{name}") for name in ("Running", "Held", "Waiting", "Undoing", "Done", "Wëird")]
        for claim in (*claims, a_claim(method="/a.B/Running")):
            assert await store.claim(claim) is None
        _, held, waiting, undoing, done, _ = claims
        assert await store.hold(held.name, held.fence, "its server died")
        assert await store.wait(waiting.name, waiting.fence, LEASE, 1, 0)
        assert await store.undo(undoing.name, undoing.fence, FAILURE)
        assert await store.complete(done.name, done.fence, OUTCOME, TTL)
        assert sorted(await store.methods()) == sorted([METHOD, *(claim.method for claim in claims)])
        assert await store.release(held.name, held.fence)
        assert held.method not in await store.methods()

    async def test_records_are_counted_by_method_and_state(self, harness: AsyncOperatorHarness) -> None:
        """Only unexpired ones, and without zeros; ``completed=False`` leaves completed ones out."""
        store = await harness.store()
        assert await store.count() == {}
        for n, prepare in enumerate((put_completed, put_held, put_running, put_undoing, put_waiting), 1):
            for _ in range(n):
                await prepare(store)
        other = a_claim(method="/a.B/Other")
        assert await store.claim(other) is None
        opened = {
            (METHOD, State.HELD): 2,
            (METHOD, State.RUNNING): 3,
            (METHOD, State.UNDOING): 4,
            (METHOD, State.WAITING): 5,
            ("/a.B/Other", State.RUNNING): 1,
        }
        assert await store.count() == {**opened, (METHOD, State.COMPLETED): 1}
        assert await store.count(completed=False) == opened
        await harness.elapse(TTL)
        assert await store.count() == opened
        assert await store.release(other.name, other.fence)
        del opened["/a.B/Other", State.RUNNING]
        assert await store.count() == opened
