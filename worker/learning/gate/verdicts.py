"""The verdict on what was trained: candidates at each strength are compared, and the best without an objection is
promoted.

docs/reference/learning_rules.md states the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from worker.learning.gate.candidates import Baselines, Candidate
from worker.learning.gate.evidence import BOOTSTRAP_ALPHA, LEAST_GAIN
from worker.learning.gate.splits import EvaluationImage
from worker.learning.gate.swaps import swap_hint
from worker.learning.interfaces import Adapter, Fitted

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""Weights with which the adapter is interpolated with the zero-shot model (WiSE-FT, Wortsman et al., CVPR 2022), beside
0, the zero-shot model itself."""


@dataclass(frozen=True)
class Verdict:
    """What to serve from now on, and why.

    Attributes:
        promoted: whether it differs from what was served before.
        adapter: what to serve from now on, already at its strength; None = the zero-shot model. When nothing is
            promoted, what is served already.
        strength: of the adapter promoted, 0 to 1; 0 when the zero-shot model comes back or nothing is promoted.
        reason: a sentence or two for a person.
        figures: JSON: what was evaluated and the results.
        learned_from: keys of the examples that the promoted adapter was trained on: to be stored with it, and passed to
            the next `judge` as `seen`.
    """

    promoted: bool
    adapter: Adapter | None
    strength: float
    reason: str
    figures: Mapping[str, Any]
    learned_from: tuple[str, ...] = ()


def keep(served: Adapter | None, reason: str, figures: Mapping[str, Any] | None = None) -> Verdict:
    """Nothing is promoted, for this reason: a part of a sentence."""
    return Verdict(False, served, 0.0, f"kept what is served: {reason}.", figures or {})


def verdict_on(
    baselines: Baselines, along_outlines: Callable[[], Baselines] | None, fits: Sequence[Fitted],
    served: Adapter | None, keys: tuple[str, ...], names: Sequence[str],
) -> Verdict:  # fmt: skip
    """Compare what was fitted, on all training examples and then on each training set of the split, and decide.

    Args:
        baselines: that it is compared with.
        along_outlines: makes those that what would be promoted is compared with once more; None = they are the same.
        fits: what was fitted.
        served: what is served now.
        keys: of the training examples.
        names: of each class.
    """
    trained, *fold_adapters = [fitted.plain for fitted in fits]
    plain = [baselines.evaluate_zero_shot(), *baselines.evaluate(STRENGTHS, trained, fold_adapters)]
    candidates, generator = _with_supplied(baselines, plain, fits)
    confirmed = _as_it_is if along_outlines is None else _confirming(along_outlines, fits)
    verdict, best = _decide(baselines, candidates, plain, served, keys, names, confirmed)
    if not generator:
        return verdict
    generator = {"kept": verdict.promoted and best.supplied, **generator}
    return replace(verdict, figures={**verdict.figures, "generator": generator})


_Confirm = Callable[[Candidate], Candidate]
"""A candidate without objections, or one to go back to, with the objections and figures that hold as it is served."""


def _as_it_is(found: Candidate) -> Candidate:
    return found


def _confirming(along_outlines: Callable[[], Baselines], fits: Sequence[Fitted]) -> _Confirm:
    """Evaluate what would be promoted after outlines are followed, as it would be served. Before them a head on a fine
    grid is ahead of the zero-shot model, whose grid is coarse and which gains most from them.

    Args:
        along_outlines: the baselines in pixels, made only where something would be promoted or is served.
        fits: on all training examples, then on each training set of the split.
    """
    baselines = cache(along_outlines)

    def confirmed(found: Candidate) -> Candidate:
        trained, *folds = [one.supplied or one.plain if found.supplied else one.plain for one in fits]
        return baselines().confirm(found, trained, folds)

    return confirmed


