"""`zeromask train`: the same weights whether broken off or not, nothing half-written, and an adapter that is served."""

from __future__ import annotations

import csv
import json
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plugin_config.errors import EnvironmentBroken, LearningError
from tests.dense_world import builtin
from tests.zero_shot_sets import write_photos
from worker.lab import train
from worker.lab.dense_data import ZeroShotSet, photo_set
from worker.lab.training_run import CHECKPOINT, LOG, TrainingRun
from worker.learning.adapter_files import MANIFEST, load_adapter_folder, read_adapter_record
from worker.learning.recipes.dense.adapter import DenseAdapter
from worker.learning.recipes.dense.batches import CropConfig
from worker.learning.recipes.dense.lseg import LSegNetwork
from worker.learning.recipes.dense.recipe import DenseRecipe, LSegRecipe, SazsRecipe
from worker.learning.recipes.dense.training import DenseTrainer, TrainingConfig
from worker.segment import main as segment

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 4
SHORT = TrainingConfig(steps=STEPS, batch=2, crop=CropConfig(64))
LSEG = LSegRecipe(training=SHORT)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ZeroShotSet:
    return photo_set(write_photos(tmp_path_factory.mktemp("photos")), ["square"])


def ticking() -> Callable[[], float]:
    """A clock that a minute goes by on at every look."""
    times = iter(range(0, 6000, 60))
    return lambda: float(next(times))


def weights(folder: Path) -> dict[str, Any]:
    return dict(torch.load(folder / CHECKPOINT, weights_only=True)["trainer"])


