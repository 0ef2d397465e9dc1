"""`zeromask segment`: images and words in, overlays and Label Studio regions out, without Label Studio or Redis."""

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
from plugin_config.errors import ImageUnavailable, ZeromaskError
from plugin_config.printable import one_line, printable
from plugin_config.settings import Settings
from plugin_config.vocabulary import Label, Vocabulary
from worker.label_studio.images import ImageLimits, read_image
from worker.label_studio.results import encode_segments
from worker.learning.adapter_files import load_adapter_folder
from worker.overlay import draw_overlay
from worker.segmentation.heads import Head
from worker.segmentation.segmenter import Segmenter

_MOST_BYTES = 230  # of the names of results; file systems take 255


@dataclass(frozen=True)
class SegmentOptions:
    """The parsed command line.

    Attributes:
        images: files to segment.
        words: labels whose things are segmented one by one.
        stuff: labels of which all is one region.
        model: as the MODEL setting.
        adapter: folder that `zeromask train` wrote; None = zero-shot.
        output_dir: folder of overlays and regions.
        output: region type: brush, polygon or rectangle.
        json: whether to print one JSON line.
    """

    images: tuple[Path, ...]
    words: tuple[str, ...]
    stuff: tuple[str, ...]
    model: str
    adapter: Path | None
    output_dir: Path
    output: str
    json: bool


def main(arguments: Sequence[str]) -> int:
    """Segment the images of the command line. Returns 0; 1 when an image failed; 2 when nothing could start."""
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("worker").setLevel(logging.INFO)
    try:
        settings = Settings.from_env(os.environ)
        options = _parse(arguments, settings)
        vocabulary = vocabulary_of(options.words, options.output, options.stuff)
        segmenter = Segmenter.from_settings(settings, model=options.model)
        adapter = load_adapter_folder(options.adapter, segmenter) if options.adapter is not None else None
        options.output_dir.mkdir(parents=True, exist_ok=True)
    except (ZeromaskError, OSError) as error:
        console.print(f"zeromask segment: {error}", style="red", markup=False)
        return 2
    for remark in segmenter.remarks(vocabulary, adapter.taught(vocabulary.words) if adapter is not None else ()):
        console.print(remark, style="yellow", markup=False)
    rows: list[dict[str, Any]] = []
    limits = ImageLimits.from_settings(settings)
    outputs = list(zip(options.images, output_stems(options.images, options.output_dir), strict=True))
    for path, stem in track(outputs, "Segmenting", console=console, disable=not console.is_terminal):
        try:
            rows.append(_segment(path, stem, segmenter, vocabulary, limits, adapter))
        except (ImageUnavailable, OSError) as error:
            console.print(one_line(error), style="red", markup=False)
            rows.append({"image": printable(path), "error": printable(error)})
    _report(rows, options)
    return 1 if any("error" in row for row in rows) else 0


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
    result = encode_segments(found.segments)
    regions.write_text(json.dumps({"image": printable(path), "score": round(found.score, 4), "result": result}))
    labels = {label.key: sum(s.label.key == label.key for s in found.segments) for label in vocabulary.labels}
    return {"image": printable(path), "score": round(found.score, 4), "regions": len(result), "labels": labels,
            "overlay": printable(overlay), "regions_file": printable(regions)}  # fmt: skip


def _report(rows: Sequence[dict[str, Any]], options: SegmentOptions) -> None:
    if options.json:
        labels = list(dict.fromkeys([*options.words, *options.stuff]))
        sys.stdout.write(json.dumps({"model": options.model, "labels": labels, "images": rows}) + "\n")
        return
    for row in rows:
        if "error" not in row:
            counts = ", ".join(f"{count} {label}" for label, count in row["labels"].items())
            sys.stdout.write(f"{one_line(row['image'])}: {counts} -> {one_line(row['overlay'])}\n")


def _parse(arguments: Sequence[str], settings: Settings) -> SegmentOptions:
    parser = argparse.ArgumentParser(prog="zeromask segment", description="Masks for the words you name.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    parser.add_argument("--labels", required=True, help='words to segment, separated by commas: "cat,grass"')
    parser.add_argument("--stuff", default="", help='words of which all is one region: "grass,sky"')
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="what `zeromask train` wrote (default: zero-shot)")
    parser.add_argument("--output-dir", type=Path, default=Path("zeromask-out"), help="default: %(default)s")
    parser.add_argument("--output", choices=("brush", "polygon", "rectangle"), default="brush", help="region type")
    parser.add_argument("--json", action="store_true", help="one JSON line on the standard output")
    found = parser.parse_args(arguments)
    words, stuff = (_words(text) for text in (found.labels, found.stuff))
    return SegmentOptions(tuple(found.images), words, stuff, found.model, found.adapter, found.output_dir,
                          found.output, found.json)  # fmt: skip


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
