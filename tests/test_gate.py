"""The gate lets through what is better on corrections it never saw, and nothing else; it says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from plugin_config.errors import LearningError
from tests.learning_world import KNOWN, STRANGE, LinearAdapter, LinearRecipe, corrected_scenes, relabelled
from worker.learning.gate import verdicts
from worker.learning.gate.candidates import Baselines, Candidate
from worker.learning.gate.comparison import Comparison
from worker.learning.gate.decision import judge
from worker.learning.gate.evaluator import Evaluator, GridPrediction
from worker.learning.gate.evidence import (
    FIT_SPREAD,
    LEAST_GAIN,
    expected_gain,
    falling_classes,
    likely_gain,
    measured_error,
)
from worker.learning.gate.splits import EvaluationImage
from worker.learning.gate.verdicts import Verdict
from worker.learning.interfaces import UNLABELLED, Example, Fitted, Words
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.heads import Head, ImageScores
from worker.segmentation.metrics import VOID, Confusion
from worker.segmentation.outlines.refinement import FINE, POSTERIORS
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

HALF_KNOWN: Words = (*STRANGE[:2], KNOWN[2])


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu"))


@pytest.fixture(scope="module")
def known(segmenter: Segmenter) -> list[Example]:
    """Twelve corrected pictures; the model knows the labels' words."""
    return corrected_scenes(segmenter, 12)


@pytest.fixture(scope="module")
def strange(known: list[Example]) -> list[Example]:
    """The same pictures with labels the model does not know."""
    return [replace(example, words=STRANGE) for example in known]


@pytest.fixture(scope="module")
def served(strange: list[Example], segmenter: Segmenter) -> Verdict:
    """What six honest corrections of strange labels led to."""
    return judge(LinearRecipe(), strange[:6], [], None, STRANGE, segmenter)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_what_is_better_is_promoted_from_one_photograph_on(
    count: int, strange: list[Example], segmenter: Segmenter
) -> None:
    recipe = LinearRecipe()
    verdict = judge(recipe, strange[:count], [], None, STRANGE, segmenter)
    assert verdict.promoted
    assert verdict.adapter is not None
    assert verdict.learned_from == tuple(example.key for example in strange[:count])
    assert verdict.figures["mean_iou"]["candidate"] > verdict.figures["mean_iou"]["served"] + 0.1
    assert f"{count} cross-validated image" in verdict.reason
    assert recipe.fits <= 6
    json.dumps(verdict.figures)


def candidate_of(verdict: Verdict) -> Fitted:
    """What a verdict promoted, as a candidate that is trained already."""
    assert verdict.adapter is not None
    return Fitted(verdict.adapter)


def test_what_was_promoted_is_better_on_photographs_never_seen(
    served: Verdict, strange: list[Example], segmenter: Segmenter
) -> None:
    verdict = judge(LinearRecipe(), strange[:6], strange[6:], None, STRANGE, segmenter, candidate=candidate_of(served))
    assert verdict.promoted
    assert verdict.figures["judged_on"] == {"held_out": 6, "cross_validated": 0}
    assert verdict.figures["mean_iou"]["candidate"] > verdict.figures["mean_iou"]["served"] + 0.25


