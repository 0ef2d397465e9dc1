"""Whether what was learned may replace what is served: paired, on corrections it never saw, with a reason to read.

It must not know Label Studio, files or any recipe. docs/reference/learning_rules.md states the rules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plugin_config.errors import LearningError
from worker.learning.gate.candidates import DOUBT, Candidate, Rivals
from worker.learning.gate.evaluator import Bench, in_words
from worker.learning.gate.splits import Trial, Trials, held_out_trials, plan_trials, shown_labels
from worker.learning.gate.swaps import find_swaps
from worker.learning.interfaces import Adapter, Example, Recipe, Words
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.segmenter import Segmenter

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""How far what was learned is mixed in (WiSE-FT, Wortsman et al., CVPR 2022), beside 0, the zero-shot model."""


@dataclass(frozen=True)
class Verdict:
    """What to serve from now on, and why.

    Attributes:
        promoted: whether it is something else than before.
        adapter: what to serve from now on, already at its strength; None = the zero-shot model. When nothing is
            promoted, what is served already.
        strength: of the adapter promoted, 0 to 1; 0 when the zero-shot model comes back or nothing is promoted.
        reason: a sentence or two for a person.
        figures: JSON: what was judged and how it came out.
        learned_from: keys of the examples that the adapter promoted has learned from: to be kept with it, and handed to
            the next `judge` as `seen`.
    """

    promoted: bool
    adapter: Adapter | None
    strength: float
    reason: str
    figures: Mapping[str, Any]
    learned_from: tuple[str, ...] = ()


@one_thread()
def judge(
    recipe: Recipe,
    learn: Sequence[Example],
    hold_out: Sequence[Example],
    served: Adapter | None,
    words: Words,
    segmenter: Segmenter,
    *,
    seen: Collection[str] = (),
    candidate: Adapter | None = None,
) -> Verdict:
    """Learn, judge, and promote the best strength or none.

    Args:
        recipe: fitted once on all of `learn`, and up to five times on parts of it where these are cross-validated.
        learn: what may be learned from; `worker.learning.corrections.hold_out.split` parts them.
        hold_out: what must not.
        served: what is served now; None = the zero-shot model.
        words: the texts of each class of the project now.
        segmenter: the frozen model.
        seen: keys of the examples `served` has learned from.
        candidate: already learned from `learn`; then nothing is fitted and only `hold_out` judges.

    Raises:
        ValueError: a candidate was given and nothing is held out.
    """
    if candidate is not None and not hold_out:
        raise ValueError("a candidate that is fitted already can only be judged on held-out examples, got none")
    learn, hold_out = ([in_words(example, words) for example in part] for part in (learn, hold_out))
    taught = {label for example in learn for label in shown_labels(example.truth)}
    if not taught:
        return _keep(served, "no correction shows a label yet")
    bench = Bench(segmenter, words, taught)
    names = [texts[0] for texts in words]
    plan = Trials(tuple(held_out_trials(hold_out, seen)), ()) if candidate else plan_trials(learn, hold_out, seen)
    try:
        suspicion, swapped = _suspect(bench, None if candidate else recipe, learn, hold_out, served, set(seen), names)
        if suspicion:
            return _keep(served, suspicion, {"swapped": swapped})
        if not bench.shows_label(plan.trials):
            return _keep(served, "no label can be judged yet: correct one more photograph that shows them")
        whole = candidate or recipe.fit(learn, words, segmenter)
        lessons = [recipe.fit(lesson, words, segmenter) for lesson in plan.lessons]
    except LearningError as error:
        return _keep(served, str(error).rstrip("."))
    rivals = Rivals(bench, plan.trials, served, set(seen), [*names, "background"])
    candidates = [rivals.weigh_zero_shot(), *(rivals.weigh(strength, whole, lessons) for strength in STRENGTHS)]
    return _decide(rivals, candidates, served, tuple(example.key for example in learn), names)


def _decide(
    rivals: Rivals, candidates: Sequence[Candidate], served: Adapter | None, keys: tuple[str, ...], names: Sequence[str]
) -> Verdict:
    best = _best(candidates)
    # Where both have learned, the stronger one always looks better: then only the strength that is best on what it has
    # not learned from may stand.
    allowed = candidates if rivals.fresh else [best]
    fit = [found for found in allowed if not found.objections]
    best = _best(fit or candidates[1:])
    figures = _figures(rivals, best, candidates, names)
    if not fit:
        return _keep(served, "; ".join(best.objections or candidates[0].objections) + _hint(best, names), figures)
    before, after = best.over_served.means
    told = f"mean IoU {before:.3f} -> {after:.3f} on {_photographs(rivals.shared)}"
    if best.adapter is None:
        return Verdict(True, None, 0.0, f"went back to the zero-shot model: {told}.", figures)
    reason = f"promoted at strength {best.strength:g}: {told}."
    return Verdict(True, best.adapter, best.strength, reason, figures, keys)