def _with_supplied(
    baselines: Baselines, candidates: Sequence[Candidate], fits: Sequence[Fitted]
) -> tuple[list[Candidate], dict[str, Any]]:
    """Let what learned from generated examples take the place of what did not, where it is better: at the strength that
    would be promoted without it, or, if none would, at each. An evaluation takes about as long as a fit.

    Args:
        baselines: that the candidates were compared with.
        candidates: the zero-shot model, then the adapter without generated examples at each strength.
        fits: on all training examples, then on each training set of the split.

    Returns:
        the candidates to decide between, and JSON about the generated examples; none of a recipe that makes none.
    """
    supplied, *folds = [fitted.supplied or fitted.plain for fitted in fits]
    if fits[0].supplied is None:
        reason = fits[0].reason
        return list(candidates), {"reason": reason} if reason else {}
    best_strength = _best(candidates).strength
    unopposed = [
        one for one in candidates[1:]
        if not one.objections and (baselines.has_unseen or one.strength == best_strength)  # others are not promoted
    ]  # fmt: skip
    tried = [one.strength for one in _in_turn(unopposed)[:1] or candidates[1:]]
    rivals = {one.strength: one for one in baselines.evaluate(tried, supplied, folds, supplied=True)}
    chosen, compared = [], []
    for plain in candidates:
        rival = rivals.get(plain.strength, plain)
        chosen.append(rival if rival.is_better_than(plain) else plain)
        if rival is not plain:
            compared.append({
                "strength": plain.strength, "better": chosen[-1] is rival,
                "mean_iou_unseen": {"without": plain.quality, "with": rival.quality},
                "agreement": {"without": plain.agreement, "with": rival.agreement},
                "objections": list(rival.objections),
            })  # fmt: skip
    return chosen, {"compared": compared}


def _decide(
    baselines: Baselines, candidates: Sequence[Candidate], plain: Sequence[Candidate], served: Adapter | None,
    keys: tuple[str, ...], names: Sequence[str], confirmed: _Confirm,
) -> tuple[Verdict, Candidate]:  # fmt: skip
    """Decide, and tell which candidate the verdict is about.

    Args:
        baselines: that the candidates were compared with.
        candidates: at each strength, the zero-shot model first.
        plain: the same, without generated examples.
        served: what is served now.
        keys: of the training examples.
        names: of each class.
        confirmed: evaluates what would be promoted as it would be served.
    """
    # Without them the same strength is next where a candidate with generated examples is refused.
    instead = [one for one in plain if all(one is not candidate for candidate in candidates)]
    everything = [*candidates, *instead]
    # On images that both were trained on the strongest always looks best: then only the strength that is best on images
    # it was not trained on may be promoted.
    best_strength = _best(everything).strength
    allowed = [one for one in everything if baselines.has_unseen or one.strength == best_strength]
    in_turn = _in_turn([one for one in allowed if not one.objections])
    zero_shot = candidates[0]
    if served is not None and all(found is not zero_shot for found in in_turn):
        # Last: what gains most from outlines may be better than what is served along them alone.
        in_turn.append(zero_shot)
    tried: list[tuple[Candidate, Candidate]] = []
    promoted = None
    for found in in_turn:
        checked = confirmed(found)
        tried.append((found, checked))
        if not checked.objections:
            promoted = checked
            break
    rows = [_as_tried(candidate, tried) for candidate in candidates]
    if promoted is None:
        refused = [checked for found, checked in tried if not found.objections]
        best = refused[0] if refused else _best(candidates[1:])
        objections = "; ".join(best.objections or rows[0].objections)
        figures = _figures(baselines, best, rows, names)
        return keep(served, objections + swap_hint(best.versus_zero_shot, names), figures), best
    figures = _figures(baselines, promoted, rows, names)
    before, after = promoted.versus_served.mean_ious
    gain = f"mean IoU {before:.3f} -> {after:.3f} on {_count_images(baselines.shared)}"
    if promoted.likely_gain is not None:
        gain += f"; {promoted.likely_gain:+.3f} is likely, with what more corrections gain on average"
    if promoted.adapter is None:
        return Verdict(True, None, 0.0, f"went back to the zero-shot model: {gain}.", figures), promoted
    how = ", with generated examples of labels nobody corrected" if promoted.supplied else ""
    reason = f"promoted at strength {promoted.strength:g}{how}: {gain}."
    return Verdict(True, promoted.adapter, promoted.strength, reason, figures, keys), promoted


