"""PADing's command, rows and page: trained in one folder, judged through the assembly, each figure in its place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plugin_config.errors import EnvironmentBroken
from tests.dense_world import builtin
from tests.pading_world import decoder, things, tiny_config, tiny_generator
from worker.lab import papers as papers_command
from worker.lab import train
from worker.lab.evaluation.things import ThingsEvaluator, true_proposals
from worker.lab.evaluation.zeroshot import harmonic_mean
from worker.lab.metrics import PanopticEvaluator
from worker.lab.pading_page import BEGIN, END, PADING_PAGE, measured_part, write_pading
from worker.lab.pading_picture import main as draw_picture
from worker.lab.pading_rows import (
    FULL,
    ORACLE,
    PROJECTION,
    ROWS,
    SEEN_ONLY,
    STRUCTURE,
    TRAINING_FREE,
    PadingMeasurement,
    PadingStudy,
    measure_pading,
    swept,
)
from worker.lab.paper_figures import PANOPTIC_FIGURES, PARTS, kind_of
from worker.lab.papers_page import MeasuredRow, Papers, page, read_papers, write_papers
from worker.lab.results import made_part
from worker.learning.adapter_files import MANIFEST, load_adapter_folder, read_adapter_record
from worker.learning.generator.presets import PRESETS
from worker.learning.proposals.decoder_files import save_query_decoder
from worker.learning.proposals.entering import DecodedProposals
from worker.learning.proposals.proposals import Proposals
from worker.learning.recipes.pading.adapter import PadingAdapter
from worker.segment import main as segment
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

STORED = read_papers()


@pytest.fixture(scope="module")
def stored_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decoder") / "query_decoder.safetensors"
    save_query_decoder(path, decoder(), builtin())
    return path


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators that take no time, and a model that is loaded once."""
    monkeypatch.setitem(PRESETS, "small", tiny_generator())
    monkeypatch.setattr(Segmenter, "from_settings", lambda settings, model="": builtin())


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--recipe", "pading", "--data", "drawn:things", "--output-dir", str(folder), "--model", "builtin",
            "--scenes", "2", *more]  # fmt: skip


