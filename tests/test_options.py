"""Options in a labeling config: read from label and control, told where they are wrong, and one table of them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plugin_config.errors import LabelingConfigError
from plugin_config.options import OPTIONS, options_table
from plugin_config.vocabulary import Label, parse_vocabulary

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "controls.md"


def view(label: str, control: str = "") -> str:
    more = '<Label value="sky"/>'
    return (
        f'<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i" {control}><Label value="cat" {label}/>'
        f"{more}</BrushLabels></View>"
    )


def cat(label: str, control: str = "") -> Label:
    return parse_vocabulary(view(label, control)).labels[0]


PLAIN = parse_vocabulary(view("")).hash


@pytest.mark.parametrize(
    ("label", "control", "expected"),
    [
        pytest.param('model_score_threshold="0.4"', "", {"least_score": 0.4}, id="threshold"),
        pytest.param("", 'model_score_threshold="0.4"', {"least_score": 0.4}, id="threshold of the control"),
        pytest.param('model_score_threshold="0"', 'model_score_threshold="1"', {"least_score": 0.0}, id="label wins"),
        pytest.param('min_area="400"', "", {"least_pixels": 400, "least_share": 0}, id="pixels"),
        pytest.param('min_area=" 400 px "', "", {"least_pixels": 400}, id="pixels by name"),
        pytest.param("", 'min_area="0.5%"', {"least_share": 0.005, "least_pixels": 0}, id="percent"),
        pytest.param('MIN_AREA="2 %"', 'min_area="400"', {"least_share": 0.02, "least_pixels": 0}, id="any case"),
        pytest.param('negative="dog, fox ,dog"', "", {"negatives": ("dog", "fox")}, id="negative words"),
        pytest.param("", 'negative="dog"', {"negatives": ("dog",)}, id="negative words of the control"),
        pytest.param('model_skip="true"', "", {"skip": True, "draws": False}, id="skip"),
        pytest.param('skip="TRUE"', "", {"skip": True, "draws": False}, id="skip by its other name"),
        pytest.param('model_skip="false"', 'model_skip="true"', {"skip": False, "draws": True}, id="not skipped"),
        pytest.param('segments="semantic"', "", {"stuff": True}, id="segments"),
        pytest.param('kind="stuff"', "", {"stuff": True}, id="kind"),
        pytest.param('synonyms="tom"', "", {"texts": ("cat", "tom")}, id="synonyms"),
        pytest.param('prompt="tom"', "", {"texts": ("tom",)}, id="prompt"),
        pytest.param('hint="furry."', "", {"texts": ("cat", "cat, furry")}, id="hint"),
    ],
)
def test_an_option_is_read_and_changes_the_version(label: str, control: str, expected: dict[str, Any]) -> None:
    found = cat(label, control)
    assert {name: getattr(found, name) for name in expected} == expected
    assert parse_vocabulary(view(label, control)).hash != PLAIN


@pytest.mark.parametrize(
    "attributes",
    ['model_score_threshold=""', 'min_area="0"', 'min_area="0%"', 'negative=" , "', 'model_skip="false"', 'skip=""',
     'segments="panoptic"', 'kind="thing"', 'synonyms="cat"', 'background="red"'],
)  # fmt: skip
def test_what_changes_no_prediction_keeps_the_version(attributes: str) -> None:
    assert parse_vocabulary(view(attributes)).hash == PLAIN
    assert parse_vocabulary(view("", attributes)).hash == PLAIN


@pytest.mark.parametrize("place", ["label", "control"])
@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        pytest.param("model_score_threshold", "high", "a number from 0 to 1", id="threshold: a word"),
        pytest.param("model_score_threshold", "40", "a number from 0 to 1", id="threshold: percent"),
        pytest.param("model_score_threshold", "nan", "a number from 0 to 1", id="threshold: none"),
        pytest.param("min_area", "-4", "pixels of the image", id="area: negative"),
        pytest.param("min_area", "101%", "pixels of the image", id="area: more than all"),
        pytest.param("min_area", "1.2.3", "pixels of the image", id="area: no number"),
        pytest.param("model_skip", "maybe", "true, false", id="skip"),
        pytest.param("skip", "1", "true, false", id="skip by its other name"),
        pytest.param("segments", "instances", "semantic, instance, panoptic", id="segments"),
    ],
)
def test_a_wrong_value_is_told_with_the_control_and_what_is_allowed(
    place: str, name: str, value: str, allowed: str
) -> None:
    attributes = f'{name}="{value}"'
    with pytest.raises(LabelingConfigError) as caught:
        parse_vocabulary(view(attributes) if place == "label" else view('segments="instance"', attributes))
    assert caught.value.subject == "BrushLabels 'b'"
    assert f"{name}={value!r}" in caught.value.problem
    assert ("label 'cat'" in caught.value.problem) is (place == "label")
    assert allowed in caught.value.remedy


def test_a_kind_of_no_kind_counts_as_a_thing_as_ever_and_is_told() -> None:
    vocabulary = parse_vocabulary(view('kind="stuf"'))
    assert vocabulary.hash == PLAIN
    (remark,) = vocabulary.remarks
    assert "BrushLabels 'b': label 'cat' has kind='stuf', which counts as thing. Write thing, stuff" in remark


def test_a_label_for_annotators_alone_is_drawn_by_another_control_that_has_it() -> None:
    box = '<RectangleLabels name="r" toName="i"><Label value="cat"/></RectangleLabels></View>'
    vocabulary = parse_vocabulary(view('model_skip="true"').replace("</View>", box))
    drawn = [(label.control, label.key) for label in vocabulary.drawn]
    assert sorted(drawn) == [("b", "sky"), ("r", "cat")]
    assert vocabulary.words == (("cat",), ("sky",))


def test_a_labels_control_is_drawn_by_the_shape_it_names() -> None:
    config = """<View><Image name="i" value="$image"/><Labels name="l" toName="i" {}><Label value="cat"/></Labels>
      <Brush name="x" toName="i"/><Rectangle name="y" toName="i"/></View>"""
    outputs = {name: parse_vocabulary(config.format(name)).labels[0].output for name in ("", 'output="rectangle"')}
    assert list(outputs.values()) == ["brush", "rectangle"]
    with pytest.raises(LabelingConfigError, match=r"Labels 'l': has output='polygon', .*Write brush, rectangle"):
        parse_vocabulary(config.format('output="polygon"'))


@pytest.mark.parametrize("value", ["polygon", "mask"])
def test_a_control_of_one_kind_draws_no_other(value: str) -> None:
    assert parse_vocabulary(view("", 'output="brush"')).hash == PLAIN
    with pytest.raises(LabelingConfigError, match=f"BrushLabels 'b': has output='{value}'"):
        parse_vocabulary(view("", f'output="{value}"'))


def test_choices_for_annotators_alone_are_not_answered() -> None:
    choices = '<Choices name="q" toName="i" model_skip="true"><Choice value="day"/></Choices></View>'
    assert parse_vocabulary(view("").replace("</View>", choices)).choices == ()


def test_every_option_has_a_name_of_its_own() -> None:
    names = [name for option in OPTIONS for name in (option.name, *option.other_names)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names), "attributes are read in lower case"


def test_the_documentation_has_the_table_of_the_code() -> None:
    assert options_table() in PAGE.read_text(), f"write this into {PAGE}:\n{options_table()}"
