"""A part with every fault, by which the harness itself is tried: see tests/test_fuzz.py."""

from __future__ import annotations

import ctypes
import threading
from contextlib import AbstractContextManager, nullcontext

from hypothesis import strategies as st

from tests.fuzz.verdicts import TAKEN, Judge, Kind, Verdict


class Faulty:
    """1 raises, 2 ends the process, 3 is silent, 4 hangs; all others are right."""

    def __call__(self, case: int) -> Verdict:
        if case == 1:
            raise KeyError(case)
        if case == 2:
            ctypes.string_at(0)
        if case == 4:
            threading.Event().wait()
        return Verdict("silent", "nothing was said", "silent") if case == 3 else TAKEN

    def memory_mb(self) -> float:
        return 1.0


def judge() -> AbstractContextManager[Judge]:
    return nullcontext(Faulty())


KIND = Kind("faulty", st.sampled_from(range(6)), "tests.fuzz.faulty:judge", str, most_s=1.0, most_growth_mb=10,
            full=6, short=6)
