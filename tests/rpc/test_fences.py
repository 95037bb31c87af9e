"""No fence is given twice, in whatever thread or process (4.2)."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from grpc_idempotency._server.execution import new_fence


def test_no_fence_is_given_twice() -> None:
    """Fences that are taken in several threads at once are all different."""
    with ThreadPoolExecutor(8) as pool:
        fences = list(pool.map(lambda _: new_fence(), range(5000)))
    assert len(set(fences)) == 5000
    assert {len(fence) for fence in fences} == {16}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_fences_of_its_own() -> None:
    """What was drawn before the fork is the parent's."""
    new_fence()
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    child = context.Process(target=lambda: told.put([new_fence() for _ in range(300)]))
    child.start()
    childs = told.get()
    child.join()
    assert not set(childs) & {new_fence() for _ in range(300)}
