"""Class names of the eight published sets of open-vocabulary segmentation: as published, and in curated wording.

Plain names are those that the sets publish, with run-together words split ("tvmonitor" -> "tv monitor"). Curated
wording is this project's own: most published figures come from curated names too, each paper with its own list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker.lab.evaluation.fold_lists import COCO_CLASSES, PASCAL_CLASSES
from worker.learning.interfaces import Words

_SPLIT: Mapping[str, str] = {
    "diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor",
    "playingfield": "playing field", "waterdrops": "water drops",
}  # fmt: skip

CONTEXT_CLASSES = (
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus",
    "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence",
    "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse",
    "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow",
    "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood",
)  # fmt: skip
"""The 59 classes of PASCAL Context in the order of the alphabet, in which mmsegmentation numbers them from 1."""

ADE_CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk",
    "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa",
    "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand",
    "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table",
    "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower",
    "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight",
    "booth", "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator",
    "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer",
    "plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
    "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
    "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier",
    "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
"""The 150 classes of ADE20K's scene parsing challenge, numbered from 1: the first name of each in objectInfo150.txt."""

CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""The 19 classes of Cityscapes that are judged."""

STUFF_CLASSES = (
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff",
    "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower",
    "fog", "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves",
    "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow",
    "plant-other", "plastic", "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug",
    "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw",
    "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick", "wall-concrete",
    "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind",
    "window-other", "wood",
)  # fmt: skip
"""The 91 stuff classes of COCO-Stuff, which follow its 80 things."""

_CURATED: Mapping[str, tuple[str, ...]] = {
    "aeroplane": ("aeroplane", "airplane"), "airplane": ("airplane", "aeroplane"), "apparel": ("clothes",),
    "ashcan": ("trash can", "dustbin"), "bannister": ("banister", "handrail"), "bedclothes": ("bedding", "bed sheet"),
    "boat": ("boat", "ship"), "bulletin board": ("notice board",), "building other": ("building",),
    "case": ("display case",), "ceiling other": ("ceiling",), "ceiling tile": ("ceiling tiles",),
    "cell phone": ("cell phone", "mobile phone"), "cloth": ("cloth", "fabric"), "couch": ("couch", "sofa"),
    "crt screen": ("cathode ray tube screen",), "desk stuff": ("desk",), "dining table": ("dining table", "table"),
    "door stuff": ("door",), "earth": ("earth", "soil"), "floor marble": ("marble floor",), "floor other": ("floor",),
    "floor stone": ("stone floor",), "floor tile": ("tiled floor",), "floor wood": ("wooden floor",),
    "food other": ("food",), "furniture other": ("furniture",), "glass": ("drinking glass",),
    "ground other": ("ground",), "hair drier": ("hair dryer",), "hood": ("range hood",), "hovel": ("hut", "shack"),
    "light": ("light", "lamp"), "minibike": ("motorbike", "scooter"), "mirror stuff": ("mirror",),
    "motorbike": ("motorbike", "motorcycle"), "motorcycle": ("motorcycle", "motorbike"),
    "mouse": ("computer mouse",), "person": ("person", "man", "woman", "child", "people"),
    "plant other": ("plant",), "plaything": ("toy",), "platform": ("railway platform",),
    "playing field": ("sports field",), "potted plant": ("potted plant", "houseplant"), "remote": ("remote control",),
    "rider": ("cyclist", "motorcyclist"), "sconce": ("wall lamp",), "sky other": ("sky",), "sofa": ("sofa", "couch"),
    "solid other": ("solid surface",), "structural other": ("structure",),
    "television receiver": ("television", "tv set"), "terrain": ("grass verge", "terrain", "soil"),
    "textile other": ("textile",), "track": ("railway track",), "trade name": ("brand logo",),
    "tv": ("television", "tv"), "tv monitor": ("television", "monitor", "screen"),
    "vegetation": ("tree", "bush", "vegetation"), "wall brick": ("brick wall",), "wall concrete": ("concrete wall",),
    "wall other": ("wall",), "wall stone": ("stone wall",), "wall tile": ("tiled wall",),
    "wall wood": ("wooden wall",), "washer": ("washing machine",), "water other": ("water",),
    "window other": ("window",), "windowpane": ("window",),
    "wood": ("wood", "wooden surface"),
}  # fmt: skip


def plain_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names that a set publishes, as words."""
    return tuple(_SPLIT.get(name, name).replace("-", " ").replace("_", " ") for name in classes)


def plain_words(names: Sequence[str]) -> Words:
    """One text for each class: its name."""
    return tuple((name,) for name in names)


def curated_words(names: Sequence[str]) -> Words:
    """Texts for each class: what its name means in its set, and synonyms. A text that names another class of the same
    set is left out.

    Args:
        names: plain, of all classes of a set.
    """
    found = []
    for name in names:
        texts = _CURATED.get(name, (name,))
        found.append(tuple(text for text in texts if text == name or text not in names) or (name,))
    return tuple(found)


VOC_NAMES = plain_names(PASCAL_CLASSES)
CONTEXT_NAMES = plain_names(CONTEXT_CLASSES)
OBJECT_NAMES = plain_names(COCO_CLASSES)
STUFF_NAMES = plain_names((*COCO_CLASSES, *STUFF_CLASSES))
ADE_NAMES = plain_names(ADE_CLASSES)
CITYSCAPES_NAMES = plain_names(CITYSCAPES_CLASSES)
