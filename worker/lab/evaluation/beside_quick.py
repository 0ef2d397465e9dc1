"""A dense recipe beside `quick` on photographs, as where ZEROMASK_RECIPE names one: a round of each, one gate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from plugin_config.errors import LearningError
from worker.lab.evaluation.loop import LearningLoop
from worker.learning.gate.decision import judge
from worker.learning.gate.splits import FEWEST_HELD_OUT, hold_out_split
from worker.learning.interfaces import Recipe, fit_both
from worker.learning.recipes import recipe_named
from worker.segmentation.segmenter import Segmenter


def learn_beside_quick(loop: LearningLoop, recipe: Recipe, segmenter: Segmenter) -> dict[str, Any]:
    """Let `quick` learn and be judged, then the recipe, against what is served by then.

    Args:
        loop: whose photographs to learn from are split as corrections are.
        recipe: that learns beside it.
        segmenter: the model.

    Returns:
        miou, quick_miou: on the test photographs, of what the recipe learned from corrections alone and of what is
        served without it; generator_miou: of what it learned with generated examples, None without any; promoted,
        reason: the gate's verdict on the recipe; generator: what the gate found out about generated examples, or why
        there are none; seconds: of its training.

    Raises:
        LearningError: too few photographs are held out to judge it, or nothing can be learned.
    """
    train, held_out = hold_out_split(loop.train)
    if len(held_out) < FEWEST_HELD_OUT:
        problem = f"{len(held_out)} of {len(loop.train)} are held out, {FEWEST_HELD_OUT} are needed to judge a recipe"
        raise LearningError("photographs", problem, "Annotate more, or give --shots to learn without the gate's round.")
    quick = judge(recipe_named("quick"), train, held_out, None, loop.words, segmenter)
    started = time.perf_counter()
    candidate = fit_both(recipe, train, loop.words, segmenter)
    seconds = time.perf_counter() - started
    verdict = judge(recipe, train, held_out, quick.adapter, loop.words, segmenter, seen=quick.learned_from,
                    candidate=candidate)  # fmt: skip
    heads = {"miou": candidate.plain, "quick_miou": quick.adapter}
    if candidate.supplied is not None:
        heads["generator_miou"] = candidate.supplied
    mious = {name: round(loop.evaluate(head).miou, 4) for name, head in heads.items()}
    return {"recipe": recipe.name, "generator_miou": None, **mious, "promoted": verdict.promoted,
            "reason": verdict.reason, "generator": verdict.figures.get("generator", {}),
            "seconds": round(seconds, 1)}  # fmt: skip


def beside_quick_table(found: Mapping[str, Any]) -> str:
    """Format the figures for a person."""
    supplied, why = found["generator_miou"], found["generator"].get("reason", "")
    with_examples = f"; with generated examples {supplied:.3f}" if supplied is not None else ""
    without = f"; no generated examples: {why}" if why else ""
    return (f"{found['recipe']}: mIoU {found['miou']:.3f} after {found['seconds']:.1f} s, {found['quick_miou']:.3f} "
            f"of what is served without it{with_examples}{without}\n"
            f"{'promoted' if found['promoted'] else 'not promoted'}: {found['reason']}\n")  # fmt: skip