def _best(candidates: Sequence[Candidate]) -> Candidate:
    """Of equals the zero-shot model, else the strongest: labels it does not know are learned alike at any strength."""
    return max(candidates, key=lambda found: (found.quality, found.adapter is None, found.strength))


def _keep(served: Adapter | None, reason: str, figures: Mapping[str, Any] | None = None) -> Verdict:
    return Verdict(False, served, 0.0, f"kept what is served: {reason}.", figures or {})


def _suspect(
    bench: Bench, recipe: Recipe | None, learn: Sequence[Example], hold_out: Sequence[Example], served: Adapter | None,
    seen: set[str], names: Sequence[str],
) -> tuple[str, list[list[str]]]:  # fmt: skip
    """Why labels look swapped, "" if they do not, and which.

    Either the zero-shot model, where it is sure, takes each of some labels for another of them; or new corrections and
    those that what is served has learned from contradict each other: what is served takes the new ones so, and what is
    learned from the new ones alone takes the old ones so.
    """
    rounds = find_swaps(bench.taken_for([*learn, *hold_out], None, sure=True))
    told = "labels look swapped: to the zero-shot model, regions labelled {} look like {}"
    fresh, stale = ([e for e in learn if (e.key in seen) == known] for known in (False, True))
    if not rounds and served and recipe and fresh and stale and find_swaps(bench.taken_for(fresh, served)):
        # What is served may just know too little: then those who learned from the new ones are right about the old.
        rounds = find_swaps(bench.taken_for(stale, recipe.fit(fresh, bench.words, bench.segmenter)))
        told = "labels look swapped: regions that are labelled {} by new corrections look like {} by the earlier ones"
    if not rounds:
        return "", []
    pairs = [(path[k], path[(k + 1) % len(path)]) for path in rounds for k in range(len(path))]
    first, second = (", ".join(names[pair[side]] for pair in pairs) for side in (0, 1))
    reason = f"{told.format(first, second)}. Correct them, or name the labels in other words"
    return reason, [[names[label] for label in path] for path in rounds]


def _hint(best: Candidate, names: Sequence[str]) -> str:
    rounds = find_swaps(best.over_frozen.after.sum(axis=0)[:-1, :-1].astype(np.float64))
    if not rounds:
        return ""
    told = "; ".join(" and ".join(names[label] for label in path) for path in rounds)
    return f". Corrections learned from and corrections judged on disagree which is which of {told}: look for swaps"


def _photographs(trials: Sequence[Trial]) -> str:
    counts = _judged_on(trials)
    told = [
        f"{count} {kind.replace('_', '-')} photograph{'s' * (count > 1)}" for kind, count in counts.items() if count
    ]
    return " and ".join(told)


def _judged_on(trials: Sequence[Trial]) -> dict[str, int]:
    held_out, crossed = (len({t.example.key for t in trials if (t.lesson is None) == held}) for held in (True, False))
    return {"held_out": held_out, "cross_validated": crossed}


def _figures(rivals: Rivals, best: Candidate, candidates: Sequence[Candidate], names: Sequence[str]) -> dict[str, Any]:
    before, after = best.over_served.ious
    return {
        "judged_on": _judged_on(rivals.shared),
        "learned_by_neither": rivals.fresh,
        "strength": best.strength,
        "mean_iou": {"served": best.over_served.means[0], "candidate": best.over_served.means[1]},
        "mean_iou_unseen": {"zero_shot": best.over_frozen.means[0], "candidate": best.quality},
        "labels": {
            name: {"served": float(before[k]), "candidate": float(after[k])}
            for k, name in enumerate([*names, "background"])
            if not np.isnan(before[k])
        },
        "strengths": [
            {
                "strength": found.strength,
                "mean_iou_unseen": found.quality,
                "gain": found.over_served.means[1] - found.over_served.means[0],
                "gain_at_least": found.over_served.worst_gain(DOUBT),
                "agreement": found.agreement,
                "objections": list(found.objections),
            }
            for found in candidates
        ],
    }