@pytest.fixture
def before_outlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts as they are before outlines are followed, along which the zero-shot model has nearly no errors here."""
    monkeypatch.setattr(verdicts, "_confirming", lambda along_outlines, fits: verdicts._as_it_is)


class PosteriorAdapter(LinearAdapter):
    """The same, whose scores are said to be posteriors."""

    refinement = POSTERIORS


class FineAdapter(LinearAdapter):
    """The same, whose scores are said to follow outlines."""

    refinement = FINE


@pytest.mark.usefixtures("before_outlines")
def test_posteriors_are_judged_as_they_are_served(known: list[Example], segmenter: Segmenter) -> None:
    """Outlines lift some scores more than others: a gain before that step may be none after."""
    learned = LinearRecipe().fit(known[:6], KNOWN, segmenter)
    found = []
    for candidate in (learned, PosteriorAdapter(learned.weights), FineAdapter(learned.weights)):
        verdict = judge(LinearRecipe(), known[:6], known[6:], None, KNOWN, segmenter, candidate=Fitted(candidate))
        found.append(verdict.figures["mean_iou"]["served"])
    assert min(found[1:]) > found[0] + 0.02, found


def test_what_was_trained_elsewhere_is_judged_on_all_where_few_are_held_out(
    served: Verdict, strange: list[Example], segmenter: Segmenter
) -> None:
    """It learned from other pictures; so what is served next may be compared on any of these."""
    verdict = judge(LinearRecipe(), strange[8:], strange[6:8], None, STRANGE, segmenter, candidate=candidate_of(served),
                    offered=True)  # fmt: skip
    assert verdict.promoted
    assert verdict.figures["judged_on"] == {"held_out": 2, "cross_validated": 0, "other": 4}
    assert "2 held-out images and 4 other images" in verdict.reason
    assert verdict.learned_from == ()


def test_what_was_trained_elsewhere_waits_for_a_photograph_that_what_is_served_does_not_know(
    served: Verdict, strange: list[Example], segmenter: Segmenter
) -> None:
    keys = [example.key for example in strange]
    for unknown, reason in ((0, "it was trained on every corrected image"), (1, "not better than what is served")):
        seen = keys[: 12 - unknown]
        verdict = judge(LinearRecipe(), strange, [], served.adapter, STRANGE, segmenter, seen=seen,
                        candidate=candidate_of(served), offered=True)  # fmt: skip
        assert not verdict.promoted
        assert reason in verdict.reason


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_is_not_better_than_zero_shot_is_not_promoted(
    count: int, known: list[Example], segmenter: Segmenter
) -> None:
    verdict = judge(LinearRecipe(), known[:count], [], None, KNOWN, segmenter)
    assert not verdict.promoted
    assert verdict.adapter is None
    assert "not better than what is served" in verdict.reason
    assert [row["strength"] for row in verdict.figures["strengths"]] == [0, 0.25, 0.5, 0.75, 1]


def test_a_single_photograph_must_gain_much(segmenter: Segmenter) -> None:
    """Its halves are alike: of twenty such pictures eight seemed to gain, and three of these lost on others."""
    one = corrected_scenes(segmenter, 1, seed=108)
    verdict = judge(LinearRecipe(), one, [], None, KNOWN, segmenter)
    assert verdict.figures["mean_iou"]["candidate"] > verdict.figures["mean_iou"]["served"] + 0.05
    assert not verdict.promoted
    assert "too little to trust a single image" in verdict.reason


def test_a_single_new_photograph_is_no_single_photograph(
    served: Verdict, strange: list[Example], segmenter: Segmenter
) -> None:
    """What is learned from the earlier ones is evaluated on it, not what is learned from its other half."""
    seen = list(served.learned_from)
    for learn in (strange[:7], [*strange[:5], *relabelled(strange[5:6], (0, 1, 2)), strange[6]]):
        verdict = judge(LinearRecipe(), learn, [], served.adapter, STRANGE, segmenter, seen=seen)
        assert "single image" not in verdict.reason
        assert verdict.figures["judged_on"] == {"held_out": 0, "cross_validated": 1}
    one = corrected_scenes(segmenter, 1, seed=108)
    edited = judge(LinearRecipe(), one, [], served.adapter, KNOWN, segmenter, seen=[one[0].key])
    assert not edited.promoted


def test_what_gains_only_until_outlines_are_followed_is_not_promoted(
    known: list[Example], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = relabelled(known[:9], (0, 1, UNLABELLED))
    verdict = judge(LinearRecipe(scale=1), two, [], None, KNOWN, segmenter)
    assert not verdict.promoted
    assert "along outlines mean IoU would go from 0.98" in verdict.reason
    monkeypatch.setattr(verdicts, "_confirming", lambda along_outlines, fits: verdicts._as_it_is)
    assert judge(LinearRecipe(scale=1), two, [], None, KNOWN, segmenter).promoted


def test_what_is_served_gives_way_where_the_zero_shot_model_is_better_along_outlines(
    known: list[Example], segmenter: Segmenter
) -> None:
    """Before outlines are followed what was learned here is ahead of the zero-shot model, after it behind."""
    two = relabelled(known, (0, 1, UNLABELLED))
    ahead = LinearRecipe().fit(two[:2], KNOWN, segmenter).at_strength(0.75)
    verdict = judge(LinearRecipe(scale=1), two[:6], two[6:], ahead, KNOWN, segmenter)
    assert verdict.figures["strengths"][0]["gain"] < 0, "on the grid"
    assert verdict.promoted, verdict.reason
    assert verdict.reason.startswith("went back to the zero-shot model: mean IoU")
    assert verdict.figures["mean_iou"]["candidate"] > verdict.figures["mean_iou"]["served"]
    assert f"-> {verdict.figures['mean_iou']['candidate']:.3f}" in verdict.reason, "the figures along outlines"


def test_what_is_better_than_what_is_served_must_be_better_than_the_zero_shot_model_along_outlines(
    known: list[Example], segmenter: Segmenter
) -> None:
    two = relabelled(known[:9], (0, 1, UNLABELLED))
    learned = LinearRecipe(scale=1).fit(two[:5], KNOWN, segmenter)
    bad = replace(learned, weights=-learned.weights, strength=0.5)
    verdict = judge(LinearRecipe(scale=1), two, [], bad, KNOWN, segmenter)
    (objection,) = verdict.figures["strengths"][3]["objections"]
    assert objection.startswith("along outlines"), objection
    assert objection.endswith("not better than the zero-shot model")
    assert verdict.promoted
    assert verdict.adapter is None


def refusing(monkeypatch: pytest.MonkeyPatch, refused: Callable[[Candidate], bool]) -> None:
    """Have what is found refused as it would be served."""

    def confirmed(found: Candidate) -> Candidate:
        return replace(found, objections=(f"along outlines {found.strength:g} is worse",)) if refused(found) else found

    monkeypatch.setattr(verdicts, "_confirming", lambda along_outlines, fits: confirmed)


def test_the_next_strength_has_its_turn_where_one_is_refused_along_outlines(
    strange: list[Example], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, lambda found: found.strength == 1)
    verdict = judge(SteadyRecipe(), strange[:3], [], None, STRANGE, segmenter)
    assert verdict.promoted
    assert verdict.strength == 0.75
    assert [row["objections"] for row in verdict.figures["strengths"][-2:]] == [[], ["along outlines 1 is worse"]]
    refusing(monkeypatch, lambda found: True)
    verdict = judge(SteadyRecipe(), strange[:3], [], None, STRANGE, segmenter)
    assert not verdict.promoted
    assert "kept what is served: along outlines 1 is worse" in verdict.reason, "the best of those refused"
    assert verdict.figures["strength"] == 1


def test_an_adapter_that_fails_along_outlines_is_a_reason(
    strange: list[Example], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise LearningError("what was learned", "does not fit the images", "Learn again.")

    monkeypatch.setattr(Baselines, "confirm", fails)
    verdict = judge(LinearRecipe(), strange[:3], [], None, STRANGE, segmenter)
    assert not verdict.promoted
    assert "does not fit the images" in verdict.reason


@pytest.mark.usefixtures("before_outlines")
def test_a_weaker_mixture_is_promoted_where_all_that_was_learned_is_too_much(
    known: list[Example], segmenter: Segmenter
) -> None:
    verdict = judge(LinearRecipe(), known[:9], [], None, KNOWN, segmenter)
    assert verdict.promoted
    assert 0 < verdict.strength < 1
    assert isinstance(verdict.adapter, LinearAdapter)
    assert verdict.adapter.strength == verdict.strength
    assert verdict.figures["strengths"][-1]["objections"]


class SteadyAdapter(LinearAdapter):
    """The same at any strength, as what was learned of labels the model does not know."""

    def scores(self, image: ImageScores) -> ClassScores:
        return replace(self, strength=1.0).scores(image) if self.strength < 1 else super().scores(image)


class SteadyRecipe(LinearRecipe):
    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> SteadyAdapter:
        return SteadyAdapter(super().fit(examples, words, segmenter).weights)


def test_of_equally_good_strengths_the_strongest_is_promoted(strange: list[Example], segmenter: Segmenter) -> None:
    verdict = judge(SteadyRecipe(), strange[:3], [], None, STRANGE, segmenter)
    assert verdict.promoted
    assert verdict.strength == 1


def evaluated(strength: float, quality: float, agreement: float | None, *, supplied: bool = False) -> Candidate:
    matrix = np.array([[round(quality * 1e6), round((1 - quality) * 1e6)], [0, 0]])
    against = Comparison.of([matrix], [matrix])
    adapter = None if strength == 0 else LinearAdapter(torch.zeros(1, 1), strength)
    return Candidate(strength, adapter, against, against, agreement, (), supplied)


def test_of_strengths_about_as_good_the_weakest_goes_first_where_uncorrected_labels_are_found() -> None:
    """The mean IoU does not know what becomes of these."""
    def order(agreement: float | None, zero_shot: float = 0.7) -> list[float]:
        of_each = ((0.0, zero_shot), (0.25, 0.88), (0.5, 0.896), (0.75, 0.9), (1.0, 0.899))
        unopposed = [evaluated(*one, None if one[0] == 0 else agreement) for one in of_each]
        return [one.strength for one in verdicts._in_turn(unopposed)]

    assert order(None) == [0.75, 1, 0.5, 0.25, 0]
    assert order(0.9) == [0.5, 0.75, 1, 0.25, 0]
    assert order(0.9, zero_shot=0.9) == [0, 0.75, 1, 0.5, 0.25], "nothing is as near to the zero-shot model as itself"


def test_what_learned_from_generated_examples_goes_first_even_where_it_is_stronger() -> None:
    found = [evaluated(0.5, 0.9, 0.9), evaluated(0.75, 0.9, 0.9, supplied=True), evaluated(1, 0.9, 0.9)]
    in_turn = [(one.strength, one.supplied) for one in verdicts._in_turn(found)]
    assert in_turn == [(0.75, True), (1, False), (0.5, False)]


@pytest.mark.parametrize("order", [(1, 0, 2), (1, 2, 0)], ids=["two swapped", "three in a round"])
class TestSwapped:
    """Somebody's annotations with labels swapped."""

    def test_refused_by_what_is_held_out(
        self, order: Sequence[int], served: Verdict, strange: list[Example], segmenter: Segmenter
    ) -> None:
        swapped = relabelled(strange[:6], order)
        verdict = judge(
            LinearRecipe(), swapped, strange[6:], served.adapter, STRANGE, segmenter, seen=served.learned_from
        )
        assert not verdict.promoted
        assert verdict.adapter is served.adapter, "what is served stays"
        assert "wug would fall" in verdict.reason
        assert "look for swaps" in verdict.reason

    def test_refused_as_new_ones_contradict_those_learned_from(
        self, order: Sequence[int], served: Verdict, strange: list[Example], segmenter: Segmenter
    ) -> None:
        learn = [*strange[:6], *relabelled(strange[6:9], order)]
        verdict = judge(LinearRecipe(), learn, [], served.adapter, STRANGE, segmenter, seen=served.learned_from)
        assert not verdict.promoted
        assert verdict.adapter is served.adapter
        assert "labels look swapped: regions labelled wug" in verdict.reason
        assert set(verdict.figures["swapped"][0]) >= {"wug", "dax"}

    def test_refused_by_a_model_that_knows_the_labels(
        self, order: Sequence[int], known: list[Example], segmenter: Segmenter
    ) -> None:
        verdict = judge(LinearRecipe(), relabelled(known[:6], order), [], None, KNOWN, segmenter)
        assert not verdict.promoted
        assert "labels look swapped: to the zero-shot model" in verdict.reason

    def test_a_model_that_does_not_know_the_labels_accuses_nobody(
        self, order: Sequence[int], strange: list[Example], segmenter: Segmenter
    ) -> None:
        assert judge(LinearRecipe(), relabelled(strange[:6], order), [], None, STRANGE, segmenter).promoted

    def test_corrections_that_are_mended_replace_what_was_learned_from_the_wrong_ones(
        self, order: Sequence[int], strange: list[Example], segmenter: Segmenter
    ) -> None:
        wrong = judge(LinearRecipe(), relabelled(strange[:6], order), [], None, STRANGE, segmenter)
        verdict = judge(LinearRecipe(), strange[:6], [], wrong.adapter, STRANGE, segmenter, seen=wrong.learned_from)
        assert verdict.promoted
        assert not verdict.figures["learned_by_neither"]


