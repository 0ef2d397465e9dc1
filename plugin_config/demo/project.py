"""The demo's project in Label Studio: created or found again, edited, and its predictions read back, all by its API."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugin_config.errors import EnvironmentBroken, LabelStudioError, LabelStudioUnreachable
from plugin_config.label_studio.client import LabelStudio
from plugin_config.label_studio.connecting import TITLE as MODEL_TITLE
from plugin_config.label_studio.connecting import connect_model, models
from plugin_config.local.supervisor import port_is_free
from plugin_config.settings import Settings

TITLE = "Zeromask demo"
_TYPES = {"BrushLabels": "brushlabels", "PolygonLabels": "polygonlabels", "RectangleLabels": "rectanglelabels"}
_STALLED_S = 180.0
_OURS = re.compile(r"http://(?:127\.0\.0\.1|localhost):([0-9]{1,5})/?")


@dataclass(frozen=True)
class DemoLabel:
    """A label of the demo.

    Attributes:
        value: its words.
        control: the control tag it stands in.
        background: its colour in the editor.
        stuff: whether all of it in a picture is one region.
    """

    value: str
    control: str
    background: str
    stuff: bool = False

    @property
    def xml(self) -> str:
        """The label's own tag."""
        kind = ' kind="stuff"' if self.stuff else ""
        return f'<Label value="{self.value}" background="{self.background}"{kind}/>'


@dataclass(frozen=True)
class TaskPredictions:
    """What is stored for one task at one version.

    Attributes:
        task: its id.
        stem: name of its picture's file, without the ending.
        regions: of the first prediction.
        count: how many predictions there are; more than one is a fault.
    """

    task: int
    stem: str
    regions: tuple[Mapping[str, Any], ...]
    count: int


def labeling_config(labels: Sequence[DemoLabel]) -> str:
    """The labeling config with these labels, each in the tag of its control."""
    blocks = []
    for control in dict.fromkeys(label.control for label in labels):
        rows = "".join(f"\n    {label.xml}" for label in labels if label.control == control)
        name = control.removesuffix("Labels").lower()
        blocks.append(f'  <{control} name="{name}" toName="image">{rows}\n  </{control}>')
    image = '  <Image name="image" value="$image" zoom="true"/>'
    return "\n".join(["<View>", image, *blocks, "</View>"])


class DemoProject:
    """Holds the client and the id of the demo's project, 0 before it is created. Finds the one of an earlier run."""

    def __init__(self, label_studio: LabelStudio) -> None:
        self._label_studio = label_studio
        self.id = self._find()

    def ensure(self, labels: Sequence[DemoLabel], pictures: Sequence[Path]) -> None:
        """Create the project and upload the pictures it does not have yet."""
        if not self.id:
            body = {"title": TITLE, "label_config": labeling_config(labels), "show_collab_predictions": True,
                    "description": "Drawn pictures, pre-labelled by the builtin model."}  # fmt: skip
            self.id = int(self._label_studio.request("POST", "/api/projects/", json=body)["id"])
        present = set(self.stems().values())
        missing = [path for path in pictures if path.stem not in present]
        if missing:
            files = [(path.name, (path.name, path.read_bytes(), "image/png")) for path in missing]
            self._label_studio.request("POST", f"/api/projects/{self.id}/import", files=files)

    def connect(self, settings: Settings) -> None:
        """Connect the backend as the project's model, with its webhook, in place of any other model.

        Raises:
            LabelStudioError: Label Studio refuses the backend's address; the message names the remedy.
        """
        connect_model(self._label_studio, self.id, settings, interactive=True, replaced=lambda url: True)

    def retrieve_predictions(self) -> None:
        """Ask for predictions of all tasks, as Actions -> Retrieve Predictions does."""
        params = {"id": "retrieve_tasks_predictions", "project": self.id}
        self._label_studio.request(
            "POST", "/api/dm/actions/", params=params, json={"selectedItems": {"all": True, "excluded": []}}
        )

    def set_labels(self, labels: Sequence[DemoLabel]) -> None:
        """Edit the labeling config, as a person does in Settings -> Labeling Interface."""
        body = {"label_config": labeling_config(labels)}
        self._label_studio.request("PATCH", f"/api/projects/{self.id}/", json=body)

    def config(self) -> str:
        """The labeling config as Label Studio has it."""
        return self._label_studio.project(self.id).label_config

    def stems(self) -> dict[int, str]:
        """Task id -> name of the file that was uploaded for it, without the ending."""
        if not self.id:
            return {}
        ids = [task.id for task in self._label_studio.all_tasks(self.id)]
        return {task.id: _stem(str(task.data.get("image", ""))) for task in self._label_studio.tasks(self.id, ids)}

    def wait_for_version(self, version: str, show: Callable[[int, int], None]) -> None:
        """Wait until every unannotated task has a prediction at a version.

        Args:
            version: the version string.
            show: called with how many tasks have one, and how many there are.

        Raises:
            EnvironmentBroken: nothing was stored for three minutes.
        """
        best, since = -1, time.monotonic()
        for done, total in self._progress(version):
            show(done, total)
            if done == total:
                return
            if done > best:
                best, since = done, time.monotonic()
            if time.monotonic() - since > _STALLED_S:
                problem = f"stored no prediction for {_STALLED_S:.0f} s, {done} of {total} are there"
                remedy = "See worker.log and backend.log in the folder `logs` of the state folder."
                raise EnvironmentBroken("worker", problem, remedy)
            time.sleep(0.3)

    def predictions(self, version: str) -> list[TaskPredictions]:
        """What Label Studio stores at a version, for every task."""
        found = []
        for task, stem in self.stems().items():
            stored = [row for row in self._label_studio.predictions(task) if row.version == version]
            regions = tuple(region for row in stored[:1] for region in row.result)
            found.append(TaskPredictions(task, stem, regions, len(stored)))
        return found

    def _progress(self, version: str) -> Iterator[tuple[int, int]]:
        while True:
            # Annotated tasks keep the predictions they were made from.
            tasks = [task for task in self._label_studio.all_tasks(self.id) if not task.annotations]
            yield sum(version in task.versions for task in tasks), len(tasks)

    def _find(self) -> int:
        answer = self._label_studio.request("GET", "/api/projects/", params={"page_size": 1000})
        return next((int(row["id"]) for row in answer["results"] if row["title"] == TITLE), 0)


