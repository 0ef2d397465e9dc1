"""A dense recipe beside `quick` on photographs, as where ZEROMASK_RECIPE names one: a round of each, one gate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from plugin_config.errors import LearningError
from worker.lab.evaluation.loop import LearningLoop
from worker.learning.gate.decision import judge
from worker.learning.gate.splits import FEWEST_HELD_OUT, hold_out_split
from worker.learning.interfaces import Recipe
from worker.learning.recipes import recipe_named
from worker.segmentation.segmenter import Segmenter


def learn_beside_quick(loop: LearningLoop, recipe: Recipe, segmenter: Segmenter) -> dict[str, Any]:
    """Let `quick` learn and be judged, then the recipe, against what is served by then.

    Args:
        loop: whose photographs to learn from are split as corrections are.
        recipe: that learns beside it.
        segmenter: the model.

    Returns:
        miou, quick_miou: on the test photographs, of what the recipe learned and of what is served without it;
        promoted, reason: the gate's verdict on the recipe; seconds: of its training.

    Raises:
        LearningError: too few photographs are held out to judge it, or nothing can be learned.
    """
    train, held_out = hold_out_split(loop.train)
    if len(held_out) < FEWEST_HELD_OUT:
        problem = f"{len(held_out)} of {len(loop.train)} are held out, {FEWEST_HELD_OUT} are needed to judge a recipe"
        raise LearningError("photographs", problem, "Annotate more, or give --shots to learn without the gate's round.")
    quick = judge(recipe_named("quick"), train, held_out, None, loop.words, segmenter)
    started = time.perf_counter()
    candidate = recipe.fit(train, loop.words, segmenter)
    seconds = time.perf_counter() - started
    verdict = judge(recipe, train, held_out, quick.adapter, loop.words, segmenter, seen=quick.learned_from,
                    candidate=candidate)  # fmt: skip
    mious = (round(loop.evaluate(head).miou, 4) for head in (candidate, quick.adapter))
    return {"recipe": recipe.name, **dict(zip(("miou", "quick_miou"), mious, strict=True)),
            "promoted": verdict.promoted, "reason": verdict.reason, "seconds": round(seconds, 1)}  # fmt: skip


def beside_quick_table(found: Mapping[str, Any]) -> str:
    """Format the figures for a person."""
    return (f"{found['recipe']}: mIoU {found['miou']:.3f} after {found['seconds']:.1f} s, {found['quick_miou']:.3f} "
            f"of what is served without it\n{'promoted' if found['promoted'] else 'not promoted'}: {found['reason']}\n"
            )  # fmt: skip
