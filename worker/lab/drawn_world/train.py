"""Train the builtin model on drawn scenes: `python -m worker.lab.drawn_world.train --output-dir runs/builtin`.

In this order: configuration, model, checkpoint, schedule, step, loop.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from plugin_config.errors import ModelUnavailable
from plugin_config.files import written_whole
from worker.lab.drawn_world.batches import PATCH, TrainingBatch, draw_batch
from worker.lab.drawn_world.measure import EncodeTexts, figures
from worker.lab.drawn_world.objective import Clip, batch_loss, encode_texts
from worker.lab.drawn_world.phrases import CONTEXT_LENGTH, compact, known_tokens, tokenize
from worker.lab.drawn_world.world import TEXTURES

NATIVE, WIDTH = 96, 16  # pixels, channels of the first stage
MODEL_CFG = {
    "embed_dim": 128,
    "init_logit_scale": math.log(12.0),
    "init_logit_bias": -5.0,
    "vision_cfg": {"image_size": NATIVE, "layers": [2, 3, 6, 1], "width": WIDTH, "head_width": 64},
    "text_cfg": {"context_length": CONTEXT_LENGTH, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}
# A plain ViT with as wide features halfway up; it is for networks that put tokens of their own into one.
VIT_CFG = {
    **MODEL_CFG,
    "vision_cfg": {"image_size": NATIVE, "layers": 5, "width": 8 * WIDTH, "head_width": 32, "patch_size": PATCH},
}
TOWERS = {"resnet": MODEL_CFG, "vit": VIT_CFG}


@dataclass(frozen=True)
class TrainingConfig:
    """Configuration of a training run; on one machine it determines the weights.

    Attributes:
        output_dir: folder of the checkpoint and the log.
        steps: length of the learning-rate schedule.
        minutes: wall-clock time after which the run stops early and can be resumed.
        seed: of weights, scenes and texts.
        patches: patches per step.
        learning_rate: peak of the schedule.
        report_every: steps between measurements on unseen compositions.
        tower: the image tower, a name in TOWERS.
    """

    output_dir: Path
    steps: int = 8500
    minutes: float = math.inf
    seed: int = 1
    patches: int = 20 * 144
    learning_rate: float = 2e-3
    report_every: int = 500
    tower: str = "resnet"


@dataclass
class TrainingState:
    """State of a run, as a checkpoint holds it.

    Attributes:
        model: the trained weights.
        average: their running average, which is exported.
        probe: linear probe for textures, used in training only.
        optimizer: AdamW.
        step: how many steps are done.
    """

    model: Clip
    average: Clip
    probe: nn.Linear
    optimizer: torch.optim.AdamW
    step: int = 0


def new_state(config: TrainingConfig) -> TrainingState:
    """Initialise a model whose token table holds only the tokens that occur in training."""
    torch.manual_seed(config.seed)
    model_cfg = TOWERS[config.tower]
    text_cfg = {**model_cfg["text_cfg"], "vocab_size": len(known_tokens())}  # type: ignore[dict-item]
    model = open_clip.CLIP(**{**model_cfg, "text_cfg": text_cfg})
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    probe = nn.Linear(8 * WIDTH, len(TEXTURES))
    groups = [
        {"params": decayed, "weight_decay": 0.05},
        {"params": others, "weight_decay": 0.0},
        {"params": list(probe.parameters()), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    return TrainingState(model, copy.deepcopy(model), probe, optimizer)


def save(state: TrainingState, path: Path, *, tower: str = "resnet") -> None:
    """Write a checkpoint atomically; `tower` is a name in TOWERS."""
    checkpoint = {
        "tower": tower,
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "probe": state.probe.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
    }
    with written_whole(path) as aside:
        torch.save(checkpoint, aside)


def load(config: TrainingConfig, path: Path) -> TrainingState:
    """Read a checkpoint back.

    Raises:
        ModelUnavailable: there is none, or it is of another tower.
    """
    if not path.is_file():
        raise ModelUnavailable(f"checkpoint {path}", "it does not exist", "Start without --resume.")
    saved = torch.load(path, weights_only=True)
    tower = saved.get("tower", "resnet")
    if tower != config.tower:
        remedy = f"Give --tower {tower}, or another --output-dir."
        raise ModelUnavailable(f"checkpoint {path}", f"is of a {tower}, not a {config.tower}", remedy)
    state = new_state(config)
    state.model.load_state_dict(saved["model"])
    state.average.load_state_dict(saved["average"])
    state.probe.load_state_dict(saved["probe"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step = saved["step"]
    return state


def rate_at(config: TrainingConfig, step: int) -> float:
    """Learning rate of a step: 150 steps of warm-up, then a cosine down to 2 %."""
    if step < 150:
        return config.learning_rate * (step + 1) / 150
    done = min(1.0, (step - 150) / max(1, config.steps - 150))
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train_step(config: TrainingConfig, state: TrainingState, batch: TrainingBatch) -> dict[str, float]:
    """Do one step of AdamW and of the running average of the weights; return the parts of the loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(config, state.step)
    loss, parts = batch_loss(state.model, state.probe, batch, with_image=batch.pixels.shape[2:] == (NATIVE, NATIVE))
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizer.step()
    with torch.no_grad():
        state.model.logit_scale.clamp_(max=math.log(60))
        keep = min(0.999, (1 + state.step) / (10 + state.step))
        values = state.model.state_dict()
        for name, mean in state.average.state_dict().items():
            if mean.is_floating_point():  # parameters and the statistics of the batch norms
                mean.lerp_(values[name], 1 - keep)
    state.step += 1
    return parts


