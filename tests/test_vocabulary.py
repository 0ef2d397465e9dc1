"""Labeling configs -> vocabularies, and the versions that follow from them."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import plugin_config
from plugin_config.errors import LabelingConfigError
from plugin_config.vocabulary import Label, parse_vocabulary

CONFIGS = sorted((Path(plugin_config.__file__).parent / "labeling_configs").glob("*.xml"))


def brush(labels: str, *, image: str = '<Image name="i" value="$image"/>', attributes: str = "") -> str:
    return f'<View>{image}<BrushLabels name="b" toName="i" {attributes}>{labels}</BrushLabels></View>'


def only_label(config: str) -> Label:
    (label,) = parse_vocabulary(config).labels
    return label


@pytest.mark.parametrize(
    ("attributes", "key", "texts"),
    [
        pytest.param('value="Car"', "Car", ("Car",), id="value"),
        pytest.param('value="Car" alias="vehicle/car"', "vehicle/car", ("Car",), id="alias is the key, not the text"),
        pytest.param('value="cat" synonyms="kitten, tom"', "cat", ("cat", "kitten", "tom"), id="synonyms"),
        pytest.param('value="x17" prompt="a rusty bolt"', "x17", ("a rusty bolt",), id="prompt replaces the value"),
        pytest.param('value="c" prompt="car,van , truck"', "c", ("car", "van", "truck"), id="several prompts"),
        pytest.param('value="cat" prompt=" , "', "cat", ("cat",), id="empty prompt"),
        pytest.param('value="cat" prompt="dog" synonyms="pig"', "cat", ("dog",), id="prompt before synonyms"),
        pytest.param('value="cat" hint="a small, furry\n pet."', "cat", ("cat", "cat, a small, furry pet"), id="hint"),
        pytest.param('value="cat" hint=" . " synonyms="cat,tom"', "cat", ("cat", "tom"), id="empty hint, word twice"),
        pytest.param('value="cat" prompt="tom,tom" hint="furry"', "cat", ("tom",), id="prompt before hint"),
        pytest.param('value="猫 &amp; 狗"', "猫 & 狗", ("猫 & 狗",), id="any script"),
    ],
)
def test_words_of_a_label(attributes: str, key: str, texts: tuple[str, ...]) -> None:
    label = only_label(brush(f"<Label {attributes}/>"))
    assert (label.key, label.texts) == (key, texts)


@pytest.mark.parametrize(("kind", "stuff"), [("stuff", True), ("Stuff", True), ("thing", False), ("", False)])
def test_the_kind_says_what_is_stuff(kind: str, stuff: bool) -> None:
    assert only_label(brush(f'<Label value="sky" kind="{kind}"/>')).stuff is stuff


def test_segments_of_no_kind_are_an_error_with_a_remedy() -> None:
    with pytest.raises(LabelingConfigError) as caught:
        parse_vocabulary(brush('<Label value="sky"/>', attributes='segments="instances"'))
    assert "'instances'" in str(caught.value)
    assert "semantic, instance, panoptic" in caught.value.remedy


@pytest.mark.parametrize(
    ("tag", "output"), [("BrushLabels", "brush"), ("PolygonLabels", "polygon"), ("RectangleLabels", "rectangle")]
)
def test_the_control_decides_the_output(tag: str, output: str) -> None:
    label = only_label(
        f'<View><Image name="pic" value="$photo"/><{tag} name="t" toName="pic"><Label value="a"/></{tag}></View>'
    )
    assert (label.output, label.control, label.to_name, label.image_value) == (output, "t", "pic", "$photo")


def test_nested_views_and_several_controls() -> None:
    config = """<View><Header value="hi"/><View style="x"><Image name="i" value="$image"/></View>
      <Choices name="c" toName="i"><Choice value="blurred"/></Choices>
      <View><BrushLabels name="b" toName="i"><Label value="sky"/></BrushLabels>
      <RectangleLabels name="r" toName="i"><Label value="car"/></RectangleLabels></View></View>"""
    labels = parse_vocabulary(config).labels
    assert {(label.control, label.key) for label in labels} == {("b", "sky"), ("r", "car")}


def test_each_image_has_the_labels_of_its_controls() -> None:
    config = """<View><Image name="i" value="$a"/><Image name="j" value="$b"/>
      <BrushLabels name="b" toName="i"><Label value="cat"/></BrushLabels>
      <BrushLabels name="c" toName="j"><Label value="dog"/></BrushLabels></View>"""
    vocabulary = parse_vocabulary(config)
    found = [vocabulary.of_image(image) for image in vocabulary.images]
    assert [(part.image_value, part.words) for part in found] == [("$a", (("cat",),)), ("$b", (("dog",),))]
    assert [part.is_elsewhere("j") for part in found] == [True, False]
    assert vocabulary.words == (("cat",), ("dog",))
    assert vocabulary.remarks == ()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param("", id="empty"),
        pytest.param("   \n", id="blank"),
        pytest.param("cats and dogs", id="prose"),
        pytest.param("<View>", id="not closed"),
        pytest.param("<View/>", id="nothing in it"),
        pytest.param("{}", id="json"),
        pytest.param("\x00", id="zero byte"),
        pytest.param("\ud800", id="half a sign"),
        pytest.param(brush(""), id="no labels"),
        pytest.param(brush("<Label/>"), id="label without value"),
        pytest.param('<View><Image name="i" value="$x"/></View>', id="no control"),
        pytest.param('<View><Text name="i" value="$x"/><Labels name="l" toName="i"><Label value="a"/></Labels></View>',
                     id="labels over text"),
        pytest.param(brush('<Label value="a"/>', image=""), id="no image"),
        pytest.param(brush('<Label value="a"/>', image='<Image name="other" value="$x"/>'), id="points elsewhere"),
        pytest.param('<View><Image name="i" value="$x"/><BrushLabels><Label value="a"/></BrushLabels></View>',
                     id="control without names"),
        pytest.param('<?xml version="1.0"?><!DOCTYPE v [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
                     + brush("<Label>&e;</Label>"), id="external entity"),
    ],
)  # fmt: skip
def test_a_config_without_anything_to_segment_is_an_error_with_a_remedy(config: str) -> None:
    with pytest.raises(LabelingConfigError) as caught:
        parse_vocabulary(config)
    assert "brush.xml" in caught.value.remedy


def test_an_external_entity_does_not_read_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    config = f'<!DOCTYPE v [<!ENTITY e SYSTEM "file://{secret}">]>' + brush('<Label value="&e;"/><Label value="b"/>')
    try:
        found = repr(parse_vocabulary(config))
    except LabelingConfigError as error:
        found = str(error)
    assert "hunter2" not in found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_parses(path: Path) -> None:
    vocabulary = parse_vocabulary(path.read_text())
    assert vocabulary.labels
    assert re.fullmatch(r"[0-9a-f]{8}", vocabulary.hash)


@pytest.mark.parametrize(
    ("config", "version"),
    [
        *zip([path.read_text() for path in CONFIGS], ["34490459", "d41c89cc", "cf88d8b4", "a57f32a1", "3ebd919f",
                                                      "ccfe0e95"], strict=True),
        (brush('<Label value="cat"/>'), "f6872f92"),
        (brush('<Label value="cat"/>', attributes='smart="true"'), "f6872f92"),
        (brush('<Label value="cat" alias="x/y" synonyms="a, b" hint="so."/>'), "b653d165"),
        (brush('<Label value=" cat  dog\n"/>'), "1065d334"),
        (brush('<Label value="cat"/>', image='<Image name="i" value="$фото"/>'), "6c77ceb5"),
        (brush('<Label value="cat"/>', image='<Image name="i" value="$image-url"/>'), "f36b01a2"),
        (brush('<Label value="cat"/>', image='<Image name="i" value="$a.b"/>'), "9e72ed23"),
        (brush('<Label value="cat" kind="stuff"/><Label value="d" segments="instance"/>',
               attributes='segments="semantic"'), "192b4363"),
    ],
)  # fmt: skip
def test_the_hash_is_that_of_earlier_releases(config: str, version: str) -> None:
    """Else every prediction of every project would be made anew, and what was learned would be learned again."""
    assert parse_vocabulary(config).hash == version


@pytest.mark.parametrize("value", ["/image", "/x/$image", "$image/x", "$images", "x$image"])
def test_the_hash_sees_where_the_image_is(value: str) -> None:
    labels = '<Label value="cat"/>'
    assert parse_vocabulary(brush(labels, image=f'<Image name="i" value="{value}"/>')).hash != "f6872f92"


def test_the_hash_ignores_the_order_of_labels() -> None:
    one, other = '<Label value="cat"/>', '<Label value="sky" kind="stuff"/>'
    assert parse_vocabulary(brush(one + other)).hash == parse_vocabulary(brush(other + one)).hash


@pytest.mark.parametrize("attributes", ['background="red"', 'hotkey="1"', 'selected="true"'])
def test_the_hash_ignores_looks(attributes: str) -> None:
    plain, dressed = brush('<Label value="cat"/>'), brush(f'<Label value="cat" {attributes}/>')
    assert parse_vocabulary(plain).hash == parse_vocabulary(dressed).hash


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(brush('<Label value="dog"/>'), id="value"),
        pytest.param(brush('<Label value="cat"/><Label value="dog"/>'), id="new label"),
        pytest.param(brush('<Label value="cat" synonyms="tom"/>'), id="synonym"),
        pytest.param(brush('<Label value="cat" prompt="tom"/>'), id="prompt"),
        pytest.param(brush('<Label value="cat" hint="furry"/>'), id="hint"),
        pytest.param(brush('<Label value="cat" alias="c"/>'), id="alias"),
        pytest.param(brush('<Label value="cat" kind="stuff"/>'), id="stuff"),
        pytest.param(brush('<Label value="cat"/>').replace("BrushLabels", "PolygonLabels"), id="output"),
        pytest.param(brush('<Label value="cat"/>', image='<Image name="i" value="$photo"/>'), id="image key"),
        pytest.param(brush('<Label value="cat"/>').replace('name="b"', 'name="c"'), id="control"),
    ],
)
def test_the_hash_sees_what_changes_predictions(changed: str) -> None:
    assert parse_vocabulary(changed).hash != parse_vocabulary(brush('<Label value="cat"/>')).hash


def many(count: int, attributes: str = "") -> str:
    return "".join(f'<Label value="label {number}" {attributes}/>' for number in range(count))


def test_five_thousand_labels_are_a_project() -> None:
    assert len(parse_vocabulary(brush(many(5000, 'background="#fff" hotkey="a" hint="so"'))).labels) == 5000


def numbered(count: int) -> str:
    return " ".join(f'a{number}=""' for number in range(count))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        pytest.param(brush(many(9), attributes=numbered(300_000)), "1,000,000 characters", id="the attack: 3.5 MB"),
        pytest.param(brush(many(9), attributes=numbered(80_000)), "attributes on one tag", id="many attributes"),
        pytest.param(brush(f"<Label value='a' {numbered(65)}/>"), "attributes on one tag", id="attributes of a label"),
        pytest.param(brush(many(20_000)), "12,000 tags", id="many tags"),
        pytest.param(brush("<View>" * 38 + many(1) + "</View>" * 38), "40 deep", id="deep"),
        pytest.param("<a>" * 100_000, "40 deep", id="very deep"),
        pytest.param(f'<View name="{"n" * 600_000}">{many(11_000)}</View>', "name of more than", id="long name"),
        pytest.param(brush(many(9), attributes=f'segments="{" " * 500_000}"'), "at most 1000", id="long segments"),
        pytest.param(brush(many(9), image=f'<Image name="i" value="${"k" * 5000}"/>'), "at most 1000", id="long key"),
        pytest.param(brush(f'<Label value="{"v" * 1001}"/>'), "1,001 characters; at most 1000", id="long value"),
        pytest.param(brush(f'<Label value="v" alias="{"v" * 1001}"/>'), "at most 1000", id="long alias"),
        pytest.param(brush(f'<Label value="v" hint="{"v " * 600}"/>'), "at most 1000", id="long hint"),
        pytest.param(brush(f'<Label value="v" synonyms="{"a," * 9}{"v" * 1001}"/>'), "at most 1000", id="long synonym"),
        pytest.param(
            brush(f'<Label value="v" synonyms="{",".join(map(str, range(100_000)))}"/>'), "100,001 texts",
            id="many synonyms",
        ),
        pytest.param(brush(f'<Label value="v" prompt="{",".join(map(str, range(65)))}"/>'), "65 texts", id="prompts"),
        pytest.param(brush(many(7000, 'synonyms="a,b"')), "20,000 labels, synonyms", id="many texts in all"),
        pytest.param("<!DOCTYPE View>" + brush(many(1)), "DOCTYPE", id="a DTD"),
        pytest.param('<!DOCTYPE v [<!ENTITY a "aaaa">]>' + brush(many(1)), "DOCTYPE", id="an entity"),
    ],
)  # fmt: skip
def test_a_config_that_would_take_long_is_refused_at_once(config: str, problem: str) -> None:
    started = time.process_time()
    with pytest.raises(LabelingConfigError, match=problem) as caught:
        parse_vocabulary(config)
    assert time.process_time() - started < 8
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(brush(many(11_000), attributes=numbered(60)), id="labels"),
        pytest.param(brush(f"<View {numbered(64)}>" * 36 + many(11_000) + "</View>" * 36), id="labels far inside"),
        pytest.param(brush("".join(f'<Label value="{i}" {numbered(63)}/>' for i in range(2000))), id="dressed labels"),
        pytest.param(
            brush("".join(f'<BrushLabels name="{i}" toName="i"><Label value="a"/></BrushLabels>' for i in range(5900))),
            id="controls",
        ),
        pytest.param(brush(many(11_000)).replace('toName="i"', f'toName="{"i," * 200_000}"'), id="long toName"),
        pytest.param(brush("<!-- {" + "[" * 900_000 + "} -->" + many(1)), id="deep JSON in a comment"),
        pytest.param(brush("<!---->" * 130_000 + many(1)), id="comments"),
    ],
)  # fmt: skip
def test_the_worst_that_passes_is_read_quickly(config: str) -> None:
    """About half a second at most on a slow core; the square of any of these would be minutes."""
    started = time.process_time()
    vocabulary = parse_vocabulary(config)
    assert vocabulary.hash
    assert vocabulary.words
    assert time.process_time() - started < 20
