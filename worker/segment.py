"""`zeromask segment`: images and words, or a labeling config, in; overlays and Label Studio regions out.

It needs neither Label Studio nor Redis.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from plugin_config.closed_output import run_command
from plugin_config.control_tags import OUTPUT_KINDS
from plugin_config.errors import ImageUnavailable, LabelingConfigError, ZeromaskError
from plugin_config.labeling_config import SUBJECT
from plugin_config.printable import one_line, printable
from plugin_config.settings import Settings
from plugin_config.vocabulary import Label, Vocabulary, parse_vocabulary
from worker.label_studio.images import ImageLimits, read_image
from worker.label_studio.results import encode_answers, encode_segments
from worker.learning.adapter_files import load_adapter_folder
from worker.overlay import draw_overlay
from worker.segmentation.heads import Head
from worker.segmentation.segmenter import Segmenter

log = logging.getLogger("worker.segment")

_IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_MOST_BYTES = 230  # of the names of results; file systems take 255


@dataclass(frozen=True)
class SegmentOptions:
    """The parsed command line.

    Attributes:
        images: files to segment.
        config: labeling config whose labels are segmented; None = the words are.
        words: labels whose things are segmented one by one; with a config, those that it leaves to each task.
        stuff: labels of which all is one region.
        model: as the MODEL setting.
        adapter: folder that `zeromask train` wrote; None = zero-shot.
        output_dir: folder of overlays and regions.
        output: kind of the regions, one of `OUTPUT_KINDS`.
        json: whether to print one JSON line.
    """

    images: tuple[Path, ...]
    config: Path | None
    words: tuple[str, ...]
    stuff: tuple[str, ...]
    model: str
    adapter: Path | None
    output_dir: Path
    output: str
    json: bool


def main(arguments: Sequence[str]) -> int:
    """Segment the images of the command line. Returns 0; 1 when an image failed; 2 when nothing could start, or
    the model knows no word of the labels.
    """
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("worker").setLevel(logging.INFO)
    try:
        settings = Settings.from_env(os.environ)
        options = _parse(arguments, settings)
        vocabulary, told = _vocabulary(options)
        segmenter = Segmenter.from_settings(settings, model=options.model)
        adapter = load_adapter_folder(options.adapter, segmenter) if options.adapter is not None else None
        options.output_dir.mkdir(parents=True, exist_ok=True)
    except (ZeromaskError, OSError) as error:
        console.print(f"zeromask segment: {error}", style="red", markup=False)
        return 2
    taught = adapter.taught(vocabulary.words) if adapter is not None else ()
    for remark in (*told, *segmenter.remarks(vocabulary, taught)):
        console.print(remark, style="yellow", markup=False)
    if not segmenter.can_read(vocabulary, taught):
        console.print(f"zeromask segment: {_unreadable(options.model)}", style="red", markup=False)
        return 2
    rows: list[dict[str, Any]] = []
    limits = ImageLimits.from_settings(settings)
    outputs = list(zip(options.images, output_stems(options.images, options.output_dir), strict=True))
    for path, stem in track(outputs, "Segmenting", console=console, disable=not console.is_terminal):
        try:
            rows.append(_segment(path, stem, segmenter, vocabulary, limits, adapter))
        except (ImageUnavailable, OSError) as error:
            console.print(one_line(error), style="red", markup=False)
            rows.append({"image": printable(path), "error": printable(error)})
    _report(rows, options, vocabulary, told)
    return 1 if any("error" in row for row in rows) else 0


def _vocabulary(options: SegmentOptions) -> tuple[Vocabulary, tuple[str, ...]]:
    """The labels to segment, and remarks on what of a labeling config is not served.

    Raises:
        ZeromaskError: there are none.
        OSError: the config cannot be read.
    """
    if options.config is None:
        return vocabulary_of(options.words, options.output, options.stuff), ()
    project = parse_vocabulary(options.config.read_text(errors="replace"))
    if project.asked and not (options.words or project.labels or project.choices):
        raise LabelingConfigError(SUBJECT, "leaves its labels to each task", 'Name some: --labels "cat,grass".')
    vocabulary, told = project.for_sample(options.words), list(project.remarks)
    if options.words and not project.asked:
        told.append("--labels: the labeling config leaves no labels to tasks, so its own are looked for.")
    others = [image.name for image in project.images if image.name != vocabulary.to_name]
    if others and project.template is None:
        told.append(f"Each picture is taken as Image {vocabulary.to_name!r}; "
                    f"a task has {', '.join(map(repr, others[:5]))}, too.")  # fmt: skip
    return vocabulary, tuple(told)


def vocabulary_of(words: Sequence[str], output: str = "brush", stuff: Sequence[str] = ()) -> Vocabulary:
    """A vocabulary of plain words, each a label of one control named "label" over an image named "image".

    Args:
        words: segmented thing by thing, except those that are also in `stuff`.
        output: region type.
        stuff: words of which all is one region.

    Raises:
        ZeromaskError: there is no word.
    """
    labels = tuple(
        Label(word, (word,), control="label", to_name="image", image_value="$image", output=output,  # type: ignore[arg-type]
              stuff=word in stuff)
        for word in dict.fromkeys([*words, *stuff])
    )
    if not labels:
        raise ZeromaskError("labels", "none given", 'Name them: --labels "cat,grass".')
    return Vocabulary(labels)


def _unreadable(model: str) -> ZeromaskError:
    remedy = "Name other words, or another model: --model ViT-B-16/datacomp_xl_s13b_b90k knows everyday ones."
    return ZeromaskError("labels", f"model {model} knows none of their words, so nothing was segmented", remedy)


def output_stems(images: Sequence[Path], folder: Path) -> list[Path]:
    """Path of each image's results without the ending: the image's name as it is printed, numbered when another image
    has it too.
    """
    taken: set[str] = set()
    stems = []
    for stem in (_shortened(printable(path.stem)) for path in images):
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        stems.append(folder / name)
    return stems


def _shortened(stem: str) -> str:
    """What is left of a name, so that file systems take it with a number and an ending."""
    return stem.encode()[:_MOST_BYTES].decode(errors="ignore")


def _segment(
    path: Path, stem: Path, segmenter: Segmenter, vocabulary: Vocabulary, limits: ImageLimits, head: Head | None
) -> dict[str, Any]:
    image = read_image(path, limits)
    found = segmenter.segment(segmenter.embed([image])[0], vocabulary, image, head=head)
    overlay, regions = stem.with_name(f"{stem.name}_overlay.png"), stem.with_name(f"{stem.name}_regions.json")
    draw_overlay(image, [(s.label.key, s.mask) for s in found.segments]).save(overlay)
    encoded = encode_segments(found.segments)
    if encoded.left_out:
        log.warning("%s: without %s", printable(path), encoded.left_out)
    regions_found = len({region["id"] for region in encoded.regions})
    result = [*encoded.regions, *encode_answers(found.answers)]
    if vocabulary.item_index is not None:
        result = [{**region, "item_index": vocabulary.item_index} for region in result]
    regions.write_text(json.dumps({"image": printable(path), "score": round(found.score, 4), "result": result}))
    labels = {label.key: sum(s.label.key == label.key for s in found.segments) for label in vocabulary.labels}
    answers = {answer.choices.control: list(answer.keys) for answer in found.answers}
    return {"image": printable(path), "score": round(found.score, 4), "regions": regions_found, "labels": labels,
            **({"choices": answers} if vocabulary.choices else {}), "overlay": printable(overlay),
            "regions_file": printable(regions)}  # fmt: skip


def _report(
    rows: Sequence[dict[str, Any]], options: SegmentOptions, vocabulary: Vocabulary, remarks: Sequence[str]
) -> None:
    if options.json:
        labels = list(dict.fromkeys(label.key for label in vocabulary.labels))
        of_config = {"remarks": list(remarks)} if options.config is not None else {}
        sys.stdout.write(json.dumps({"model": options.model, "labels": labels, **of_config, "images": rows}) + "\n")
        return
    for row in rows:
        if "error" not in row:
            told = [f"{count} {label}" for label, count in row["labels"].items()]
            told += [f"{name}: {' and '.join(keys)}" for name, keys in row.get("choices", {}).items()]
            counts = ", ".join(told)
            sys.stdout.write(f"{one_line(row['image'])}: {counts} -> {one_line(row['overlay'])}\n")


def _parse(arguments: Sequence[str], settings: Settings) -> SegmentOptions:
    parser = argparse.ArgumentParser(prog="zeromask segment", description="Masks for the words you name.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--config", type=Path, metavar="FILE", help="labeling config, XML, whose labels to segment")
    parser.add_argument("--labels", default="", help='words to segment, separated by commas: "cat,grass"; with '
                        "--config those that its tasks bring along")  # fmt: skip
    parser.add_argument("--stuff", default="", help='words of which all is one region: "grass,sky"')
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="what `zeromask train` wrote (default: zero-shot)")
    parser.add_argument("--output-dir", type=Path, default=Path("zeromask-out"), help="default: %(default)s")
    parser.add_argument("--output", choices=tuple(OUTPUT_KINDS.values()), default="brush", help="region type")
    parser.add_argument("--json", action="store_true", help="one JSON line on the standard output")
    found = parser.parse_args(arguments)
    words, stuff = (_words(text) for text in (found.labels, found.stuff))
    if found.config is not None and (stuff or found.output != "brush"):
        parser.error("--stuff and --output stand in the labeling config where there is one (kind, segments, controls)")
    images = tuple(image for path in found.images for image in _images_in(path))
    return SegmentOptions(images, found.config, words, stuff, found.model, found.adapter, found.output_dir,
                          found.output, found.json)  # fmt: skip


def _images_in(path: Path) -> list[Path]:
    """The files of a folder that are images by their names, in order; a file itself."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in _IMAGE_SUFFIXES)
    if not found:
        endings = ", ".join(sorted(_IMAGE_SUFFIXES))
        raise ImageUnavailable(f"folder {printable(path)}", "holds no images", f"Names of images end in {endings}.")
    return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
