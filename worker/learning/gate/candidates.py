"""Candidates (one adapter at several strengths) against the baselines, with every objection to serving them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from worker.learning.gate.comparison import Comparison
from worker.learning.gate.evaluator import Evaluator, GridPrediction
from worker.learning.gate.splits import EvaluationImage
from worker.learning.interfaces import Adapter
from worker.segmentation.heads import Head
from worker.segmentation.metrics import Confusion

LEAST_GAIN = 0.005
"""Mean IoU a candidate must gain: less is not worth predicting every image again."""

LEAST_GAIN_OF_ONE_IMAGE = 0.1
"""The same where the only image is cross-validated with its own other half: the halves are much alike, so what is
learned from one seems to gain on the other and may lose on other images."""

BOOTSTRAP_ALPHA = 0.05
"""Share of the bootstrap resamples that may contradict a gain."""

SUCCESSOR_GAIN, SUCCESSOR_SPREAD = 0.05, 0.03
"""Mean IoU that the same recipe is expected to gain by e times as many corrections, and how far from it gains may lie:
both chosen, well below what was measured on drawn pictures (.144 and .086, docs/research/learning.md). A learning curve
is nearly straight over the logarithm of the number of corrections."""

FIT_SPREAD = 0.05
"""IoU by which two fits to nearly the same corrections differ: what cross-validation measures is of other adapters than
the candidate. Fitted, like FEW_IMAGES, to what successors gained on other pictures (docs/research/learning.md)."""

FEW_IMAGES = 5
"""The bootstrap's standard error is taken times 1 + FEW_IMAGES / n with n images (for a class: that show it): on few of
them a rare label is on one or none, and resampling cannot show what others would."""

CLEAR_LOSS = 2.0
"""Errors of the measured gain by which it may lie below 0. Beyond them it is a loss whatever successors gain on
average, as after corrections that contradict the earlier ones."""

MOST_DROP = 0.03
"""IoU that a single label may lose, and with a successor as much as all gain on average; a larger drop is an objection
where 9 of 10 resamples agree that it falls. Of a successor's classes, all but one in ten divided by their number must
agree, and the measured error leave as little doubt."""

LEAST_LEFT = 0.5
"""Share of its IoU that a successor's class must keep; else the resamples alone decide. How evenly a class was found
that is lost says nothing about whether it is."""

FEWEST_OF_SUCCESSOR = 4
"""Images that must show a label before its fall speaks against a successor: on all of three it falls by chance once in
eight times."""

LEAST_FOUND = 0.25
"""IoU below which the background may fall, and with a successor a label: what is served hardly finds it anyway, and
nobody sees the difference. Masks that spread over the background count against their labels."""

LEAST_AGREEMENT = 0.8
"""Share of the zero-shot model's certain predictions of uncorrected labels that must stay, times its mean recall on the
corrected labels."""

LEAST_KEPT = 0.01
"""Share of the zero-shot model's certain predictions of uncorrected labels that generated examples must save, to be
kept where they gain no mean IoU."""

_HARM_SHARE = 0.9


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
            gain = _gain_objections(versus_served, "what is served", least_gain)
            return [*gain, *falling_classes(versus_served, self._names).values()]
        before = versus_served.ious[0]
        compared = int((~np.isnan(before)).sum())
        falling = falling_classes(
            versus_served, self._names, drop=max(MOST_DROP, likely), compared=compared,
            errors=self.class_errors_of(versus_served),
        )  # fmt: skip
        counted = [k for k in falling if self.shown[k] >= FEWEST_OF_SUCCESSOR and before[k] >= LEAST_FOUND]
        gain = _successor_objections(versus_served, "what is served", likely, self.error_of(versus_served))
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
            return _gain_objections(versus_zero_shot, baseline, self._least_gain)
        error = self.error_of(versus_zero_shot)
        likely = likely_gain(versus_zero_shot, LEAST_GAIN + self._expected, error)
        return _successor_objections(versus_zero_shot, baseline, likely, error)


def falling_classes(
    versus_served: Comparison, names: Sequence[str], *, drop: float = MOST_DROP, compared: int = 1,
    errors: NDArray[np.float64] | None = None,
) -> dict[int, str]:  # fmt: skip
    """Find each class that would lose too much, but for a background that is hardly found anyway.

    Args:
        versus_served: a candidate against what is served.
        names: of each class, the background last.
        drop: IoU that a class may lose.
        compared: number of classes that share the chance of a false alarm (Bonferroni): of many classes one nearly
            always falls by chance.
        errors: (C,) of the gains, normally distributed: then a fall must be as certain by these, but where less than
            LEAST_LEFT of the class is left. None = the resamples alone tell.

    Returns:
        class -> a sentence.
    """
    before, after = versus_served.ious
    share = 1 - (1 - _HARM_SHARE) / compared
    falling = versus_served.harmed(drop=drop, share=share)
    if errors is not None:
        clear = NormalDist().inv_cdf(share) * errors
        falling = [k for k in falling if before[k] - after[k] >= clear[k] or after[k] < LEAST_LEFT * before[k]]
    background = len(names) - 1
    counted = [label for label in falling if label != background or before[label] >= LEAST_FOUND]
    return {label: f"{names[label]} would fall from {before[label]:.2f} to {after[label]:.2f}" for label in counted}


def expected_gain(learned: int, before: int) -> float:
    """Mean IoU that a successor is expected to gain.

    Args:
        learned: number of corrections that it is trained on.
        before: the same of what is served; smaller.
    """
    return SUCCESSOR_GAIN * math.log(learned / before)


def measured_error(
    standard_error: float | NDArray[np.float64], *, images: int | NDArray[np.int64], crossed: int | NDArray[np.int64]
) -> NDArray[np.float64]:
    """How far gains on other images may lie from the measured ones, as standard deviations of IoU.

    Args:
        standard_error: of the gain over the resamples; one number, or one for each class.
        images: number of images that it was measured on, at least 1.
        crossed: how many of these are cross-validated.
    """
    few = np.multiply(standard_error, 1 + np.divide(FEW_IMAGES, images))
    return np.asarray(np.hypot(few, FIT_SPREAD * np.divide(crossed, images)))


def likely_gain(versus_served: Comparison, expected: float, error: float) -> float:
    """Weigh what was measured, on a few images most often, against what more corrections are known to gain: both are
    taken for normally distributed.

    Args:
        versus_served: the measured gain.
        expected: see `expected_gain`.
        error: see `measured_error`.

    Returns:
        Mean IoU that is likely gained.
    """
    before, after = versus_served.mean_ious
    trust = SUCCESSOR_SPREAD**2 / (SUCCESSOR_SPREAD**2 + error**2)
    return trust * (after - before) + (1 - trust) * expected


def _successor_objections(comparison: Comparison, baseline: str, likely: float, error: float) -> list[str]:
    before, after = comparison.mean_ious
    change = f"mean IoU would go from {before:.3f} to {after:.3f}"
    if after - before < -CLEAR_LOSS * error:
        return [f"{change}, worse than {baseline}"]
    if likely >= LEAST_GAIN:
        return []
    with_others = f"with what more corrections gain on average {likely:+.3f} is likely"
    return [f"{change}, and {with_others}, not better than {baseline}"]


def _gain_objections(comparison: Comparison, baseline: str, least_gain: float) -> list[str]:
    before, after = comparison.mean_ious
    change = f"mean IoU would go from {before:.3f} to {after:.3f}"
    if after - before < LEAST_GAIN:
        return [f"{change}, not better than {baseline}"]
    if after - before < least_gain:
        return [f"{change}, too little to trust a single image (gain of {least_gain:g} needed): correct another "
                "one"]  # fmt: skip
    bound = comparison.lower_bound(BOOTSTRAP_ALPHA)
    if bound <= -LEAST_GAIN:
        return [f"{change}, but against {baseline} that may be chance (gain of at least {bound:.3f})"]
    return []


def _mean_recall(confusions: Confusion) -> float:
    """Mean recall over the labels in the truth, 0 to 1."""
    labels = np.flatnonzero(confusions[:-1].sum(axis=1))
    return float(np.mean([confusions[k, k] / confusions[k].sum() for k in labels])) if labels.size else 0.0
