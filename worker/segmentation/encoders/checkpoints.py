"""The MODEL setting -> a loaded open_clip model with its weights, or an error; never a random or another model."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import open_clip
import torch
from huggingface_hub import constants as hub
from huggingface_hub import get_session
from safetensors import SafetensorError, safe_open

from plugin_config.errors import ModelUnavailable

log = logging.getLogger(__name__)

BUILTIN = "builtin"
BUILTIN_VIT = "builtin-vit"
_BUILTIN = Path(__file__).resolve().parents[2] / "builtin"
_SHIPPED = {BUILTIN: _BUILTIN / "weights", BUILTIN_VIT: _BUILTIN / "vit"}
_SUFFIXES = {".pt", ".pth", ".bin", ".safetensors"}
LOADING_ERRORS = (  # open_clip and torch raise the last five for a file that holds something else
    OSError, RuntimeError, ValueError, pickle.UnpicklingError, httpx.HTTPError, SafetensorError,
    KeyError, AttributeError, TypeError, EOFError, ImportError,
)  # fmt: skip
_OFFLINE = (
    "Where there is no network, download the weights elsewhere and set MODEL to the file or to local-dir:FOLDER; "
    "MODEL=builtin needs none but knows drawn shapes only."
)
_HUB_S = 6.0  # longest wait for the model hub to answer at all, seconds
_TOKENIZER = "Install it beside Zeromask: .venv/bin/python -m pip install transformers sentencepiece."
_CHECK = "Check that the file is intact and of that architecture; write it with torch.save(model.state_dict(), FILE)."


@dataclass(frozen=True)
class ModelSource:
    """Where open_clip finds a model.

    Attributes:
        name: as `open_clip.create_model` takes it.
        pretrained: as `open_clip.create_model` takes it.
        is_downloaded: whether the weights come over the network unless they are in the cache.
        quick_gelu: whether the weights were trained with OpenAI's activation, which the name does not say.
    """

    name: str
    pretrained: str | None
    is_downloaded: bool = False
    quick_gelu: bool = False


def load_model(model: str) -> tuple[Any, Any]:
    """Load a model and its tokenizer, on the CPU, in float32, in evaluation mode.

    Args:
        model: `builtin`, `builtin-vit`, open_clip `name/tag`, `name:file`, a checkpoint file, or `local-dir:folder`.

    Returns:
        The open_clip model, and its tokenizer.

    Raises:
        ModelUnavailable: there is no model of that name, or its weights are missing or unreadable.
    """
    source = resolve(model)
    trouble = hub_trouble() if source.is_downloaded else ""
    if trouble:
        log.warning("model %s: the model hub does not answer (%s); its cache on this machine is used", model, trouble)
    elif source.is_downloaded:
        log.info("model %s: weights that are not in the cache are downloaded now", model)
    try:
        with _muted_loggers(), _cache_alone(only=bool(trouble)):
            tokenizer = open_clip.get_tokenizer(source.name)  # first, so that it fails before a download
            network = open_clip.create_model(
                source.name, pretrained=source.pretrained, require_pretrained=True, force_quick_gelu=source.quick_gelu
            )
    except ModuleNotFoundError as error:
        problem = f"its tokenizer needs the package {error.name}, which is not installed"
        raise ModelUnavailable(f"model {model}", problem, _TOKENIZER) from error
    except LOADING_ERRORS as error:
        remedy = _OFFLINE if source.is_downloaded else _CHECK
        problem = f"its weights cannot be loaded ({loading_problem(error)})"
        if trouble:
            problem = f"its weights are not on this machine, and {hub.ENDPOINT} does not answer ({trouble})"
            remedy = f"Check the network, or the proxy that HTTPS_PROXY names, and start again. {_OFFLINE}"
        raise ModelUnavailable(f"model {model}", problem, remedy) from error
    return network.eval().requires_grad_(False), tokenizer


def hub_trouble() -> str:
    """Why the model hub does not answer, found out within seconds; "" = it does, or HF_HUB_OFFLINE forbids to ask it.

    Its library tries each file six times with growing pauses, so that a missing network would be told after minutes.
    """
    if hub.HF_HUB_OFFLINE:
        return ""
    found: list[str] = []

    def ask() -> None:
        try:
            get_session().head(hub.ENDPOINT, timeout=_HUB_S)
            found.append("")
        except Exception as error:  # of its HTTP library, which is not ours and changes with its releases
            log.debug("%s does not answer", hub.ENDPOINT, exc_info=True)
            found.append(f"{type(error).__name__}: {' '.join(str(error).split())[:150]}".rstrip(": "))

    # In a thread that is left behind where it does not end: looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, name="model hub", daemon=True)
    thread.start()
    thread.join(_HUB_S + 1)
    return found[0] if found else f"no answer within {_HUB_S:.0f} s"


@contextmanager
def _cache_alone(*, only: bool) -> Iterator[None]:
    """Let the hub's library look into its cache only, where `only` says so; else into the hub, too."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or only
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


@contextmanager
def _muted_loggers() -> Iterator[None]:
    """Silence what our own error repeats: a line per retry, and open_clip's lines on the root logger."""
    hub, root = logging.getLogger("huggingface_hub"), logging.getLogger()
    level = hub.level
    hub.setLevel(logging.ERROR)
    root.addFilter(_reject)  # a logger's filter applies only to records logged on that logger itself
    try:
        yield
    finally:
        root.removeFilter(_reject)
        hub.setLevel(level)


