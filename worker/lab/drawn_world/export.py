"""Export a checkpoint as an open_clip folder: `python -m worker.lab.drawn_world.export --checkpoint F --output-dir D`.

The folder loads through `open_clip.create_model("local-dir:D", require_pretrained=True)`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from plugin_config.files import written_whole
from worker.lab.drawn_world.batches import MEAN, STD
from worker.lab.drawn_world.measure import EncodeTexts, best_bias_shift, figures
from worker.lab.drawn_world.objective import Clip, encode_texts
from worker.lab.drawn_world.phrases import known_tokens, tokenize, tokenizer
from worker.lab.drawn_world.train import MODEL_CFG, TOWERS
from worker.lab.drawn_world.world import SYNONYMS

WEIGHTS_DIR = Path(__file__).resolve().parents[2] / "builtin" / "weights"
WEIGHTS_FILE = "open_clip_pytorch_model.bin"
CONFIG_FILE = "open_clip_config.json"


def full_state(compact: dict[str, Tensor]) -> dict[str, Tensor]:
    """Expand a compact token table to open_clip's vocabulary and convert to float16.

    Rows of tokens that never occur in training are zero, which marks the words that the model does not know. Synonyms
    get the rows of their word.
    """
    state = {name: value.to(torch.float16) for name, value in compact.items()}
    rows = torch.from_numpy(known_tokens())
    learned = state["token_embedding.weight"]
    table = torch.zeros(MODEL_CFG["text_cfg"]["vocab_size"], learned.shape[1], dtype=torch.float16)  # type: ignore[index]
    table[rows[1:]] = learned[1:]  # row 0 is padding, which nothing attends to
    encode = tokenizer().encode
    for word, synonyms in SYNONYMS.items():
        for synonym in synonyms:
            table[encode(synonym)] = table[encode(word)]
    return {**state, "token_embedding.weight": table}


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Save in torch's zip format, compressed with DEFLATE because most of the token table is zero."""
    plain = io.BytesIO()
    torch.save(state, plain)
    with (
        written_whole(path) as aside,
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed,
    ):
        for entry in source.infolist():
            stamped = zipfile.ZipInfo(entry.filename, (1980, 1, 1, 0, 0, 0))
            packed.writestr(stamped, source.read(entry), zipfile.ZIP_DEFLATED, 9)


def export(checkpoint: Path, output_dir: Path, *, bias_shift: float = 0.0) -> Path:
    """Write config and weights of a checkpoint's running average, with `bias_shift` added to its `logit_bias`.

    Returns:
        the weights file.

    Raises:
        ModelUnavailable: the checkpoint does not exist.
    """
    if not checkpoint.is_file():
        remedy = "Train first: `python -m worker.lab.drawn_world.train`."
        raise ModelUnavailable(f"checkpoint {checkpoint}", "it does not exist", remedy)
    saved = torch.load(checkpoint, weights_only=True)
    output_dir.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": TOWERS[saved.get("tower", "resnet")], "preprocess_cfg": preprocess}
    (output_dir / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    saved["average"]["logit_bias"] += bias_shift
    write_weights(full_state(saved["average"]), output_dir / WEIGHTS_FILE)
    return output_dir / WEIGHTS_FILE


def load_shipped(folder: Path = WEIGHTS_DIR) -> Clip:
    """Load an exported folder as the service does, in eval mode and float32."""
    model = open_clip.create_model(f"local-dir:{folder.resolve()}", require_pretrained=True)
    return model.float().eval()


def shipped_text_encoder(model: Clip) -> EncodeTexts:
    """Text tower of a model with open_clip's full token table."""

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Tensor:
        return encode_texts(model, torch.from_numpy(tokenize(texts)))

    return encode


def main(arguments: Sequence[str] | None = None) -> None:
    """Export a checkpoint, load it back and print its figures on unseen compositions as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.drawn_world.export", description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, default=WEIGHTS_DIR)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = export(options.checkpoint, options.output_dir)
    model = load_shipped(options.output_dir)
    shift = best_bias_shift(model, shipped_text_encoder(model))
    path = export(options.checkpoint, options.output_dir, bias_shift=shift)
    model = load_shipped(options.output_dir)
    found = figures(model, shipped_text_encoder(model))
    sys.stdout.write(json.dumps({"bytes": path.stat().st_size, "bias_shift": shift, **found}) + "\n")


if __name__ == "__main__":
    main()
