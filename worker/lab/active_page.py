"""docs/results/active.json as values and as the page docs/research/active.md: orders of annotation, minutes saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from worker.lab.active_charts import chart_names, write_charts
from worker.lab.active_figures import Interval, SeedFigures, summary
from worker.lab.evaluation.annotator import ACCEPTED_FROM, SMALL_SHARE, Noise
from worker.lab.results import EMPTY, RESULTS_FOLDER, ROOT, as_json, read_json, write_file
from worker.learning.selection.choosing import FEWEST_DIVERSE, MOST_DIVERSE, RANDOM_SHARE
from worker.report.time_model import TimeModel

RESULTS = RESULTS_FOLDER / "active.json"
PAGE = ROOT / "docs" / "research" / "active.md"

_NOISE = Noise()


def _steps(time: TimeModel) -> str:
    """Rows of a table: what takes how long, and who says so."""
    rows = (
        ("open an image, look, submit", f"{time.image:g}", "assumption; it cancels in what is saved"),
        ("look at a predicted region", f"{time.look:g}", "verifying a box (Papadopoulos et al., CVPR 2016; from "
         "memory)"),
        ("delete, select or relabel a region", f"{time.click:g}", "the first point on a thing (Bearman et al., ECCV "
         "2016; from memory)"),
        ("draw a region", f"{time.outline:g}", "the lower of 54 and 79 s, published (as Bearman et al., ECCV 2016, "
         "give them)"),
        ("correct a region's outline", f"{time.wrong:g} x {time.outline:g} x (1 - IoU)", "assumption: an error has two "
         "borders; at an IoU of 0.85 it is a third of an outline, as corrective clicks took of polygons (Benenson et "
         "al., CVPR 2019)"),
    )  # fmt: skip
    return "\n".join(f"| {step} | {seconds} | {source} |" for step, seconds, source in rows)


_INTRO = f"""# The next best image, and the minutes it saves

<!-- Made of docs/results/active.json by `zeromask evaluate --protocol active --page`; change that file, not this. -->

Which images are best corrected next, and how much time predictions save, found out by a simulated annotator who goes
through the whole loop. Order, recipe, hold-out, gate and segmenter are those of the service; figures are those of what
the gate lets be served, on test images that are never corrected.

## The orders

