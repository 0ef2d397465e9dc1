"""Half of the labels corrected: a plain linear head drowns the others, generated examples win them back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from plugin_config.errors import EnvironmentBroken, LearningError
from tests.learning_world import DRAWN, KNOWN, corrected_scenes, relabelled
from worker.lab import drown_page
from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.lab.evaluate import main
from worker.lab.evaluation.drown import KINDS, ROWS, Draw, drawn_draw, summarise, table
from worker.lab.evaluation.linear_head import LinearConfig, fit_linear
from worker.lab.results import EMPTY, StoredResult, made_part, read_result, store_result
from worker.learning.corrections.class_maps import drawn_classes
from worker.learning.gate.evaluator import Evaluator
from worker.learning.gate.splits import EvaluationImage
from worker.learning.interfaces import UNLABELLED, Example
from worker.learning.recipes.generated import UNREADABLE, generate_examples
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.heads import Head
from worker.segmentation.metrics import VOID, class_ious
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

GREEN = 2
"""The label that nobody corrects."""


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu"))


@pytest.fixture(scope="module")
def two_of_three(segmenter: Segmenter) -> list[Example]:
    return relabelled(corrected_scenes(segmenter, 4), (0, 1, UNLABELLED))


def ious(head: Head | None, segmenter: Segmenter) -> list[float]:
    """IoU of each label on pictures never learned from."""
    images = [EvaluationImage(example, None) for example in corrected_scenes(segmenter, 4, seed=9)]
    evaluator = Evaluator(segmenter, KNOWN, {0, 1, GREEN})
    found = evaluator.confusions(images, evaluator.predict(images, lambda image: head))
    return [float(iou) for iou in class_ious(np.sum(found, axis=0))]


def test_a_linear_head_drowns_what_nobody_corrected_and_generated_examples_win_it_back(
    two_of_three: list[Example], segmenter: Segmenter
) -> None:
    generated = generate_examples(two_of_three, KNOWN, segmenter)
    assert generated.reason == ""
    before = ious(None, segmenter)
    linear = ious(fit_linear(two_of_three, KNOWN, segmenter), segmenter)
    supplied = ious(fit_linear(two_of_three, KNOWN, segmenter, generated=generated, spared=(GREEN,)), segmenter)
    assert before[GREEN] > 0.5
    assert linear[GREEN] < before[GREEN] / 2
    assert supplied[GREEN] - linear[GREEN] > (before[GREEN] - linear[GREEN]) / 2


def test_an_untrained_linear_head_is_the_zero_shot_model(two_of_three: list[Example], segmenter: Segmenter) -> None:
    words = (*KNOWN[:2], ("wug",))
    head = fit_linear([replace(e, words=words) for e in two_of_three], words, segmenter, config=LinearConfig(steps=0))
    image = segmenter.score(two_of_three[0].embedding, words)
    found = head.scores(image)
    torch.testing.assert_close(found.logits, image.zero_shot.logits, atol=1e-4, rtol=1e-4)
    assert found.scored.tolist() == [True, True, False, True]


def test_a_corrected_label_in_unknown_words_gets_a_score(two_of_three: list[Example], segmenter: Segmenter) -> None:
    words = (("wug",), *KNOWN[1:])
    head = fit_linear([replace(e, words=words) for e in two_of_three], words, segmenter)
    assert head.scored.all()
    assert (head.scores(segmenter.score(two_of_three[0].embedding, words)).logits.argmax(dim=0) == 0).any()


def test_nothing_to_learn_from_is_said(two_of_three: list[Example], segmenter: Segmenter) -> None:
    void = [replace(e, truth=np.full_like(e.truth, VOID)) for e in two_of_three]
    for examples in ([], void):
        with pytest.raises(LearningError, match="void"):
            fit_linear(examples, KNOWN, segmenter)


def test_a_drawn_project_corrects_half_of_its_labels(segmenter: Segmenter) -> None:
    draw, same = (drawn_draw(segmenter, 3, count=3, scenes=3) for _ in range(2))
    assert len(draw.loop.words) == 8
    assert len(draw.corrected) == 4
    assert not set(draw.corrected) & set(draw.uncorrected)
    shown = set().union(*(drawn_classes(example.truth) for example in draw.examples))
    assert shown == set(draw.corrected)
    whole = set().union(*(drawn_classes(example.truth) for example in draw.loop.train))
    assert whole > shown, "the other labels are there, without regions"
    assert (draw.corrected, draw.loop.words) == (same.corrected, same.loop.words)
    assert np.array_equal(draw.examples[2].truth, same.examples[2].truth)


def test_half_of_one_label_is_none(segmenter: Segmenter) -> None:
    draw = drawn_draw(segmenter, 3, count=1, scenes=1)
    for example in (*draw.loop.train, *draw.loop.test):
        example.truth[example.truth > 0] = UNLABELLED
    with pytest.raises(LearningError, match="half of them"):
        Draw.of(draw.loop, [0], np.random.default_rng(0))


def row(corrected: float, uncorrected: float) -> dict[str, float]:
    return dict(zip(KINDS, (corrected, uncorrected), strict=True))


def summary(generator: str = "") -> dict[str, Any]:
    """Of two draws in which `linear` loses 0.8 and 0.6 and generated examples win back 0.4 and 0.6."""
    return summarise([
        {**{name: row(0.5, 0.8) for name in ROWS}, "linear": row(0.6, lost), "linear_spared": row(0.6, lost + 0.14),
         "linear_generator": row(0.6, won), "generator": generator, "gate": {"promoted": lost > 0}}
        for lost, won in ((0.0, 0.4), (0.2, 0.8))
    ])  # fmt: skip


def test_what_is_won_back_and_its_error() -> None:
    found = summary()
    assert found["linear"] == row(0.6, 0.1)
    assert found["won_back"] == {"share": pytest.approx(0.5 / 0.7, abs=1e-4), "lost": 0.7, "mean": 0.5, "se": 0.1,
                                 "worst": 0.4}  # fmt: skip
    assert found["change"]["linear"]["uncorrected"] == {"mean": -0.7, "se": 0.1, "worst": -0.8}
    assert found["change"]["quick"]["corrected"]["mean"] == 0
    assert "wins back 71% of the 0.700" in table(found)


NOTHING: dict[str, StoredResult | None] = dict.fromkeys(drown_page.RESULTS)


def test_the_page_sets_the_generator_beside_its_fair_rival() -> None:
    written = drown_page.drown_part({**NOTHING, "drown.json": StoredResult("2026-01-02", "the command", summary())})
    assert "that the model knows**, 2 draws, 2026-01-02:" in written
    assert "| `before` | 0.500 |  |  | 0.800 |  |  |" in written
    assert "| `linear` | 0.600 | +0.100 ± 0.000 | +0.100 | 0.100 | -0.700 ± 0.100 | -0.800 |" in written
    assert ("`linear` loses 0.700 of the uncorrected labels; `linear_generator` wins back 71% of that, and "
            "`linear_spared`, which generates nothing, 20%.") in written  # fmt: skip
    assert "The gate promoted in 1 of 2 draws." in written
    assert written.endswith(f"in words that it does not know**: {EMPTY}.")


def test_the_page_says_where_nothing_is_generated_or_lost() -> None:
    found = summary(UNREADABLE)
    found["won_back"] = {**found["won_back"], "share": None}
    written = drown_page.drown_part({**NOTHING, "drown_camvid.json": StoredResult("2026-01-02", "c", found)})
    assert "`linear` loses nothing of the uncorrected labels" in written
    assert f"In 2 of 2 draws no example is generated, as {UNREADABLE}" in written


def test_the_page_has_what_is_stored_and_says_what_is_not() -> None:
    stored = drown_page.stored_results()
    part = made_part(drown_page.BEGIN, drown_page.END, drown_page.drown_part(stored))
    assert part in drown_page.PAGE.read_text(encoding="utf-8")
    assert part.count(EMPTY) == sum(one is None for one in stored.values())


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n{drown_page.BEGIN}\nold\n{drown_page.END}\nAfter.\n")
    assert drown_page.main(page, tmp_path) == 0
    expected = made_part(drown_page.BEGIN, drown_page.END, drown_page.drown_part(NOTHING))
    assert page.read_text() == f"Before.\n{expected}\nAfter.\n"
    (tmp_path / "drown.json").write_text("[]")
    assert drown_page.main(page, tmp_path) == 2
    assert "drown.json: it cannot be read" in capsys.readouterr().err
    assert page.read_text() == f"Before.\n{expected}\nAfter.\n"
    with pytest.raises(EnvironmentBroken, match="Check its folder"):
        store_result(tmp_path / "none" / "drown.json", "c", {})


def test_a_run_on_drawn_scenes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["--protocol", "drown", "--model", "builtin", "--draws", "1", "--count", "2", "--scenes", "2", "--json"]
    file = tmp_path / "drown.json"
    assert main([*asked, "--without", "tower", "appearance", "--store", str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = read_result(file)
    assert stored is not None
    assert stored.figures == found
    assert stored.command == ("zeromask evaluate --protocol drown --model builtin --draws 1 --count 2 --scenes 2 "
                              "--without tower appearance --json")  # fmt: skip
    assert "1 draws" in drown_page.drown_part({**NOTHING, "drown.json": stored})
    assert all(0 <= found[name][kind] <= 1 for name in ROWS for kind in KINDS)
    assert found["linear"]["uncorrected"] < found["before"]["uncorrected"]
    assert found["stood_aside"] == []
    (draw,) = found["draws"]
    assert not set(draw["generated_for"]) & set(draw["labels"]["corrected"])
    assert set(draw["generated_for"]) >= set(draw["labels"]["uncorrected"])
    assert "generator" in draw["gate"]


def test_in_words_the_model_does_not_know_the_generator_stands_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_set(tmp_path / "set", ("ground", "wug", "dax", "fep"), train=2, test=2)
    asked = ["--protocol", "drown", "--model", "builtin", "--draws", "1", "--count", "2", "--json"]
    asked += ["--photos", str(folder), "--learn", "train", "--test", "test", "--without", "tower", "appearance"]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stood_aside"] == [UNREADABLE]
    assert found["linear_generator"] == found["linear"]
    assert found["quick_generator"] == found["quick"]
    assert found["draws"][0]["generated_for"] == []
    assert found["draws"][0]["gate"].get("generator", {"kept": False})["kept"] is False


def test_options_that_do_not_fit_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["--protocol", "drown", "--model", "builtin"]
    assert main([*asked, "--draws", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
    assert main([*asked, "--photos", str(tmp_path)]) == 2
    assert "belong together" in capsys.readouterr().err


def write_set(folder: Path, names: Sequence[str], *, train: int, test: int) -> Path:
    """Drawn photographs in the layout that the protocol reads, without a background."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    stems = [f"p{number}" for number in range(train + test)]
    for number, stem in enumerate(stems):
        drawn = annotation_scene(np.random.default_rng((9, number)), DRAWN, number=number, size=(96, 128), unit=60)
        cv2.imwrite(str(folder / "images" / f"{stem}.png"), drawn.image[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{stem}.png"), index_truth(drawn, DRAWN))
    (folder / "classes.json").write_text(json.dumps(dict(enumerate(names))))
    (folder / "split.json").write_text(json.dumps({"train": stems[:train], "test": stems[train:]}))
    return folder
