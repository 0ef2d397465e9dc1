"""What a comparison on a few images proves: gains that may be chance, classes that fall, and what a successor gains.

docs/reference/learning_rules.md states the rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from worker.learning.gate.comparison import Comparison

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

_HARM_SHARE = 0.9


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


def successor_objections(comparison: Comparison, baseline: str, likely: float, error: float) -> list[str]:
    before, after = comparison.mean_ious
    change = f"mean IoU would go from {before:.3f} to {after:.3f}"
    if after - before < -CLEAR_LOSS * error:
        return [f"{change}, worse than {baseline}"]
    if likely >= LEAST_GAIN:
        return []
    with_others = f"with what more corrections gain on average {likely:+.3f} is likely"
    return [f"{change}, and {with_others}, not better than {baseline}"]


def gain_objections(comparison: Comparison, baseline: str, least_gain: float) -> list[str]:
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