def test_what_is_served_accuses_nobody_when_it_only_knows_too_little(
    strange: list[Example], segmenter: Segmenter
) -> None:
    poor = LinearRecipe().fit(relabelled(strange[:3], (1, 0, 2)), STRANGE, segmenter)
    seen = [example.key for example in strange[:3]]
    verdict = judge(LinearRecipe(), strange[:6], [], poor, STRANGE, segmenter, seen=seen)
    assert verdict.promoted
    assert verdict.figures["learned_by_neither"]


def test_nothing_new_promotes_nothing(served: Verdict, strange: list[Example], segmenter: Segmenter) -> None:
    verdict = judge(LinearRecipe(), strange[:6], [], served.adapter, STRANGE, segmenter, seen=served.learned_from)
    assert not verdict.promoted
    assert verdict.adapter is served.adapter


def test_a_newcomer_meets_what_is_served_only_where_neither_has_learned(
    served: Verdict, strange: list[Example], segmenter: Segmenter
) -> None:
    verdict = judge(LinearRecipe(), strange[:8], [], served.adapter, STRANGE, segmenter, seen=served.learned_from)
    assert verdict.figures["judged_on"] == {"held_out": 0, "cross_validated": 2}
    unknown = judge(LinearRecipe(), strange[:8], [], served.adapter, STRANGE, segmenter)
    assert unknown.figures["judged_on"]["cross_validated"] == 8


