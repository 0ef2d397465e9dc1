"""The guard over the product's threads: it tells of one that lives on, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread

import pytest

from tests.threads import none_left


@contextmanager
def begun(name: str) -> Iterator[None]:
    """A thread that lives until the block is over."""
    over = Event()
    thread = Thread(target=over.wait, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("name", ["spool", "heartbeat", "supervisor", "fetch-7", "post-0"])
def test_a_thread_of_ours_that_lives_on_is_told(name: str) -> None:
    with ExitStack() as later, pytest.raises(pytest.fail.Exception, match=name), none_left(within_s=0.05):
        later.enter_context(begun(name))


def test_what_ended_or_began_earlier_or_is_not_ours_is_left_alone() -> None:
    with ExitStack() as later, begun("heartbeat"), none_left(within_s=0.05):
        later.enter_context(begun("of a library"))
        with begun("spool"):
            pass
