"""`zeromask next PROJECT`: which images annotators get next, and why; the project's own order, given back."""

from __future__ import annotations

import json
import os

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.order import Place, ProjectOrder
from plugin_config.settings import Settings

_PROJECT_HELP = "PROJECT is the project's number in Label Studio, as in the address of its page."


@click.command("next", epilog=_PROJECT_HELP)
@click.argument("project", type=int)
@click.option("--count", default=20, show_default=True, help="how many to show")
@click.option("--json", "for_programs", is_flag=True, help="print it as one JSON line")
@click.option("--resume", is_flag=True, help="set the order again that a person replaced by another sampling")
def next_images(project: int, *, count: int, for_programs: bool, resume: bool) -> None:
    """List the images that annotators get next, and why."""
    with connect_briefly(Settings.from_env(os.environ)) as redis:
        order = ProjectOrder(redis)
        if resume:
            order.note_sampling(project, "resume")
            ProjectHints(redis).request_refresh(project)
            click.echo(f"project {project}: its order is set again within seconds, where a worker runs and annotators "
                       "are shown predictions of the served version.")  # fmt: skip
            return
        places = dict(list(order.places(project).items())[: max(0, count)])
        records = order.some_records(project, places)
        scores = {task: found.score for task, found in records.items()}
        remark = order.remark(project)
        if for_programs:
            click.echo(json.dumps({"project": project, "remark": remark, "next": _rows(places, scores)}))
        else:
            said = remark or ("" if places else _why_none(order, project))
            Console().print(render(project, places, scores, said))


def _why_none(order: ProjectOrder, project: int) -> str:
    """Why no image has a place, a sentence."""
    corrected, skipped = order.seen(project)
    if order.basis(project) and (corrected or skipped):
        seen = f"{len(corrected)} annotated, {len(skipped)} skipped"
        return f"no image is left to order: {seen}; Label Studio gives nobody a task again that they skipped"
    return "no order yet: it is set within a minute after predictions are shown"


def render(project: int, places: dict[int, Place], scores: dict[int, float], said: str) -> Table:
    """The head of the order for a terminal.

    Args:
        project: its id.
        places: by the id of the task, the next one first.
        scores: of the tasks' predictions as they were computed.
        said: what people should know about the order; "" = nothing.
    """
    table = Table(title=f"Project {project}: next", title_justify="left", caption=Text(said, style="yellow"),
                  caption_justify="left")  # fmt: skip
    for name in ("", "task", "accepted as it is", "why"):
        table.add_column(name, justify="left" if name == "why" else "right")
    for row in _rows(places, scores):
        chance = "?" if row["score"] is None else f"{row['score']:.0%}"
        table.add_row(str(row["rank"]), str(row["task"]), chance, Text(str(row["reason"])))
    return table


def _rows(places: dict[int, Place], scores: dict[int, float]) -> list[dict[str, int | float | str | None]]:
    return [
        {"rank": number, "task": task, "score": scores.get(task), "reason": place.reason}
        for number, (task, place) in enumerate(places.items(), start=1)
    ]