def _in_turn(unopposed: Sequence[Candidate]) -> list[Candidate]:
    """The order in which candidates may be promoted: with generated examples first, which took their place for what
    they save and not only for their mean IoU; then the best first.

    The mean IoU knows nothing of labels that nobody corrected. Where the zero-shot model finds some, candidates about
    as good as the best are tried first, the weakest of them before the others: it changes least of what cannot be
    judged.
    """
    ranked = sorted(unopposed, key=lambda one: (one.supplied, *_rank(one)), reverse=True)
    if not ranked or ranked[0].agreement is None:
        return ranked
    best = ranked[0]

    def is_close(one: Candidate) -> bool:
        same = one.supplied is best.supplied and one.adapter is not None
        return same and best.quality - one.quality < LEAST_GAIN

    close = sorted(filter(is_close, ranked), key=lambda one: one.strength)
    return [*close, *(one for one in ranked if not is_close(one))]


def _as_tried(candidate: Candidate, tried: Sequence[tuple[Candidate, Candidate]]) -> Candidate:
    """What was tried last at its strength, with the objections to it as it would be served; itself if none was."""
    last = [(found, checked) for found, checked in tried if found.strength == candidate.strength][-1:]
    return replace(last[0][0], objections=last[0][1].objections) if last else candidate


def _best(candidates: Sequence[Candidate]) -> Candidate:
    """Of equals the zero-shot model, else the strongest: labels it does not know are learned alike at any strength."""
    return max(candidates, key=_rank)


def _rank(found: Candidate) -> tuple[float, bool, float]:
    return found.quality, found.adapter is None, found.strength


def _count_images(images: Sequence[EvaluationImage]) -> str:
    counts = [(kind.replace("_", "-"), count) for kind, count in _judged_on(images).items() if count]
    return " and ".join(f"{count} {kind} image{'s' * (count > 1)}" for kind, count in counts)


def _judged_on(images: Sequence[EvaluationImage]) -> dict[str, int]:
    held_out, crossed = (
        len({i.example.key for i in images if not i.elsewhere and (i.fold is None) == held}) for held in (True, False)
    )
    other = len({image.example.key for image in images if image.elsewhere})
    return {"held_out": held_out, "cross_validated": crossed} | ({"other": other} if other else {})


def _figures(
    baselines: Baselines, best: Candidate, candidates: Sequence[Candidate], names: Sequence[str]
) -> dict[str, Any]:
    before, after = best.versus_served.ious
    return {
        "judged_on": _judged_on(baselines.shared),
        "learned_by_neither": baselines.has_unseen,
        "strength": best.strength,
        "mean_iou": {"served": best.versus_served.mean_ious[0], "candidate": best.versus_served.mean_ious[1]},
        "likely_gain": best.likely_gain,
        "mean_iou_unseen": {"zero_shot": best.versus_zero_shot.mean_ious[0], "candidate": best.quality},
        "labels": {
            name: {"served": float(before[k]), "candidate": float(after[k])}
            for k, name in enumerate([*names, "background"])
            if not np.isnan(before[k])
        },
        "strengths": [
            {
                "strength": candidate.strength,
                "mean_iou_unseen": candidate.quality,
                "gain": candidate.versus_served.mean_ious[1] - candidate.versus_served.mean_ious[0],
                "gain_at_least": candidate.versus_served.lower_bound(BOOTSTRAP_ALPHA),
                "agreement": candidate.agreement,
                "objections": list(candidate.objections),
            }
            for candidate in candidates
        ],
    }
