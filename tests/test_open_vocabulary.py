"""`evaluate --protocol open-vocabulary`: the published layouts, and what is counted on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.errors import ImageUnavailable, LearningError
from tests.dense_world import builtin, tiny_segmenter
from tests.models import noise
from tests.published_sets import (
    CONTEXT_459,
    stripe_classes,
    write_ade20k,
    write_cityscapes,
    write_coco_stuff,
    write_context,
    write_voc,
)
from tests.zero_shot_sets import write_mask, write_photos
from worker.lab.evaluate import main
from worker.lab.evaluation.class_names import (
    ADE_NAMES,
    CITYSCAPES_NAMES,
    CONTEXT_NAMES,
    OBJECT_NAMES,
    STUFF_NAMES,
    VOC_NAMES,
    curated_words,
)
from worker.lab.evaluation.labelled_set import spread
from worker.lab.evaluation.open_vocabulary_figures import brought_to, measure, photographs
from worker.lab.evaluation.published_figures import EIGHT, PUBLISHED
from worker.lab.evaluation.published_sets import SETS, published_set
from worker.segmentation.heads import Head, ImageScores, head_scores
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

Writer = Callable[[Path], Path]
_WRITERS: dict[str, Writer] = {
    "voc": write_voc, "context": lambda folder: write_context(folder, "mat"), "ade20k": write_ade20k,
    "cityscapes": write_cityscapes, "coco-stuff": write_coco_stuff,
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "count"),
    [(VOC_NAMES, 20), (CONTEXT_NAMES, 59), (OBJECT_NAMES, 80), (STUFF_NAMES, 171), (ADE_NAMES, 150),
     (CITYSCAPES_NAMES, 19)],
)  # fmt: skip
def test_no_two_classes_of_a_set_share_a_text(names: tuple[str, ...], count: int) -> None:
    curated = curated_words(names)
    assert len(names) == len(curated) == count
    assert len(set(names)) == count
    texts = [text for one in curated for text in one]
    assert len(set(texts)) == len(texts)
    assert all(texts)
    assert not any("-" in name or "_" in name for name in names)


def test_a_synonym_that_is_another_class_of_the_set_is_left_out() -> None:
    assert curated_words(["boat", "person"])[0] == ("boat", "ship")
    assert curated_words(["boat", "ship"]) == (("boat",), ("ship",))
    assert curated_words(["windowpane", "window"])[0] == ("windowpane",)


def _truths(name: str, folder: Path, stripes: int) -> dict[str, list[int]]:
    data = published_set(name, folder)
    image, values = data.read(data.items[0])
    assert image.shape == (*values.shape, 3) == (40, 60, 3)
    return {one.name: stripe_classes(one.truth(values), stripes) for one in data.benchmarks}


def test_voc_is_judged_with_its_background_and_without(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    person, monitor = VOC_NAMES.index("person"), VOC_NAMES.index("tv monitor")
    expected = {"VOC21": [20, 0, person, monitor, VOID], "VOC20": [VOID, 0, person, monitor, VOID]}
    for place in (folder, folder / "VOCdevkit", folder / "VOCdevkit" / "VOC2012"):
        assert _truths("voc", place, 5) == expected
    assert [item.name for item in published_set("voc", folder).items] == ["2007_000000", "2007_000001"]


@pytest.mark.parametrize("form", ["mmsegmentation", "png", "mat"])
def test_context_is_read_in_its_three_forms(form: str, tmp_path: Path) -> None:
    shown = [CONTEXT_NAMES.index(name) for name in ("aeroplane", "tv monitor", "wood")]
    expected = {"Context60": [59, *shown, 59], "Context59": [VOID, *shown, VOID]}
    assert _truths("context", write_context(tmp_path, form), 5) == expected


def test_a_class_that_the_numbers_of_context_leave_out_is_named(tmp_path: Path) -> None:
    folder = write_context(tmp_path, "mat")
    labels = folder / "VOCdevkit" / "VOC2010" / "labels.txt"
    labels.write_text(labels.read_text().replace(f"{CONTEXT_459['rock']}: rock\n", ""))
    with pytest.raises(ImageUnavailable, match=r"labels\.txt has no number for 'rock'.*pascal-context"):
        published_set("context", folder)


def test_ade_ignores_what_has_no_class(tmp_path: Path) -> None:
    assert _truths("ade20k", write_ade20k(tmp_path), 4) == {"ADE20K": [VOID, 0, 2, 149]}
    assert (ADE_NAMES[2], ADE_NAMES[149]) == ("sky", "flag")


def test_cityscapes_judges_nineteen_of_its_ids(tmp_path: Path) -> None:
    assert _truths("cityscapes", write_cityscapes(tmp_path), 6) == {"Cityscapes": [VOID, VOID, 0, 1, VOID, 18]}
    judged = _truths("cityscapes", write_cityscapes(tmp_path / "b", (11, 17, 19, 24, 26, 31)), 6)["Cityscapes"]
    assert [CITYSCAPES_NAMES[k] for k in judged] == ["building", "pole", "traffic light", "person", "car", "train"]
    assert len(published_set("cityscapes", tmp_path).items) == 2


@pytest.mark.parametrize(
    ("images", "maps"), [("images/val2017", "annotations/val2017"), ("val2017", "stuffthingmaps/val2017")]
)
def test_coco_is_judged_by_things_and_by_all_classes(images: str, maps: str, tmp_path: Path) -> None:
    found = _truths("coco-stuff", write_coco_stuff(tmp_path, images=images, maps=maps), 6)
    stop, brush = OBJECT_NAMES.index("stop sign"), OBJECT_NAMES.index("toothbrush")
    assert (stop, brush) == (11, 79)
    assert found == {"COCO-Object": [0, stop, brush, 80, 80, 80], "COCO-Stuff": [0, stop, brush, 80, 170, VOID]}
    assert (STUFF_NAMES[80], STUFF_NAMES[170]) == ("banner", "wood")


@pytest.mark.parametrize("name", list(SETS))
def test_a_missing_set_says_where_to_get_it_and_how_it_must_lie(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageUnavailable, match=r"It holds .*/.*Get .*(http://|https://)") as told:
        published_set(name, tmp_path)
    assert str(tmp_path) in told.value.subject


@pytest.mark.parametrize("name", list(SETS))
def test_one_missing_mask_is_named_before_anything_is_measured(name: str, tmp_path: Path) -> None:
    folder = _WRITERS[name](tmp_path)
    mask = published_set(name, folder).items[-1].mask
    mask.unlink()
    with pytest.raises(ImageUnavailable, match=rf"there is no .*{mask.name}"):
        published_set(name, folder)


def test_a_list_cannot_point_out_of_its_set(tmp_path: Path) -> None:
    listing = write_voc(tmp_path) / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    listing.write_text("../../secret\n")
    with pytest.raises(ImageUnavailable, match="which is no image"):
        published_set("voc", tmp_path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [(b"no picture", "cannot be read"), (None, r"\(height, width\) is \(40, 60\), that of its mask \(30, 60\)")],
)
def test_a_damaged_mask_is_named(damage: bytes | None, told: str, tmp_path: Path) -> None:
    data = published_set("ade20k", write_ade20k(tmp_path))
    if damage is None:
        write_mask(data.items[0].mask, np.ones((30, 60), dtype=np.uint8))
    else:
        data.items[0].mask.write_bytes(damage)
    with pytest.raises(ImageUnavailable, match=told):
        data.read(data.items[0])


class Saying(Segmenter):
    """Says the same class everywhere, and remembers what entered and what was asked."""

    answer: str = ""

    def __init__(self, like: Segmenter) -> None:
        super().__init__(like.encoder)
        self.entered: list[tuple[int, ...]] = []
        self.asked: list[tuple[int, bool]] = []

    def embed(self, images: Any) -> Any:
        self.entered += [image.shape for image in images]
        return super().embed(images)

    def pixel_classes(
        self, scores: ImageScores, head: Head | None = None, *, outlines: bool = True
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        assert head is not None
        has_background = bool(head_scores(head, scores).scored[-1])
        self.asked.append((len(scores.words), has_background))
        index = [texts[0] for texts in scores.words].index(self.answer) if self.answer else len(scores.words)
        size = scores.embedding.size
        return np.full(size, index, dtype=np.int16), np.ones(size, dtype=np.float32)


def test_ious_are_of_pixels_pooled_over_all_images(tmp_path: Path) -> None:
    segmenter = Saying(tiny_segmenter(tmp_path / "model"))
    segmenter.answer = "person"
    data = published_set("voc", write_voc(tmp_path))
    done: list[int] = []
    found = measure(segmenter, data, data.items, progress=done.append)
    assert done == [1, 2]
    # Of eight stripes that are judged in VOC21, and of five in VOC20, three are people.
    assert [(one.benchmark.name, one.names) for one in found] == [
        ("VOC21", "plain"), ("VOC21", "curated"), ("VOC20", "plain"), ("VOC20", "curated")]  # fmt: skip
    assert [one.miou for one in found] == pytest.approx([3 / 8 / 4] * 2 + [3 / 5 / 3] * 2)
    assert [len(one.ious) for one in found] == [21, 21, 20, 20]
    assert segmenter.asked[:4] == [(20, True), (20, True), (20, False), (20, False)]
    segmenter.answer = ""  # all is background, which is judged where it is a class
    found = measure(segmenter, data, data.items, names=["plain"])
    assert found[0].ious[-1] == pytest.approx(3 / 8)


def test_an_image_enters_once_for_each_shorter_side(tmp_path: Path) -> None:
    segmenter = Saying(tiny_segmenter(tmp_path / "model"))
    coco = published_set("coco-stuff", write_coco_stuff(tmp_path))
    measure(segmenter, coco, coco.items)
    assert segmenter.entered == [(336, 504, 3), (448, 672, 3)]  # Object and Stuff, each with two kinds of names
    segmenter.entered.clear()
    measure(segmenter, coco, coco.items, published_sides=False)
    assert segmenter.entered == [(40, 60, 3)]


@pytest.mark.parametrize(
    ("size", "side", "brought"),
    [((375, 500), 336, (336, 448)), ((1024, 2048), 560, (560, 1120)), ((100, 1000), 336, (205, 2048)),
     ((60, 40), 0, (60, 40))],
)  # fmt: skip
def test_the_shorter_side_is_brought_to_the_published_one(
    size: tuple[int, int], side: int, brought: tuple[int, int]
) -> None:
    assert brought_to(noise(*size), side).shape == (*brought, 3)


def test_some_images_are_spread_over_the_set(tmp_path: Path) -> None:
    items = published_set("voc", write_voc(tmp_path, images=9)).items
    assert [int(item.name[-1]) for item in spread(items, 3)] == [0, 3, 6]
    assert list(spread(items, 0)) == list(spread(items, 20)) == list(items)


def test_a_folder_of_photographs_is_judged_with_its_own_names(tmp_path: Path) -> None:
    data = photographs(write_photos(tmp_path, test=2), "test")
    image, values = data.read(data.items[0])
    truth = data.benchmarks[0].truth(values)
    assert image.shape == (*truth.shape, 3)
    assert set(np.unique(truth)) == {VOID, 0, 1, 2, 3}
    segmenter = Saying(builtin())
    segmenter.answer = "circle"
    found = measure(segmenter, data, data.items)
    assert [one.names for one in found] == ["plain"]  # curated names would be the same
    assert found[0].miou == pytest.approx(1 / 4 / 4)
    named = photographs(write_photos(tmp_path / "b", names={"0": "_background_", "1": "circle", "2": "square"}), "test")
    assert named.benchmarks[0].has_background
    assert 2 in np.unique(named.benchmarks[0].truth(named.read(named.items[0])[1]))


def test_a_model_that_reads_no_label_is_refused(tmp_path: Path) -> None:
    data = photographs(write_photos(tmp_path, names={"0": "quokka", "1": "wombat"}), "test")
    with pytest.raises(LearningError, match="can read none of them"):
        measure(builtin(), data, data.items)


def test_published_averages_are_those_of_their_rows() -> None:
    whole = [row for row in PUBLISHED if row.mious]
    assert len(whole) >= 5
    for row in whole:
        assert tuple(row.mious) == EIGHT
        assert row.average == pytest.approx(sum(row.mious.values()) / 8, abs=0.06)
    assert [row.average for row in PUBLISHED] == sorted(row.average for row in PUBLISHED)


@pytest.mark.parametrize("name", list(SETS))
def test_every_benchmark_has_published_figures_beside_it(name: str, tmp_path: Path) -> None:
    for one in published_set(name, _WRITERS[name](tmp_path)).benchmarks:
        assert one.name in EIGHT


def test_the_command_prints_measured_and_published_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write_voc(tmp_path))
    tiny_segmenter(tmp_path / "model")
    asked = ["--protocol", "open-vocabulary", "--data", "voc", folder, "--model", f"local-dir:{tmp_path / 'model'}",
             "--limit", "1", "--network-alone", "--device", "cpu"]  # fmt: skip
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    measured = [line for line in lines if line.startswith("measured ")]
    published = [line for line in lines if line.startswith("published ")]
    assert [line.split(",")[1].split()[0] for line in measured] == ["plain", "curated"]
    assert len(published) == len(PUBLISHED)
    assert any(line.split()[1:] == ["SCLIP", "59.1", "80.4", "38.2"] for line in published)
    assert any("VOC21: background is a class" in line for line in lines)
    assert any("not to be compared" in line for line in lines)
    assert main([*asked, "--json", "--names", "plain", "--as-served"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["benchmark"] for row in found["measured"]] == ["VOC21", "VOC20"]
    assert all(0 <= row["miou"] <= 1 for row in found["measured"])
    assert (found["images"], found["of"], found["most_windows"]) == (1, 2, 0)
    assert [row["short_side"] for row in found["measured"]] == [0, 0]
    sclip = next(row for row in found["published"] if row["method"] == "SCLIP")
    assert sclip["mious"] == {"VOC21": 0.591, "VOC20": 0.804}
    assert sclip["source"]


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--protocol", "open-vocabulary", "--data", "ade20k", str(tmp_path)]
    assert main(asked) == 2
    assert "ADEChallengeData2016.zip" in capsys.readouterr().err
    assert main([*asked, "--limit", "-1"]) == 2
    assert "--limit" in capsys.readouterr().err
