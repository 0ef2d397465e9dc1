"""Labeling configs as Label Studio's editor reads them: which control draws, what is told, what is refused."""

from __future__ import annotations

import pytest

from plugin_config.errors import LabelingConfigError
from plugin_config.vocabulary import Choice, Vocabulary, parse_vocabulary
from tests.backend_client import (
    Client,
    answer_of,
    client_fixture,
    client_of_fixture,
    detail,
    patient_fixture,
    setup_body,
)

__all__ = ["client_fixture", "client_of_fixture", "patient_fixture"]  # pytest finds fixtures by their being here

IMAGE = '<Image name="i" value="$image"/>'
CAT = '<Label value="cat"/>'
CHOICES = '<Choices name="q" toName="i"><Choice value="cat"/><Choice value="dog" alias="d" hint="barks"/></Choices>'
PAIR = '<Label value="cat"/><Label value="dog"/>'


def view(*tags: str, image: str = IMAGE) -> str:
    return f"<View>{image}{''.join(tags)}</View>"


def control(tag: str, labels: str = CAT, *, name: str = "", more: str = "") -> str:
    return f'<{tag} name="{name or tag[0].lower()}" toName="i" {more}>{labels}</{tag}>'


def brush(labels: str = CAT, *, more: str = "") -> str:
    return control("BrushLabels", labels, more=more)


def shown(vocabulary: Vocabulary) -> list[tuple[str, str, bool]]:
    return [(label.control, label.key, label.draws) for label in vocabulary.labels]


def drawing(config: str) -> list[tuple[str, str]]:
    return [(label.control, label.key) for label in parse_vocabulary(config).drawn]


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            '<View><image name="i" value="$image"/><brushlabels name="b" toName="i"><label value="cat"/></brushlabels>'
            "</View>",
            id="lower-case tags",
        ),
        pytest.param(view(brush()).upper().replace("CAT", "cat").replace("$IMAGE", "$image").replace('"I"', '"i"')
                     .replace('"B"', '"b"'), id="all in capitals"),
        pytest.param(view(brush().replace("toName", "toname")), id="attribute in lower case"),
        pytest.param(view(brush().replace("value", "VALUE")), id="value in capitals"),
        pytest.param(view(brush().replace("name=", 'NAME="x" name=')), id="of two names the later one"),
        pytest.param(f"<Collapse><Panel>{IMAGE}{brush()}</Panel></Collapse>", id="root is no View"),
        pytest.param(view(brush(f"<!-- <Label value='no'/> -->{CAT}<?a b?>")), id="comment and instruction"),
        pytest.param(view(brush("<![CDATA[ <Label value='no'/> ]]>" + CAT)), id="CDATA"),
        pytest.param(view(brush(f'<View><Header value="$x"/><View name="v">{CAT}</View></View>')), id="nested label"),
        pytest.param(view(brush(), image=f'<View visibleWhen="choice-selected" whenTagName="q">{IMAGE}</View>'),
                     id="image shown sometimes"),
        pytest.param(view(brush("<Label>cat</Label>")), id="label as text"),
        pytest.param(view(brush('<Label value="dog"> cat\n</Label>')), id="text before value"),
        pytest.param(view(brush('<Label value="cat"> \n </Label>')), id="blank text"),
        pytest.param(view(brush(), image='<Image name="i">$image</Image>'), id="image value as text"),
        pytest.param(view(brush().replace(' toName="i"', "")), id="no toName, one image"),
        pytest.param(view(brush().replace(' toName="i"', ""), '<Text name="t" value="$t"/>'), id="no toName, a text"),
        pytest.param(view(brush().replace('toName="i"', 'toName="t,i"'), '<Text name="t" value="$t"/>'),
                     id="several in toName"),
        pytest.param(f'<View xmlns="http://a.example">{IMAGE}{brush()}</View>', id="default namespace"),
        pytest.param(view("<Style>.a { color: red }</Style><h1>hi</h1>", brush()), id="style and HTML"),
        pytest.param(view('<HyperText name="h"><BrushLabels name="q" toName="i"/></HyperText>', brush()), id="a text"),
        pytest.param(f'<?xml version="1.0" encoding="latin-1"?>{view(brush())}', id="declared encoding"),
        pytest.param(f"\ufeff{view(brush())}", id="byte order mark"),
        pytest.param(view(brush('<Label value="cat" granularity="word" xyz="1"/>', more='abc="d"')), id="unknown"),
        pytest.param(view(brush('<Label value="cat" predicted_values="car,truck"/>')), id="predicted values"),
        pytest.param(view(brush(), image='<Image name="i" value="$image" valueType="url" resolver="a"/>'), id="type"),
    ],
)  # fmt: skip
def test_what_the_editor_takes_is_read_like_the_plain_config(config: str) -> None:
    assert parse_vocabulary(config) == parse_vocabulary(view(brush()))
    assert parse_vocabulary(config).remarks == ()


