"""Which threads of ours outlive what began them: one that still writes to Redis would act on a later test's."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_OURS = re.compile(r"spool|heartbeat|keeper|supervisor|(fetch|embed|draw|post|click)-\d+")


@contextmanager
def none_left(*, within_s: float = 25.0) -> Iterator[None]:
    """Around a test, which fails unless the product's threads that began in it have ended, or do within `within_s`."""
    before = set(threading.enumerate())  # those of wider fixtures among them
    yield
    deadline = time.monotonic() + within_s
    began = [thread for thread in threading.enumerate() if thread not in before and _OURS.fullmatch(thread.name)]
    for thread in began:
        thread.join(timeout=max(0.0, deadline - time.monotonic()))
    if left := [thread.name for thread in began if thread.is_alive()]:
        pytest.fail(f"threads that nobody ended: {', '.join(left)}")
