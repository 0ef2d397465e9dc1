"""Choices about an image as a whole: what is there is chosen, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface
from numpy.typing import NDArray

from plugin_config.control_tags import OUTPUT_KINDS, controls_table
from plugin_config.vocabulary import Choice, Choices, Vocabulary, parse_vocabulary
from worker.lab.evaluation.panoptic_scenes import STUFF_FROM, panoptic_scene
from worker.label_studio.results import encode_answers
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.image_choices import answer_choices
from worker.segmentation.segmenter import CHOICE_SCORE, Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "controls.md"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu"))


def question(*words: str, multiple: bool = True) -> Choices:
    return Choices("q", "image", "$image", multiple, tuple(Choice(word, (word,)) for word in words))


@pytest.mark.parametrize(
    ("scores", "several", "one"),
    [
        pytest.param({"a": 0.9, "b": 0.2, "c": 0.6}, ("a", "c"), "a", id="what is there, and the surest"),
        pytest.param({"c": 0.7}, ("c",), "c", id="what is not found is not there"),
        pytest.param({"a": 0.2}, None, None, id="nothing"),
        pytest.param({}, None, None, id="nothing found"),
    ],
)
def test_what_is_there_is_chosen(scores: dict[str, float], several: tuple[str, ...] | None, one: str | None) -> None:
    by_texts: dict[tuple[str, ...], float] = {(word,): score for word, score in scores.items()}
    found = [answer_choices(question("a", "b", "c", multiple=multiple), by_texts, least_score=0.5)
             for multiple in (True, False)]  # fmt: skip
    assert [answer and answer.keys for answer in found] == [several, (one,) if one else None]
    if several and one and found[0] and found[1]:
        assert found[0].score == min(scores[key] for key in several)
        assert found[1].score == scores[one]


def red_square() -> NDArray[np.uint8]:
    image = np.full((144, 192, 3), 128, dtype=np.uint8)
    image[40:100, 60:120] = (215, 40, 40)
    return image


CONFIG = """<View><Image name="image" value="$image"/>{labels}
  <Choices name="all" toName="image" choice="multiple"><Choice value="red shape" alias="red"/>
    <Choice value="blue shape"/><Choice value="green shape"/></Choices>
  <Choices name="one" toName="image"><Choice value="blue shape"/><Choice value="x" prompt="red shape"/></Choices>
  <Choices name="none" toName="image"><Choice value="blue shape"/><Choice value="wug"/></Choices></View>"""
LABELS = '<BrushLabels name="b" toName="image"><Label value="{}"/></BrushLabels>'


@pytest.mark.parametrize("labels", ["", LABELS.format("red shape"), LABELS.format("grass")],
                         ids=["alone", "beside a label of a choice", "beside another label"])  # fmt: skip
def test_an_image_is_answered_about(segmenter: Segmenter, labels: str) -> None:
    config = CONFIG.format(labels=labels)
    vocabulary, image = parse_vocabulary(config), red_square()
    classes = segmenter.read_words(vocabulary)
    found = segmenter.segment(segmenter.embed([image])[0], vocabulary, image, classes=classes)
    result = encode_answers(found.answers)
    assert {row["from_name"]: row["value"]["choices"] for row in result} == {"all": ["red"], "one": ["x"]}
    assert all(CHOICE_SCORE <= row["score"] <= 1 for row in result)
    prediction = {"result": result, "score": found.score, "model_version": "v"}
    assert LabelInterface(config).validate_prediction(prediction, return_errors=True) == []
    assert 0 < found.score <= 1
    assert any("never chosen" in remark and "'wug'" in remark for remark in segmenter.remarks(vocabulary))
    if labels:
        alone = Vocabulary(vocabulary.labels)
        same = segmenter.segment(segmenter.embed([image])[0], alone, image)
        assert [segment.score for segment in same.segments] == [segment.score for segment in found.segments]


def test_a_picture_of_one_colour_shows_nothing(segmenter: Segmenter) -> None:
    image = np.full((96, 96, 3), (215, 40, 40), dtype=np.uint8)
    vocabulary = Vocabulary((), choices=(question("red shape", "blue shape"),))
    found = segmenter.segment(segmenter.embed([image])[0], vocabulary, image)
    assert (found.answers, found.segments, found.score) == ((), (), 0.0)


def test_a_choice_that_is_a_label_is_there_where_its_region_is(segmenter: Segmenter) -> None:
    """Also where the region is left out for its size."""
    image = red_square()
    labels = '<BrushLabels name="b" toName="image"><Label value="red shape" min_area="90%"/></BrushLabels>'
    vocabulary = parse_vocabulary(CONFIG.format(labels=labels))
    found = segmenter.segment(segmenter.embed([image])[0], vocabulary, image)
    assert found.segments == ()
    assert found.answers == ()


def test_presence_is_told_right_in_drawn_scenes(segmenter: Segmenter) -> None:
    right, there, chosen = [], [], []
    for number in range(0, 12, 2):  # scenes labelled by colour
        drawn = panoptic_scene(11, number)
        labels = drawn.labels[:STUFF_FROM]
        shown = {labels[segment.index] for segment in drawn.truth if segment.index < STUFF_FROM}
        image = drawn.scene.image
        vocabulary = Vocabulary((), choices=(question(*labels), question(*labels, multiple=False)))
        answers = segmenter.segment(segmenter.embed([image])[0], vocabulary, image).answers
        several = set(answers[0].keys) if answers else set()
        right += [(label in several) == (label in shown) for label in labels]
        there += [label in several for label in shown]
        chosen.append(bool(answers) and answers[1].keys[0] in shown)
    assert np.mean(right) >= 0.9
    assert np.mean(there) >= 0.8
    assert np.mean(chosen) >= 0.8


def test_the_page_is_what_the_code_says() -> None:
    page = PAGE.read_text()
    assert controls_table() in page, f"write this into {PAGE}:\n{controls_table()}"
    assert " before ".join(f"`{tag}`" for tag in OUTPUT_KINDS) in page
    assert f"probability of {CHOICE_SCORE:g} or more" in page