def text_encoder(model: Clip) -> EncodeTexts:
    """Text tower of a model with the compact token table."""

    def encode(texts: Sequence[str]) -> Tensor:
        return encode_texts(model, torch.from_numpy(compact(tokenize(texts))))

    return encode


def train(config: TrainingConfig, state: TrainingState) -> None:
    """Run until the schedule or the time ends; write checkpoints and measurements on the way."""
    path = config.output_dir / "checkpoint.pt"
    started = last_saved = time.monotonic()
    with ThreadPoolExecutor(1) as pool, (config.output_dir / "training_log.jsonl").open("a") as log:
        upcoming = pool.submit(_draw_next, config, state.step)
        while state.step < config.steps and time.monotonic() - started < config.minutes * 60:
            batch = upcoming.result()
            upcoming = pool.submit(_draw_next, config, state.step + 1)
            parts = train_step(config, state, batch)
            if state.step % config.report_every == 0:
                line = {"step": state.step, "minutes": round((time.monotonic() - started) / 60, 1)}
                line |= {part: round(value, 4) for part, value in parts.items()} | figures(
                    state.average, text_encoder(state.average)
                )
                log.write(json.dumps(line) + "\n")
                log.flush()
            if time.monotonic() - last_saved > 60:
                save(state, path, tower=config.tower)
                last_saved = time.monotonic()
        upcoming.cancel()
    save(state, path, tower=config.tower)


def _draw_next(config: TrainingConfig, step: int) -> TrainingBatch:
    return draw_batch(config.seed, step, progress=step / config.steps, patches=config.patches)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the builtin model on drawn scenes."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.drawn_world.train", description=main.__doc__)
    parser.add_argument("--output-dir", type=Path, required=True, help="checkpoint and log go here")
    parser.add_argument("--steps", type=int, default=TrainingConfig.steps, help="length of the schedule")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long; resume later")
    parser.add_argument("--seed", type=int, default=TrainingConfig.seed)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--report-every", type=int, default=TrainingConfig.report_every,
                        help="steps between measurements")  # fmt: skip
    parser.add_argument("--patches", type=int, default=TrainingConfig.patches, help="patches per step")
    parser.add_argument("--learning-rate", type=float, default=TrainingConfig.learning_rate,
                        help="peak of the schedule")  # fmt: skip
    parser.add_argument("--tower", choices=tuple(TOWERS), default=TrainingConfig.tower, help="the image tower")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --output-dir")
    options = vars(parser.parse_args(arguments))
    torch.set_num_threads(options.pop("threads"))
    resume = options.pop("resume")
    config = TrainingConfig(**options)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    state = load(config, config.output_dir / "checkpoint.pt") if resume else new_state(config)
    with (config.output_dir / "training_log.jsonl").open("a") as log:
        module = __spec__.name if __spec__ else __name__  # of this file, under the path that it was started by
        command = ["python", "-m", module, *(sys.argv[1:] if arguments is None else arguments)]
        log.write(json.dumps({"command": " ".join(command), "seed": config.seed, "from_step": state.step}) + "\n")
    train(config, state)


if __name__ == "__main__":
    main()