def reconnect_projects(label_studio: LabelStudio, settings: Settings, *, left_port: int = 0) -> Iterator[str]:
    """Connect the projects whose model is a backend on this machine that does not listen any more: an earlier run's,
    which had another port. One that cannot be connected keeps its model, and the others go on.

    Args:
        label_studio: the client.
        settings: of the demo's backend.
        left_port: of the last run's backend where another program has it now, see `DemoSetup`.

    Yields:
        what was done with each, a sentence.

    Raises:
        LabelStudioUnreachable: Label Studio does not answer.
    """

    def has_ended(url: str) -> bool:
        return _has_ended(url, settings.backend_url, left_port)

    for project in label_studio.request("GET", "/api/projects/", params={"page_size": 1000})["results"]:
        try:
            former = [one for one in models(label_studio, project["id"]) if has_ended(one.url)]
            if former:
                connect_model(label_studio, project["id"], settings, title=former[0].title or MODEL_TITLE,
                              replaced=has_ended)  # fmt: skip
                yield f'Project "{project["title"]}" is connected again.'
        except LabelStudioUnreachable:
            raise
        except LabelStudioError as error:  # such as labels that the backend refuses
            yield f'Project "{project["title"]}" is not connected again. {error}'


def _has_ended(url: str, backend_url: str, left_port: int) -> bool:
    """Whether an address is of a backend on this machine that has ended."""
    if url.rstrip("/") == backend_url:
        return False
    found = _OURS.fullmatch(url)
    port = int(found[1]) if found else 0
    return 0 < port < 65536 and (port == left_port or port_is_free(port))


def problems(predictions: Sequence[TaskPredictions], labels: Sequence[DemoLabel]) -> list[str]:
    """What is wrong with stored predictions: duplicates, missing ones, wrong region types, empty masks, labels without
    a region.
    """
    expected = {label.value: _TYPES[label.control] for label in labels}
    found, seen = [], Counter[str]()
    for row in predictions:
        if row.count != 1:
            found.append(f"task {row.task} has {row.count} predictions at this version")
        ids = [region["id"] for region in row.regions]
        if len(set(ids)) != len(ids):
            found.append(f"task {row.task} has a region id twice")
        for region in row.regions:
            kind, value = region["type"], region["value"]
            name = (value.get(kind) or ["?"])[0]
            seen[name] += 1
            if expected.get(name) != kind:
                found.append(f"task {row.task}: label {name!r} came as {kind}")
            if not (value.get("rle") or value.get("points") or value.get("width")):
                found.append(f"task {row.task}: an empty region of {name!r}")
    return found + [f"label {name!r} was found nowhere" for name in expected if not seen[name]]


def _stem(url: str) -> str:
    name = url.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return re.sub(r"^[0-9a-f]{8}-", "", name)  # Label Studio puts eight hex digits before an uploaded file's name

