"""`zeromask segment` as a process, and what it writes."""

from __future__ import annotations

import colorsys
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from worker.label_studio.regions import decode_region
from worker.overlay import Painting, draw_overlay, draw_sheet, label_colour
from worker.segment import main as segment
from worker.segment import output_stems, vocabulary_of

ROOT = Path(__file__).resolve().parent.parent
WORDS = "red striped shape,green dotted shape"
SIZE = (240, 180)

Odd = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two drawn pictures of the same name in two folders."""
    folder = tmp_path_factory.mktemp("pictures")
    done = run("worker.lab.drawn_world.draw", "--output-dir", str(folder), "--pictures", "2", "--labels", WORDS,
               "--size", *map(str, SIZE))  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = sorted((folder / "images").glob("*.png"))
    for index, path in enumerate(found):
        (folder / f"set{index}").mkdir()
        path.rename(folder / f"set{index}" / "scene.png")
    return sorted(folder.glob("set*/scene.png"))


def run(module: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "MODEL": "builtin", "ZEROMASK_DEVICE": "cpu", "OMP_NUM_THREADS": "1", **environ}
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryDirectory() as state:
        env.setdefault("ZEROMASK_STATE_DIR", state)
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)


def report(done: subprocess.CompletedProcess[str]) -> Any:
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    return json.loads(lines[0])


CONFIG = """<View><Image name="page" valueList="$pages"/><Image name="other" value="$other"/>
  <RectangleLabels name="box" toName="page,other"><Label value="red striped shape" alias="red"/></RectangleLabels>
  <PolygonLabels name="ring" toName="page" value="$labels"/><TextArea name="note" toName="page"/></View>"""


def test_a_folder_is_segmented_by_a_labeling_config(pictures: list[Path], tmp_path: Path) -> None:
    """The regions are valid for the config, and what of it is not filled is told."""
    config = tmp_path / "config.xml"
    choices = '<Choice value="red striped shape"/><Choice value="x" prompt="yellow grass"/>'
    written = CONFIG.replace("</View>", f'<Choices name="q" toName="page" perItem="true">{choices}</Choices></View>')
    config.write_text(written)
    done = run("worker.segment", str(pictures[0].parent), "--config", str(config), "--labels", "green dotted shape",
               "--output-dir", str(tmp_path / "out"), "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = report(done)
    assert printed["labels"] == ["red", "green dotted shape"]
    assert [remark.partition(":")[0] for remark in printed["remarks"]] == ["TextArea 'note'"]
    assert "TextArea 'note': is left to annotators" in " ".join(done.stderr.split())
    (row,) = printed["images"]
    result = json.loads(Path(row["regions_file"]).read_text())["result"]
    assert {(region["from_name"], region["to_name"], region["item_index"]) for region in result} == {
        ("box", "page", 0), ("ring", "page", 0), ("q", "page", 0),
    }  # fmt: skip
    assert row["choices"] == {"q": ["red striped shape"]}
    assert row["regions"] == len(result) - 1
    assert LabelInterface(written).validate_prediction({"result": result, "score": 0.5}, return_errors=True) == []


@pytest.mark.parametrize(
    ("more", "told"),
    [
        pytest.param([], "leaves its labels to each task. Name some: --labels", id="labels of tasks"),
        pytest.param(["--config", "none.xml"], "none.xml", id="no such file"),
    ],
)
def test_a_config_that_cannot_be_used_is_told(
    more: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.xml"
    config.write_text(CONFIG.replace('alias="red"/>', "/>").replace('<Label value="red striped shape" />', ""))
    assert segment([str(tmp_path / "a.png"), "--config", str(config), "--model", "builtin", *more]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_labels_of_which_no_word_is_known_end_it_with_a_message(
    pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output-dir", str(tmp_path / "out"), "--model", "builtin", "--json"]
    assert segment([str(pictures[0]), "--labels", "zeppelin,wug", *out]) == 2
    told = capsys.readouterr()
    assert "model builtin knows none of their words" in " ".join(told.err.split())
    assert told.out == ""
    assert segment([str(pictures[0]), "--labels", "zeppelin,red star", *out]) == 0


def test_every_image_gets_an_overlay_and_its_regions(pictures: list[Path], tmp_path: Path) -> None:
    """Also those of one name; one that is no picture costs the others nothing; unknown words are named."""
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    labels = f"{WORDS},red zeppelin"
    done = run("worker.segment", str(pictures[0]), str(bad), str(pictures[1]), "--labels", labels,
               "--output-dir", str(tmp_path / "out"), "--json")  # fmt: skip
    assert done.returncode == 1, done.stderr
    printed = report(done)
    assert (printed["model"], printed["labels"]) == ("builtin", labels.split(","))
    first, failed, second = printed["images"]
    assert "error" in failed
    assert str(bad) in re.sub(r"\s", "", done.stderr)
    remark = "label 'red zeppelin': model builtin does not know 'zeppelin'; only the other words are used"
    assert remark in " ".join(done.stderr.split())
    for row, path in ((first, pictures[0]), (second, pictures[1])):
        assert row["image"] == str(path)
        stored = json.loads(Path(row["regions_file"]).read_text())
        assert stored["image"] == str(path)
        assert len(stored["result"]) == row["regions"]
        with Image.open(row["overlay"]) as overlay:
            assert overlay.width >= SIZE[0]
            assert overlay.height >= SIZE[1]
        for region in stored["result"]:
            assert (region["original_width"], region["original_height"]) == SIZE
            assert decode_region(region, width=SIZE[0], height=SIZE[1]).any()
    files = {first["overlay"], second["overlay"], first["regions_file"], second["regions_file"]}
    assert {str(path) for path in (tmp_path / "out").iterdir()} == files
    assert len(files) == 4


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The environment of a call in this very process, which spares the seconds that torch takes to load."""
    monkeypatch.setenv("ZEROMASK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MODEL", "builtin")
    monkeypatch.setenv("ZEROMASK_DEVICE", "cpu")
    return monkeypatch


