"""docs/research/papers.md: the page is made of the file, published rows are sound, and the command fills the rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from plugin_config.errors import EnvironmentBroken
from tests.dense_world import tiny_segmenter
from worker.lab import papers as command
from worker.lab.evaluation.zeroshot import harmonic_mean
from worker.lab.pading_rows import ROWS, THINGS_SPLIT
from worker.lab.paper_variants import VARIANTS
from worker.lab.papers import PADING, Measurement
from worker.lab.papers_page import PAGE, RESULTS, MeasuredRow, Papers, page, read_papers, write_papers
from worker.learning.recipes import generated
from worker.learning.recipes.dense import recipe as recipes
from worker.learning.recipes.dense.recipe import LSegRecipe
from worker.learning.recipes.generated import GENERATOR, LEFT_OUT
from worker.segmentation.encoders import checkpoints

STORED = read_papers()


def test_the_page_is_made_of_the_file() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(STORED)


@pytest.mark.parametrize("row", STORED.published, ids=lambda row: f"{row.paper}, {row.row}, {row.dataset}")
def test_published_rows_keep_their_own_means(row: Any) -> None:
    """Figures are rounded to a tenth, and so were those that the means were made of."""
    figures = row.figures
    if "hiou" in figures:
        assert figures["hiou"] == pytest.approx(harmonic_mean(figures["seen"], figures["unseen"]), abs=0.1)
    means = [name.removeprefix("HM ") for name in figures if name.startswith("HM ")]
    for name in means:
        expected = harmonic_mean(figures[f"seen {name}"], figures[f"unseen {name}"])
        assert figures[f"HM {name}"] == pytest.approx(expected, abs=0.1), name
    assert means or figures.keys() & {"hiou", "mean"} or "is printed" in row.quirk
    if row.folds:
        assert len(row.folds) == 4
        assert figures["mean"] == pytest.approx(mean(row.folds), abs=0.06)
    assert row.source
    assert row.quirk


def test_measured_rows_keep_their_harmonic_means_and_have_a_command() -> None:
    for row in STORED.measured:
        assert row.command
        assert bool(row.date) == bool(row.seeds)
        for figures in row.seeds.values() if row.paper != PADING else ():  # those are in test_pading_rows.py
            expected = harmonic_mean(figures["seen"], figures["unseen"])
            assert figures["hiou"] == pytest.approx(expected, abs=2e-3), row.key


def test_every_row_that_is_measured_here_has_its_place() -> None:
    named = {row.key for row in STORED.measured}
    expected = {
        (variant.paper, variant.row(inference), split)
        for variant in VARIANTS
        for split in (*variant.splits, *(("photographs",) if variant.on_photographs else ()))
        for inference in variant.judged(photographs=split == "photographs")
    }
    expected |= {(PADING, name, THINGS_SPLIT) for name in ROWS}
    assert named == expected
    assert len(STORED.measured) == len(named)


def test_nothing_is_said_about_where_this_was_measured() -> None:
    text = RESULTS.read_text(encoding="utf-8") + PAGE.read_text(encoding="utf-8")
    assert "shared/" not in text
    assert "/work" not in text


def seed(hiou: float) -> dict[str, float]:
    return {"seen": hiou, "unseen": hiou, "hiou": hiou, "bf2": 0.5}


def test_a_row_is_the_mean_of_its_seeds_and_says_how_far_they_lie_apart() -> None:
    row = MeasuredRow("lseg", "lseg", "words", "make papers", "2026-01-02", {"0": seed(0.5), "1": seed(0.7)})
    assert row.summary() == {"paper": "lseg", "row": "lseg", "split": "words", "seen": 0.6, "unseen": 0.6,
                             "hiou": 0.6, "bf2": 0.5, "stderr": 0.1}  # fmt: skip
    assert replace(row, seeds={"0": seed(0.5)}).summary()["stderr"] is None
    empty = replace(row, seeds={}, date="")
    assert empty.summary()["hiou"] is None
    written = page(Papers((row, replace(empty, row="other")), (), ("something",), ("a note",)))
    assert "| lseg | 0.600 | 0.600 | 0.600 | 0.500 | 0.100 | 2 | 2026-01-02 |" in written
    assert "| other | not measured yet |" in written
    assert "- a note" in written


def test_curves_of_photographs_are_on_the_page() -> None:
    more = {"lowered": [{"offset": 2.0, "seen": 0.4, "unseen": 0.2, "hiou": 0.267}], "unseen_alone": 0.61}
    row = MeasuredRow("lseg", "lseg", "photographs", "c", "2026-01-02", {"0": {**seed(0.5), **more}})
    written = page(Papers((row,), (), ("something",)))
    assert "| lseg | seen labels lowered by 2 | 0.400 | 0.200 | 0.267 |" in written
    assert "| lseg | among the unseen alone | | 0.610 | |" in written


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in ("", "[]", '{"measured": [{}], "published": [], "unmeasured": [], "notes": []}'):
        (tmp_path / "papers.json").write_text(content)
        with pytest.raises(EnvironmentBroken, match="it cannot be read"):
            read_papers(tmp_path / "papers.json")


def test_one_seed_is_measured_and_the_stored_ones_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, page_file = tmp_path / "papers.json", tmp_path / "papers.md"
    kept = MeasuredRow("lseg", "lseg", "words", "c", "2026-01-02", {"0": seed(0.9), "1": seed(0.5), "2": seed(0.6)})
    other = replace(kept, paper="sazs", row="alignment, network alone")
    write_papers(Papers((kept, other), (), ("something",)), file, page_file)
    asked: list[Measurement] = []

    def measured(tasks: list[Measurement], pool: object) -> list[list[tuple[str, str, dict[str, Any]]]]:
        asked.extend(tasks)
        return [[("lseg", "lseg", seed(0.7))] for _ in tasks]

    monkeypatch.setattr(command, "_side_by_side", measured)
    where = ["--results", str(file), "--page-file", str(page_file)]
    assert command.main(["--only", "lseg", "--splits", "words", "--json", *where]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == {"rows": [{"paper": "lseg", "row": "lseg", "split": "words", "seen": 0.6, "unseen": 0.6,
                                 "hiou": 0.6, "bf2": 0.5, "stderr": 0.0577}]}  # fmt: skip
    assert [(task.papers, task.split, task.seed) for task in asked] == 2 * [(("lseg",), "words", 0)]
    halves = [set(task.names) for task in asked]
    assert not halves[0] & halves[1], "both cores have something to do, each something else"
    assert halves[0] | halves[1] == {one.name for one in VARIANTS if one.paper == "lseg"}
    assert read_papers(file).measured == (kept, other)  # nothing is stored unless it is asked for
    assert command.main(["--only", "lseg", "--splits", "words", "--seeds", "0", "3", "--store", *where]) == 0
    stored = read_papers(file).measured[0].seeds
    assert {name: one["hiou"] for name, one in stored.items()} == {"0": 0.7, "1": 0.5, "2": 0.6, "3": 0.7}
    assert page_file.read_text() == page(read_papers(file))
    assert command.main(["--only", "clip", *where]) == 2
    assert "'clip' is no paper with rows measured here" in capsys.readouterr().err


def test_a_row_is_really_trained_and_judged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = next(one for one in VARIANTS if one.paper == "sazs")
    monkeypatch.setattr(command, "VARIANTS", (VARIANTS[0], replace(last, inferences=("network",))))
    task = Measurement(("lseg", "sazs"), "words", 0, scenes=2, steps=1)
    found = command.measure(task)
    assert [(paper, row) for paper, row, _ in found] == [
        ("lseg", "training-free"), ("sazs", f"{last.name}, network alone")
    ]  # fmt: skip
    for _, _, figures in found:
        assert figures["hiou"] == pytest.approx(harmonic_mean(figures["seen"], figures["unseen"]), abs=2e-4)
    assert found[0][2] != found[1][2]
    assert "hIoU" in capsys.readouterr().err
    assert len(command.measure(replace(task, minutes=1e-9))) == 0  # no time for any
    assert "words: no time is left for lseg: training-free" in capsys.readouterr().err


def test_a_training_with_generated_features_goes_on_with_the_one_before_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("lseg", "lseg_generator")
    chosen = tuple(replace(one, inferences=("outlines",)) for one in VARIANTS if one.name in names)
    begun: list[object] = []
    begin = command.begin_training

    def counted(*arguments: Any) -> Any:
        begun.append(arguments)
        return begin(*arguments)

    monkeypatch.setattr(command, "VARIANTS", chosen)
    monkeypatch.setattr(command, "begin_training", counted)
    monkeypatch.setattr(recipes, "CONFIG", replace(generated.CONFIG, steps=3))
    task = Measurement(("lseg",), "words", 0, scenes=2, steps=1)
    plain, supplied = command.measure(task)
    assert (plain[1], supplied[1], len(begun)) == (*names, 1)
    assert plain[2] != supplied[2]
    monkeypatch.setattr(command, "VARIANTS", (replace(chosen[1], recipe=LSegRecipe(without=(GENERATOR,))),))
    assert command.measure(task) == []
    assert f"words: lseg: lseg_generator: {LEFT_OUT}" in capsys.readouterr().err


def test_zegclip_is_measured_on_a_vit_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Measurement(("zegclip",), "pairs", 0, scenes=2, steps=2, names=("fine_tuned", "transductive"))
    monkeypatch.setitem(checkpoints._SHIPPED, "builtin-vit", tmp_path / "none")
    assert command.measure(task) == []
    assert "pairs: zegclip: fine_tuned: model builtin-vit: there is no open_clip_config.json" in capsys.readouterr().err
    tiny_segmenter(tmp_path / "vit")
    monkeypatch.setitem(checkpoints._SHIPPED, "builtin-vit", tmp_path / "vit")
    assert [(paper, row) for paper, row, _ in command.measure(task)] == [
        ("zegclip", "fine_tuned"), ("zegclip", "transductive")
    ]  # fmt: skip
    assert command.measure(replace(task, split="words")) == []


def test_what_lies_elsewhere_on_each_machine_is_not_in_a_command() -> None:
    task = Measurement(("lseg",), "photographs", 0, photos=Path("/some/where"), unseen=("cow",),
                       tower="vit:/some/weights.safetensors", text_vectors=Path("/some/vectors.npz"))  # fmt: skip
    assert "/some" not in command.command_of(task, "lseg")
    assert command.command_of(Measurement(("zegclip",), "pairs", 0), "zegclip") == "make papers ONLY=zegclip"
    assert "--unseen cow --tower vit:WEIGHTS" in command.command_of(task, "lseg")
