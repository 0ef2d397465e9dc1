"""`evaluate --protocol fold`: the published lists, read as they are laid out, and what is counted on them."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plugin_config.errors import ImageUnavailable
from tests.dense_world import builtin
from tests.zero_shot_sets import striped_mask, write_coco, write_mask, write_pascal
from worker.lab.evaluate import main
from worker.lab.evaluation import fold as protocol
from worker.lab.evaluation.fold_lists import (
    COCO_CLASSES,
    PASCAL_CLASSES,
    FoldItem,
    fold_classes,
    published_items,
    read_fold,
    read_seen,
)
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.heads import ImageScores
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.refinement import FINE

pytestmark = pytest.mark.usefixtures("one_thread")


def test_classes_of_the_folds() -> None:
    assert (len(PASCAL_CLASSES), len(COCO_CLASSES)) == (20, 80)
    assert len(set(PASCAL_CLASSES)) == 20
    assert len(set(COCO_CLASSES)) == 80
    for dataset, count in (("pascal", 20), ("coco", 80)):
        folds = [fold_classes(dataset, fold) for fold in range(4)]
        assert sorted(k for classes in folds for k in classes) == list(range(count))
    assert fold_classes("pascal", 2) == (10, 11, 12, 13, 14)
    assert fold_classes("coco", 3) == tuple(range(3, 80, 4))
    named = [[PASCAL_CLASSES[k] for k in fold_classes("pascal", fold)] for fold in (0, 3)]
    assert named == [["aeroplane", "bicycle", "bird", "boat", "bottle"],
                     ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]]  # fmt: skip
    assert [COCO_CLASSES[k] for k in fold_classes("coco", 0)][:3] == ["person", "airplane", "boat"]


def test_pascal_is_gone_through_again_until_a_thousand(tmp_path: Path) -> None:
    data = read_fold("pascal", 2, write_pascal(tmp_path, fold=2))
    assert len(data.items) == 5 + 2 + 2
    assert data.items[5:7] == (FoldItem("2007_000001", 11), FoldItem("2007_000001", 14))
    items = list(published_items(data))
    assert len(items) == 1000
    assert items[9:18] == list(data.items)
    counts = Counter(items)
    assert [counts[item] for item in data.items] == [112] + [111] * 8


def test_coco_draws_a_class_then_an_image_as_published(tmp_path: Path) -> None:
    data = read_fold("coco", 1, write_coco(tmp_path, images=4))
    items = list(published_items(data, count=300))
    assert items == list(published_items(data, count=300))
    assert items != list(published_items(data, count=300, seed=1))
    assert {item.index for item in items} == set(range(1, 80, 4))
    # What the published code draws, one call after the other, among them the support image that is not the query's.
    np.random.seed(0)
    expected = []
    for _ in range(300):
        index = np.random.choice(data.classes, 1, replace=False)[0]
        name = np.random.choice(data.by_class[index], 1, replace=False)[0]
        while np.random.choice(data.by_class[index], 1, replace=False)[0] == name:
            pass
        expected.append(FoldItem(str(name), int(index)))
    assert items == expected


def test_an_item_is_the_class_the_rest_and_what_is_ignored(tmp_path: Path) -> None:
    data = read_fold("pascal", 0, write_pascal(tmp_path))
    image, truth = data.read(FoldItem("2007_000001", 3))
    mask = striped_mask((40, 70), [0, 1, 2, 3, 4, 5, 255])
    assert image.shape == (40, 70, 3)
    assert np.array_equal(truth == 0, mask == 4)
    assert np.array_equal(truth == VOID, mask == 255)
    coco = read_fold("coco", 1, write_coco(tmp_path))
    _, truth = coco.read(coco.items[0])
    assert set(np.unique(truth)) == {0, 1}


def test_what_training_may_see_is_the_other_folds(tmp_path: Path) -> None:
    seen = read_seen("pascal", 1, write_pascal(tmp_path, fold=1))
    assert [item.index for item in seen.items] == [0, 10, 15]
    coco = read_seen("coco", 1, write_coco(tmp_path))
    assert len(coco.classes) == 60
    assert not set(coco.classes) & set(fold_classes("coco", 1))


class Stripes:
    """A head that says where the classes are: everywhere, or nowhere."""

    refinement = FINE

    def __init__(self, winner: int) -> None:
        self.winner = winner
        self.asked: list[tuple[tuple[str, ...], ...]] = []

    def scores(self, image: ImageScores) -> ClassScores:
        self.asked.append(image.words)
        logits = torch.zeros(len(image.words) + 1, 4, 4)
        logits[self.winner if self.winner >= 0 else len(image.words)] = 9.0
        return ClassScores.from_logits(logits)


def test_the_class_is_given_and_both_ious_are_counted(tmp_path: Path) -> None:
    data = read_fold("pascal", 0, write_pascal(tmp_path))
    items = list(published_items(data, count=12))
    head = Stripes(0)  # the class is everywhere
    found = protocol.measure(builtin(), head, data, items)
    assert set(head.asked) == {((name,),) for name in PASCAL_CLASSES[:5]}
    share = 1 / 6  # of six stripes that are not ignored
    assert found.items == 12
    assert found.ious == pytest.approx(dict.fromkeys(PASCAL_CLASSES[:5], share))
    assert (found.miou, found.fb_iou) == pytest.approx((share, share / 2))
    nothing = protocol.measure(builtin(), Stripes(-1), data, items)
    assert (nothing.miou, nothing.fb_iou) == pytest.approx((0.0, (1 - share) / 2))


def test_in_the_fixed_form_all_classes_of_the_fold_compete(tmp_path: Path) -> None:
    data = read_fold("pascal", 0, write_pascal(tmp_path))
    head = Stripes(2)  # everything is a bird
    found = protocol.measure(builtin(), head, data, data.items, together=data.classes)
    assert set(head.asked) == {tuple((name,) for name in PASCAL_CLASSES[:5])}
    assert found.items == len(data.items)
    assert {name: iou > 0 for name, iou in found.ious.items()} == {name: name == "bird" for name in PASCAL_CLASSES[:5]}


@pytest.mark.parametrize("dataset", ["pascal", "coco"])
def test_the_command_reads_both_layouts(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fold = {"pascal": 0, "coco": 1}[dataset]
    {"pascal": write_pascal, "coco": write_coco}[dataset](tmp_path)
    asked = ["--protocol", "fold", "--dataset", dataset, "--fold", str(fold), "--root", str(tmp_path), "--model",
             "builtin", "--network-alone"]  # fmt: skip
    assert main([*asked, "--items", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"miou", "fb_iou", "items", "per_class"} <= set(found)
    assert (found["items"], found["fixed"], found["fold"]) == (3, False, fold)
    if dataset == "pascal":
        assert main([*asked, "--fixed"]) == 0
        assert "fold 0, fixed, 9 items" in capsys.readouterr().out


def test_of_several_adapters_the_one_that_is_best_on_seen_classes_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """"nothing" is better on the fold, "all" on the classes that training saw: it is the one."""
    write_pascal(tmp_path)
    heads = {"nothing": Stripes(-1), "all": Stripes(0)}
    monkeypatch.setattr(protocol, "load_adapter_folder", lambda folder, segmenter: heads[str(folder)])
    asked = ["--protocol", "fold", "--dataset", "pascal", "--fold", "0", "--root", str(tmp_path), "--model", "builtin",
             "--network-alone", "--adapter", "nothing", "all"]  # fmt: skip
    assert main(asked) == 2
    assert "several are given" in capsys.readouterr().err
    for k in (5, 10, 15):
        mask = np.full((40, 70), k + 1, dtype=np.uint8)
        write_mask(tmp_path / "VOC2012" / "SegmentationClassAug" / f"seen_{k}.png", mask)
        jpegs = tmp_path / "VOC2012" / "JPEGImages"
        shutil.copy(jpegs / "2007_000000.jpg", jpegs / f"seen_{k}.jpg")
        (tmp_path / "splits" / "pascal" / "trn" / f"fold{k // 5}.txt").write_text(f"seen_{k}__{k + 1:02}\n")
    assert main([*asked, "--fixed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["adapter"] == "all"
    assert found["seen_miou"] == {"nothing": 0.0, "all": 1.0}
    monkeypatch.setattr(protocol, "adapter_title", lambda folder, head: f"{folder} (leaked)")
    assert main([*asked, "--fixed"]) == 0
    told = capsys.readouterr().out
    assert "items; leaked: training knew where these are" in told
    assert "mIoU on seen classes: all (leaked)" in told


def _remove(*parts: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        path = root.joinpath(*parts)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def _write(content: bytes, *parts: str) -> Callable[[Path], None]:
    return lambda root: (root.joinpath(*parts).write_bytes(content), None)[1]


class Loud:
    """What a list made to harm would hold."""

    def __reduce__(self) -> Any:
        return (print, ("it was run",))


@pytest.mark.parametrize(
    ("dataset", "harm", "problem"),
    [
        pytest.param("pascal", _remove("VOC2012"), r"no VOC2012/JPEGImages/\. It holds .*VOCtrainval", id="no images"),
        pytest.param("pascal", _remove("splits"), r"no splits/pascal/val/fold0.txt.*hsnet", id="no lists"),
        pytest.param("coco", _remove("COCO2014", "annotations"), r"no COCO2014/annotations/.*cocodataset", id="masks"),
        pytest.param("pascal", _write(b"2007_000000\n", "splits", "pascal", "val", "fold0.txt"), "cannot be read",
                     id="no class in a line"),
        pytest.param("pascal", _write(b"2007_000000__20\n", "splits", "pascal", "val", "fold0.txt"), "not of it",
                     id="a class of another fold"),
        pytest.param("pascal", _write(b"2007_000000__01\n", "splits", "pascal", "val", "fold0.txt"),
                     "no image of 'bicycle'", id="a class without images"),
        pytest.param("pascal", _write(b"../../x__01\n", "splits", "pascal", "val", "fold0.txt"), "no name of an image",
                     id="a name that leads out"),
        pytest.param("coco", _write(pickle.dumps(Loud()), "splits", "coco", "val", "fold1.pkl"), "not only lists",
                     id="a list that runs something"),
        pytest.param("coco", _write(b"no pickle", "splits", "coco", "val", "fold1.pkl"), "cannot be read", id="none"),
    ],
)  # fmt: skip
def test_a_set_that_is_not_there_says_what_is_expected_and_where_to_get_it(
    dataset: str, harm: Callable[[Path], None], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    {"pascal": write_pascal, "coco": write_coco}[dataset](tmp_path)
    harm(tmp_path)
    with pytest.raises(ImageUnavailable, match=problem):
        read_fold(dataset, {"pascal": 0, "coco": 1}[dataset], tmp_path)
    assert "it was run" not in capsys.readouterr().out


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    data = read_fold("pascal", 0, write_pascal(tmp_path))
    _remove("VOC2012", "JPEGImages", "2007_000001.jpg")(tmp_path)
    with pytest.raises(ImageUnavailable, match=r"2007_000001\.jpg"):
        data.read(FoldItem("2007_000001", 0))
    write_mask(tmp_path / "VOC2012" / "SegmentationClassAug" / "2007_000002.png", np.zeros((3, 3), dtype=np.uint8))
    with pytest.raises(ImageUnavailable, match="its size is 70x40, that of its mask 3x3"):
        data.read(FoldItem("2007_000002", 0))
