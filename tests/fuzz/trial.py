"""Tries the inputs of a kind in a process that is watched, and finds the smallest example of every failure."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import psutil
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import HypothesisException

from tests.fuzz.verdicts import FAILURES, Failure, Judge, Kind, Tally, Verdict, crash

SEED = 20261129
"""Of the runs of the tests."""

_START_S = 240.0  # importing torch on a busy machine
_WARM_UP = 60  # inputs after which memory is measured for the first time
_MEASURED_EVERY = 50
_ADDRESS_SPACE = 6 << 30  # bytes beyond which a process gets no memory: what takes more must not take the machine
_MOST_SHRUNK = 12  # causes of which the smallest example is looked for
_SHRINKING_S = 60.0  # for all of them
_MB = 1e6


class Bench:
    """The part of a kind in a process of its own, started again when it died or had to be killed.

    Args:
        kind: what is tried.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._opened: AbstractContextManager[Judge] | None = None
        self._judge: Judge | None = None
        self._process: Any = None
        self._line: Connection | None = None
        self.tried = 0
        self.growth_mb = 0.0
        self._calm_mb: float | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        self._measure()
        self._end()

    def judge(self, case: Any) -> tuple[Verdict, float]:
        """Try one input: its verdict, and the seconds it took."""
        if self._kind.apart and (self._process is None or not self._process.is_alive()):
            self._start()  # which is none of the time of an input
        started = time.monotonic()
        verdict = self._judge_apart(case) if self._kind.apart else _judged(self._judge, case)
        seconds = time.monotonic() - started
        if seconds > self._kind.most_s and not verdict.failed:
            verdict = Verdict("hung", f"took {seconds:.1f} s", "slow")
        self.tried += 1
        if self.tried % _MEASURED_EVERY == 0 and self.tried >= _WARM_UP:
            self._measure()
        return verdict, seconds

    def _judge_apart(self, case: Any) -> Verdict:
        assert self._process is not None and self._line is not None
        try:
            self._line.send(case)
            if self._line.poll(3 * self._kind.most_s):
                verdict: Verdict = self._line.recv()
                return verdict
        except (EOFError, OSError):
            self._process.join(10)
            told = f"the process died ({self._process.exitcode})"
            self._end()
            return Verdict("crashed", told, told)
        self._end()
        return Verdict("hung", f"no answer within {3 * self._kind.most_s:g} s", "no answer")

    def _start(self) -> None:
        self._calm_mb = None
        if not self._kind.apart:
            self._opened = _opened(self._kind.judge)
            self._judge = self._opened.__enter__()
            return
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._kind.judge), daemon=True)
        self._process.start()
        theirs.close()
        if not self._line.poll(_START_S):
            raise TimeoutError(f"{self._kind.name}: the process did not start within {_START_S:g} s")
        self._line.recv()

    def _end(self) -> None:
        if self._opened is not None:
            self._opened.__exit__(None, None, None)
            self._opened = self._judge = None
        if self._process is not None:
            with suppress(OSError):
                if self._line is not None:
                    self._line.close()
            self._process.join(10)
            self._process.kill()
            self._process.join()
            self._process = None

    def _measure(self) -> None:
        if self._kind.apart:
            if self._process is None or not self._process.is_alive() or self._line is None:
                return
            try:
                self._line.send(_Measure())
                held = float(self._line.recv())
            except (EOFError, OSError):
                return
        else:
            held = self._judge.memory_mb() if self._judge is not None else 0.0
        if self._calm_mb is None:
            self._calm_mb = held
        self.growth_mb = max(self.growth_mb, held - self._calm_mb)


class _Measure:
    """Asks the process for its memory."""


def _opened(name: str) -> AbstractContextManager[Judge]:
    module, _, function = name.partition(":")
    opened: AbstractContextManager[Judge] = getattr(importlib.import_module(module), function)()
    return opened


