"""`evaluate --protocol zeroshot`: one argmax over all labels, judged apart for seen and unseen ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from plugin_config.errors import LearningError
from tests.dense_world import builtin
from tests.zero_shot_sets import striped_mask, write_photos
from worker.lab import train
from worker.lab.dense_data import PAIRS, WORDS, LabelledImage, ZeroShotSet, drawn_set, photo_set
from worker.lab.evaluate import main
from worker.lab.evaluation.zeroshot import ZeroShotEvaluator, boundary_f2, harmonic_mean
from worker.lab.metrics import boundary_f
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.heads import ImageScores
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.refinement import FINE, Method

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Knowing:
    """A head that knows the truth of the images, one after the other, and may say something else for some labels."""

    data: ZeroShotSet
    says: dict[int, int]
    weight: float = 9.0
    refinement: ClassVar[Method] = FINE

    def __post_init__(self) -> None:
        self.truths: Iterator[NDArray[np.int16]] = iter([one.truth for one in self.data.test])

    def scores(self, image: ImageScores) -> ClassScores:
        truth = next(self.truths).astype(np.int64)
        logits = torch.zeros(len(self.data.labels) + 1, *truth.shape)
        for k in np.unique(truth[truth >= UNLABELLED]):
            row = len(self.data.labels) if k == UNLABELLED else self.says.get(int(k), int(k))
            logits[row][torch.from_numpy(truth == k)] = self.weight
        return ClassScores.from_logits(logits)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ZeroShotSet:
    return photo_set(write_photos(tmp_path_factory.mktemp("photos")), ["square", "water"])


@pytest.mark.parametrize(("seen", "unseen", "mean"), [(0.6, 0.3, 0.4), (0.5, 0.5, 0.5), (0.9, 0.0, 0.0), (0, 0, 0)])
def test_the_harmonic_mean(seen: float, unseen: float, mean: float) -> None:
    assert harmonic_mean(seen, unseen) == pytest.approx(mean)


def test_a_head_that_knows_the_truth_has_all_figures_at_one(photos: ZeroShotSet) -> None:
    found = ZeroShotEvaluator(builtin(), photos).figures(Knowing(photos, {}), inference="network")
    assert found.seen_unseen_hiou == (1.0, 1.0, 1.0)
    assert found.bf2 == 1.0
    assert found.images == 2
    alone = ZeroShotEvaluator(builtin(), photos).figures(Knowing(photos, {}), inference="network", unseen_alone=True)
    assert alone.unseen_alone == 1.0


def test_an_unseen_label_called_by_a_seen_name_costs_both(photos: ZeroShotSet) -> None:
    """Square is called grass: its IoU is 0, that of grass is what grass has of both, water and circle are whole."""
    grass, circle, square, water = range(4)
    found = ZeroShotEvaluator(builtin(), photos).figures(Knowing(photos, {square: grass}), inference="network")
    sizes = [sum(int((one.truth == k).sum()) for one in photos.test) for k in range(4)]
    shared = sizes[grass] / (sizes[grass] + sizes[square])
    assert found.ious == pytest.approx((shared, 1.0, 0.0, 1.0))
    assert (found.ious[circle], found.ious[water]) == (1.0, 1.0)
    seen, unseen, hiou = found.seen_unseen_hiou
    assert (seen, unseen) == pytest.approx(((shared + 1) / 2, 0.5))
    assert hiou == pytest.approx(2 * seen * unseen / (seen + unseen))
    assert found.bf2 < 1


def test_lowering_seen_labels_gives_their_pixels_to_unseen_ones(photos: ZeroShotSet) -> None:
    """Scores of 9 for the wrong seen label and 0 for the rest: lowered by 10, an unseen label wins everywhere."""
    found = ZeroShotEvaluator(builtin(), photos).figures(
        Knowing(photos, {2: 0}), inference="network", lowered=(1.0, 10.0), unseen_alone=True
    )
    assert found.lowered[1.0] == pytest.approx(found.seen_unseen_hiou)
    assert found.lowered[10.0][0] == 0.0
    assert found.lowered[10.0][1] > 0
    assert found.unseen_alone == pytest.approx(1.0)  # among square and water alone, its pixels have nothing else


def test_the_background_is_an_answer_only_where_there_is_one() -> None:
    """Grass of `words` may not be lost to the background; shapes of `pairs` may."""
    for name, expected in ((WORDS, False), (PAIRS, True)):
        data = drawn_set(name, scenes=1)
        background = len(data.labels)
        evaluator = ZeroShotEvaluator(builtin(), data)
        head = Knowing(data, dict.fromkeys(range(background), background))  # says background of everything
        if expected:
            assert evaluator.figures(head, inference="network").seen_unseen_hiou[0] == 0.0
        else:
            _, found, _ = evaluator._scored(0, data.test[0], head)
            assert not bool(found.scored[-1])
            assert bool(found.scored[:-1].all())


def test_void_pixels_are_not_judged(photos: ZeroShotSet) -> None:
    one = photos.test[0]
    assert (one.truth == VOID).any()
    changed = one.truth.copy()
    changed[changed == VOID] = 0  # the head says something there
    said = replace(photos, test=[LabelledImage(one.image, changed)])
    judged = replace(photos, test=[one])
    found = ZeroShotEvaluator(builtin(), judged).figures(Knowing(said, {}), inference="network")
    assert found.seen_unseen_hiou == (1.0, 1.0, 1.0)


def test_boundaries_of_the_classes_shown_are_those_of_all_classes() -> None:
    truth = np.zeros((40, 40), dtype=np.int16)
    truth[8:20, 5:30], truth[25:, :], truth[:3, :3] = 3, 7, VOID
    predicted = np.roll(truth, 3, axis=1)
    predicted[predicted == VOID] = 0
    whole = boundary_f(predicted.astype(np.int64), truth.astype(np.int64), 9, radius=2)
    assert boundary_f2(predicted, truth) == pytest.approx(whole)
    assert 0 < whole < 1
    assert boundary_f2(truth.clip(min=0), truth) == 1.0


def test_outlines_help_and_those_of_a_strange_picture_do_not() -> None:
    evaluator = ZeroShotEvaluator(builtin(), drawn_set(WORDS, scenes=3))
    found = {name: evaluator.figures(None, inference=name).bf2 for name in ("network", "outlines", "strange")}
    assert found["outlines"] > found["network"] + 0.05
    assert found["strange"] <= found["network"] + 0.02


def test_the_oracle_sees_the_truth(photos: ZeroShotSet) -> None:
    """Two halves, which the first eigenvector tells apart, and a head that cuts them eight pixels further."""
    truth = striped_mask((48, 64), [0, 1]).astype(np.int16)
    image = np.where(truth[..., None] == 0, np.uint8(40), np.uint8(200)).repeat(3, axis=2)
    halves = replace(photos, labels=("grass", "circle"), unseen=(1,), test=[LabelledImage(image, truth)])
    off = replace(halves, test=[LabelledImage(image, striped_mask((48, 64), [0] * 5 + [1] * 3).astype(np.int16))])
    evaluator = ZeroShotEvaluator(builtin(), halves)
    own, oracle = (evaluator.figures(Knowing(off, {}), inference=name) for name in ("network", "oracle"))
    assert own.ious == pytest.approx((0.8, 0.75))
    # The vector's positive side is one half; its other side is no candidate, as it was released.
    assert sorted(oracle.ious) in (pytest.approx([0.75, 1.0], abs=0.05), pytest.approx([0.8, 1.0], abs=0.05))
    assert oracle.bf2 > own.bf2 + 0.4
    right = evaluator.figures(Knowing(halves, {}), inference="oracle")
    assert right.ious == (1.0, 1.0)  # nothing fits better than what is right
    assert right.bf2 == 1.0


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["--protocol", "zeroshot", "--model", "builtin", "--json", *arguments]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_the_command_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(["--split", "words", "--scenes", "2", "--inference", "network"], capsys)
    assert {"seen", "unseen", "hiou", "bf2", "scenes", "unseen_labels"} <= set(found)
    assert (found["scenes"], found["unseen_labels"]) == (2, ["ring", "heart", "sand"])
    assert found["hiou"] == pytest.approx(harmonic_mean(found["seen"], found["unseen"]), abs=2e-4)
    judged = [iou for iou in found["per_label"].values() if iou is not None]
    assert min(judged) >= 0
    assert max(judged) > 0.3
    assert main(["--protocol", "zeroshot", "--split", "pairs", "--scenes", "1", "--model", "builtin"]) == 0
    assert "one argmax over all labels" in capsys.readouterr().out


def test_photographs_are_also_judged_with_seen_labels_lowered_and_unseen_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, folder = write_photos(tmp_path / "photos"), tmp_path / "run"
    asked = ["--recipe", "lseg", "--data", str(photos), "--unseen", "square", "--output-dir", str(folder), "--model",
             "builtin", "--steps", "1", "--batch", "1"]  # fmt: skip
    assert train.main(asked) == 0
    capsys.readouterr()
    found = run(["--photos", str(photos), "--unseen", "square", "--adapter", str(folder)], capsys)
    assert (found["scenes"], found["unseen_labels"], found["adapter"]) == (2, ["square"], str(folder))
    assert [set(row) for row in found["lowered"]] == [{"offset", "seen", "unseen", "hiou"}] * 3
    assert found["unseen_alone"] == 1.0  # there is one alone
    assert main(["--protocol", "zeroshot", "--photos", str(photos), "--unseen", "water", "--model", "builtin",
                 "--adapter", str(folder)]) == 2  # fmt: skip
    assert "was trained with masks of 'water', which is unseen here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param([], "one of --split and --photos is needed", id="nothing to judge"),
        pytest.param(["--split", "words", "--unseen", "ring"], "unseen labels of their own", id="not of a split"),
        pytest.param(["--split", "words", "--scenes", "0"], "0 is not above 0", id="no scenes"),
        pytest.param(["--photos", "nowhere", "--unseen", "cow"], "it cannot be read", id="no folder"),
        pytest.param(["--split", "words", "--adapter", "nowhere"], "holds no adapter", id="no adapter"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_one_sentence(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--protocol", "zeroshot", "--model", "builtin", *arguments]) == 2
    said = capsys.readouterr().err
    assert problem in said
    assert len(said.strip().splitlines()) == 1


def test_labels_that_nobody_can_read_are_refused(photos: ZeroShotSet) -> None:
    strange = replace(photos, labels=("wug", "dax", "fep", "blicket"))
    with pytest.raises(LearningError, match="can read none of them"):
        ZeroShotEvaluator(builtin(), strange).figures(None)
