"""The charts of the documentation: well-formed, to scale, and drawn from what was logged."""

from __future__ import annotations

import itertools
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from plugin_config.errors import EnvironmentBroken
from worker.lab.charts import Line, Point, line_chart
from worker.lab.drawn_world.curves import main, read_curves

SVG = "{http://www.w3.org/2000/svg}"


def points(svg: str) -> list[list[Point]]:
    """The points of each line in pixels, in the order of the legend."""
    groups = [group for group in ET.fromstring(svg).iter(f"{SVG}g") if group.get("id", "").startswith("line-")]
    paths = [str(group[0].get("d")).split() for group in groups]
    return [list(zip(map(float, path[1::3]), map(float, path[2::3]), strict=True)) for path in paths]


def texts(svg: str) -> dict[str | None, dict[str, str]]:
    """The attributes of each text by what it says."""
    return {text.text: text.attrib for text in ET.fromstring(svg).iter(f"{SVG}text")}


def test_points_lie_to_scale_and_the_legend_lists_lines_by_their_end() -> None:
    lines = {"c": [(10, 0.98)], "a <b>": [(0, 0), (5, 0.5), (10, 1)], "d": [(10, 0.99)], "none": []}
    svg = line_chart(lines, title="T & t", x_label="x", y_range=(0, 1))
    first, *others = points(svg)
    (left, bottom), (middle, half), (right, top) = first
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert half == pytest.approx((bottom + top) / 2, abs=0.1)
    assert bottom > top
    assert [len(line) for line in others] == [1, 1]
    heights = [float(texts(svg)[name]["y"]) for name in ("a <b>", "d", "c")]
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 9
    assert {"T & t", "x"} <= set(texts(svg))
    assert "none" not in texts(svg)


def test_numbers_along_the_x_axis_may_be_chosen() -> None:
    svg = line_chart({"a": [(0, 0), (9, 1)]}, title="", x_label="", y_range=(0, 10), x_ticks=[0, 3, 9])
    (start, _), (end, _) = points(svg)[0]
    assert float(texts(svg)["3"]["x"]) == pytest.approx(start + (end - start) / 3, abs=0.1)
    assert float(texts(svg)["9"]["x"]) == pytest.approx(end, abs=0.1)
    assert not {"1", "5"} & set(texts(svg))


def test_the_same_lines_give_the_same_bytes_on_white() -> None:
    one, again = (line_chart({"a": [(0, 0), (1, 1)]}, title="t", x_label="x", y_range=(0, 1)) for _ in range(2))
    assert one == again
    assert "<dc:date>" not in one
    ground = next(group for group in ET.fromstring(one).iter(f"{SVG}g") if group.get("id") == "patch_1")
    assert "fill: #ffffff" in str(ground[0].get("style"))


def test_without_matplotlib_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EnvironmentBroken, match="pip install"):
        line_chart({"a": [(0, 0), (1, 1)]}, title="", x_label="", y_range=(0, 1))
    assert main(["--output", str(tmp_path / "curves.svg")]) == 1
    assert "matplotlib" in capsys.readouterr().err


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
