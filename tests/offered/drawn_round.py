"""One round in a real Label Studio: drawn tasks, corrected; a trained adapter offered, served, and rolled back."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from plugin_config.label_studio.predictions import StoredPrediction
from tests.corrections import served_version
from tests.faults.stand import Stand
from tests.house import House, make_project, retrieve, stored, tasks, upload, wait_until
from worker.lab.dense_data import LabelledImage
from worker.lab.drawn_world.annotation_set import annotation_scene
from worker.lab.drawn_world.scenes import label_mask
from worker.label_studio.regions import decode_region, encode_region
from worker.learning.interfaces import UNLABELLED

ROOT = Path(__file__).resolve().parents[2]
_SIZE, _UNIT = (360, 480), 190.0  # of a drawn picture (H, W) and of a thing in it, pixels
_LEARNER_LIVES = re.compile(r'"learners": \[\{')


def config_of(labels: Sequence[str]) -> str:
    """A labeling config that paints these labels."""
    rows = "".join(f'<Label value="{label}"/>' for label in labels)
    brush = f'<BrushLabels name="brush" toName="image">{rows}</BrushLabels>'
    return f'<View><Image name="image" value="$image"/>{brush}</View>'


def drawn_pictures(meanings: Mapping[str, str], count: int, *, seed: int) -> list[LabelledImage]:
    """Drawn scenes with their truth about the labels.

    Args:
        meanings: label -> what it shows, in the words of the drawn world; as many classes, in their order.
        count: number of scenes.
        seed: of all of them; the first ones are the same however many there are.
    """
    found = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        scene = annotation_scene(rng, tuple(meanings.values()), number=number, size=_SIZE, unit=_UNIT)
        truth = np.full(_SIZE, UNLABELLED, dtype=np.int16)
        for index, meaning in enumerate(meanings.values()):
            truth[label_mask(scene, meaning)] = index
        found.append(LabelledImage(scene.image, truth))
    return found


@dataclass(frozen=True)
class DrawnProject:
    """A project of drawn tasks.

    Attributes:
        project: its id.
        ids: of its tasks, in the order of the images.
        images: with the class of each pixel.
        names: of the classes.
    """

    project: int
    ids: tuple[int, ...]
    images: tuple[LabelledImage, ...]
    names: tuple[str, ...]

    @classmethod
    def make(cls, house: House, images: Sequence[LabelledImage], names: Sequence[str], config: str) -> DrawnProject:
        """Make it, connected to the backend, and have every task predicted zero-shot."""
        project = make_project(house, count=0, config=config, name="offered")
        upload(house, project, [_png(one.image) for one in images])
        ids = tuple(task.id for task in tasks(house, project))
        retrieve(house, project)
        return cls(project, ids, tuple(images), tuple(names))

    def correct(self, house: House, numbers: Sequence[int], labels: Sequence[str]) -> None:
        """Annotate images with their truth about some labels, as an annotator would leave it."""
        for number in numbers:
            result: list[dict[str, Any]] = []
            for label in labels:
                mask = self.images[number].truth == self.names.index(label)
                if mask.any():
                    result += encode_region(mask, kind="brush", control="brush", to_name="image", label=label,
                                            score=1.0)  # fmt: skip
            url = f"/api/tasks/{self.ids[number]}/annotations/"
            house.label_studio.request("POST", url, json={"result": result})

    def mean_iou(self, house: House, numbers: Sequence[int], labels: Sequence[str]) -> float:
        """Of what is stored for these tasks, over the labels that they show."""
        hits, union = np.zeros(len(labels)), np.zeros(len(labels))
        for number in numbers:
            (prediction,) = house.label_studio.predictions(self.ids[number])
            for k, label in enumerate(labels):
                truth = self.images[number].truth == self.names.index(label)
                found = mask_of(prediction, label, truth.shape)
                hits[k] += (truth & found).sum()
                union[k] += (truth | found).sum()
        return float(np.mean(hits[union > 0] / union[union > 0]))

    def wait_stored(self, it: Stand, numbers: Sequence[int], version: str) -> float:
        """Wait until these tasks have predictions of this version alone; returns the seconds."""
        started = time.monotonic()

        def there() -> bool:
            found = stored(it.house, self.project)
            return all(found[self.ids[number]] == [version] for number in numbers)

        wait_until(there, told=f"version {version} alone on {len(numbers)} tasks")
        return time.monotonic() - started

    def served_version(self, it: Stand) -> str:
        """The version string of what is served."""
        return served_version(it.house, self.project, it.settings.versions_url)


def mask_of(prediction: StoredPrediction, label: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(H, W) bool: where a stored prediction has a label."""
    found = np.zeros(shape, dtype=bool)
    for row in prediction.result:
        if row["value"].get("brushlabels") == [label]:
            found |= decode_region(row, shape[1], shape[0])
    return found


def command(it: Stand, *arguments: str, status: int = 0) -> str:
    """Run `zeromask ARGUMENTS` beside the product; returns its output, standard error where it is to fail."""
    env = {**os.environ, "REDIS_URL": it.house.services.redis_url, "MODEL": it.settings.model,
           "OMP_NUM_THREADS": "1"}  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "plugin_config.cli", *arguments], env=env, cwd=ROOT,
                          capture_output=True, text=True, timeout=3600, check=False)  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def wait_learner(it: Stand) -> None:
    """Wait until a learner has loaded its model."""
    wait_until(lambda: bool(_LEARNER_LIVES.search(command(it, "status", "--json"))), told="a learner")


def offer(it: Stand, project: int, folder: Path) -> dict[str, Any]:
    """Offer a folder; returns the verdict."""
    told: dict[str, Any] = json.loads(command(it, "offer", str(project), str(folder), "--json"))
    return told


def memory_mb(it: Stand, name: str) -> float:
    """Resident memory of a process, MB."""
    return float(psutil.Process(it.house.supervisor.pid(name)).memory_info().rss / 1e6)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
