"""`zeromask offer`: an adapter that `zeromask train` wrote is handed to a project's learner, whose gate judges it.

The files are put beside the project's versions, which is the one place that all processes see, and the learner does the
rest: it has the model, reaches Label Studio and the images, and is the only one that makes versions. So the command
works from any machine or container where `zeromask versions` and `zeromask rollback` do.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from redis import Redis
from rich.console import Console
from rich.text import Text

from plugin_config.errors import LearningError
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.model_version import model_slug
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.offers import Offer, OfferAnswer, ProjectOffers
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from plugin_config.versions.manifests import VersionFolder, now
from plugin_config.versions.rollback import find_copy
from plugin_config.versions.served import ServedCopy

_RECORD = "adapter.json"
_MOST_RECORD_BYTES, _MOST_BYTES = 64 << 20, 8 << 30
_EVERY_S = 0.3
_ALONE_S = 60.0  # without any learner: one that is started again loads its model meanwhile
_INTERRUPTED = 130  # as a shell has it
_AGAIN = "Train it again with `zeromask train`, or copy the folder again."


@dataclass(frozen=True)
class AdapterFiles:
    """The two files of an adapter folder.

    Attributes:
        record: its adapter.json.
        data: its tensors.
        model: that it was trained on.
        source: what it is, for people.
    """

    record: bytes
    data: bytes
    model: str
    source: str


@click.command(
    epilog="PROJECT is the project's number in Label Studio, as in the address of its page; DIR is what `zeromask "
    "train --output-dir` wrote. The verdict is also shown by `zeromask versions`."
)
@click.argument("project", type=int)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "for_programs", is_flag=True, help="print the verdict as one JSON line")
def offer(project: int, folder: Path, *, for_programs: bool) -> None:
    """Let the project's gate judge a trained adapter; it is served where it is better on the project's corrections."""
    settings = Settings.from_env(os.environ)
    files = read_adapter_files(folder)
    with connect_briefly(settings) as redis:
        copy = find_copy(redis, project, settings.model)
        asked = _ask(redis, copy, files)
        try:
            with _shown() as tell:
                answer = _wait(redis, project, asked, tell)
        except KeyboardInterrupt:
            told = f"It is judged all the same; see `zeromask versions {project}`."
            click.echo(f"zeromask offer: stopped waiting. {told}", err=True)
            raise SystemExit(_INTERRUPTED) from None
    if answer.refusal:
        raise LearningError(*answer.refusal)
    if for_programs:
        row = asdict(answer)
        del row["refusal"]
        click.echo(json.dumps({"project": project, **row}))
    else:
        served = "is served from now on" if answer.promoted else "stays what is served"
        click.echo(f"project {project}: {answer.served} {served}. {answer.reason}")


def read_adapter_files(folder: Path) -> AdapterFiles:
    """Read an adapter folder, without the model it was trained on: the learner checks the rest.

    Raises:
        LearningError: it holds no adapter, or one that is not whole.
    """
    subject = f"folder {folder}"
    try:
        record = _read(folder / _RECORD, _MOST_RECORD_BYTES)
        found = json.loads(record)
        name, checksum, model, recipe = (str(found[key]) for key in ("file", "sha256", "model", "recipe"))
        if Path(name).name != name:
            raise ValueError(f"file {name!r} is not in the folder")
        leaked = bool(found["about"].get("leaked"))  # what a recipe that has a leaked training says of itself
        learned_from = str((found.get("training") or {}).get("data") or "data it does not name")
    except FileNotFoundError as error:
        remedy = "Name the folder that `zeromask train --output-dir` wrote."
        raise LearningError(subject, f"holds no adapter: there is no {_RECORD}", remedy) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"its {_RECORD} cannot be read ({type(error).__name__}: {str(error)[:100]})"
        raise LearningError(subject, problem, _AGAIN) from error
    try:
        data = _read(folder / name, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise LearningError(subject, f"its tensors cannot be read ({error})", _AGAIN) from error
    if hashlib.sha256(data).hexdigest() != checksum:
        raise LearningError(subject, f"{name} is damaged: it is not what was written", _AGAIN)
    source = f"{recipe}{' (leaked)' * leaked} trained on {learned_from}"
    return AdapterFiles(record, data, model, source[:200])


def _read(path: Path, most: int) -> bytes:
    if path.stat().st_size > most:
        raise ValueError(f"{path.name} is larger than {most >> 20} MB")
    return path.read_bytes()


def _ask(redis: Redis, copy: ServedCopy, files: AdapterFiles) -> Offer:
    """Put the files where the learner finds them, and ask it to judge them."""
    project, model = copy.owner.project, copy.owner.model
    if model_slug(files.model) != model_slug(model):
        problem = f"was trained on model {files.model}, and project {project} is served by {model}"
        raise LearningError("the adapter", problem, f"Train one with `zeromask train --model {model}`.")
    _require_learner(redis, model)
    folder = VersionFolder(copy.place, copy.owner)
    copy.check_place(folder.pointer())
    asked = Offer(f"offer-{uuid.uuid4().hex[:12]}", model, files.source, now())
    folder.add_offer(asked.name, files.record, files.data)
    ProjectOffers(redis).ask(project, asked)
    return asked


def _require_learner(redis: Redis, model: str) -> None:
    models = sorted({row.about.get("model", "") for row in WorkerPresence(redis, learners=True).workers()})
    if model_slug(model) in map(model_slug, models):
        return
    problem = f"learners run only for model {' and '.join(models)}" if models else "no learner runs that could judge it"
    remedy = f"Start one with `zeromask worker --queue finetune --model {model}`, or `zeromask up`."
    raise LearningError("the offer", problem, remedy)


def _wait(redis: Redis, project: int, asked: Offer, tell: Callable[[Text], object]) -> OfferAnswer:
    """Wait for the verdict, and tell what the learner does meanwhile."""
    offers, presence = ProjectOffers(redis), WorkerPresence(redis, learners=True)
    learning = ProjectLearning(redis, lease_s=1.0)  # only read
    seen = time.monotonic()
    while True:
        waiting, answer = offers.waiting(project), offers.answered(project)
        if answer is not None and answer.name == asked.name:
            return answer
        if waiting is None or waiting.name != asked.name:
            problem = f"was replaced by another offer to project {project}" if waiting else "is gone from Redis"
            raise LearningError("the offer", problem, "Offer it again.")
        progress = learning.progress(project)
        busy = progress is not None and progress.state == "learning"
        tell(Text(progress.detail if progress and busy else "waits for the learner"))
        seen = time.monotonic() if presence.count() else seen
        if time.monotonic() - seen > _ALONE_S:
            remedy = "Start `zeromask worker --queue finetune`: it is judged then; see `zeromask versions`."
            raise LearningError("the offer", f"no learner has been alive for {_ALONE_S:.0f} s", remedy)
        time.sleep(_EVERY_S)


@contextmanager
def _shown() -> Iterator[Callable[[Text], object]]:
    """A line that changes, on a terminal; else nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda told: None
        return
    with console.status("waits for the learner") as status:
        yield status.update
