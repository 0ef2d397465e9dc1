"""The protocol of active learning: orders, the loop of a simulated annotator, figures over seeds, and the page."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plugin_config.errors import EnvironmentBroken
from plugin_config.settings import Settings
from tests.test_learn import write_set
from worker.lab.active_figures import Interval, area, gain_per_minute, seed_figures, summary, table
from worker.lab.active_page import (
    PAGE,
    ActiveResults,
    MeasuredSet,
    page,
    read_active,
    write_active,
)
from worker.lab.evaluate import main
from worker.lab.evaluation import active
from worker.lab.evaluation.active import DRAWN, Measurement, drawn_project
from worker.lab.evaluation.active_loop import ORDERS, Asked, Round, Run
from worker.lab.evaluation.annotator import Correction
from worker.lab.results import EMPTY
from worker.learning.gate.splits import is_held_out
from worker.learning.interfaces import UNLABELLED
from worker.learning.selection.candidates import Candidate

pytestmark = pytest.mark.usefixtures("one_thread")


def figures(*, seconds: float = 60.0, **mious: list[float]) -> dict[str, Any]:
    """Of a seed: mean IoU after 0, 1, 3 and 5 images of some orders."""
    correction = Correction(np.zeros((2, 2), dtype=np.int16), 30.0, 120.0, accepted=2, added=1)
    runs = {
        name: Run(tuple(Round(count, miou, count > 1) for count, miou in zip((0, 1, 3, 5), row, strict=True)),
                  5 * (correction,))
        for name, row in mious.items()
    }  # fmt: skip
    return dict(seed_figures(runs, 12, seconds))


def asked(candidates: list[Candidate], *, count: int, vectors: list[Any] | None = None) -> Asked:
    return Asked(candidates, vectors or [], {}, count, seed=3)


def test_orders_choose_by_what_they_say() -> None:
    rng = np.random.default_rng(0)
    keys = [key for key in map(str, range(99)) if not is_held_out(key)][:20]
    vectors = rng.standard_normal((20, 3)).astype(np.float32)
    candidates = [Candidate(key, vectors[k], float(rng.random())) for k, key in enumerate(keys)]
    margins = {one.key: one.margin for one in candidates}
    assert ORDERS["margin"].choose(asked(candidates, count=5)) == sorted(keys, key=margins.__getitem__)[:5]
    at_random = ORDERS["random"].choose(asked(candidates, count=20))
    assert sorted(at_random) == sorted(keys)
    assert at_random not in (keys, sorted(keys))
    some = [one for one in candidates if one.key not in at_random[:5]]
    assert ORDERS["random"].choose(asked(some, count=3)) == at_random[5:8], "one permutation, however it is cut"
    found = ORDERS["k-center"].choose(asked(candidates, count=2, vectors=[vectors[0]]))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert found[0] == keys[int(np.argmin(unit @ unit[0]))]
    assert found[1] == keys[int(np.argmin(np.maximum(unit @ unit[0], unit @ unit[keys.index(found[0])])))]
    blind = [Candidate(one.key) for one in candidates]
    for order in ORDERS.values():
        assert len(set(order.choose(asked(blind, count=20)))) == 20


def test_the_area_is_what_was_served_while_images_were_corrected() -> None:
    row = {"corrected": [0, 1, 3, 5], "miou": [0.0, 0.2, 0.4, 0.8]}
    assert area(row) == pytest.approx((2 * 0.3 + 2 * 0.6) / 4)
    assert area({"corrected": [0, 4], "miou": [0.0, 0.3]}) == 0.3


def test_orders_are_compared_over_the_minutes_that_both_took() -> None:
    slow = {"corrected": [0, 1, 3], "miou": [0.0, 0.2, 0.6], "minutes": [2.0, 2.0, 2.0]}  # rounds after 2 and 6 minutes
    quick = {"corrected": [0, 1, 3], "miou": [0.0, 0.2, 0.6], "minutes": [1.0, 1.0, 1.0]}  # after 1 and 3 minutes
    # From minute 2 to minute 3: .2 to .3 of the one, .4 to .6 of the other.
    assert gain_per_minute(quick, slow) == pytest.approx(0.25)
    assert gain_per_minute(slow, quick) == pytest.approx(-0.25)
    assert gain_per_minute(slow, slow) == 0
    once = {"corrected": [0, 1], "miou": [0.0, 0.2], "minutes": [1.0]}
    assert gain_per_minute(once, once) is None
    found = summary([figures(random=[0, 0.1, 0.2, 0.3], active=[0, 0.1, 0.3, 0.4])])
    assert found["per_minute"]["active"]["mean"] == pytest.approx(found["against_random"]["active"]["mean"], abs=1e-6)


def test_differences_are_paired_over_the_seeds() -> None:
    assert Interval.of([0.1]) == Interval(0.1, None, None)
    found = Interval.of([0.1, 0.2, 0.3])
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - 0.2484, 0.2 + 0.2484), abs=1e-4)
    assert str(found) == "+0.200 (-0.048 to +0.448)"
    # Seeds differ by far more than orders do.
    seeds = [figures(random=[0, x, x, x], active=[0, x, x + 0.1, x + 0.1 + d]) for x, d in ((0.2, 0.0), (0.7, 0.01))]
    summed = summary(seeds)
    difference = summed["against_random"]["active"]
    assert difference["low"] > 0.05
    areas = [summed["orders"][name]["area"] for name in ("active", "random")]
    assert difference["mean"] == pytest.approx(areas[0] - areas[1], abs=2e-4)
    assert summed["orders"]["active"]["minutes"] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert summed["orders"]["active"]["minutes_from_scratch"][-1] == 10
    assert summed["orders"]["active"]["promoted"] == [0, 0, 1, 1]
    assert summed["orders"]["active"]["accepted"] == 10
    assert (summed["seeds"], summed["images"], summed["corrected"]) == (2, 12, [0, 1, 3, 5])
    assert "+0.0" in table(summed)
    assert summary([figures(active=[0, 0.1, 0.2, 0.3])])["against_random"] == {}


def test_seeds_are_added_to_those_of_the_same_command(tmp_path: Path) -> None:
    file, page_file = tmp_path / "active.json", tmp_path / "active.md"
    write_active(ActiveResults((MeasuredSet("one", "c"), MeasuredSet("two", "c")), ("A note.",)), file, page_file)
    assert page_file.read_text().count(EMPTY.capitalize()) == 2
    for seed, command in (("0", "c"), ("1", "c")):
        live = MeasuredSet("one", command, "2026-01-02", {seed: figures(random=[0, 0.1, 0.2, 0.3])})
        write_active(read_active(file).with_seeds(live), file, page_file)
    stored = read_active(file)
    assert [sorted(one.seeds) for one in stored.sets] == [["0", "1"], []]
    text = page_file.read_text()
    assert text == page(stored)
    assert "2 seeds, 12 images to choose from; 2026-01-02, `c`; 60 s per seed." in text
    assert "| random | 0.000 | 0.100 | 0.200 | 0.300 | 0.200 |  |" in text
    assert "| random | 0 of 2 | 2 of 6 | 2 of 10 | 10.0, 0.0, 0.0, 5.0 |" in text
    assert "- A note." in text
    shown = re.findall(r"!\[.+\]\((.+)\)", text)
    assert shown == ["active/curves_one.svg", "active/minutes_one.svg"]
    assert all('id="line-0"' in (tmp_path / path).read_text() for path in shown)
    other = stored.with_seeds(MeasuredSet("one", "c --perfect", "2026-01-03", {"7": figures(random=[0, 0, 0, 0])}))
    assert list(other.sets[0].seeds) == ["7"], "what was measured in another way is no seed of the same"
    assert [one.name for one in other.with_seeds(MeasuredSet("three", "c")).sets] == ["one", "two", "three"]
    for content in ("", "[]", '{"sets": [{}], "notes": []}'):
        file.write_text(content)
        with pytest.raises(EnvironmentBroken, match="it cannot be read"):
            read_active(file)


def test_the_page_is_that_of_the_stored_results() -> None:
    results = read_active()
    assert PAGE.read_text() == page(results)
    assert {one.name for one in results.sets} >= {DRAWN, "nuts18", "feralcat", "camvid", "msrc"}
    shown = re.findall(r"!\[.+\]\((.+)\)", PAGE.read_text())
    assert len(shown) == 2 * sum(bool(one.seeds) for one in results.sets)
    assert all((PAGE.parent / path).exists() for path in shown)


def test_commands_name_no_place_of_this_machine() -> None:
    settings = Settings.from_env({})
    assert "/some" not in Measurement(settings, Path("/some/where")).command
    command = Measurement(settings, Path("/some/where"), size=(4, 3), counts=(1, 2), pool=9, perfect=True).command
    assert command.endswith("--photos SET --learn train --test test --size 4 3 --counts 1 2 --pool 9 --perfect")
    task = Measurement(settings, Path("/some/where"), orders=("random",))
    assert pickle.loads(pickle.dumps((active.measure, task, 3))) == (active.measure, task, 3), "for --jobs"


def test_some_labels_of_the_drawn_project_are_rare() -> None:
    found = drawn_project(60, 3)
    assert (len(found.parts["train"]), len(found.parts["test"])) == (60, 3)
    shown = [sum((photo.truth == k).any() for photo in found.parts["train"]) for k in range(6)]
    assert min(shown) > 2
    assert shown[0] > 3 * shown[5]
    assert all((photo.truth == UNLABELLED).any() for photo in found.parts["train"])
    later = drawn_project(2, 1, first=60)
    pairs = zip(found.parts["test"], (*later.parts["train"], *later.parts["test"]), strict=True)
    assert all((one.image == other.image).all() for one, other in pairs), "scenes are numbered"


def test_the_whole_loop_from_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_set(tmp_path / "set", train=3, test=2)
    file, page_file = tmp_path / "active.json", tmp_path / "active.md"
    write_active(ActiveResults(()), file, page_file)
    where = ["--results", str(file), "--page-file", str(page_file), "--output-dir", str(tmp_path / "charts")]
    command = ["--protocol", "active", "--photos", str(folder), "--model", "builtin", "--counts", "1", "99",
               "--seeds", "1", "--orders", "random", "active", "active-photo"]  # fmt: skip
    assert main([*command, "--store", "--json", *where]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["set"] == "set"
    assert printed["corrected"] == [0, 1, 3]
    for row in printed["orders"].values():
        assert row["miou"][:2] == printed["orders"]["random"]["miou"][:2], "the same start"
        assert len(row["minutes"]) == len(row["minutes_from_scratch"]) == 3
        assert row["miou"][-1] > row["miou"][0] + 0.2
        assert row["minutes"][0] >= row["minutes_from_scratch"][0], "nothing is predicted yet that saves anything"
        assert row["minutes"] == sorted(row["minutes"])
        assert row["added"] + row["changed"] + row["accepted"] >= 3
    (stored,) = read_active(file).sets
    assert summary([stored.seeds["1"]])["orders"] == printed["orders"]
    assert "### set" in page_file.read_text()
    assert (tmp_path / "charts" / "curves_set.svg").read_text().count("<path") > 3
    assert (tmp_path / "charts" / "minutes_set.svg").read_text().count("<path") > 3
    assert main([*command[:2], "--page", *where[:4]]) == 0
    # What is wrong with a command is told before anything is measured.
    monkeypatch.setattr(active, "measure", lambda task, seed: pytest.fail("measured"))
    assert main([*command, "--counts", "2", "3"]) == 2
    assert "--counts: begin with 2" in capsys.readouterr().err
    assert main([*command, "--jobs", "0"]) == 2
    assert "--jobs" in capsys.readouterr().err
