"""`zeromask evaluate --protocol clicks`: the annotator is honest, the figures are right, the keys are there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from worker.lab.evaluate import main
from worker.lab.evaluation.clicks import Sessions
from worker.lab.evaluation.fit_clicks import main as fit_main
from worker.lab.evaluation.panoptic_scenes import STUFF_FROM, panoptic_scene
from worker.segmentation.clicks.model import FIRST, SECOND
from worker.segmentation.clicks.prompts import Prompt
from worker.segmentation.clicks.robot import Robot

pytestmark = pytest.mark.usefixtures("one_thread")

Mask = NDArray[np.bool_]


def square(left: int, top: int, side: int) -> Mask:
    mask = np.zeros((60, 80), dtype=np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def empty(prompt: Prompt, current: Mask | None) -> Mask:
    return square(0, 0, 0)


def test_the_robot_clicks_in_the_middle_of_the_largest_error() -> None:
    rng = np.random.default_rng(0)
    truth = square(10, 10, 21)
    assert Robot(0.0, 1).click(square(0, 0, 0), truth, rng) == ((20.5, 20.5), True)
    assert Robot(0.0, 1).click(truth | square(50, 20, 29), truth, rng) == ((64.5, 34.5), False)


def test_the_robot_stops_at_the_goal_and_gives_up() -> None:
    truth = square(10, 10, 20)

    def third_time_right(prompt: Prompt, current: Mask | None) -> Mask:
        return truth if len(prompt.positive) == 3 else square(0, 0, 0)

    assert Robot(0.0, 1).correct(third_time_right, truth, None) == [0.0, 0.0, 0.0, 1.0]
    assert Robot(0.0, 1, 2).correct(third_time_right, truth, None) == [0.0, 0.0, 0.0]
    assert Robot(0.0, 1).correct(empty, truth, square(10, 10, 19)) == [0.9025]


def test_jitter_moves_clicks_and_the_seed_repeats_them() -> None:
    def places(jitter: float, seed: int) -> list[tuple[float, float]]:
        seen: list[tuple[float, float]] = []

        def answer(prompt: Prompt, current: Mask | None) -> Mask:
            seen.extend(prompt.positive[-1:])
            return square(0, 0, 0)

        Robot(jitter, seed, 4).correct(answer, square(10, 10, 30), None)
        return seen

    assert len(set(places(0.0, 1))) <= 4
    assert places(0.5, 1) == places(0.5, 1)
    assert places(0.5, 1) != places(0.5, 2)


def test_things_predicted_wrong_are_counted_by_themselves() -> None:
    sessions = Sessions(before=[0.0, 0.4, 0.9], first=[0.6, 0.8, 0.9], clicked=[0.6] * 3, boxed=[0.7] * 3,
                        from_nothing=[1, 2, 3], from_prediction=[1, 2, 0], preparing=[9.0])  # fmt: skip
    found = sessions.figures([10.0, 20.0, 30.0])
    assert found["wrong_n"] == 2
    assert (found["wrong_iou_before"], found["wrong_iou_after_1"], found["wrong_gain"]) == (0.2, 0.7, 0.5)
    assert (found["noc85"], found["noc85_from_prediction"], found["p50_ms"]) == (2.0, 1.0, 20.0)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A set of two drawn scenes in the layout of a set of photographs."""
    for folder in ("images", "masks", "instances"):
        (tmp_path / folder).mkdir()
    for number in (0, 2):  # labels of both name colours
        drawn = panoptic_scene(21, number)
        numbers = np.zeros(drawn.scene.instances.shape, dtype=np.uint16)
        classes = np.zeros(numbers.shape, dtype=np.uint8)
        for k, thing in enumerate((one for one in drawn.truth if one.index < STUFF_FROM), start=1):
            numbers[thing.mask], classes[thing.mask] = k, thing.index + 1
        for folder, pixels in (("images", drawn.scene.image), ("masks", classes), ("instances", numbers)):
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    names = {0: "background", **dict(enumerate(drawn.labels[:STUFF_FROM], start=1))}
    (tmp_path / "classes.json").write_text(json.dumps(names))
    (tmp_path / "split.json").write_text(json.dumps({"train": ["0"], "test": ["2"]}))
    return tmp_path


KEYS = {"noc85", "noc85_from_prediction", "iou_after_1", "iou_before", "n", "p50_ms", "p95_ms",
        "wrong_iou_before", "wrong_iou_after_1", "wrong_n"}  # fmt: skip


@pytest.mark.parametrize("method", ["zeromask", "component"])
def test_the_protocol_prints_one_json_line(
    photographs: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--protocol", "clicks", "--photos", str(photographs), "--part", "test", "--method", method, "--json",
               "--model", "builtin", "--device", "cpu", "--clicks", "2", "--things", "2"]  # fmt: skip
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() >= KEYS
    assert found["n"] == 2
    assert 0 <= found["iou_before"] <= 1
    if method == "zeromask":
        assert found["iou_1_from_nothing"] > 0.4


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--protocol", "clicks"]) == 2
    assert "Give a folder of photographs, or --drawn." in capsys.readouterr().err
    assert main(["--protocol", "clicks", "--photos", str(tmp_path), "--model", "builtin"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_networks_can_be_fitted_again(photographs: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    file = tmp_path / "weights.safetensors"
    command = [str(file), "--photos", str(photographs), "--scenes", "1", "--examples", "3", "--epochs", "1"]
    assert fit_main(command) == 0
    arrays = load_file(file)
    assert {name.split(".")[0] + "." for name in arrays} == {FIRST, SECOND}
    assert all(np.isfinite(values).all() for values in arrays.values())