@pytest.mark.parametrize(
    ("labels", "keys", "remark"),
    [
        pytest.param(f'<Label value="" background="green"/>{PAIR}', ["cat", "dog"], "1 left out", id="empty value"),
        pytest.param(f'<Label value="  "/>{CAT}', ["cat"], "1 left out", id="blank value"),
        pytest.param(f'<Label hint="a furry pet"/>{CAT}', ["cat"], "without a value", id="a hint alone"),
        pytest.param(f'<Label prompt="x"/>{CAT}', ["cat"], "without a value", id="a prompt alone"),
        pytest.param('<Label value="" alias="cat"/>', ["cat"], "", id="an alias alone is the word"),
        pytest.param(f'<Label value="$name"/>{CAT}', ["cat"], "'$name'", id="its words differ by task"),
        pytest.param('<Label value="$name" prompt="cat"/>', ["$name"], "", id="with a prompt they do not"),
        pytest.param('<Label value="US$"/>', ["US$"], "", id="a dollar is no variable"),
        pytest.param('<Label value=" cat "/>', [" cat "], "", id="regions carry white space"),
        pytest.param(f'{CAT}<Label value="cat" hint="x"/>', ["cat"], "'cat' stands in it twice", id="the same twice"),
        pytest.param('<Label value="cat" alias="a"/><Label value="dog" alias="a"/>', ["a"],
                     "'dog' (alias 'a') is left out", id="one alias"),
        pytest.param('<Label value="cat" alias="dog"/><Label value="dog"/>', ["dog"],
                     "shows regions of 'dog' as 'cat' (alias 'dog')", id="alias of one is the value of a later one"),
        pytest.param('<Label value="dog" alias="a"/><Label value="cat" alias="dog"/>', ["a"],
                     "'cat' (alias 'dog') is left out", id="alias of one is the value of an earlier one"),
        pytest.param('<Label value="cat" alias="a"/><Label value="dog" alias="cat"/>', ["a"], "left out",
                     id="alias of one is the value of an earlier one with an alias"),
        pytest.param('<Label value="dog" alias="cat"/><Label value="cat" alias="a"/>', ["cat", "a"], "",
                     id="the earlier one has the name"),
        pytest.param('<Label value="شجرة"/><Label value="🐈‍⬛"/>', ["شجرة", "🐈‍⬛"], "", id="right to left, emoji"),
        pytest.param('<Label value="&lt;b&gt; &#38; &quot;"/>', ['<b> & "'], "", id="entities"),
        pytest.param("<Label>salt &amp; pepper</Label>", ["salt &amp; pepper"], "", id="text as the editor takes it"),
    ],
)  # fmt: skip
def test_labels_that_annotators_can_use_are_predicted_and_others_told(
    labels: str, keys: list[str], remark: str
) -> None:
    vocabulary = parse_vocabulary(view(brush(labels)))
    assert [label.key for label in vocabulary.labels] == keys
    assert all(label.draws for label in vocabulary.labels)
    assert len(vocabulary.remarks) == bool(remark)
    assert remark in "".join(vocabulary.remarks)
    assert "BrushLabels 'b'" in "BrushLabels 'b'".join(vocabulary.remarks) or not remark


