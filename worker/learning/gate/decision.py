"""Train what may replace what is served, and plan on which corrections, that it was not trained on, it is compared.

docs/reference/learning_rules.md states the rules.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from plugin_config.errors import LearningError
from worker.learning.corrections.class_maps import drawn_classes
from worker.learning.corrections.examples import with_words
from worker.learning.gate.candidates import Baselines
from worker.learning.gate.evaluator import Evaluator
from worker.learning.gate.evidence import expected_gain
from worker.learning.gate.splits import (
    EvaluationSplit,
    evaluation_split,
    held_out_images,
    keys_now,
    offered_images,
    other_images,
)
from worker.learning.gate.swaps import suspect_swaps
from worker.learning.gate.verdicts import Verdict, keep, verdict_on
from worker.learning.interfaces import Adapter, Example, Fitted, Recipe, Words, fit_both
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.outlines.refinement import ADAPTIVE
from worker.segmentation.segmenter import Segmenter

_ALL_SEEN = (
    "it was trained on every corrected image that shows a label, so none can compare it with the offered one: "
    "correct another image, then offer it again"
)


@one_thread()
def judge(
    recipe: Recipe,
    train: Sequence[Example],
    hold_out: Sequence[Example],
    served: Adapter | None,
    words: Words,
    segmenter: Segmenter,
    *,
    seen: Collection[str] = (),
    candidate: Fitted | None = None,
    offered: bool = False,
) -> Verdict:
    """Train, evaluate, and promote the best strength or none.

    Args:
        recipe: fitted once on all of `train`, and up to five times on parts of it for cross-validation;
            not where there is a `candidate`. What it learns with generated examples is compared with what it learns
            without them, and the better is kept.
        train: what may be learned from; `worker.learning.gate.splits.hold_out_split` makes the two parts.
        hold_out: what may not.
        served: what is served now; None = the zero-shot model.
        words: the texts of each class of the project now.
        segmenter: the frozen model.
        seen: keys of the examples that `served` was trained on, as they were then.
        candidate: trained on `train` already, with generated examples too where it has them, and the better is kept;
            then nothing is fitted and only `hold_out` evaluates.
        offered: whether the candidate was trained elsewhere, on none of the examples: then those of `train` evaluate
            too where the held-out ones are few or lack a label.

    Raises:
        ValueError: a candidate that was trained on `train` was given and nothing is held out.
    """
    if candidate is not None and not hold_out and not offered:
        raise ValueError("a candidate that is fitted already can only be judged on held-out examples, got none")
    train, hold_out = ([with_words(example, words) for example in part] for part in (train, hold_out))
    seen = keys_now(seen, [*train, *hold_out])
    corrected = {label for example in train for label in drawn_classes(example.truth)}
    if not corrected:
        return keep(served, "no correction shows a label yet")
    in_pixels = (served is not None and served.refinement.posteriors) or (
        candidate is not None and candidate.plain.refinement != ADAPTIVE
    )  # else whatever is chosen is evaluated in pixels once more, before it is served
    evaluator = Evaluator(segmenter, words, corrected, outlines=in_pixels)
    names = [texts[0] for texts in words]
    if candidate is None:
        split = evaluation_split(train, hold_out, seen)
    else:
        images = offered_images(train, hold_out, seen) if offered else held_out_images(hold_out, seen)
        split = EvaluationSplit(tuple(images), ())
    try:
        suspicion, swapped = suspect_swaps(
            evaluator, None if candidate else recipe, train, hold_out, served, seen, names
        )
        if suspicion:
            return keep(served, suspicion, {"swapped": swapped})
        if not evaluator.shows_label(split.images):
            return keep(served, "no label can be judged yet: correct one more image that shows them")
        if offered and served and not evaluator.shows_label([i for i in split.images if i.example.key not in seen]):
            return keep(served, _ALL_SEEN)
        fits = [candidate] if candidate is not None else _fit(recipe, train, split, words, segmenter)
        keys = () if offered else tuple(example.key for example in train)
        against = partial(
            Baselines, images=split.images, served=served, seen=seen, names=[*names, "background"],
            expected=_expected(fits[0].plain, keys, hold_out, served, seen),
            alone=candidate is None and len(train) == 1,
        )  # fmt: skip
        along_outlines = None if in_pixels else lambda: against(Evaluator(segmenter, words, corrected, outlines=True))
        others = [] if candidate is not None else other_images(train, split.images)
        return verdict_on(against(evaluator, others=others), along_outlines, fits, served, keys, names)
    except LearningError as error:
        return keep(served, str(error).rstrip("."))


def _expected(
    trained: Adapter, keys: Collection[str], hold_out: Sequence[Example], served: Adapter | None, seen: Collection[str]
) -> float | None:
    """What a successor of the served adapter is expected to gain; None of an adapter that is not one."""
    if type(served) is not type(trained) or not _learns_more(keys, hold_out, seen):
        return None
    return expected_gain(len(keys), len(seen))


def _learns_more(keys: Collection[str], hold_out: Sequence[Example], seen: Collection[str]) -> bool:
    """Whether a candidate trained on `keys` learns from all that `seen` was, and from more.

    What is held out by now does not count: where another recipe learns beside, the twentieth correction takes a fifth
    of what an earlier adapter was trained on away.
    """
    left = frozenset(seen) - {example.key for example in hold_out}
    return bool(left) and left < frozenset(keys) and len(keys) > len(seen)


def _fit(
    recipe: Recipe, train: Sequence[Example], split: EvaluationSplit, words: Words, segmenter: Segmenter
) -> list[Fitted]:
    """Fit on all training examples, then on each training set of the split, with generated examples only where there
    were some for all: else nothing is compared with what they teach.
    """
    whole = fit_both(recipe, train, words, segmenter)
    if whole.supplied is None:
        return [whole, *(Fitted(recipe.fit(examples, words, segmenter)) for examples in split.training_sets)]
    return [whole, *(fit_both(recipe, examples, words, segmenter) for examples in split.training_sets)]