@pytest.mark.parametrize("recipe", [LSEG, SazsRecipe(training=SHORT)], ids=lambda recipe: recipe.name)
def test_a_training_that_was_broken_off_ends_with_the_same_weights(
    recipe: DenseRecipe, data: ZeroShotSet, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = TrainingRun(recipe, data, builtin(), whole)
    unbroken.train()
    first = TrainingRun(recipe, data, builtin(), broken)
    first.train(minutes=2, clock=ticking())
    assert first.trainer.steps_done == 2
    again = TrainingRun(recipe, data, builtin(), broken, resume=True)
    again.train()
    result = again.finish()
    assert (result.steps, again.trainer.steps_done) == (STEPS, STEPS)
    expected, found = weights(whole), weights(broken)
    assert found["steps_done"] == STEPS
    for part in ("network", "labels"):
        assert set(found[part]) == set(expected[part])
        for name, values in expected[part].items():
            assert torch.equal(found[part][name], values), name
    assert not torch.equal(*(next(iter(one["network"].values())) for one in (expected, _untrained(recipe, data))))
    rows = list(csv.DictReader((broken / LOG).open()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    same = list(csv.DictReader((whole / LOG).open()))
    assert [row["total"] for row in rows] == [row["total"] for row in same]
    assert {"seconds", "align", "total"} <= set(rows[0])


def _untrained(recipe: DenseRecipe, data: ZeroShotSet) -> dict[str, Any]:
    return {"network": recipe.build(data.seen_words, builtin())[0].state_dict()}


def arguments(photos: Path, folder: Path, *more: str) -> list[str]:
    return ["--recipe", "lseg", "--data", str(photos), "--unseen", "square", "--output-dir", str(folder), "--model",
            "builtin", "--steps", "1", "--batch", "1", *more]  # fmt: skip


def test_the_command_trains_and_its_adapter_segments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, folder = write_photos(tmp_path / "photos"), tmp_path / "out" / "deep"
    assert train.main(arguments(photos, folder, "--json", "--block", "bottleneck")) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(printed) == {"recipe", "steps", "seconds", "parameters", "loss", "adapter"}
    assert (printed["recipe"], printed["steps"], printed["adapter"]) == ("lseg", 1, str(folder))
    assert printed["parameters"] > 1000
    assert printed["loss"] > 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [CHECKPOINT, LOG, MANIFEST, read_adapter_record(folder).file]
    )
    record = read_adapter_record(folder)
    assert record.training["unseen"] == ["square"]
    assert record.training["labels"] == ["grass", "circle", "water"]
    assert record.training["command"].startswith("zeromask train --recipe lseg")
    loaded = load_adapter_folder(folder, builtin())
    assert isinstance(loaded, DenseAdapter)
    assert isinstance(loaded.network, LSegNetwork)
    assert loaded.network.preset.block == "bottleneck"
    image = next((photos / "images").iterdir())
    asked = [str(image), "--labels", "circle,square", "--model", "builtin", "--output-dir", str(tmp_path / "masks")]
    assert segment([*asked, "--adapter", str(folder)]) == 0
    assert segment([*asked, "--adapter", str(tmp_path)]) == 2
    assert "holds no adapter" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        pytest.param(["--seed", "1"], "begun with seed 0, not 1", id="another seed"),
        pytest.param(["--steps", "2"], "begun with steps 1, not 2", id="other steps"),
        pytest.param(["--unseen", "water"], r"begun with unseen \['square'\], not \['water'\]", id="other labels"),
        pytest.param(["--recipe", "sazs"], "begun with recipe 'lseg', not 'sazs'", id="another recipe"),
    ],
)  # fmt: skip
def test_resuming_under_other_settings_is_refused(
    changed: list[str], problem: str, trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    photos, folder = trained
    before = (folder / CHECKPOINT).read_bytes()
    assert train.main(arguments(photos, folder, *changed, "--resume")) == 2
    said = capsys.readouterr().err
    assert re.search(problem, said)
    assert "Resume with the settings it was begun with" in said
    assert (folder / CHECKPOINT).read_bytes() == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A photo folder and a finished training on it."""
    photos, folder = write_photos(tmp_path_factory.mktemp("set")), tmp_path_factory.mktemp("runs") / "run"
    assert train.main(arguments(photos, folder)) == 0
    return photos, folder


def test_a_training_is_not_overwritten_and_a_finished_one_is_done(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    photos, folder = trained
    assert train.main(arguments(photos, folder)) == 2
    assert "holds a training already. Go on with --resume" in capsys.readouterr().err
    before = (folder / MANIFEST).read_bytes()
    assert train.main(arguments(photos, folder, "--resume", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
    assert json.loads(before)["sha256"] == read_adapter_record(folder).sha256


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        pytest.param(["--recipe", "lsag"], "recipe 'lsag': is not known. Choose one of lseg, sazs", id="recipe"),
        pytest.param(["--recipe", "quick"], "learns from corrections in Label Studio. Choose", id="no dense recipe"),
        pytest.param(["--recipe", "sazs", "--without", "edge"], "has no part 'edge' to leave out. It has", id="part"),
        pytest.param(["--preset", "huge"], "preset 'huge'", id="preset"),
        pytest.param(["--unseen", "cow"], "'cow' is no label", id="unseen label"),
        pytest.param(["--unseen", "grass,circle,square,water"], "no label is left to learn from", id="no seen label"),
        pytest.param(["--resume"], "holds no training to resume. Start without --resume", id="nothing to resume"),
        pytest.param(["--steps", "0"], "--steps: 0 is not above 0", id="no steps"),
        pytest.param(["--rate", "nan"], "--rate: nan is not above 0", id="rate"),
        pytest.param(["--text-vectors", "none.npz"], "text vectors none.npz: they cannot be read", id="vectors"),
        pytest.param(["--tower", "no_such_tower"], "no_such_tower", id="tower"),
        pytest.param(["--data", "nowhere"], "set nowhere: it cannot be read", id="data"),
        pytest.param(["--rate", "1e30", "--steps", "30"], "no number", id="not a number"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_one_sentence_and_leaves_no_folder(
    more: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, folder = write_photos(tmp_path / "photos"), tmp_path / "out"
    assert train.main(arguments(photos, folder, *more)) == 2
    said = capsys.readouterr()
    assert problem in said.err
    assert said.err.startswith("zeromask train: ")
    assert len(said.err.strip().splitlines()) == 1
    assert said.out == ""
    assert not folder.exists()


def test_a_place_that_is_no_folder_is_refused_before_the_training(
    data: ZeroShotSet, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EnvironmentBroken, match=r"file is no folder\. Name another --output-dir"):
            TrainingRun(LSEG, data, builtin(), folder)


def test_ctrl_c_ends_it_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    asked = arguments(write_photos(tmp_path / "photos"), tmp_path / "out", "--steps", "2")
    with monkeypatch.context() as patch:
        patch.setattr(DenseTrainer, "step", pressed)
        assert train.main(asked) == 130
    assert "There is no checkpoint yet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert train.main([*asked, "--minutes", "0.0001"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(DenseTrainer, "step", pressed)
    assert train.main([*asked, "--resume"]) == 130
    assert "Go on from the last checkpoint with --resume" in capsys.readouterr().err


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(
    data: ZeroShotSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run = TrainingRun(LSEG, data, builtin(), folder)
    run.train(minutes=2, clock=ticking())
    before = (folder / CHECKPOINT).read_bytes()
    again = TrainingRun(LSEG, data, builtin(), folder, resume=True)
    step = DenseTrainer.step

    def breaking(self: DenseTrainer, pixels: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
        if self.steps_done == 3:
            next(iter(self.network.decoder.parameters())).data.fill_(torch.nan)  # type: ignore[union-attr]
        return step(self, pixels, truth)

    monkeypatch.setattr(DenseTrainer, "step", breaking)
    with pytest.raises(LearningError, match=r"step 4 is no number; the last good checkpoint is .*--rate"):
        again.train()
    assert (folder / CHECKPOINT).read_bytes() == before
    assert weights(folder)["steps_done"] == 2


def test_weights_that_are_no_numbers_are_never_saved(data: ZeroShotSet, tmp_path: Path) -> None:
    run = TrainingRun(LSEG, data, builtin(), tmp_path / "run")
    next(iter(run.network.parameters())).data.fill_(torch.inf)
    with pytest.raises(LearningError, match="weights after step 0 are no numbers"):
        run.save()
    assert not (tmp_path / "run").exists()


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond some bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_whole_checkpoint(
    data: ZeroShotSet, tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    folder = tmp_path / "run"
    run = TrainingRun(LSEG, data, builtin(), folder)
    run.train(minutes=1, clock=ticking())
    run.finish()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    log = files.pop(LOG)
    small_files(100_000)
    with pytest.raises(EnvironmentBroken, match=r"cannot be written to \(.*\). Make room on the disk"):
        run.train(minutes=1, clock=ticking())
    with pytest.raises(EnvironmentBroken, match="the adapter cannot be written"):
        run.finish()
    small_files(resource.RLIM_INFINITY)
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert left.pop(LOG).startswith(log)  # lines of steps that the checkpoint does not hold are dropped on resuming
    assert left == files
    again = TrainingRun(LSEG, data, builtin(), folder, resume=True)
    assert again.trainer.steps_done == 1
    again.save()
    assert (folder / LOG).read_bytes() == log


def test_a_disk_that_is_full_from_the_start_leaves_no_folder(
    data: ZeroShotSet, tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    run = TrainingRun(LSEG, data, builtin(), tmp_path / "run")
    small_files(10_000)
    with pytest.raises(EnvironmentBroken, match="cannot be written to"):
        run.train(minutes=1, clock=ticking())
    small_files(resource.RLIM_INFINITY)
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_refused(trained: tuple[Path, Path], tmp_path: Path, data: ZeroShotSet) -> None:
    stored = (trained[1] / CHECKPOINT).read_bytes()
    for number, content in enumerate((b"", stored[: len(stored) // 2], b"no checkpoint at all")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / CHECKPOINT).write_bytes(content)
        with pytest.raises(LearningError, match=r"is damaged .* Begin anew in another --output-dir"):
            TrainingRun(LSEG, data, builtin(), folder, resume=True)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"weights": "0" * 12}, "was trained on other weights", id="other weights"),
        pytest.param({"sha256": "0" * 64}, "is damaged", id="other tensors"),
        pytest.param({"file": "../adapter.safetensors"}, "is not of this release", id="a file elsewhere"),
        pytest.param({"form": 99}, "is not of this release", id="another form"),
        pytest.param({"recipe": "lsag"}, "recipe 'lsag'", id="an unknown recipe"),
        pytest.param({"about": {}}, "another release", id="nothing about it"),
        pytest.param({"file": "gone.safetensors"}, "tensors cannot be read", id="no tensors"),
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_loaded_says_why(
    change: dict[str, Any], problem: str, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    for path in trained[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    stored = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**stored, **change}))
    with pytest.raises(LearningError, match=problem):
        load_adapter_folder(tmp_path, builtin())


def test_text_vectors_take_the_place_of_the_text_tower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, folder, path = write_photos(tmp_path / "photos"), tmp_path / "out", tmp_path / "vectors.npz"
    vectors = dict(zip(("grass", "circle", "square", "water"), np.eye(5)[:4], strict=True))
    np.savez(path, **vectors)
    assert train.main(arguments(photos, folder, "--text-vectors", str(path))) == 0
    loaded = load_adapter_folder(folder, builtin())
    assert isinstance(loaded, DenseAdapter)
    assert loaded.texts is not None
    assert set(loaded.texts.by_text) == set(vectors)
    np.savez(path, **{**vectors, "water": np.ones(5)})
    assert train.main(arguments(photos, folder, "--text-vectors", str(path), "--resume")) == 2
    assert "begun with text vectors" in capsys.readouterr().err