def test_a_text_is_looked_for_as_people_read_it() -> None:
    (label,) = parse_vocabulary(view(brush("<Label>salt &amp; pepper</Label>"))).labels
    assert label.texts == ("salt & pepper",)


SMART = 'smart="true"'


@pytest.mark.parametrize(
    ("tags", "drawn"),
    [
        pytest.param([control("RectangleLabels"), control("PolygonLabels"), brush()], [("b", "cat")], id="the brush"),
        pytest.param([control("RectangleLabels"), control("PolygonLabels")], [("p", "cat")], id="else the polygon"),
        pytest.param([brush(), control("BrushLabels", name="c")], [("b", "cat")], id="the first of two brushes"),
        pytest.param([brush(more=SMART), control("RectangleLabels")], [("r", "cat")], id="smart ones are prompts"),
        pytest.param([brush(more='smartOnly="true"'), control("RectangleLabels")], [("r", "cat")], id="smartOnly"),
        pytest.param([brush(more='smart="false"'), control("RectangleLabels")], [("b", "cat")], id="smart is off"),
        pytest.param([brush(more=SMART)], [("b", "cat")], id="a smart one alone draws"),
        pytest.param([control("RectangleLabels", more=SMART), brush(more=SMART)], [("b", "cat")], id="two smart"),
        pytest.param([brush(), control("RectangleLabels", PAIR)], [("b", "cat"), ("r", "dog")], id="what it has alone"),
        pytest.param([brush(), control("RectangleLabels", '<Label value="Katze" prompt="cat"/>')], [("b", "cat")],
                     id="the same words under another name"),
        pytest.param([brush('<Label value="cat" hint="furry"/>'), control("RectangleLabels")], [("b", "cat")],
                     id="the same name with a hint"),
        pytest.param([brush('<Label value="left" prompt="left lung"/>'),
                      control("RectangleLabels", '<Label value="left" prompt="left kidney"/>')],
                     [("b", "left"), ("r", "left")], id="one name, two prompts"),
        pytest.param([brush('<Label value="c" alias="1"/>'),
                      control("RectangleLabels", '<Label value="d" alias="1"/>')], [("b", "1")], id="one alias"),
        pytest.param([brush('<Label value="cat"/><Label value=" cat" alias="tom"/>')], [("b", "cat")],
                     id="the same words twice in one control"),
        pytest.param([brush(more='segments="semantic"'), control("PolygonLabels"), control("RectangleLabels")],
                     [("b", "cat"), ("p", "cat")], id="a class whole, and its things"),
        pytest.param([control("RectangleLabels", more='segments="semantic"'), brush()], [("b", "cat"), ("r", "cat")],
                     id="things, and their class whole"),
        pytest.param([brush('<Label value="cat" kind="stuff"/>'), control("RectangleLabels")], [("b", "cat")],
                     id="stuff in one"),
        pytest.param([brush('<Label value="cat" kind="stuff"/>'),
                      control("RectangleLabels", more='segments="semantic"')], [("b", "cat")], id="stuff in both"),
        pytest.param([brush(), control("EllipseLabels"), control("KeyPointLabels", more=SMART)], [("b", "cat")],
                     id="ellipse and key points"),
        pytest.param([control("EllipseLabels"), control("BitmaskLabels")], [("b", "cat")], id="the bitmask"),
        pytest.param([control("KeyPointLabels"), brush(more=SMART)], [("b", "cat")], id="a smart area before a point"),
        pytest.param([control("KeyPointLabels"), brush('<Label value="dog"/>')], [("b", "dog"), ("k", "cat")],
                     id="a point where no area has the label"),
        pytest.param([control("VectorLabels", more='closable="true"')], [("v", "cat")], id="a closed vector"),
        pytest.param([control("Labels"), '<Brush name="x" toName="i"/>'], [("l", "cat")], id="Labels and a shape"),
        pytest.param([control("Labels"), '<Brush name="x" toName="i"/>', control("RectangleLabels")], [("l", "cat")],
                     id="Labels with a brush, and rectangles"),
    ],
)  # fmt: skip
def test_one_control_draws_each_label(tags: list[str], drawn: list[tuple[str, str]]) -> None:
    assert sorted(drawing(view(*tags))) == sorted(drawn)


