"""The charts of the documentation: well-formed, to scale, and drawn from what was logged."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from worker.lab.charts import Line, Point, line_chart
from worker.lab.drawn_world.curves import main, read_curves

SVG = "{http://www.w3.org/2000/svg}"


def points(svg: str) -> list[list[Point]]:
    paths = [path.attrib["d"] for path in ET.fromstring(svg).iter(f"{SVG}path") if path.get("fill") == "none"]
    return [[tuple(map(float, pair.split())) for pair in path[1:].split("L")] for path in paths]  # type: ignore[misc]


def test_points_lie_to_scale_and_names_stand_apart() -> None:
    lines = {"a <b>": [(0, 0), (5, 0.5), (10, 1)], "c": [(10, 0.99)], "d": [(10, 0.98)], "none": []}
    svg = line_chart(lines, title="T & t", x_label="x", y_range=(0, 1))
    (left, bottom), (middle, half), (right, top) = next(line for line in points(svg) if len(line) == 3)
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert half == pytest.approx((bottom + top) / 2, abs=0.1)
    assert bottom > top
    names = {text.text: float(text.attrib["y"]) for text in ET.fromstring(svg).iter(f"{SVG}text")}
    heights = sorted(names[name] for name in ("a <b>", "c", "d"))
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 16
    assert "none" not in names


def test_numbers_along_the_x_axis_may_be_chosen() -> None:
    svg = line_chart({"a": [(0, 0), (9, 1)]}, title="", x_label="", y_range=(0, 10), x_ticks=[0, 3, 9])
    (start, _), (end, _) = points(svg)[0]
    places = {text.text: float(text.attrib["x"]) for text in ET.fromstring(svg).iter(f"{SVG}text")}
    assert places["3"] == pytest.approx(start + (end - start) / 3, abs=0.1)
    assert places["9"] == pytest.approx(end, abs=0.1)
    assert "5.4" not in places


@pytest.mark.parametrize(
    ("lines", "y_range"), [({}, (0, 1)), ({"a": []}, (0, 1)), ({"a": [(1, 1)]}, (1, 1))], ids=["none", "empty", "flat"]
)
def test_a_chart_of_nothing_is_refused(lines: dict[str, Line], y_range: Point) -> None:
    with pytest.raises(ValueError, match="a chart must have"):
        line_chart(lines, title="", x_label="", y_range=y_range)


ROW = {"colour": 0.9, "texture": 0.5, "shape": 0.4, "colour_texture": 0.3, "colour_shape": 0.2}


def test_curves_follow_a_log_through_its_resumptions(tmp_path: Path) -> None:
    rows = [{"command": "train", "from_step": 0}, {"step": 10, **ROW}, {"step": 20, **ROW},
            {"command": "train --resume", "from_step": 15}, {"step": 20, **ROW, "shape": 0.6}]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_curves(tmp_path / "log.jsonl")["shape"] == [(10, 0.4), (20, 0.6)]


def test_the_shipped_log_is_drawn(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path / "curves.svg")]) == 0
    assert len(points((tmp_path / "curves.svg").read_text())) == len(ROW)


@pytest.mark.parametrize("content", [None, "", "no json", '{"command": "train"}\n'])
def test_a_log_without_measurements_is_named(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    assert main(["--log", str(tmp_path / "log.jsonl"), "--output", str(tmp_path / "curves.svg")]) == 1
    assert "log.jsonl" in capsys.readouterr().err