class Prepared(Evaluator):
    """Predicts two labels and the background with prepared results; the zero-shot model finds nothing.

    Args:
        before, after: confusion of each image, by what is served and by a `FineAdapter`.
        shown: number of images that are said to show each class.
    """

    def __init__(self, before: Sequence[Confusion], after: Sequence[Confusion], shown: Sequence[int]) -> None:
        self.classes, self._results = 3, (before, after, [counts(0, 0, 95)] * len(before))
        self._shown = np.array(shown)

    def shows_label(self, images: Sequence[EvaluationImage]) -> bool:
        return True

    def shown(self, images: Sequence[EvaluationImage]) -> NDArray[np.int64]:
        return self._shown * len(images) // len(self._results[0])

    def predict_each(
        self, images: Sequence[EvaluationImage], heads_of: Callable[[EvaluationImage], Sequence[Head | None]]
    ) -> list[list[GridPrediction]]:
        nowhere = np.zeros((1, 1), dtype=np.float32)
        which = {type(None): 2, LinearAdapter: 0, FineAdapter: 1}
        return [
            [GridPrediction(np.full((1, 1), which[type(head)], dtype=np.int16), nowhere) for head in heads_of(image)]
            for image in images
        ]

    def has_agreement(self, images: Sequence[EvaluationImage]) -> bool:
        return False

    def confusions(self, images: Sequence[EvaluationImage], predictions: Sequence[GridPrediction]) -> list[Confusion]:
        return [self._results[int(one.classes[0, 0])][k] for k, one in enumerate(predictions)]

    def agreement(self, images: Sequence[EvaluationImage], predictions: Sequence[GridPrediction]) -> float | None:
        return None