@pytest.mark.parametrize(
    ("shapes", "shape", "output"),
    [
        pytest.param('<Rectangle name="x" toName="i"/><Polygon name="y" toName="i"/>', "y", "polygon", id="polygon"),
        pytest.param('<Brush name="x" toName="i" smart="true"/><Ellipse name="y" toName="i"/>', "y", "ellipse",
                     id="no prompt"),
        pytest.param('<KeyPoint name="x" toName="i"/><Brush name="y" toName="i" smart="true"/>', "y", "brush",
                     id="a smart area before a point"),
        pytest.param('<KeyPoint name="y" toName="i"/><KeyPoint name="x" toName="i" smart="true"/>', "y", "keypoint",
                     id="points"),
        pytest.param('<Vector name="x" toName="i"/><vector name="y" toname="i" closable="true"/>', "y", "vector",
                     id="closable"),
        pytest.param('<Brush name="x" toName="q"/><Bitmask name="y"/>', "y", "bitmask", id="over the one image"),
    ],
)
def test_labels_are_drawn_by_the_shape_beside_them(shapes: str, shape: str, output: str) -> None:
    (label,) = parse_vocabulary(view(control("Labels"), shapes)).labels
    assert (label.control, label.shape, label.output) == ("l", shape, output)


def test_choices_are_questions_about_the_image() -> None:
    vocabulary = parse_vocabulary(view(brush(), CHOICES))
    (choices,) = vocabulary.choices
    assert (choices.control, choices.to_name, choices.image_value, choices.multiple) == ("q", "i", "$image", False)
    assert choices.choices == (Choice("cat", ("cat",)), Choice("d", ("dog", "dog, barks")))
    assert vocabulary.labels == parse_vocabulary(view(brush())).labels
    assert vocabulary.hash != parse_vocabulary(view(brush())).hash
    several = parse_vocabulary(view(brush(), CHOICES.replace("<Choices", '<Choices choice="multiple"')))
    assert several.choices[0].multiple
    assert several.hash != vocabulary.hash
    alone = parse_vocabulary(view(CHOICES))
    assert (alone.labels, alone.choices, alone.image_value, alone.to_name) == ((), (choices,), "$image", "i")


def test_a_choice_inside_a_choice_is_none() -> None:
    nested = CHOICES.replace('<Choice value="cat"/>', '<Choice value="cat"><Choice value="tom"/></Choice>')
    (choices,) = parse_vocabulary(view(nested)).choices
    assert [choice.key for choice in choices.choices] == ["cat", "d"]


def test_choices_of_a_text_are_not_ours() -> None:
    text = '<Text name="t" value="$t"/>'
    assert parse_vocabulary(view(brush(), text, CHOICES.replace('"i"', '"t"'))).choices == ()


def test_annotators_may_draw_a_label_with_every_control_that_has_it() -> None:
    vocabulary = parse_vocabulary(
        view(
            brush(PAIR),
            control("KeyPointLabels", PAIR, more=SMART),
            control("RectangleLabels", PAIR, more=SMART),
            control("PolygonLabels", '<Label value="tom" prompt="cat"/>'),
            control("EllipseLabels", '<Label value="dog"/><Label value="elk"/>'),
        )
    )
    assert shown(vocabulary) == [
        ("b", "cat", True), ("b", "dog", True), ("r", "cat", False), ("r", "dog", False), ("p", "tom", False),
        ("e", "dog", False), ("e", "elk", True),
    ]  # fmt: skip
    assert vocabulary.words == (("cat",), ("dog",), ("elk",))
    assert {label.output for label in vocabulary.drawn} == {"brush", "ellipse"}
    assert [remark.partition(":")[0] for remark in vocabulary.remarks] == [
        "RectangleLabels 'r'", "PolygonLabels 'p'", "EllipseLabels 'e'", "KeyPointLabels 'k'",
    ]  # fmt: skip
    assert "'cat' and 'dog' are predicted by BrushLabels 'b', one region per thing" in vocabulary.remarks[0]
    assert "its points are prompts" in vocabulary.remarks[3]