def test_the_command_trains_both_stages_and_its_adapter_segments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.learning.proposals.query_training.small_decoder", lambda encoder: tiny_config())
    monkeypatch.setattr("worker.lab.progress.LINE_EVERY_S", 0.0)
    folder = tmp_path / "out"
    assert train.main(arguments(folder, "--decoder-steps", "2", "--steps", "2", "--json")) == 0
    said = capsys.readouterr()
    for line in ("Query decoder: 2 of 2, loss ", "Vectors of the training scenes: 2 of 2\n",
                 "Generator and classifier: 2 of 2, losses ", "Recall of the query decoder: 2 of 2\n",
                 "Recall of the engine's own regions, untrained: 1 of 2\n"):  # fmt: skip
        assert line in said.err
    printed = json.loads(said.out.splitlines()[-1])
    assert set(printed["recall"]) == {"decoder", "engine"}
    assert 0 <= printed["recall"]["decoder"]["seen"] <= 1
    assert (printed["recipe"], printed["steps"], printed["adapter"]) == ("pading", 2, str(folder))
    assert printed["parameters"] > 1000
    assert printed["loss"] > 0
    assert printed["left_out"] == {}
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["query_decoder", "log.csv", MANIFEST, read_adapter_record(folder).file]
    )
    record = read_adapter_record(folder)
    assert record.training["unseen"] == things().unseen_labels
    assert len(record.training["labels"]) == len(things().seen)
    assert (folder / "log.csv").read_text().splitlines()[0].startswith("step,mmd,")
    loaded = load_adapter_folder(folder, builtin())
    assert isinstance(loaded, PadingAdapter)
    assert loaded.trained is not None
    # The first stage is not begun again, and a stored one is not touched.
    file = Path(printed["query_decoder"])
    assert train.main(arguments(folder, "--decoder-steps", "2", "--steps", "2")) == 2
    assert "holds a training already" in capsys.readouterr().err
    assert train.main(arguments(folder, "--decoder-steps", "2", "--steps", "2", "--resume")) == 0
    out = capsys.readouterr().out
    assert "pading: 2 steps" in out
    assert "the engine's own regions, untrained " in out
    before = file.read_bytes()
    other = tmp_path / "other"
    assert train.main(arguments(other, "--query-decoder", str(file), "--without", "generator", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["loss"], printed["steps"]) == (None, 0)
    assert not (other / "query_decoder").exists()
    assert file.read_bytes() == before
    image = tmp_path / "scene.png"
    Image.fromarray(things().test[0].image).save(image)
    asked = [str(image), "--labels", "red circle,orange heart", "--stuff", "grass", "--model", "builtin",
             "--output-dir", str(tmp_path / "masks"), "--adapter", str(folder), "--json"]  # fmt: skip
    assert segment(asked) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["red circle", "orange heart", "grass"]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--data", "drawn:words"], "data 'drawn:words': has no things one by one"),
        (["--block", "bottleneck"], "--block: recipe pading has no use for it"),
        (["--tower", "vit_small_patch14_dinov2"], "--tower: recipe pading has no use for it"),
        (["--block-depth", "2"], "--block-depth: recipe pading has no use for it"),
        (["--activation", "tanh"], "--activation: recipe pading has no use for it"),
        (["--seed", "-1"], "--seed: -1 is below 0"),
        (["--counting"], "--counting: recipe pading has no use for it"),
        (["--without", "shape"], "recipe pading: has no part 'shape' to leave out"),
        (["--preset", "voc"], "preset 'voc': is not one of pading"),
        (["--decoder-steps", "0"], "--decoder-steps: 0 is not above 0"),
        (["--query-decoder", "/none"], "query decoder /none: cannot be read"),
        (["--count"], "recipe pading: is not counted by itself"),
        (["--recipe", "lseg", "--query-decoder", "x"], "--query-decoder: recipe lseg has no use for it"),
        (["--recipe", "lseg"], "data 'drawn:things': is not known"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    more: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(arguments(tmp_path / "out", *more)) == 2
    assert problem in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.parametrize(
    ("checkpoint", "told"),
    [("checkpoint.pt", "with --resume."), ("query_decoder/checkpoint.pt", "with --resume."), ("", "without --resume.")],
)
def test_after_a_stop_the_checkpoint_of_either_stage_is_found(
    checkpoint: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "out"
    (folder / "query_decoder").mkdir(parents=True)
    if checkpoint:
        (folder / checkpoint).write_bytes(b"")
    monkeypatch.setattr(train, "train_pading", stopped)
    assert train.main(arguments(folder)) == 130
    assert told in capsys.readouterr().err


def test_true_segments_have_all_qualities_and_figures_stand_for_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = ThingsEvaluator(builtin(), decoder(), things())

    def perfect(number: int, adapter: Any, *, oracle: bool = False) -> Any:
        image = evaluator.look(number)[0]
        return np.maximum(image.truth, 0), [Scored(one.index, one.mask) for one in image.segments]

    monkeypatch.setattr(evaluator, "segments", perfect)
    found = evaluator.figures(None)
    shown = {one.index for image in things().test for one in image.segments}
    expected = {"seen": 1.0, "unseen": 1.0 if shown & set(things().unseen) else None}
    expected["hm"] = expected["unseen"]
    assert set(found) == set(PARTS)
    for part, value in expected.items():
        assert found[part] == dict.fromkeys(PANOPTIC_FIGURES, value)


class Scored:
    """A segment that is right."""

    score = 1.0

    def __init__(self, index: int, mask: np.ndarray[Any, Any]) -> None:
        self.index, self.mask = index, mask


def known(figure: float | None) -> float:
    """A figure that was measured."""
    assert figure is not None
    return figure


def test_figures_are_those_of_the_metrics_and_harmonic_means_are_of_each_figure() -> None:
    evaluator = ThingsEvaluator(builtin(), decoder(), things())
    found = evaluator.figures(None)
    again = PanopticEvaluator(len(things().labels), things().things)
    for number in range(len(things().test)):
        segments = evaluator.segments(number, None)[1]
        again.add(segments, [one.score for one in segments], evaluator.look(number)[0].segments)
    shown = [k for k in things().seen if again.counts[k].true]
    assert found["seen"]["pq"] == pytest.approx(np.mean([again.counts[k].figures()["pq"] for k in shown]), abs=0.02)
    for name in PANOPTIC_FIGURES:
        seen, unseen = known(found["seen"][name]), known(found["unseen"][name])
        assert found["hm"][name] == pytest.approx(harmonic_mean(seen, unseen), abs=2e-4)
    assert known(found["seen"]["miou"]) > 0.3  # the builtin knows them


def test_the_oracle_reads_true_masks() -> None:
    evaluator = ThingsEvaluator(builtin(), decoder(), things())
    image, _, found = evaluator.look(0)
    truth = true_proposals(found, image)
    assert len(truth.proposals) == len(image.segments)
    for mask, one in zip(truth.proposals.masks > 0, image.segments, strict=True):
        assert np.array_equal(mask.numpy(), one.mask)
    rows = {tuple(vector.tolist()) for vector in found.proposals.vectors}
    assert {tuple(vector.tolist()) for vector in truth.proposals.vectors} <= rows


def test_a_classifier_that_is_right_is_judged_by_its_masks() -> None:
    """Vectors tell the labels; masks are a few cells wide, or, with the oracle, those of the truth."""
    data, width = things(), decoder().config.width
    evaluator = ThingsEvaluator(builtin(), decoder(), data, limit=1)
    image, embedding, found = evaluator.look(0)
    codes = torch.nn.functional.normalize(torch.randn(41, width, generator=torch.Generator().manual_seed(0)), dim=1)
    classifier = torch.nn.Linear(width, 41).requires_grad_(False)
    classifier.weight.copy_(40 * codes)
    classifier.bias.zero_()
    head = PadingAdapter("pading", 1, builtin(), decoder(), classifier, data.seen_words, data.unseen_words)
    rows = [*data.seen, *data.unseen]
    labels = [rows.index(one.index) for one in image.segments]
    coarse = true_proposals(found, image).proposals.masks
    coarse = torch.nn.functional.adaptive_avg_pool2d(coarse, (18, 24))
    given = DecodedProposals(Proposals(coarse, codes[labels]), torch.zeros(len(labels), 2))
    evaluator._seen[0] = image, embedding, given
    right, rough = evaluator.figures(head, oracle=True), evaluator.figures(head)
    assert known(right["seen"]["pq"]) > 0.9
    assert known(right["seen"]["miou"]) > known(rough["seen"]["miou"]) > 0.5


def test_every_row_is_a_classifier_of_the_same_proposals(
    stored_decoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = PadingStudy(builtin(), decoder(), things(), seed=0)
    assert study.adapter(TRAINING_FREE) is None
    for name in (SEEN_ONLY, PROJECTION):
        made = study.adapter(name)
        assert made is not None
        assert made.trained is None
        assert (made.seen, made.unseen) == (things().seen_words, things().unseen_words)
    pretrained = study.adapter(SEEN_ONLY)
    assert pretrained is not None
    chance = torch.Generator().manual_seed(0)
    vectors, count = torch.randn(64, decoder().config.width, generator=chance), len(things().seen)
    logits = pretrained.classifier(vectors)
    torch.testing.assert_close(torch.cat([logits[:, :count], logits[:, -1:]], dim=1), decoder().classify(vectors))
    assert bool((logits[:, count:-1] < -1000).all())
    trained = {name: study.adapter(name) for name in ("gmmn", "primitives", "alignment", FULL, swept(STRUCTURE[1]))}
    logged = {name: set(one.trained.log[0]) for name, one in trained.items() if one is not None and one.trained}
    assert "alignment" not in logged["primitives"]
    assert {"alignment"} == logged["alignment"] - logged["primitives"]
    assert logged[FULL] - logged["alignment"] == {"related", "unrelated", "reconstruction"}
    assert logged[FULL] == logged[swept(STRUCTURE[1])]
    generators = {name: type(one.trained.generator).__name__ for name, one in trained.items() if one and one.trained}
    assert generators["gmmn"] == "GmmnGenerator"
    assert {generators[name] for name in generators if name != "gmmn"} == {"PrimitiveGenerator"}
    assert study.adapter(ORACLE) is study.adapter(FULL)
    with pytest.raises(KeyError):
        study.adapter("all")
    assert measure_pading(PadingMeasurement(0, Path("/none"), scenes=1)) == []
    assert "things: pading: query decoder /none: cannot be read" in capsys.readouterr().err
    task = PadingMeasurement(0, stored_decoder, (TRAINING_FREE, ORACLE), scenes=1)
    assert [(paper, row, set(figures)) for paper, row, figures in measure_pading(task)] == [
        ("pading", TRAINING_FREE, set(PARTS)), ("pading", ORACLE, set(PARTS))
    ]  # fmt: skip
    assert measure_pading(replace(task, minutes=1e-9)) == []
    halves = PadingMeasurement(0, stored_decoder).halves
    assert sorted(name for half in halves for name in half.names) == sorted(ROWS)
    assert [{FULL, ORACLE} <= set(half.names) for half in halves] == [True, False]


def test_make_papers_prints_them(stored_decoder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["--only", "pading", "--scenes", "1", "--names", "training_free", "--query-decoder", str(stored_decoder)]
    page_file, file = tmp_path / "papers.md", tmp_path / "papers.json"
    write_papers(replace(STORED, measured=()), file, page_file)
    beside = tmp_path / PADING_PAGE.name
    beside.write_text(PADING_PAGE.read_text())
    where = ["--results", str(file), "--page-file", str(page_file)]
    assert papers_command.main([*asked, *where, "--json", "--store"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert (row["paper"], row["row"], row["split"], row["stderr"]) == ("pading", TRAINING_FREE, "things", None)
    assert {part: set(row[part]) for part in PARTS} == {part: set(PANOPTIC_FIGURES) for part in PARTS}
    assert read_papers(file).measured[0].command == "make papers ONLY=pading"
    assert measured_part(read_papers(file)) in beside.read_text()
    assert papers_command.main([*asked, *where]) == 0
    out = capsys.readouterr().out
    assert "RQ   AP50" in out
    assert "things, pading: training_free, unseen" in out


def figures(seen: float, unseen: float) -> dict[str, dict[str, float | None]]:
    values: dict[str, float | None] = {"seen": seen, "unseen": unseen, "hm": harmonic_mean(seen, unseen)}
    return {part: dict.fromkeys(PANOPTIC_FIGURES, value) for part, value in values.items()}


def row(name: str, *values: tuple[float, float]) -> MeasuredRow:
    seeds = {str(seed): figures(*one) for seed, one in enumerate(values)}
    return MeasuredRow("pading", name, "things", "make papers ONLY=pading", "2026-01-02" if seeds else "", seeds)


def test_a_row_has_three_lines_on_the_page() -> None:
    rows = (row("gmmn", (0.6, 0.2), (0.4, 0.4)), row("primitives"))
    written = page(Papers(rows, (), ("something",)))
    assert "| row | labels | PQ | SQ | RQ | AP50 | mIoU | ± HM-PQ | seeds | date |" in written
    assert "| gmmn | seen | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 |  | 2 | 2026-01-02 |" in written
    assert "| gmmn | HM | 0.350 | 0.350 | 0.350 | 0.350 | 0.350 | 0.050 | 2 | 2026-01-02 |" in written
    assert "| primitives | not measured yet |" in written
    assert kind_of("pading").means([])["hm"]["pq"] is None


def test_labels_that_no_scene_shows_have_no_figures() -> None:
    hidden = figures(0.5, 0.3)
    hidden["unseen"], hidden["hm"] = (dict.fromkeys(PANOPTIC_FIGURES) for _ in range(2))
    alone = replace(row(FULL, (0.5, 0.3)), seeds={"0": hidden})
    assert f"| `{FULL}` | 0.500 | - | - |  | - | - |" in measured_part(Papers((alone, row("gmmn", (0.5, 0.2))), (), ()))
    assert kind_of("pading").means([hidden, figures(0.5, 0.5)])["hm"]["pq"] == 0.5


def test_the_page_says_first_whether_the_engine_alone_is_better() -> None:
    rows = {name: row(name, (0.5, 0.3), (0.5, 0.32)) for name in ROWS}
    rows["gmmn"], rows[SEEN_ONLY] = row("gmmn", (0.5, 0.2), (0.5, 0.22)), row(SEEN_ONLY, (0.54, 0), (0.54, 0))
    engine = row(TRAINING_FREE, (0.9, 0.9))
    worse = measured_part(Papers(tuple({**rows, TRAINING_FREE: engine}.values()), (), ()))
    assert worse.startswith("**The engine alone is better: without any training HM-PQ is 0.900, with")
    assert "standard error: reached (+0.08" in worse
    assert "no model that finds one can miss this bar: reached" in worse
    assert "at most 0.03 below that of `seen_only`: missed (-0.040, ± 0.000, 2 seeds)" in worse
    assert "| `gmmn` | 0.500 | 0.210 |" in worse
    assert f"| `{TRAINING_FREE}` | 0.900 | 0.900 | 0.900 |  |" in worse  # the same with every seed
    better = measured_part(Papers(tuple({**rows, TRAINING_FREE: row(TRAINING_FREE, (0.1, 0.1))}.values()), (), ()))
    assert better.startswith("The full model is better than the engine alone")
    one = measured_part(Papers((row("gmmn", (0.5, 0.2)), row(FULL, (0.5, 0.3)), row(TRAINING_FREE)), (), ()))
    assert one.startswith("The engine alone against the full model: not measured yet.")
    assert "standard error: undecided (+0.089, one seed)" in one
    assert f"| `{TRAINING_FREE}` | not measured yet |" in one


def test_the_page_is_made_of_the_stored_results(tmp_path: Path) -> None:
    text = PADING_PAGE.read_text(encoding="utf-8")
    assert made_part(BEGIN, END, measured_part(STORED)) in text
    stored = [one for one in STORED.measured if one.paper == "pading"]
    assert [(one.row, one.split) for one in stored] == [(name, "things") for name in ROWS]
    for name in ROWS:
        assert f"| `{name.partition(',')[0]}" in text
    for one in stored:
        for seed in one.seeds.values():
            for name in PANOPTIC_FIGURES:
                expected = harmonic_mean(seed["seen"][name], seed["unseen"][name])
                assert seed["hm"][name] == pytest.approx(expected, abs=2e-4)
    empty = tmp_path / "pading.md"
    empty.write_text("nothing")
    with pytest.raises(EnvironmentBroken, match="it cannot be written"):
        write_pading(STORED, empty)


def test_the_picture_shows_four_columns_of_six_scenes(
    stored_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pading.png"
    asked = ["--query-decoder", str(stored_decoder), "--scenes", "20", "--steps", "1", "--output"]
    assert draw_picture([*asked, str(output)]) == 0
    height, width = things().test[0].truth.shape
    drawn = Image.open(output)
    assert drawn.size[0] == 4 * width
    assert drawn.size[1] > 6 * height
    assert draw_picture([*asked, str(tmp_path / "none" / "x.png")]) == 2
    assert "cannot be written" in capsys.readouterr().err