def counts(*hits: int) -> Confusion:
    """Of 100 cells of each class, so many are right; the others are taken for the background, or it for the first."""
    found = np.diag(hits)
    for k, hit in enumerate(hits):
        found[k, 2 if k < 2 else 0] += 100 - hit
    return found


FALLING = [counts(20, 50, 95)] * 6, [counts(90, 20, 95)] * 6
FALLING_LITTLE = [counts(20, 50, 95)] * 6, [counts(90, 44, 95)] * 6
SEEMS_TO_FALL = [counts(20, 50, 95)] * 6, [*[counts(40, 36, 95)] * 5, counts(40, 63, 95)]
LOST = [*[counts(20, 95, 95)] * 2, *[counts(20, 5, 95)] * 4], [counts(60, 3, 95)] * 6
HARDLY_FOUND = [counts(20, 22, 95)] * 6, [counts(90, 5, 95)] * 6
CHANCE = [counts(40, 40, 95)] * 6, [*[counts(80, 80, 95)] * 3, *[counts(22, 22, 95)] * 3]
WORSE = [counts(40, 40, 95)] * 6, [*[counts(20, 20, 95)] * 5, counts(25, 25, 95)]
MOSTLY_WORSE = [counts(40, 40, 95)] * 6, [*[counts(34, 34, 95)] * 5, counts(55, 55, 95)]
ALIKE = [counts(50, 50, 95)] * 6, [*[counts(60, 60, 95)] * 3, *[counts(38, 38, 95)] * 3]


@pytest.mark.parametrize(
    ("results", "shown", "expected", "objection"),
    [
        (FALLING, (6, 3, 6), None, "dax would fall"),
        (FALLING, (6, 3, 6), 0.05, ""),  # on three images
        (FALLING, (6, 4, 6), 0.05, "dax would fall"),
        (SEEMS_TO_FALL, (6, 6, 6), None, "dax would fall"),
        (SEEMS_TO_FALL, (6, 6, 6), 0.05, ""),  # in nearly all resamples, but they are of six images
        (LOST, (6, 6, 6), 0.05, "dax would fall"),  # however unevenly it was found before
        (FALLING_LITTLE, (6, 6, 6), None, "dax would fall"),
        (FALLING_LITTLE, (6, 6, 6), 0.05, ""),  # all gain more on average
        (HARDLY_FOUND, (6, 6, 6), None, "dax would fall"),
        (HARDLY_FOUND, (6, 6, 6), 0.05, ""),
        (CHANCE, (6, 6, 6), None, "may be chance"),
        (CHANCE, (6, 6, 6), 0.05, ""),
        (ALIKE, (6, 6, 6), None, "not better than what is served"),
        (ALIKE, (6, 6, 6), 0.05, ""),
        (ALIKE, (6, 6, 6), 0.003, "is likely, not better than what is served"),  # of hardly more corrections
        (MOSTLY_WORSE, (6, 6, 6), 0.003, "is likely, not better than what is served"),
        (MOSTLY_WORSE, (6, 6, 6), 0.05, ""),
        (WORSE, (6, 6, 6), 0.05, "worse than what is served"),  # whatever others gain on average
    ],
)
def test_a_successor_needs_less_proof(
    results: tuple[Sequence[Confusion], Sequence[Confusion]], shown: Sequence[int], expected: float | None,
    objection: str, strange: list[Example], segmenter: Segmenter,
) -> None:  # fmt: skip
    images = [EvaluationImage(example, None) for example in strange[:6]]
    learned = LinearRecipe().fit(strange[6:8], STRANGE, segmenter)
    names = ["wug", "dax", "background"]
    baselines = Baselines(Prepared(*results, shown), images, learned, {"elsewhere"}, names, expected=expected)
    (candidate,) = baselines.evaluate([1.0], FineAdapter(learned.weights), [])
    assert objection in "; ".join(candidate.objections)
    assert bool(candidate.objections) == bool(objection), candidate.objections