def test_a_prompt_counts_for_every_control_that_has_the_label() -> None:
    config = view(brush('<Label value="c1"/>'), control("RectangleLabels", '<Label value="c1" prompt="cat"/>'))
    assert parse_vocabulary(config).words == (("cat",),)
    assert drawing(config) == [("b", "c1")]


def test_what_only_the_reading_of_annotations_needs_keeps_the_version() -> None:
    alone, beside = parse_vocabulary(view(brush())), parse_vocabulary(view(brush(), control("EllipseLabels")))
    assert alone.hash == beside.hash
    assert alone.labels != beside.labels


@pytest.mark.parametrize(
    ("tags", "remark"),
    [
        pytest.param(['<Image name="j" value="$b"/>'], "Image 'j': is not segmented", id="second image"),
        pytest.param(['<Image name="j" valueList="b"/>', control("BrushLabels", name="c").replace('"i"', '"j"')],
                     "Image 'j': valueList='b' is no variable", id="second image with no list"),
        pytest.param([control("BitmaskLabels")], "BitmaskLabels 'x': label 'cat' is predicted by BrushLabels",
                     id="bitmask"),
        pytest.param([control("VectorLabels")], "VectorLabels 'x': draws lines", id="vector"),
        pytest.param([control("VectorLabels", more='closable="true" skeleton="true"')], "VectorLabels 'x': draws lines",
                     id="skeletons"),
        pytest.param([control("KeyPointLabels", more=SMART)], "KeyPointLabels 'k': its points are prompts", id="smart"),
        pytest.param([control("KeyPointLabels")], "points are not learned from", id="points"),
        pytest.param([CHOICES.replace("<Choices", '<Choices perRegion="true"')], "single regions", id="perRegion"),
        pytest.param([CHOICES.replace("<Choices", '<Choices perItem="true"')], "single items", id="perItem"),
        pytest.param([CHOICES.replace("<Choices", '<Choices visibleWhen="choice-selected"')], "only sometimes",
                     id="shown sometimes"),
        pytest.param([CHOICES.replace("<Choices", '<Choices allowNested="true"')], "choices inside", id="nested"),
        pytest.param(['<Choices name="q" toName="i"/>'], "Choices 'q': has no choices", id="no choices"),
        pytest.param([control("Labels")], "Labels 'x': has no tag that draws its regions", id="labels apart"),
        pytest.param([control("PolygonLabels", "", more='value="x $labels"')], "value='x $labels' is no variable",
                     id="no variable"),
        pytest.param([control("PolygonLabels", '<Label value="elk"/>', more='value="x $labels"')],
                     "value='x $labels' is no variable", id="no variable beside written labels"),
        pytest.param([control("PolygonLabels", "")], "PolygonLabels 'x': has no labels", id="no labels"),
        pytest.param([control("PolygonLabels").replace('"i"', '"q"')], "toName='q'", id="points to nothing"),
        pytest.param([f'<Repeater on="$l">{control("PolygonLabels")}</Repeater>'],
                     "PolygonLabels 'x': has the same name in each turn", id="one name in each turn"),
        pytest.param(['<Repeater on="$l"><Image name="j{{idx}}" value="$l[{{idx}}]"/></Repeater>',
                      control("PolygonLabels").replace('"i"', '"j{{idx}}"')],
                     "PolygonLabels 'x': is not in the Repeater that its Image 'j{{idx}}'", id="outside of it"),
        pytest.param(['<Repeater on="$l"><Image name="j{{idx}}" value="$l[{{idx}}]"/></Repeater>'],
                     "Image 'j{{idx}}': is not segmented", id="repeated image"),
    ],
)  # fmt: skip
def test_what_is_passed_over_is_told(tags: list[str], remark: str) -> None:
    tags = [tag.replace('name="p"', 'name="x"').replace('name="v"', 'name="x"').replace('name="l"', 'name="x"')
            .replace('<BitmaskLabels name="b"', '<BitmaskLabels name="x"') for tag in tags]  # fmt: skip
    vocabulary = parse_vocabulary(view(brush(), *tags))
    assert ("b", "cat", True) in shown(vocabulary)
    assert vocabulary.hash == parse_vocabulary(view(brush())).hash or "elk" in str(tags)
    assert any(remark in told for told in vocabulary.remarks), vocabulary.remarks
    assert not any("brush.xml" in told for told in vocabulary.remarks)


