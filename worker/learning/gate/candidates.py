"""One adapter at several strengths against what is served and against the zero-shot model, with every objection.

It must not know recipes or what is decided.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from worker.learning.gate.comparison import Comparison
from worker.learning.gate.evaluator import Bench
from worker.learning.gate.splits import Trial
from worker.learning.interfaces import Adapter
from worker.segmentation.metrics import Confusion

LEAST_GAIN = 0.005
"""Mean IoU a candidate must gain: less is not worth predicting every image again."""

LONE_GAIN = 0.1
"""The same where one half of a photograph judges what was learned from the other, and there is no other photograph: the
halves are much alike, so a model that knows the labels seems to gain where other photographs would lose."""

DOUBT = 0.05
"""Share of bootstrap resamples that may speak against a gain."""

MOST_DROP = 0.03
"""IoU a single label may lose; more is harm where 9 of 10 resamples agree that it falls."""

LEAST_AGREEMENT = 0.8
"""Share of what the zero-shot model says with certainty about labels nobody corrected that must stay, times how often
it is right about those that were corrected."""

_HARM_SHARE = 0.9


@dataclass(frozen=True)
class Candidate:
    """One strength of what was learned, and what speaks against serving it.

    Attributes:
        strength: 0 is the zero-shot model.
        adapter: at that strength; None for the zero-shot model.
        over_served: against what is served, where both are judged alike.
        over_frozen: against the zero-shot model, on photographs it has not learned from.
        agreement: see `Bench.agreement`.
        objections: as parts of a sentence; none = it may be served.
    """

    strength: float
    adapter: Adapter | None
    over_served: Comparison
    over_frozen: Comparison
    agreement: float | None
    objections: tuple[str, ...]

    @property
    def quality(self) -> float:
        """Mean IoU on photographs it has not learned from."""
        return self.over_frozen.means[1]


class Rivals:
    """Holds what candidates are compared with.

    Args:
        bench: with the frozen model.
        trials: what is judged.
        served: what is served now; None = the zero-shot model.
        seen: keys of the examples it has learned from.
        names: of each class, the background last.
    """

    def __init__(
        self, bench: Bench, trials: Sequence[Trial], served: Adapter | None, seen: Collection[str], names: Sequence[str]
    ) -> None:
        self._bench, self._trials, self._served, self._names = bench, trials, served, names
        self._seen = frozenset(seen) if served is not None else frozenset()
        fresh = [trial for trial in trials if self._is_fresh(trial)]
        self.fresh = bench.shows_label(fresh)
        """Whether some photograph was learned from by neither. When none, because corrections were only edited or
        deleted, both are compared where both have learned."""
        self.shared = fresh if self.fresh else list(trials)
        """Trials on which candidates and what is served are compared."""
        self._frozen = bench.confusions(trials, bench.look(trials, lambda trial: None))
        self._before = bench.confusions(self.shared, bench.look(self.shared, lambda trial: served))
        lone = len({trial.example.key for trial in trials}) == 1 and trials[0].lesson is not None
        self._least_gain = LONE_GAIN if lone else LEAST_GAIN
        self._trust = _recall(np.sum(self._frozen, axis=0))

    def weigh_zero_shot(self) -> Candidate:
        """The zero-shot model itself: going back to it is always possible."""
        frozen = self._bench.look(self.shared, lambda trial: None)
        over_served = Comparison.of(self._before, self._bench.confusions(self.shared, frozen))
        objections = self._against_served(over_served, LEAST_GAIN)
        return Candidate(0.0, None, over_served, Comparison.of(self._frozen, self._frozen), None, tuple(objections))

    def weigh(self, strength: float, whole: Adapter, lessons: Sequence[Adapter]) -> Candidate:
        """Judge one strength.

        Args:
            strength: above 0.
            whole: what was learned from everything.
            lessons: what was learned from each lesson of the plan.
        """
        bench, trials, adapter = self._bench, self._trials, whole.at_strength(strength)
        fitted = [lesson.at_strength(strength) for lesson in lessons]
        unseen = bench.look(trials, lambda trial: adapter if trial.lesson is None else fitted[trial.lesson])
        if self.fresh:
            alike = [sight for trial, sight in zip(trials, unseen, strict=True) if self._is_fresh(trial)]
        else:
            alike = bench.look(self.shared, lambda trial: adapter)
        over_frozen = Comparison.of(self._frozen, bench.confusions(trials, unseen))
        over_served = Comparison.of(self._before, bench.confusions(self.shared, alike))
        objections = self._against_served(over_served, self._least_gain)
        if self._served is not None:
            objections += _too_little(over_frozen, "the zero-shot model", self._least_gain)
        agreement = bench.agreement(trials, unseen)
        if agreement is not None and agreement < LEAST_AGREEMENT * self._trust:
            told = f"of labels nobody corrected, only {agreement:.0%} of what the zero-shot model is sure of would stay"
            objections.append(f"{told} ({LEAST_AGREEMENT * self._trust:.0%} needed)")
        return Candidate(strength, adapter, over_served, over_frozen, agreement, tuple(objections))

    def _is_fresh(self, trial: Trial) -> bool:
        return trial.example.key not in self._seen

    def _against_served(self, comparison: Comparison, least: float) -> list[str]:
        objections = _too_little(comparison, "what is served", least)
        before, after = comparison.ious
        for label in comparison.harmed(drop=MOST_DROP, share=_HARM_SHARE):
            objections.append(f"{self._names[label]} would fall from {before[label]:.2f} to {after[label]:.2f}")
        return objections


def _too_little(comparison: Comparison, other: str, least: float) -> list[str]:
    before, after = comparison.means
    told = f"mean IoU would go from {before:.3f} to {after:.3f}"
    if after - before < LEAST_GAIN:
        return [f"{told}, not better than {other}"]
    if after - before < least:
        return [f"{told}, too little to trust a single photograph (gain of {least:g} needed): correct another one"]
    worst = comparison.worst_gain(DOUBT)
    chance = worst <= -LEAST_GAIN
    return [f"{told}, but against {other} that may be chance (gain of at least {worst:.3f})"] if chance else []


def _recall(confusions: Confusion) -> float:
    """How often labels are taken for what they are, each label counting the same, 0 to 1."""
    labels = np.flatnonzero(confusions[:-1].sum(axis=1))
    return float(np.mean([confusions[k, k] / confusions[k].sum() for k in labels])) if labels.size else 0.0