@pytest.mark.parametrize(
    ("seen", "held_out", "succeeds"),
    [
        (range(6), (), True),
        (range(1, 9), (), False),
        ((), (), False),
        (range(2, 9), (8,), True),  # the last was learned from before it was held out
        (range(9), (8,), False),  # one correction less than before
        ((8,), (8,), False),  # nothing in common
        (range(2, 10), (8,), False),  # the last was deleted
    ],
)
def test_a_successor_is_trained_on_the_same_corrections_and_more(
    seen: Sequence[int], held_out: Sequence[int], succeeds: bool, served: Verdict, strange: list[Example],
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found: list[float | None] = []
    original = Baselines.__init__

    def initialised(self: Baselines, *args: Any, expected: float | None, **options: Any) -> None:
        found.append(expected)
        original(self, *args, expected=expected, **options)

    monkeypatch.setattr(Baselines, "__init__", initialised)
    keys = [strange[k].key for k in seen]
    hold_out = [strange[k] for k in held_out]
    judge(LinearRecipe(), strange[:8], hold_out, served.adapter, STRANGE, segmenter, seen=keys)
    assert set(found) == {expected_gain(8, len(keys)) if succeeds else None}


def test_the_gain_that_a_successor_is_expected_to_have_grows_with_its_corrections() -> None:
    assert expected_gain(6, 3) == pytest.approx(expected_gain(24, 12))
    assert 0 < expected_gain(21, 20) < LEAST_GAIN < expected_gain(6, 3) < expected_gain(12, 3)


def test_what_is_measured_on_few_photographs_weighs_less() -> None:
    worse = [counts(60, 60, 95), counts(40, 50, 95)], [counts(57, 57, 95), counts(40, 49, 95)]
    few, many = (Comparison.of(worse[0] * times, worse[1] * times) for times in (3, 30))
    errors = [
        float(measured_error(comparison.standard_error, images=images, crossed=crossed))
        for comparison, images, crossed in ((few, 6, 6), (few, 6, 0), (many, 60, 0))
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > FIT_SPREAD > errors[2]
    likely = [likely_gain(few, 0.02, error) for error in errors]
    measured = few.mean_ious[1] - few.mean_ious[0]
    assert measured < likely[2] < likely[1] < likely[0] < 0.02
    assert likely[2] < 0 < likely[0]


def test_a_class_seems_to_fall_where_other_fits_than_the_candidate_are_measured(
    strange: list[Example], segmenter: Segmenter
) -> None:
    """Resampling knows nothing of how far two fits differ; the same fall of the candidate itself is an objection."""
    learned = LinearRecipe().fit(strange[6:8], STRANGE, segmenter)
    for crossed, objection in ((0, "dax would fall"), (1, "dax would fall"), (6, "")):
        images = [EvaluationImage(example, 0 if k < crossed else None) for k, example in enumerate(strange[:6])]
        evaluator = Prepared([counts(20, 50, 95)] * 6, [counts(30, 43, 95)] * 6, (6, 6, 6))
        baselines = Baselines(evaluator, images, learned, {"elsewhere"}, ["wug", "dax", "background"], expected=0.05)
        adapter = FineAdapter(learned.weights)
        (candidate,) = baselines.evaluate([1.0], adapter, [adapter])
        assert objection in "; ".join(candidate.objections)
        assert bool(candidate.objections) == bool(objection), candidate.objections


def test_an_adapter_that_went_bad_gives_way_to_the_zero_shot_model(known: list[Example], segmenter: Segmenter) -> None:
    class Hopeless(LinearRecipe):
        """Learns the wrong way round."""

        def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> LinearAdapter:
            found = super().fit(examples, words, segmenter)
            return replace(found, weights=-found.weights)

    bad = Hopeless().fit(known[:3], KNOWN, segmenter)
    verdict = judge(Hopeless(), known[:6], known[6:], bad, KNOWN, segmenter)
    assert verdict.promoted
    assert verdict.adapter is None
    assert verdict.strength == 0
    assert verdict.reason.startswith("went back to the zero-shot model")
    assert verdict.learned_from == ()


class Drowning(LinearRecipe):
    """Never says the third label again, or seldom."""

    def __init__(self, *, scale: float = 5.0, depth: float = 50.0) -> None:
        super().__init__(scale=scale)
        self._depth = depth

    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> LinearAdapter:
        found = super().fit(examples, words, segmenter)
        weights = found.weights.clone()
        weights[-1, 2] -= self._depth
        return replace(found, weights=weights)


def test_labels_that_nobody_corrected_must_not_drown(known: list[Example], segmenter: Segmenter) -> None:
    two = relabelled(known[:9], (0, 1, UNLABELLED))
    verdict = judge(Drowning(), two, [], None, KNOWN, segmenter)
    assert not verdict.promoted
    assert "of labels nobody corrected, only 0%" in verdict.reason
    assert "generator" not in verdict.figures


def test_where_new_photographs_hardly_show_a_label_that_nobody_corrected_the_earlier_ones_are_asked(
    known: list[Example], segmenter: Segmenter
) -> None:
    two = relabelled(known[:8], (0, 1, UNLABELLED))
    for new, whole in zip(two[6:], known[6:8], strict=True):
        new.truth[whole.truth == 2] = VOID
    served = LinearRecipe().fit(two[:6], KNOWN, segmenter)
    verdict = judge(Drowning(), two, [], served, KNOWN, segmenter, seen=[example.key for example in two[:6]])
    assert verdict.figures["judged_on"] == {"held_out": 0, "cross_validated": 2}
    assert "of labels nobody corrected, only 0%" in str(verdict.figures["strengths"][-1]["objections"])


class Supplying(LinearRecipe):
    """Learns with one recipe from corrections alone, and with another where it says that it has generated examples."""

    def __init__(self, plain: LinearRecipe, supplied: LinearRecipe | None, reason: str = "") -> None:
        super().__init__()
        self._plain, self._supplied, self._reason = plain, supplied, reason
        self.asked = 0

    def fit_both(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> Fitted:
        self.asked += 1
        supplied = None if self._supplied is None else self._supplied.fit(examples, words, segmenter)
        return Fitted(self._plain.fit(examples, words, segmenter), supplied, self._reason)


@pytest.mark.usefixtures("before_outlines")
def test_generated_examples_are_kept_where_they_save_other_labels(known: list[Example], segmenter: Segmenter) -> None:
    two = relabelled(known[:9], (0, 1, UNLABELLED))
    verdict = judge(Supplying(Drowning(), LinearRecipe(scale=1)), two, [], None, KNOWN, segmenter)
    generator = verdict.figures["generator"]
    assert generator["kept"]
    assert len(generator["compared"]) == 4, "as without them nothing would be promoted"
    whole = generator["compared"][-1]["agreement"]
    assert whole["with"] > whole["without"] + 0.3
    json.dumps(verdict.figures)
    assert verdict.promoted, verdict.reason
    assert "with generated examples of labels nobody corrected" in verdict.reason
    assert verdict.adapter is not None
    assert verdict.adapter.state().tensors["weights"][-1, 2] > -40


@pytest.mark.usefixtures("before_outlines")
def test_generated_examples_that_drown_other_labels_are_not_kept(known: list[Example], segmenter: Segmenter) -> None:
    two = relabelled(known[:9], (0, 1, UNLABELLED))
    with_them, without = (
        judge(recipe, two, [], None, KNOWN, segmenter)
        for recipe in (Supplying(LinearRecipe(scale=1), Drowning()), LinearRecipe(scale=1))
    )
    assert without.promoted, without.reason
    assert not with_them.figures["generator"]["kept"]
    assert [row["strength"] for row in with_them.figures["generator"]["compared"]] == [without.strength]
    assert (with_them.reason, with_them.strength) == (without.reason, without.strength)


def test_generated_examples_that_change_nothing_are_not_kept(known: list[Example], segmenter: Segmenter) -> None:
    two = relabelled(known[:3], (0, 1, UNLABELLED))
    verdict = judge(Supplying(LinearRecipe(), LinearRecipe()), two, [], None, KNOWN, segmenter)
    found = verdict.figures["generator"]
    assert not found["kept"]
    assert all(row["mean_iou_unseen"]["with"] == row["mean_iou_unseen"]["without"] for row in found["compared"])


@pytest.mark.usefixtures("before_outlines")
def test_of_a_trained_candidate_the_better_of_both_is_kept(known: list[Example], segmenter: Segmenter) -> None:
    two = relabelled(known, (0, 1, UNLABELLED))
    good, drowning = (recipe.fit(two[:6], KNOWN, segmenter) for recipe in (LinearRecipe(scale=1), Drowning()))

    def verdict_on(candidate: Fitted) -> Verdict:
        return judge(LinearRecipe(), two[:6], two[6:9], None, KNOWN, segmenter, candidate=candidate)

    saved, refused = verdict_on(Fitted(drowning, good)), verdict_on(Fitted(good, drowning))
    assert saved.figures["generator"]["kept"], saved.reason
    assert saved.adapter is not None
    assert saved.adapter.state().tensors["weights"][-1, 2] > -40
    assert not refused.figures["generator"]["kept"]
    alone = verdict_on(Fitted(good, reason="it is left out"))
    assert (refused.reason, refused.strength) == (alone.reason, alone.strength)
    assert alone.figures["generator"] == {"kept": False, "reason": "it is left out"}


@pytest.fixture
def half_known(known: list[Example]) -> list[Example]:
    """Pictures in which two labels that the model does not know are corrected, and one that it knows is not."""
    return [replace(example, words=HALF_KNOWN) for example in relabelled(known[:6], (0, 1, UNLABELLED))]


def test_what_learned_from_generated_examples_is_evaluated_along_outlines(
    half_known: list[Example], segmenter: Segmenter
) -> None:
    verdict = judge(Supplying(Drowning(), LinearRecipe(scale=1)), half_known, [], None, HALF_KNOWN, segmenter)
    assert verdict.promoted, verdict.reason
    assert verdict.figures["generator"]["kept"]
    assert verdict.adapter is not None
    assert verdict.adapter.state().tensors["weights"][-1, 2] > -40


def test_without_generated_examples_the_same_strength_is_next(
    half_known: list[Example], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Supplying(Drowning(scale=1, depth=0.4), LinearRecipe(scale=1))
    refusing(monkeypatch, lambda found: False)
    verdict = judge(recipe, half_known, [], None, HALF_KNOWN, segmenter)
    (compared,) = verdict.figures["generator"]["compared"]
    assert compared["better"], compared
    assert verdict.figures["generator"]["kept"]
    refusing(monkeypatch, lambda found: found.supplied)
    verdict = judge(recipe, half_known, [], None, HALF_KNOWN, segmenter)
    assert verdict.promoted, verdict.reason
    assert verdict.strength == compared["strength"]
    assert not verdict.figures["generator"]["kept"]
    assert "generated" not in verdict.reason


def test_why_nothing_is_generated_is_told(known: list[Example], segmenter: Segmenter) -> None:
    recipe = Supplying(LinearRecipe(), None, "nobody can")
    verdict = judge(recipe, known[:3], [], None, KNOWN, segmenter)
    assert recipe.asked == 1, "not for cross-validation"
    assert verdict.figures["generator"] == {"kept": False, "reason": "nobody can"}


def test_a_single_label_must_not_pay_for_the_others(strange: list[Example], segmenter: Segmenter) -> None:
    class Partial(LinearRecipe):
        """Learns all but the first label, which it takes for background."""

        def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> LinearAdapter:
            return super().fit(relabelled(examples, (UNLABELLED, 1, 2)), words, segmenter)

    full = LinearRecipe().fit(strange[:3], STRANGE, segmenter)
    verdict = judge(Partial(), strange[:6], strange[6:], full, STRANGE, segmenter, seen=[e.key for e in strange[:3]])
    assert not verdict.promoted
    assert "wug would fall" in verdict.reason


def test_labels_that_vanished_are_neither_learned_nor_judged(strange: list[Example], segmenter: Segmenter) -> None:
    words: Words = (("fep",), ("wug",))
    verdict = judge(LinearRecipe(), strange[:6], [], None, words, segmenter)
    assert set(verdict.figures["labels"]) == {"fep", "wug", "background"}


def test_without_anything_to_learn_the_reason_says_so(strange: list[Example], segmenter: Segmenter) -> None:
    empty = [replace(e, truth=np.full_like(e.truth, UNLABELLED)) for e in strange[:2]]
    assert "no correction shows a label yet" in judge(LinearRecipe(), [], [], None, STRANGE, segmenter).reason
    assert "no correction shows a label yet" in judge(LinearRecipe(), empty, [], None, STRANGE, segmenter).reason


@pytest.mark.parametrize("rest", [UNLABELLED, VOID])
def test_a_label_too_small_to_judge_promotes_nothing(rest: int, strange: list[Example], segmenter: Segmenter) -> None:
    for row in (60, 61):  # the grid has a cell for one of them
        dot = np.full_like(strange[0].truth, rest)
        dot[row, 80] = 1
        examples = [replace(strange[0], truth=dot)]
        for held_out in ([], examples)[: 1 + (rest == VOID)]:
            verdict = judge(LinearRecipe(), examples, held_out, None, STRANGE, segmenter)
            assert not verdict.promoted
    assert "correct one more image" in judge(LinearRecipe(), examples, [], None, STRANGE, segmenter).reason


def test_a_recipe_that_cannot_learn_is_a_reason(strange: list[Example], segmenter: Segmenter) -> None:
    class Refusing(LinearRecipe):
        def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> LinearAdapter:
            raise LearningError("3 corrections", "are too few", "Correct more.")

    verdict = judge(Refusing(), strange[:3], [], None, STRANGE, segmenter)
    assert not verdict.promoted
    assert "3 corrections: are too few. Correct more." in verdict.reason


def test_a_fitted_candidate_needs_held_out_examples(
    served: Verdict, strange: list[Example], segmenter: Segmenter
) -> None:
    with pytest.raises(ValueError, match="held-out"):
        judge(LinearRecipe(), strange, [], None, STRANGE, segmenter, candidate=candidate_of(served))


def test_void_is_never_judged(strange: list[Example], segmenter: Segmenter) -> None:
    void = [replace(e, truth=np.full_like(e.truth, VOID)) for e in strange[9:]]
    with_void = judge(LinearRecipe(), strange[:6], [*strange[6:9], *void], None, STRANGE, segmenter)
    without = judge(LinearRecipe(), strange[:6], strange[6:9], None, STRANGE, segmenter)
    assert with_void.figures["labels"] == without.figures["labels"]


@pytest.mark.parametrize(("found", "objections"), [(3, []), (40, ["background would fall from 0.40 to 0.00"])])
def test_a_background_that_is_hardly_found_may_fall(found: int, objections: list[str]) -> None:
    before = np.array([[9900, 0], [100 - found, found]])  # rows are the truth: a label, then the background
    after = np.array([[9900, 0], [100, 0]])
    falls = falling_classes(Comparison.of([before] * 6, [after] * 6), ["wug", "background"])
    assert list(falls.values()) == objections


def test_a_label_may_not_fall_however_little_of_it_is_found() -> None:
    before, after = np.array([[6, 94], [0, 900]]), np.array([[0, 100], [0, 900]])
    falls = falling_classes(Comparison.of([before] * 6, [after] * 6), ["wug", "background"])
    assert falls == {0: "wug would fall from 0.06 to 0.00"}