def _reject(record: logging.LogRecord) -> bool:
    return False


def loading_problem(error: Exception) -> str:
    """Say what is wrong with a file of weights, in words that a person can act on."""
    text = " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError) or "Weights only load failed" in text:
        return "it is not a checkpoint, or holds Python objects besides weights"
    if isinstance(error, EOFError | SafetensorError) or "zip archive" in text:
        return "the file is empty, cut short or damaged"
    if isinstance(error, AttributeError | TypeError | KeyError):
        return f"the file does not hold named parameters ({type(error).__name__}: {text[:100]})"
    return text.replace("Error(s) in loading state_dict", "other parameters")[:300] or type(error).__name__


def is_builtin(model: str) -> bool:
    """Whether a MODEL setting names a model that ships with this project."""
    return model in _SHIPPED


def resolve(model: str) -> ModelSource:
    """Resolve a MODEL setting to what open_clip loads, without loading weights.

    Args:
        model: see `load_model`.

    Raises:
        ModelUnavailable: there is no such name, tag, file or folder, or the file's architecture cannot be determined.
    """
    if model in _SHIPPED:
        return _local_dir(_SHIPPED[model], model)
    if model.startswith("local-dir:"):
        return _local_dir(Path(model.removeprefix("local-dir:")).expanduser(), model)
    name, _, file = model.partition(":")
    if file:
        return ModelSource(_known_name(name, model), str(_file(file, model)))
    if Path(model).suffix in _SUFFIXES:
        path = _file(model, model)
        return ModelSource(_architecture_of(path, model), str(path))
    name, _, tag = model.partition("/")
    tags = open_clip.list_pretrained_tags_by_model(_known_name(name, model))
    if tag not in tags:
        problem = f"{name} has no weights named {tag!r}" if tag else "no weights are named"
        raise ModelUnavailable(f"model {model}", problem, f"Choose MODEL={name}/ one of: {', '.join(tags) or 'none'}.")
    quick_gelu = bool((open_clip.get_pretrained_cfg(name, tag) or {}).get("quick_gelu"))
    return ModelSource(name, tag, is_downloaded=True, quick_gelu=quick_gelu)


def _known_name(name: str, model: str) -> str:
    if name not in open_clip.list_models():
        remedy = "Use builtin, NAME/TAG from open_clip.list_pretrained(), a checkpoint file, or local-dir:FOLDER."
        raise ModelUnavailable(f"model {model}", f"open_clip knows no architecture {name!r}", remedy)
    return name


def _file(path: str, model: str) -> Path:
    found = Path(path).expanduser().resolve()
    if not found.is_file():
        raise ModelUnavailable(f"model {model}", f"there is no file {found}", "Correct MODEL, or put the file there.")
    return found


def _local_dir(folder: Path, model: str) -> ModelSource:
    if not (folder / "open_clip_config.json").is_file():
        remedy = "The folder must hold open_clip_config.json and a checkpoint, as open_clip writes them."
        if model in _SHIPPED:
            remedy = "It ships with Zeromask, so files of the installation are missing: install it again."
        raise ModelUnavailable(f"model {model}", f"there is no open_clip_config.json in {folder}", remedy)
    return ModelSource(f"local-dir:{folder.resolve()}", None)


def _architecture_of(path: Path, model: str) -> str:
    """Find the native ViT architecture whose parameters have the shapes found in the file."""
    remedy = "Name it: MODEL=ARCHITECTURE:FILE, for example ViT-B-16:/models/weights.pt."
    try:
        shapes = _shapes(path)
    except LOADING_ERRORS as error:
        problem = f"is not a readable checkpoint: {loading_problem(error)}"
        raise ModelUnavailable(f"model {model}", problem, _CHECK) from error
    matches = [name for name in open_clip.list_models() if _matches(open_clip.get_model_config(name), shapes)]
    plain = sorted((name for name in matches if "quickgelu" not in name), key=len)
    if not plain:
        raise ModelUnavailable(f"model {model}", "its architecture cannot be determined from its parameters", remedy)
    log.info("%s has the parameters of %s; to choose another, write ARCHITECTURE:FILE", path.name, plain[0])
    return str(plain[0])


def _shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    if path.suffix == ".safetensors":
        with safe_open(str(path), framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not isinstance(state, dict):
        return {}
    return {k.removeprefix("module."): tuple(v.shape) for k, v in state.items() if isinstance(v, torch.Tensor)}


def _matches(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a model config is of a native ViT with parameters of these shapes."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text or not isinstance(vision.get("layers"), int):
        return False
    patch, width, grid = vision.get("patch_size", 0), vision.get("width", 768), vision.get("image_size", 224)
    grid = grid // patch if isinstance(grid, int) and patch else 0
    expected = {
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.positional_embedding": (grid * grid + 1, width),
        "visual.proj": (width, config["embed_dim"]),
        "positional_embedding": (text.get("context_length", 77), text.get("width", 512)),
    }
    last_layer = f"visual.transformer.resblocks.{vision['layers'] - 1}.ln_1.weight"
    layer_after = f"visual.transformer.resblocks.{vision['layers']}.ln_1.weight"
    has_all_layers = last_layer in shapes and layer_after not in shapes
    return has_all_layers and all(shapes.get(key) == shape for key, shape in expected.items())