def test_plain_output_is_a_line_per_image(
    pictures: list[Path], tmp_path: Path, here: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--labels", WORDS, "--output", "polygon", "--output-dir", str(tmp_path / "out")]
    assert segment([str(pictures[0]), *options]) == 0
    assert len(list((tmp_path / "state" / "texts").iterdir())) == 1
    counts = r"\d+ red striped shape, \d+ green dotted shape"
    assert re.fullmatch(rf"{re.escape(str(pictures[0]))}: {counts} -> .*\n", capsys.readouterr().out)


@pytest.fixture(scope="module")
def odd(pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Odd:
    """The folder and the process of one run: three files whose names are not UTF-8, one of them no picture, and one
    that is transparent all over.
    """
    folder = tmp_path_factory.mktemp("odd")
    files = [folder / os.fsdecode(name) for name in (b"bad\xff.png", b"bad\xfe.png", b"no picture\xfd.png")]
    for file in files[:2]:
        file.write_bytes(pictures[0].read_bytes())
    files[2].write_text("no picture")
    hidden = Image.open(pictures[0]).convert("RGBA")
    hidden.putalpha(0)
    hidden.save(folder / "hidden.png")
    out = folder / os.fsdecode(b"out\xfc")
    return folder, run("worker.segment", *map(str, files), str(folder / "hidden.png"), "--labels", f"{WORDS},circle",
                       "--output-dir", str(out), "--json", PYTHONIOENCODING="utf-8:strict")  # fmt: skip


def test_what_is_transparent_all_over_has_no_masks(odd: Odd) -> None:
    """What lies under the transparent pixels is not what anybody sees."""
    some, _, _, none = report(odd[1])["images"]
    assert none["regions"] == 0
    assert some["regions"] > 0


def test_names_that_are_no_text_are_printed_with_their_bytes_replaced(odd: Odd) -> None:
    folder, done = odd
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no picture\ufffd.png" in done.stderr.replace("\n", "")
    first, second, failed, _ = report(done)["images"]
    assert [first["image"], second["image"]] == [str(folder / "bad\ufffd.png")] * 2
    assert second["overlay"] == f"{folder}/out\ufffd/bad\ufffd_2_overlay.png"
    stored = folder / os.fsdecode(b"out\xfc")
    assert (stored / "bad\ufffd_2_overlay.png").is_file()
    assert json.loads((stored / "bad\ufffd_regions.json").read_text())["image"] == first["image"]
    assert "no picture\ufffd.png" in failed["error"]


def test_names_with_line_ends_and_commands_of_terminals_are_printed_on_a_line(
    pictures: list[Path], tmp_path: Path, here: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, none = tmp_path / "a\nb\x1b[31m.png", tmp_path / "no\r\x9bpicture.png"
    picture.write_bytes(pictures[0].read_bytes())
    none.write_text("no picture")
    assert segment([str(picture), str(none), "--labels", WORDS, "--output-dir", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    assert line.startswith(f"{tmp_path}/a\ufffdb\ufffd[31m.png: ")
    assert "no\ufffd\ufffdpicture.png" in printed.err.replace("\n", "")
    assert (tmp_path / "out" / "a\nb\x1b[31m_overlay.png").is_file()


@pytest.mark.parametrize(("encoding", "shown"), [("ascii:strict", b"bad?\n"), ("utf-8:strict", b"bad?\n")])
def test_every_command_prints_what_its_terminal_cannot_show(encoding: str, shown: bytes) -> None:
    code = "import sys; from plugin_config.closed_output import run_command as run; run(lambda: print(sys.argv[1]))"
    command = [sys.executable, "-c", code, os.fsdecode(b"bad\xff")]
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    assert subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=60, check=True).stdout == shown


def test_stuff_is_one_region_however_many_parts_it_has() -> None:
    vocabulary = vocabulary_of(["star", "grass"], "polygon", ["grass", "water"])
    assert [(label.key, label.stuff) for label in vocabulary.labels] == [
        ("star", False), ("grass", True), ("water", True),
    ]  # fmt: skip
    assert {label.output for label in vocabulary.labels} == {"polygon"}


def test_a_folder_that_cannot_be_written_is_an_error(
    pictures: list[Path], tmp_path: Path, here: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scene_overlay.png").mkdir()  # in the way
    assert segment([str(pictures[0]), "--labels", WORDS, "--output-dir", str(tmp_path / "out")]) == 1
    assert "scene_overlay.png" in re.sub(r"\s", "", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        pytest.param(["--labels", "cat", "--model", "nonsense"], {}, "no architecture 'nonsense'", id="model"),
        pytest.param(["--labels", " , "], {}, 'Name them: --labels "cat,grass"', id="labels"),
        pytest.param(["--labels", "cat"], {"ZEROMASK_SHORT_SIDE": "x"}, "ZEROMASK_SHORT_SIDE", id="setting"),
        pytest.param(["--labels", "cat"], {"ZEROMASK_DEVICE": "abacus"}, "no device named 'abacus'", id="device"),
        pytest.param([], {}, "--labels", id="usage"),
    ],
)
def test_what_cannot_start_ends_with_2_and_a_reason(
    arguments: list[str],
    environ: dict[str, str],
    message: str,
    tmp_path: Path,
    here: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environ.items():
        here.setenv(name, value)
    try:
        status = segment(["a.png", "--output-dir", str(tmp_path / "out"), *arguments])
    except SystemExit as leaving:  # argparse
        status = int(str(leaving.code))
    assert status == 2
    said = capsys.readouterr()
    assert message in " ".join(said.err.split())
    assert said.out == ""


def test_a_closed_pipe_ends_it_quietly(pictures: list[Path], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    argv = [str(pictures[0]), "--labels", WORDS, "--output-dir", str(tmp_path), "--json"]
    env = {**os.environ, "MODEL": "builtin", "ZEROMASK_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "plugin_config.cli", "segment", *argv], cwd=ROOT, env=env,
                          stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False)  # fmt: skip
    os.close(write)
    assert done.returncode == 1
    assert not {"Traceback", "Error", "Exception"} & set(re.findall(r"[A-Z][a-z]+", done.stderr))
    assert (tmp_path / "scene_overlay.png").exists()


@pytest.mark.parametrize(
    ("images", "stems"),
    [
        (["a/cat.png", "b/cat.png", "cat.jpg"], ["cat", "cat_2", "cat_3"]),
        (["cat_2.png", "cat.png", "b/cat.png"], ["cat_2", "cat", "cat_3"]),
        (["cat.png", "cat.png"], ["cat", "cat_2"]),
        ([f"{'a' * 250}.png", f"{'a' * 251}.png"], ["a" * 230, f"{'a' * 230}_2"]),
        ([f"{'鳥' * 83}.png"], ["鳥" * 76]),
    ],
)
def test_no_two_images_share_an_output(images: list[str], stems: list[str]) -> None:
    assert output_stems([Path(image) for image in images], Path("out")) == [Path("out") / stem for stem in stems]


def grey(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), 120, dtype=np.uint8)


def square(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[10:40, 10:40] = True
    return mask


def test_an_overlay_hides_no_pixel_and_tints_the_mask_alone() -> None:
    overlay = np.asarray(draw_overlay(grey(200, 300), [("cat", square(200, 300))]))
    assert overlay.shape[1:] == (300, 3)
    tint = [round((120 + value) / 2) for value in label_colour(0)]
    assert np.abs(overlay[25, 25].astype(int) - tint).max() <= 1
    outside = overlay[:200][~square(200, 300)]
    assert (outside == 120).mean() > 0.95  # all but the outline
    assert (overlay[200:] == label_colour(0)).all(axis=-1).sum() >= 100  # its swatch


def hue(colour: Sequence[int]) -> float:
    """In degrees."""
    return 360 * colorsys.rgb_to_hsv(*(value / 255 for value in colour))[0]


@pytest.mark.parametrize("colour", [(20, 200, 40), (20, 40, 200), (230, 159, 0)], ids=str)
def test_a_mask_looks_like_its_label_and_shows_on_things_of_any_colour(colour: tuple[int, int, int]) -> None:
    image = np.full((200, 300, 3), colour, dtype=np.uint8)
    overlay = np.asarray(draw_overlay(image, [("cat", square(200, 300))])).astype(int)
    assert abs(hue(overlay[25, 25]) - hue(label_colour(0))) < 15, "a blue sky below an orange tint is not violet"
    assert (overlay[9, 15:35] == 255).all(), "a white border outside of the outline"
    assert (overlay[10, 15:35] == label_colour(0)).all()
    assert (overlay[8, 15:35] == colour).all()


def test_nothing_found_is_the_picture_itself() -> None:
    assert np.array_equal(np.asarray(draw_overlay(grey(50, 70), [])), grey(50, 70))


def test_a_sheet_has_one_legend_and_one_colour_per_label() -> None:
    names = ["cat", "grass", "sky"]
    paintings = [Painting(grey(200, 300), [(name, square(200, 300))]) for name in ("sky", "cat")]
    paintings += [Painting(grey(100, 300), []), Painting(grey(200, 300), [("sky", square(200, 300))])]
    sheet = np.asarray(draw_sheet(paintings, names))
    assert sheet.shape[1] == 900
    assert 400 < sheet.shape[0] < 480
    assert np.array_equal(sheet[25, 25], sheet[225, 25])  # sky, both times
    assert not np.array_equal(sheet[25, 25], sheet[25, 325])
    swatches = [int((sheet[400:] == label_colour(index)).all(axis=-1).sum()) for index in range(3)]
    assert min(swatches) > 100
    assert max(swatches) - min(swatches) < 5
    apart = np.asarray(draw_sheet(paintings, names, columns=2, titles=("left", "right"), gap=20))
    assert apart.shape[1] == 620
    assert (apart[100:300, 300:320] == 255).all(), "white between the columns"
    assert (apart[100:200, [299, 320]] != 255).all()


@pytest.mark.parametrize("size", [(8, 8), (40, 1000), (1000, 40)], ids=str)
def test_any_size_and_many_long_names_are_painted(size: tuple[int, int]) -> None:
    names = [f"a rather long name of a label, number {index}, " * 3 for index in range(30)]
    sheet = draw_overlay(grey(*size), [(name, np.ones(size, dtype=np.bool_)) for name in names])
    assert sheet.width >= size[1]
    assert sheet.height > size[0]


def test_a_hundred_labels_have_a_hundred_colours() -> None:
    assert len({label_colour(index) for index in range(100)}) == 100