@pytest.mark.parametrize(("name", "elsewhere"), [("q", True), ("page_3", True), ("i", False), ("p", False)])
def test_names_of_other_objects_are_known(name: str, elsewhere: bool) -> None:
    repeated = '<Repeater on="$l" indexFlag="{{idx}}"><Image name="page_{{idx}}" value="$l[{{idx}}]"/></Repeater>'
    vocabulary = parse_vocabulary(view(brush(), '<Text name="q" value="$t"/>', repeated))
    assert vocabulary.is_elsewhere(name) is elsewhere


def test_thousands_of_remarks_are_a_few() -> None:
    config = view(brush(), *(control("PolygonLabels", name=f"p{number}") for number in range(3000)))
    remarks = parse_vocabulary(config).remarks
    assert len(remarks) == 13
    assert "2988 more remarks" in remarks[-1]


REFUSED = [
    pytest.param(view(brush(), image='<Image name="i" valueList="pages"/>'), "Image 'i'",
                 "valueList='pages' is no variable", id="a list without a $"),
    pytest.param(view(brush(), image='<image name="i" valuelist="/x/$pages" value="$image"/>'), "image 'i'",
                 "valueList='/x/$pages' is no variable", id="text around a list"),
    pytest.param(
        '<View><Repeater on="document"><Image name="page_{{idx}}" value="$document[{{idx}}].page"/>'
        f'<BrushLabels name="labels_{{{{idx}}}}" toName="page_{{{{idx}}}}">{PAIR}</BrushLabels></Repeater></View>',
        "Repeater", "on='document' names no list", id="a repeater without a $"),
    pytest.param(f'<View><Repeater on="$d"><Image name="p{{{{idx}}}}" value="$d[{{{{idx}}}}]"/>'
                 f'<BrushLabels name="b{{{{idx}}}}">{CAT}</BrushLabels></Repeater></View>', "BrushLabels 'b{{idx}}'",
                 "has no toName", id="a repeated control without toName"),
    pytest.param(view(f"<Repeater on='$d'><View>{brush()}</View></Repeater>"), "BrushLabels 'b'",
                 "the same name in each turn", id="it repeated"),
    pytest.param(view(brush("", more='value="my $labels"')), "BrushLabels 'b'", "value='my $labels' is no variable",
                 id="text around the labels"),
    pytest.param(view(brush(more='model_skip="true"')), "labeling config", "every label to annotators", id="skip"),
    pytest.param(view(control("Labels")), "Labels 'l'", "has no tag that draws its regions", id="Labels alone"),
    pytest.param(view(control("Labels"), '<KeyPoint name="x" toName="i" smart="true"/>'), "KeyPoint 'x'", "prompts",
                 id="Labels and prompts"),
    pytest.param(view(control("Labels"), '<Vector name="x" toName="i"/>'), "Vector 'x'", "lines",
                 id="Labels and lines"),
    pytest.param(view(control("Labels"), '<Brush name="l" toName="i"/>'), "Labels 'l'", "shares its name",
                 id="Labels and a Brush of its name"),
    pytest.param(view(control("Labels"), '<Brush name="x" toName="j"/>'), "Labels 'l'", "has no tag that draws",
                 id="Labels and a Brush of another image"),
    pytest.param(view('<Brush name="x" toName="i"/>'), "labeling config", "Brush 'x'", id="a Brush without Labels"),
    pytest.param(view(control("KeyPointLabels", more=SMART)), "KeyPointLabels 'k'", "prompts", id="prompts alone"),
    pytest.param(view(control("VectorLabels")), "VectorLabels 'v'", "lines", id="lines alone"),
    pytest.param(view(CHOICES.replace("<Choices", '<Choices perRegion="true"')), "Choices 'q'", "single regions",
                 id="choices of regions alone"),
    pytest.param(view(brush(), image='<Image name="i"/>'), "Image 'i'", "has no value", id="image without value"),
    pytest.param(view(brush(), image='<Image name="i" value=" "/>'), "Image 'i'", "has no value", id="blank value"),
    pytest.param(view(brush(), image='<Image name="i" value="image"/>'), "Image 'i'", "value='image' names no key",
                 id="a key without its $"),
    pytest.param(view(brush(), image='<Image name="i" value="{{image}}"/>'), "Image 'i'", "names no key",
                 id="a key in braces of others"),
    pytest.param(view(brush(), image='<Image name="i" value="$"/>'), "Image 'i'", "names no key", id="a $ alone"),
    pytest.param(view(brush(), image='<Image value="$image"/>'), "BrushLabels 'b'", "not connected", id="no name"),
    pytest.param(view(brush(), image='<Video name="i" value="$v"/>'), "BrushLabels 'b'", "Video 'i'", id="a video"),
    pytest.param(view(brush().replace('"i"', '"j"')), "BrushLabels 'b'", "toName='j'", id="points to nothing"),
    pytest.param(view(brush().replace(' name="b"', "")), "BrushLabels without a name", "no region", id="nameless"),
    pytest.param(view(brush(), brush('<Label value="dog"/>')), "BrushLabels 'b'", "shares its name", id="a name twice"),
    pytest.param(view(brush(), IMAGE), "Image 'i'", "shares its name", id="an image's name twice"),
    pytest.param(view(brush().replace(' toName="i"', ""), '<Image name="j" value="$j"/>'), "BrushLabels 'b'",
                 "toName=''", id="no toName, two images"),
    pytest.param(view(brush('<Label value=""/>')), "BrushLabels 'b'", "no label in it", id="empty labels alone"),
    pytest.param(view(brush('<Label value="$a"/>')), "BrushLabels 'b'", "'$a'", id="words of tasks alone"),
    pytest.param(f'<View xmlns:q="http://q">{IMAGE.replace("Image", "q:Image")}{brush()}</View>', "BrushLabels 'b'",
                 "not connected", id="another namespace"),
    pytest.param(f'<q:View>{IMAGE}{brush()}</q:View>', "labeling config", "prefix q", id="undeclared prefix"),
    pytest.param(f"{view(brush())}{view(brush())}", "labeling config", "cannot be read", id="two roots"),
    pytest.param(view('<Header value="a&nbsp;b"/>', brush()), "labeling config", "nbsp", id="entity of HTML"),
    pytest.param(view(brush(), image='<Image name="i" value="http://h/?a=1&b=2"/>'), "labeling config",
                 "cannot be read", id="a bare ampersand"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "subject", "problem"), REFUSED)
def test_what_cannot_be_served_is_refused_by_name(config: str, subject: str, problem: str) -> None:
    with pytest.raises(LabelingConfigError) as caught:
        parse_vocabulary(config)
    assert caught.value.subject == subject
    assert problem in caught.value.problem
    assert "brush.xml" in caught.value.remedy


@pytest.mark.parametrize(("config", "subject", "problem"), REFUSED)
def test_label_studio_is_told_at_connecting(client: Client, config: str, subject: str, problem: str) -> None:
    response = client.post("/setup", json=setup_body(schema=config))
    assert response.status_code == 400
    assert detail(response).startswith(f"{subject}: ")
    assert problem in response.status or len(detail(response)) > 300, "all that Label Studio shows of it"


def test_setup_tells_what_is_not_served(client: Client) -> None:
    answer = answer_of(client.post("/setup", json=setup_body(schema=view(brush(), control("PolygonLabels")))))
    (remark,) = answer["remarks"]
    assert "BrushLabels 'b'" in remark
