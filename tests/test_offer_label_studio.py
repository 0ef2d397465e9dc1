"""A trained adapter offered to a project of a real Label Studio: refused, served, shown, taken back.

`python -m tests.offered` is the longer round, with words that the model reads and a label that was never trained with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from plugin_config.model_version import ZEROSHOT
from tests.faults.stand import stand
from tests.house import House, current_version
from tests.offered.drawn_round import DrawnProject, command, config_of, offer, wait_learner
from tests.test_learning_loop import Running
from worker.lab.dense_data import LabelledImage
from worker.learning.adapter_files import save_adapter_folder
from worker.learning.interfaces import Example
from worker.learning.recipes.dense.recipe import DenseRecipe, LSegRecipe
from worker.learning.recipes.dense.training import TrainingConfig
from worker.learning.recipes.dense.zegclip_recipe import ZegclipRecipe
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

NAMES = ("red shape", "blue shape", "wug", "yellow shape")  # the model reads three of them
COLOURS = ((215, 40, 40), (40, 80, 220), (40, 160, 60), (230, 210, 40))
CORRECTED, COUNT = 21, 23


def picture(number: int) -> LabelledImage:
    """A red, a blue, a green and a yellow square on grey."""
    rng = np.random.default_rng(number)
    image, truth = np.full((144, 192, 3), 125, np.uint8), np.full((144, 192), -1, np.int16)
    for place, label in enumerate(rng.permutation(len(NAMES))):
        top, left = 6 + 72 * (place // 2) + rng.integers(16), 8 + 92 * (place % 2) + rng.integers(30)
        image[top : top + 50, left : left + 50] = COLOURS[label]
        truth[top : top + 50, left : left + 50] = label
    return LabelledImage(image, truth)


def write_adapter(folder: Path, recipe: DenseRecipe, segmenter: Segmenter) -> None:
    """Trained for a moment on other pictures of the same kind; nothing says that yellow is a label."""
    words = tuple((name,) for name in NAMES)
    pictures = [picture(1000 + number) for number in range(6)]
    truths = [np.where(one.truth == 3, VOID, one.truth).astype(np.int16) for one in pictures]
    examples = [
        Example(str(number), pictures[number].image, cast("Any", None), words, truth)
        for number, truth in enumerate(truths)
    ]
    save_adapter_folder(folder, recipe.fit(examples, words[:3], segmenter), segmenter, {"data": "drawn squares"})


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        pytest.param(LSegRecipe(training=TrainingConfig(steps=8)), "builtin", id="lseg"),
        pytest.param(ZegclipRecipe(training=TrainingConfig(steps=60, rate=5e-4)), "builtin-vit", id="zegclip"),
    ],
)
def test_an_offer_is_judged_served_and_rolled_back(
    recipe: DenseRecipe, model: str, house: House, tmp_path: Path, one_thread: None
) -> None:
    write_adapter(tmp_path / "run", recipe, Segmenter(Encoder(model, device="cpu")))
    server = Running(house.label_studio.url)
    with stand(server, learners=1, reconcile_s=3600.0, finetune_every=1000, model=model) as it:
        made = DrawnProject.make(it.house, [picture(number) for number in range(COUNT)], NAMES, config_of(NAMES[:3]))
        free, project = range(CORRECTED, COUNT), str(made.project)
        old = made.served_version(it)
        made.wait_stored(it, range(COUNT), old)
        wait_learner(it)
        made.correct(it.house, range(CORRECTED - 2), NAMES[:3])
        refused = command(it, "offer", project, str(tmp_path / "run"), status=2)
        assert f"has {CORRECTED - 2} corrected images, and an offer is judged from 20 on" in refused
        made.correct(it.house, range(CORRECTED - 2, CORRECTED), NAMES[:3])
        told = offer(it, made.project, tmp_path / "run")
        assert told["promoted"], told
        new = made.served_version(it)
        made.wait_stored(it, free, new)
        assert made.mean_iou(it.house, free, NAMES[:3]) > 0.7
        shown = command(it, "versions", project, "--json")
        assert told["served"] in shown
        assert f"offered: {recipe.name} trained on drawn squares" in shown
        body = {"label_config": config_of(NAMES)}
        it.house.label_studio.request("PATCH", f"/api/projects/{project}/", json=body)
        more = current_version(it.house, made.project, adapter=told["served"])
        made.wait_stored(it, free, more)
        assert made.mean_iou(it.house, free, NAMES[:3]) > 0.7, "a label more costs the others nothing"
        assert made.mean_iou(it.house, free, NAMES[3:]) > 0.3, "a label added after the training is found by its words"
        assert f"{ZEROSHOT} is served again" in command(it, "rollback", project)
        made.wait_stored(it, free, current_version(it.house, made.project, adapter=ZEROSHOT))
