"""A recipe that a project's learner trains beside `quick`, killed once in the middle: what people see of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from plugin_config.queue.learning import ProjectLearning
from tests.faults.stand import Stand
from tests.house import stored, wait_until
from tests.offered.drawn_round import DrawnProject, command

LEARNER = "learner-1"
_KILLED_FROM = 20  # steps
_PATIENCE_S = 2400.0  # 10 minutes of training, and a machine that does other things
_STEPS = re.compile(r"has taken (\d+) of \d+ steps")


def learn_beside_quick(it: Stand, made: DrawnProject, recipe: str, free: Sequence[int]) -> dict[str, Any]:
    """Follow the learner to the gate's verdict on the recipe; in the middle it is killed, and begins anew.

    Args:
        it: with one learner, whose ZEROMASK_RECIPE is the recipe.
        made: the project, corrected.
        recipe: its name.
        free: tasks that nobody corrected.

    Returns:
        JSON: what `zeromask status` showed, and the verdicts of the gate, as `zeromask versions` has them.
    """
    learning = ProjectLearning(it.house.redis, lease_s=it.settings.lease_s)  # only read

    def detail() -> str:
        progress = learning.progress(made.project)
        return progress.detail if progress else ""

    def steps() -> int | None:
        found = _STEPS.search(detail())
        return int(found[1]) if found else None

    def wait_for_steps(fits: Callable[[int], bool]) -> None:
        wait_until(lambda: (taken := steps()) is not None and fits(taken), within_s=_PATIENCE_S, told="a step")

    wait_for_steps(lambda taken: taken >= _KILLED_FROM)
    shown = [_shown(it, made.project)]
    served, killed_at = made.served_version(it), steps() or 0
    it.kill(LEARNER)
    wait_for_steps(lambda taken: taken < killed_at)
    wait_for_steps(lambda taken: taken > 0)
    shown.append(_shown(it, made.project))
    assert made.served_version(it) == served, "a learner that died changes nothing"
    assert all(stored(it.house, made.project)[made.ids[number]] == [served] for number in free)
    wait_until(lambda: detail().startswith(f"{recipe}: "), within_s=_PATIENCE_S, told="a verdict")
    shown.append(_shown(it, made.project))
    versions = json.loads(command(it, "versions", str(made.project), "--json"))
    found = versions["contenders"][recipe]["verdict"]
    return {
        "status": shown, "killed_at_step": killed_at,
        "verdict": {"promoted": found["promoted"], "reason": found["reason"], "served": versions["served"]},
        "quick": versions["attempt"]["verdict"]["reason"], "figures": found["figures"],
    }  # fmt: skip


def _shown(it: Stand, project: int) -> str:
    """What `zeromask status` says about the learning of a project."""
    rows = json.loads(command(it, "status", "--json"))["learning"]
    (detail,) = [str(row["detail"]) for row in rows if row["project"] == project]
    return detail