def _serve(line: Connection, name: str) -> None:
    """What runs in the process: answers one input after the other until the other end closes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - libtiff and libjpeg print what they find
        os.dup2(nowhere.fileno(), 2)
    with _opened(name) as judge:
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, resource.RLIM_INFINITY))
        line.send("ready")
        with suppress(EOFError, OSError):
            while True:
                case = line.recv()
                if isinstance(case, _Measure):
                    gc.collect()
                    line.send(judge.memory_mb())
                else:
                    line.send(_judged(judge, case))


def _judged(judge: Judge | None, case: Any) -> Verdict:
    assert judge is not None
    try:
        return judge(case)
    except Exception as error:  # noqa: BLE001 - whatever is raised is what is looked for
        return crash(error)


def own_memory_mb() -> float:
    """What this process holds, MB."""
    return float(psutil.Process().memory_info().rss) / _MB


def run(kind: Kind, *, number: int, count: int, progress: Callable[[Tally], None] = lambda _: None) -> Tally:
    """Try so many inputs of a kind.

    Args:
        kind: what is tried.
        number: the seed.
        count: how many inputs.
        progress: called after each.
    """
    tally, found = Tally(kind.name), dict[str, tuple[int, Verdict, Any]]()
    started = time.monotonic()
    with Bench(kind) as bench:

        def note(case: Any) -> None:
            verdict, seconds = bench.judge(case)
            tally.fates[verdict.fate] += 1
            tally.slowest_s = max(tally.slowest_s, seconds)
            if verdict.failed:
                seen, first, smallest = found.get(verdict.cause, (0, verdict, case))
                if len(kind.show(case)) < len(kind.show(smallest)):
                    first, smallest = verdict, case
                found[verdict.cause] = (seen + 1, first, smallest)
            progress(tally)

        generate(kind, note, number=number, count=count)
    tally.growth_mb = bench.growth_mb
    tally.failures = _smallest(kind, found, number=number, count=count)
    if bench.growth_mb > kind.most_growth_mb:
        told = f"holds {bench.growth_mb:.0f} MB more than after {_WARM_UP} inputs"
        tally.failures.append(Failure(kind.name, "grown", 1, told, ""))
    tally.seconds = time.monotonic() - started
    return tally


def generate(
    kind: Kind, note: Callable[[Any], None], *, number: int, count: int, phases: tuple[Phase, ...] = (Phase.generate,)
) -> None:
    """Call `note` with so many inputs of a kind; the same ones for the same seed."""

    @seed(number)
    @settings(
        max_examples=count, database=None, deadline=None, phases=phases, suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet, report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    @given(kind.cases)
    def tried(case: Any) -> None:
        note(case)

    tried()


class _Found(Exception):
    """Tells hypothesis that an input fails in the way that is being reduced."""


def _smallest(kind: Kind, found: dict[str, tuple[int, Verdict, Any]], *, number: int, count: int) -> list[Failure]:
    """Reduce the example of each cause: the same inputs again, until the first that fails so, and smaller ones."""
    if not found:
        return []
    ends = time.monotonic() + _SHRINKING_S
    kept = {cause: (verdict, case) for cause, (_, verdict, case) in found.items()}
    with Bench(kind) as bench:
        alive = [cause for cause in found if "process died" not in cause and "no answer" not in cause]
        for cause in alive[:_MOST_SHRUNK]:

            def again(case: Any, *, cause: str = cause) -> None:
                if time.monotonic() > ends:
                    return
                verdict, _ = bench.judge(case)
                if verdict.cause == cause:
                    if len(kind.show(case)) <= len(kind.show(kept[cause][1])):
                        kept[cause] = (verdict, case)
                    raise _Found

            with suppress(_Found, HypothesisException):  # a flaky one: the smallest so far is kept
                generate(kind, again, number=number, count=count, phases=(Phase.generate, Phase.shrink))
    return [
        Failure(kind.name, cause, times, kept[cause][0].evidence, kind.show(kept[cause][1])[:4000])
        for cause, (times, _, _) in found.items()
    ]


def failed(tallies: list[Tally]) -> bool:
    """Whether anything happened that must not."""
    return any(tally.failures or any(tally.fates[fate] for fate in FAILURES) for tally in tallies)
