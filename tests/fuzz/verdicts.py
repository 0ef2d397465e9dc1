"""What came of one generated input, and of all inputs of a kind."""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from plugin_config.errors import ZeromaskError

Fate = Literal["taken", "told", "crashed", "hung", "silent", "unclear", "refused", "harmed", "leaked"]
FAILURES: tuple[Fate, ...] = ("crashed", "hung", "silent", "unclear", "refused", "harmed", "leaked")
"""Fates that no input may have: an error that is in no contract; no answer in time; wrong, and nothing tells so; an
answer that does not name its subject; right, and yet refused; others' work disturbed; the token sent elsewhere."""

ROOT = Path(__file__).resolve().parent.parent.parent
_MOST_CHARACTERS = 1200
_INSIDE = ("Traceback (most recent", "site-packages", ".py\"", "object at 0x")


@dataclass(frozen=True)
class Verdict:
    """What came of one input. `evidence` says why, for people; `place` tells failures of one cause from others."""

    fate: Fate
    evidence: str = ""
    place: str = ""

    @property
    def failed(self) -> bool:
        """Whether this must not happen."""
        return self.fate in FAILURES

    @property
    def cause(self) -> str:
        """The same for inputs that fail in the same way."""
        return f"{self.fate}: {self.place or re.sub(r'[0-9]+', 'N', self.evidence)[:80]}"


TAKEN = Verdict("taken")


class Judge(Protocol):
    """The real part of the product, ready to be tried."""

    def __call__(self, case: Any) -> Verdict:
        """Try one input. What it raises counts as a crash."""

    def memory_mb(self) -> float:
        """What the part holds now, MB."""


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        name: of the kind.
        cases: generates inputs; plain data, so that they can be sent to another process.
        judge: name of the function, "module:function", whose context is the part that is tried.
        show: an input as text, by which it can be made again.
        most_s: longest time for one input, seconds.
        most_growth_mb: most memory that the part may keep, after a warm-up.
        apart: whether the part is tried in a process of its own, which may die or hang; else it is one itself.
        full, short: how many inputs `make fuzz` and a run of the tests try.
    """

    name: str
    cases: SearchStrategy[Any]
    judge: str
    show: Callable[[Any], str]
    most_s: float
    most_growth_mb: float
    full: int
    short: int
    apart: bool = True


@dataclass(frozen=True)
class Failure:
    """Inputs that failed in the same way: how many, and the smallest of them that was found."""

    kind: str
    cause: str
    count: int
    evidence: str
    example: str


@dataclass
class Tally:
    """What came of the inputs of one kind.

    Attributes:
        kind: its name.
        fates: fate -> inputs.
        growth_mb: what the part kept, after the warm-up.
        slowest_s: longest time of one input.
        failures: one for each cause.
    """

    kind: str
    fates: Counter[str] = field(default_factory=Counter)
    growth_mb: float = 0.0
    slowest_s: float = 0.0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """How many inputs."""
        return sum(self.fates.values())

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        counts: dict[str, int] = {fate: self.fates[fate] for fate in ("taken", "told", *FAILURES)}
        return {"tried": self.tried, **counts, "growth_mb": round(self.growth_mb, 1),
                "slowest_s": round(self.slowest_s, 2), "seconds": round(self.seconds, 1)}  # fmt: skip


def crash(error: BaseException) -> Verdict:
    """The verdict of an error that is in no contract, at the innermost place in this project where it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT) and ".venv" not in frame.filename]
    inner = ours[-1] if ours else None
    where = f"{Path(inner.filename).relative_to(ROOT)}:{inner.name}" if inner else "elsewhere"
    return Verdict("crashed", f"{type(error).__name__}: {error}"[:400], f"{type(error).__name__} in {where}")


def judge_error(error: ZeromaskError, *subjects: str, secret: str = "") -> Verdict:
    """Whether an error of the project's tree is a clear message: one of the `subjects` is named at its beginning."""
    return judge_sentence(str(error), *subjects, secret=secret)


def judge_sentence(sentence: str, *subjects: str, secret: str = "") -> Verdict:
    """The same of a sentence that people read."""
    problem = ""
    if subjects and not sentence.startswith(subjects):
        problem = f"does not begin with its subject, {' or '.join(subjects[:4])}"
    elif ": " not in sentence or not sentence.rstrip().endswith((".", ")", '"', "'", "?", "…")):
        problem = "is no sentence of subject, problem and remedy"
    elif len(sentence) > _MOST_CHARACTERS:
        problem = f"has {len(sentence)} characters"
    elif any(word in sentence for word in _INSIDE):
        problem = "shows the inside of the program"
    elif secret and secret in sentence:
        return Verdict("leaked", f"the token is in: {sentence[:300]}", "token in a message")
    if problem:
        return Verdict("unclear", f"{problem}: {sentence[:300]}", f"{problem[:60]}")
    return Verdict("told", sentence[:300])


def pick(values: Sequence[str]) -> SearchStrategy[str]:
    """One of these texts; hypothesis writes out what it may pick from, and some of these are long."""

    def text(number: int) -> str:
        return values[number]

    return st.integers(0, len(values) - 1).map(text)