- `random`: a permutation.
- `active`, the service's ([choosing.py](../../worker/learning/selection/choosing.py)): {RANDOM_SHARE:.0%} of the places
  go to images that the gate holds out from the twentieth on, at random. The others: until as many images are corrected
  as there are labels (at least {FEWEST_DIVERSE}, at most {MOST_DIVERSE}), the image that stands for most images which
  no corrected one is like (greedy facility location; images are compared by the mean of the model's patch features);
  then the one with the highest product of uncertainty (1 - score of its prediction) and rarity of its labels
  (1 / sqrt(1 + corrected images that show the label); the service counts regions), among those that are farther from
  the corrected ones than half of all are.
- `active-photo`: the same, but images are compared by the mean of the deepest features of the EfficientNet-Lite0 that
  learning uses, which was trained on photographs.
- `margin`: lowest score of the prediction first.
- `k-center`: always the image that is farthest from all corrected ones (Sener and Savarese, ICLR 2018).

Every order starts from the same first image, drawn by the seed, which also draws the images to choose from, the
annotator's mistakes and the hold-out. In the drawn world each seed has scenes of its own, to choose from and to test
on; photographs to test on are the same for all seeds, so that an interval says nothing about other photographs. `area`
is the area under the learning curve from the first corrected image to the last, as a mean IoU. Differences from
`random` are paired over the seeds; in brackets the 95 % interval by Student's t. "At equal minutes" compares the same
curves over the annotator's minutes, as long as both orders took: images that teach more may take longer.

## The annotator

Regions are the 8-connected components of each class. A predicted region is accepted as it is from an IoU of
{ACCEPTED_FROM} with the true one, given another label where only that is wrong, edited where that takes less time than
drawing anew, and else deleted; true regions that are left are drawn
([annotator.py](../../worker/lab/evaluation/annotator.py)).

| step | seconds | source |
|---|---|---|
{_steps(TimeModel())}

The annotator errs, by assumption: drawn outlines wobble by {_NOISE.wobble:.1%} of the longer side (standard deviation),
{_NOISE.overlooked:.0%} of the regions below {SMALL_SHARE:.1%} of the image that nothing is predicted for are
overlooked, and {_NOISE.over_trust:.0%} of the predicted regions that are not good enough are accepted all the same. No
person was timed: the minutes say what these assumptions make of the predictions.
"""


@dataclass(frozen=True)
class MeasuredSet:
    """A set of images and what was measured on it.

    Attributes:
        name: of the set.
        command: that measures it, but for seeds.
        date: of the last measurement; empty = not measured yet.
        seeds: by seed.
    """

    name: str
    command: str
    date: str = ""
    seeds: Mapping[str, SeedFigures] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Any]:
        """See `worker.lab.active_figures.summary`."""
        return summary([self.seeds[seed] for seed in sorted(self.seeds, key=int)])


@dataclass(frozen=True)
class ActiveResults:
    """The file.

    Attributes:
        sets: measured, or to be measured.
        notes: sentences about what they show.
    """

    sets: tuple[MeasuredSet, ...]
    notes: tuple[str, ...] = ()

    def with_seeds(self, live: MeasuredSet) -> ActiveResults:
        """The same with more seeds of a set; what another command measured on it is replaced."""
        before = next((one for one in self.sets if one.name == live.name), None)
        if before is None:
            return replace(self, sets=(*self.sets, live))
        if before.command == live.command:
            live = replace(live, seeds={**before.seeds, **live.seeds})
        return replace(self, sets=tuple(live if one is before else one for one in self.sets))


def read_active(path: Path = RESULTS) -> ActiveResults:
    """Read the file.

    Raises:
        EnvironmentBroken: it is not there, or not what `write_active` writes.
    """
    return read_json(
        path, lambda found: ActiveResults(tuple(MeasuredSet(**row) for row in found["sets"]), tuple(found["notes"]))
    )


def write_active(results: ActiveResults, path: Path = RESULTS, page_path: Path = PAGE) -> None:
    """Write the file, the page, and its charts, which lie in a folder beside it that has its name.

    Raises:
        EnvironmentBroken: one of them cannot be written, or matplotlib is not installed.
    """
    write_file(path, as_json(asdict(results)))
    charts = page_path.with_suffix("")
    for one in results.sets:
        if one.seeds:
            write_charts(charts, one.name, one.summary)
    write_file(page_path, page(results, charts.name))


def page(results: ActiveResults, charts: str = PAGE.stem) -> str:
    """The page in Markdown, which shows the charts in a folder beside it."""
    parts = [_INTRO, "## Measured\n"]
    parts += [_measured(one, charts) for one in results.sets]
    if results.notes:
        parts.append("## What they show\n\n" + "\n".join(f"- {note}" for note in results.notes) + "\n")
    return "\n".join(parts)


def _measured(one: MeasuredSet, charts: str) -> str:
    if not one.seeds:
        return f"### {one.name}\n\n{EMPTY.capitalize()}: `{one.command} --store`\n"
    found = one.summary
    title = f"### {one.name}\n\n{found['seeds']} seeds, {found['images']} images to choose from; {one.date}, "
    title += f"`{one.command}`; {found['seconds_per_seed']:.0f} s per seed.\n"
    curves, minutes = (f"{charts}/{file}" for file in chart_names(one.name))
    return "\n".join([
        title, _curves(found), f"![Mean IoU of what is served by number of corrected images, {one.name}]({curves})\n",
        _minutes(found), f"![Minutes with predictions and from scratch, {one.name}]({minutes})\n",
    ])  # fmt: skip


def _curves(found: Mapping[str, Any]) -> str:
    counts = found["corrected"]
    lines = ["| order | " + " | ".join(map(str, counts)) + " | area | against random |"]
    lines.append("|---" * (len(counts) + 3) + "|")
    for name, row in found["orders"].items():
        against = found["against_random"].get(name)
        told = str(Interval(**against)) if against else ""
        figures = " | ".join(f"{miou:.3f}" for miou in row["miou"])
        lines.append(f"| {name} | {figures} | {row['area']:.3f} | {told} |")
    return "\n".join(lines) + "\n"


def _minutes(found: Mapping[str, Any]) -> str:
    """Cumulative minutes of each order after each round, what became of the predicted regions, and gains per minute."""
    counts = found["corrected"][1:]
    heads = [f"minutes after {counts[0]}", *map(str, counts[1:]), "accepted, changed, deleted, added"]
    lines = [f"| order | {' | '.join(heads)} | at equal minutes, against random |"]
    lines.append("|---" * (len(counts) + 3) + "|")
    for name, row in found["orders"].items():
        cells = [f"{row['minutes'][k - 1]:.0f} of {row['minutes_from_scratch'][k - 1]:.0f}" for k in counts]
        outcomes = ", ".join(f"{row[outcome]:.1f}" for outcome in ("accepted", "changed", "deleted", "added"))
        gained = str(Interval(**found["per_minute"][name])) if name in found["per_minute"] else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {outcomes} | {gained} |")
    return "\n".join(lines) + "\n\nMinutes with predictions, of those from scratch for the same images.\n"
