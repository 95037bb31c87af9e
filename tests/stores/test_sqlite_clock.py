"""The store's clock: deaf to jumps of the wall clock, good across restarts and reboots (4.9)."""

import shutil
from datetime import timedelta
from pathlib import Path

from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import LEASE, OUTCOME, TTL, a_claim

from .conftest import HandClock, Make

DAY = timedelta(days=1)


async def test_the_wall_clock_set_forward_ends_no_lease(store: AsyncSQLiteStore, clock: HandClock) -> None:
    """A live lease can't be stolen by setting a clock."""
    claim = a_claim()
    await store.claim(claim)
    clock.jump(DAY)
    assert await store.claim(a_claim(claim.name), over=claim.fence) is not None


async def test_the_wall_clock_set_back_keeps_no_dead_lease(store: AsyncSQLiteStore, clock: HandClock) -> None:
    """A lease runs out in the time that passes, whatever the wall says."""
    claim = a_claim()
    await store.claim(claim)
    clock.jump(-DAY)
    clock.elapse(LEASE)
    assert await store.claim(a_claim(claim.name), over=claim.fence) is None


async def test_expiry_is_deaf_to_the_wall_clock(store: AsyncSQLiteStore, clock: HandClock) -> None:
    """An outcome is kept for its ttl of time that passes."""
    claim = a_claim()
    await store.claim(claim)
    await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    clock.jump(DAY)
    assert await store.get(claim.name) is not None
    clock.jump(-2 * DAY)
    clock.elapse(TTL)
    assert await store.get(claim.name) is None


async def test_time_shown_to_people_is_the_walls(store: AsyncSQLiteStore, clock: HandClock) -> None:
    """created_at and completed_at say what the wall clock said."""
    claim = a_claim()
    clock.jump(DAY)
    created_at = clock.now()
    await store.claim(claim)
    clock.jump(DAY)
    await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    record = await store.get(claim.name)
    assert record is not None
    assert (record.created_at, record.completed_at, record.expires_at) == (created_at, clock.now(), clock.now() + TTL)


async def test_time_goes_on_while_the_store_is_closed(make: Make, clock: HandClock) -> None:
    """Within one boot an opening goes by the stored anchor, jumps of the wall clock or not."""
    store, claim = make(), a_claim()
    await store.claim(claim)
    await store.close()
    clock.elapse(LEASE - timedelta(milliseconds=1))
    clock.jump(DAY)
    record = await make().get(claim.name)
    assert record is not None
    assert not record.lapsed
    clock.elapse(timedelta(milliseconds=1))
    record = await store.get(claim.name)
    assert record is not None
    assert record.lapsed


async def test_a_reboot_counts_the_time_away(make: Make, clock: HandClock) -> None:
    """After a reboot the wall clock is asked how long it was."""
    store, running, completed = make(), a_claim(), a_claim()
    await store.claim(running)
    await store.claim(completed)
    await store.complete(completed.name, completed.fence, OUTCOME, TTL)
    await store.close()
    clock.reboot(away=LEASE)
    store = make()
    record = await store.get(running.name)
    assert record is not None
    assert record.lapsed
    assert await store.get(completed.name) is not None
    clock.elapse(TTL - LEASE)
    assert await store.get(completed.name) is None


async def test_a_reboot_with_a_wrong_clock_keeps_no_lease_beyond_its_length(make: Make, clock: HandClock) -> None:
    """A machine that starts in 1970 goes on from the last time that is known."""
    store, claim = make(), a_claim()
    await store.claim(claim)
    clock.elapse(LEASE / 2)
    await store.close()
    clock.reboot(away=timedelta())
    clock.wall = 0
    store = make()
    record = await store.get(claim.name)
    assert record is not None
    assert not record.lapsed
    clock.elapse(LEASE / 2)
    record = await store.get(claim.name)
    assert record is not None
    assert record.lapsed


async def test_a_crash_and_a_reboot_keep_no_lease_beyond_its_length(
    make: Make, clock: HandClock, path: Path, tmp_path: Path
) -> None:
    """Where the last seconds are not known any more, leases are cut to their own length from the reboot on."""
    store, claim = make(), a_claim(lease=timedelta(seconds=1))
    await store.open()
    clock.elapse(timedelta(seconds=9))
    await store.claim(claim)
    for suffix in ("", "-wal"):  # the crash: nobody says goodbye
        shutil.copy(f"{path}{suffix}", f"{tmp_path / 'after.db'}{suffix}")
    rebooted = HandClock(wall=0, uptime=10**9, boot="boot-2")
    store = make(tmp_path / "after.db", clock=rebooted)
    record = await store.get(claim.name)
    assert record is not None
    assert not record.lapsed
    rebooted.elapse(timedelta(seconds=1))
    record = await store.get(claim.name)
    assert record is not None
    assert record.lapsed


async def test_a_wait_goes_by_the_stores_clock(make: Make, clock: HandClock, tmp_path: Path, path: Path) -> None:
    """Deaf to the wall clock, counting the time away, and never longer than its own length after a crash."""
    store, claim = make(), a_claim()
    await store.open()
    clock.elapse(timedelta(seconds=9))
    await store.claim(claim)
    assert await store.wait(claim.name, claim.fence, DAY, 1, 0)
    clock.jump(DAY * 2)
    record = await store.get(claim.name)
    assert record is not None
    assert not record.lapsed
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{tmp_path / 'after.db'}{suffix}")
    rebooted = HandClock(wall=0, uptime=10**9, boot="boot-2")
    store = make(tmp_path / "after.db", clock=rebooted)
    await store.open()
    rebooted.elapse(DAY)
    record = await store.get(claim.name)
    assert record is not None
    assert record.lapsed


async def test_without_a_boot_id_a_reboot_is_told_from_the_uptime(make: Make, clock: HandClock) -> None:
    """An up-time that is smaller than the anchor's is another boot's."""
    clock.boot = ""
    store, claim = make(), a_claim()
    await store.claim(claim)
    await store.close()
    clock.reboot(away=LEASE, boot="")
    record = await make().get(claim.name)
    assert record is not None
    assert record.lapsed


async def test_without_a_boot_id_time_never_goes_back(make: Make, clock: HandClock) -> None:
    """A boot whose up-time is beyond the anchor's, but whose time would be before the last known, is another."""
    clock.boot = ""
    clock.uptime = 0
    store = make()
    await store.open()
    clock.elapse(DAY)
    claim = a_claim()
    await store.claim(claim)
    await store.close()
    clock.wall += TTL // timedelta(milliseconds=1)
    clock.uptime = 60 * 10**9
    store = make()
    record = await store.get(claim.name)
    assert record is not None
    assert record.lapsed
