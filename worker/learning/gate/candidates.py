"""Candidates (one adapter at several strengths) against the baselines, with every objection to serving them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worker.learning.gate.comparison import Comparison
from worker.learning.gate.evaluator import Evaluator, GridPrediction
from worker.learning.gate.evidence import (
    FEWEST_OF_SUCCESSOR,
    LEAST_FOUND,
    LEAST_GAIN,
    LEAST_GAIN_OF_ONE_IMAGE,
    MOST_DROP,
    falling_classes,
    gain_objections,
    likely_gain,
    measured_error,
    successor_objections,
)
from worker.learning.gate.splits import EvaluationImage
from worker.learning.interfaces import Adapter
from worker.segmentation.heads import Head
from worker.segmentation.metrics import Confusion

LEAST_AGREEMENT = 0.8
"""Share of the zero-shot model's certain predictions of uncorrected labels that must stay, times its mean recall on the
corrected labels."""

LEAST_KEPT = 0.01
"""Share of the zero-shot model's certain predictions of uncorrected labels that generated examples must save, to be
kept where they gain no mean IoU."""


@dataclass(frozen=True)
class Candidate:
    """An adapter at one strength, and the objections to serving it.

    Attributes:
        strength: 0 is the zero-shot model.
        adapter: at that strength; None for the zero-shot model.
        versus_served: against the served adapter, on images that neither was trained on where there are any.
        versus_zero_shot: against the zero-shot model, on images the candidate was not trained on.
        agreement: see `Evaluator.agreement`.
        objections: each a part of a sentence; none = it may be served.
        supplied: whether the adapter learned from generated examples too.
        likely_gain: of a successor, mean IoU that it likely gains over what is served; None of others.
    """

    strength: float
    adapter: Adapter | None
    versus_served: Comparison
    versus_zero_shot: Comparison
    agreement: float | None
    objections: tuple[str, ...]
    supplied: bool = False
    likely_gain: float | None = None

    @property
    def quality(self) -> float:
        """Mean IoU on images it was not trained on."""
        return self.versus_zero_shot.mean_ious[1]

    def is_better_than(self, plain: Candidate) -> bool:
        """Whether it is to be preferred, learned from generated examples too, to the same without these.

        Mean IoU is of corrected labels and the background; what becomes of the others shows in the agreement. Of the
        two one must gain and the other not lose. Where one of both meets objections, the other is better.
        """
        if bool(self.objections) != bool(plain.objections):
            return not self.objections
        gained = self.quality - plain.quality
        saved = (self.agreement or 0.0) - (plain.agreement or 0.0)
        return (saved >= LEAST_KEPT and gained > -LEAST_GAIN) or (gained >= LEAST_GAIN and saved > -LEAST_KEPT)


class Baselines:
    """Holds the predictions of the served adapter and of the zero-shot model, which candidates are compared with.

    Args:
        evaluator: with the frozen model.
        images: to evaluate on.
        served: what is served now; None = the zero-shot model.
        seen: keys of the examples that the served adapter was trained on.
        names: of each class, the background last.
        expected: mean IoU that the candidates are expected to gain as successors of what is served, see
            `expected_gain`: they are of the same recipe, and trained on the same corrections and more. None = they are
            not.
        alone: whether all that evaluates is the other half of the only image that is trained on.
        others: images that the candidates are trained on and that do not evaluate. Where those that do hardly show what
            the zero-shot model is certain of, agreement with it is measured on these.

    Attributes:
        has_unseen: whether there is an image with a label that neither side was trained on. If not, because corrections
            were only edited or deleted, or the new ones show none, both are compared on images that both were trained
            on.
        shared: images on which candidates are compared with the served adapter.
        shown: (C,) number of these that show each class.
    """

    def __init__(
        self, evaluator: Evaluator, images: Sequence[EvaluationImage], served: Adapter | None, seen: Collection[str],
        names: Sequence[str], *, expected: float | None = None, alone: bool = False,
        others: Sequence[EvaluationImage] = (),
    ) -> None:  # fmt: skip
        self._evaluator, self._images, self._served, self._names = evaluator, images, served, names
        self._seen = frozenset(seen) if served is not None else frozenset()
        unseen = [image for image in images if self._is_unseen(image)]
        self.has_unseen = evaluator.shows_label(unseen)
        self.shared = unseen if self.has_unseen else list(images)
        self._zero_shot = evaluator.confusions(images, evaluator.predict(images, lambda image: None))
        self._served_now = evaluator.confusions(self.shared, evaluator.predict(self.shared, lambda image: served))
        self._least_gain = LEAST_GAIN_OF_ONE_IMAGE if alone else LEAST_GAIN
        self._others = () if evaluator.has_agreement(images) or not evaluator.has_agreement(others) else others
        self._expected = expected
        self.shown = evaluator.shown(self.shared)
        self._zero_shot_recall = _mean_recall(np.sum(self._zero_shot, axis=0))

    def evaluate_zero_shot(self) -> Candidate:
        """Evaluate the zero-shot model itself as a candidate: going back to it is always possible."""
        predictions = self._evaluator.predict(self.shared, lambda image: None)
        versus_served = Comparison.of(self._served_now, self._evaluator.confusions(self.shared, predictions))
        objections = self._objections(versus_served, LEAST_GAIN, None)
        versus_itself = Comparison.of(self._zero_shot, self._zero_shot)
        return Candidate(0.0, None, versus_served, versus_itself, None, tuple(objections))

    def evaluate(
        self, strengths: Sequence[float], trained: Adapter, fold_adapters: Sequence[Adapter], *, supplied: bool = False
    ) -> list[Candidate]:
        """Evaluate an adapter at several strengths.

        Args:
            strengths: above 0.
            trained: on all training examples.
            fold_adapters: trained on each training set of the split.
            supplied: whether they learned from generated examples too.

        Returns:
            A candidate for each strength.
        """

        def heads_of(image: EvaluationImage) -> list[Head | None]:
            adapter = trained if image.fold is None else fold_adapters[image.fold]
            return [adapter.at_strength(strength) for strength in strengths]

        evaluator, images = self._evaluator, self._images
        predicted = evaluator.predict_each(images, heads_of)
        if self.has_unseen:
            on_shared = [one for image, one in zip(images, predicted, strict=True) if self._is_unseen(image)]
        else:
            everywhere: list[Head | None] = [trained.at_strength(strength) for strength in strengths]
            on_shared = evaluator.predict_each(self.shared, lambda image: everywhere)
        return [
            self._candidate(
                strength, trained.at_strength(strength), [one[k] for one in predicted], [one[k] for one in on_shared],
                supplied,
            )
            for k, strength in enumerate(strengths)
        ]  # fmt: skip

    def _candidate(
        self, strength: float, adapter: Adapter, predictions: Sequence[GridPrediction],
        on_shared: Sequence[GridPrediction], supplied: bool,
    ) -> Candidate:  # fmt: skip
        """Compare what an adapter predicts for all images, and for the shared ones."""
        evaluator, images = self._evaluator, self._images
        versus_zero_shot = Comparison.of(self._zero_shot, evaluator.confusions(images, predictions))
        versus_served = Comparison.of(self._served_now, evaluator.confusions(self.shared, on_shared))
        likely = self._likely(versus_served)
        objections = self._objections(versus_served, self._least_gain, likely)
        objections += self._objections_of_zero_shot(versus_zero_shot)
        agreement, needed = evaluator.agreement(images, predictions), LEAST_AGREEMENT * self._zero_shot_recall
        if self._others:
            agreement = evaluator.agreement(self._others, evaluator.predict(self._others, lambda image: adapter))
        if agreement is not None and agreement < needed:
            kept = f"only {agreement:.0%} of what the zero-shot model is sure of would stay ({needed:.0%} needed)"
            objections.append(f"of labels nobody corrected, {kept}")
        return Candidate(
            strength, adapter, versus_served, versus_zero_shot, agreement, tuple(objections), supplied, likely
        )

    def confirm(self, found: Candidate, trained: Adapter, fold_adapters: Sequence[Adapter]) -> Candidate:
        """Evaluate a candidate again, where these baselines follow outlines and those it was chosen by do not.

        Args:
            found: chosen without following outlines.
            trained, fold_adapters: as `evaluate` took them; the zero-shot model needs none of them.

        Returns:
            The same candidate with the comparisons after outlines are followed, and the objections that these give:
            that it is not better than what is served, or than the zero-shot model, that the gain may be chance, or that
            a class falls. What becomes of uncorrected labels was asked before.
        """
        if found.adapter is None:
            checked = self.evaluate_zero_shot()
            objections = list(checked.objections)
        else:
            (checked,) = self.evaluate([found.strength], trained, fold_adapters)
            objections = self._objections(checked.versus_served, self._least_gain, checked.likely_gain)
            objections += self._objections_of_zero_shot(checked.versus_zero_shot)
        return replace(
            found,
            versus_served=checked.versus_served,
            versus_zero_shot=checked.versus_zero_shot,
            objections=tuple(f"along outlines {one}" for one in objections),
            likely_gain=checked.likely_gain,
        )

    def _is_unseen(self, image: EvaluationImage) -> bool:
        return image.example.key not in self._seen

    def error_of(self, comparison: Comparison) -> float:
        """See `measured_error`, of a gain on the shared images, which are all that evaluate a successor."""
        images = len({image.example.key for image in self.shared})
        crossed = len({image.example.key for image in self._crossed})
        return float(measured_error(comparison.standard_error, images=images, crossed=crossed))

    def class_errors_of(self, comparison: Comparison) -> NDArray[np.float64]:
        """(C,) the same of the gain of each class's IoU, of the images that show it; NaN where none does."""
        crossed = self._evaluator.shown(self._crossed)
        return measured_error(comparison.class_standard_errors, images=np.maximum(self.shown, 1), crossed=crossed)

    @property
    def _crossed(self) -> list[EvaluationImage]:
        """Those of the shared images that other fits than the candidate predict."""
        return [image for image in self.shared if self.has_unseen and image.fold is not None]

    def _likely(self, versus_served: Comparison) -> float | None:
        if self._expected is None:
            return None
        return likely_gain(versus_served, self._expected, self.error_of(versus_served))

    def _objections(self, versus_served: Comparison, least_gain: float, likely: float | None) -> list[str]:
        """The more likely a successor gains, the less speaks against it; of others everything is proved."""
        if likely is None:
            gain = gain_objections(versus_served, "what is served", least_gain)
            return [*gain, *falling_classes(versus_served, self._names).values()]
        before = versus_served.ious[0]
        compared = int((~np.isnan(before)).sum())
        falling = falling_classes(
            versus_served, self._names, drop=max(MOST_DROP, likely), compared=compared,
            errors=self.class_errors_of(versus_served),
        )  # fmt: skip
        counted = [k for k in falling if self.shown[k] >= FEWEST_OF_SUCCESSOR and before[k] >= LEAST_FOUND]
        gain = successor_objections(versus_served, "what is served", likely, self.error_of(versus_served))
        return [*gain, *(falling[k] for k in counted)]

    def _objections_of_zero_shot(self, versus_zero_shot: Comparison) -> list[str]:
        """None where the zero-shot model is what is served: then `_objections` has them.

        What is served was proved to be better than it, by LEAST_GAIN at least: a successor is expected to gain that and
        its own. If it is no better, what is served in its place hardly is either; the zero-shot model comes back by
        what it proves itself.
        """
        if self._served is None:
            return []
        baseline = "the zero-shot model"
        if self._expected is None:
            return gain_objections(versus_zero_shot, baseline, self._least_gain)
        error = self.error_of(versus_zero_shot)
        likely = likely_gain(versus_zero_shot, LEAST_GAIN + self._expected, error)
        return successor_objections(versus_zero_shot, baseline, likely, error)


def _mean_recall(confusions: Confusion) -> float:
    """Mean recall over the labels in the truth, 0 to 1."""
    labels = np.flatnonzero(confusions[:-1].sum(axis=1))
    return float(np.mean([confusions[k, k] / confusions[k].sum() for k in labels])) if labels.size else 0.0
