"""Every setting once: its environment variable, default, unit and meaning.

`Settings.from_env` is the only place that reads the environment, and only the entry points call it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from plugin_config.certificates import CA_BUNDLE, SYSTEM_BUNDLE, check_bundle
from plugin_config.errors import SettingsError

# Predictions made with different values of these are of different versions.
_ENGINE = {"short_side", "windows", "readout", "affinity_tower", "refiner", "least_score"}
_ALL_OR_NONE = "Set all three of ZEROMASK_USER, ZEROMASK_PASSWORD and ZEROMASK_WEBHOOK_SECRET, or none."
_LEAST_SECRET = {"ZEROMASK_PASSWORD": 12, "ZEROMASK_WEBHOOK_SECRET": 16}
_MOST_SECRET_FILE = 64 * 1024  # bytes
# Settings that only the backend or only the worker (a learner too) gets; all others are for both.
_FOR_BACKEND = {"user", "password", "max_body_mb", "predict_wait_s", "predict_wait_tasks", "click_wait_s"}
_FOR_WORKER = {
    "label_studio_url", "label_studio_api_key", "device", "threads", "precision", "compile", "batch", "reconcile_s",
    "versions", "recipe", "finetune_every", "image_max_mb", "image_max_megapixels", "image_timeout_s", "image_cache_mb",
    "allow_private_images", "contact", "interactive", "embeddings", "embedding_cache_mb", "order",
}  # fmt: skip
_UNSPECIFIED_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}


def _setting(
    env: str, default: Any, meaning: str, *, least: float | None = None, most: float | None = None, secret: bool = False
) -> Any:
    metadata = {"env": env, "meaning": meaning, "least": least, "most": most, "secret": secret}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """All settings of the backend, the worker and the commands, checked at construction.

    Raises:
        SettingsError: a value is outside what its setting allows; the message names the environment variable.
    """

    redis_url: str = _setting("REDIS_URL", "", "Redis of the queues, `redis://[:password@]host:port/0`, `rediss://...` "
                              "or `redis+sentinel://[:password@]host:26379,host:26379/MASTER/0`. Needed by "
                              "`zeromask backend` and `zeromask worker`; `zeromask up` starts one when it is empty.",
                              secret=True)
    label_studio_url: str = _setting("LABEL_STUDIO_URL", "", "Address of your Label Studio, with scheme.")
    label_studio_public_url: str = _setting("LABEL_STUDIO_PUBLIC_URL", "", "Other addresses of the same Label Studio "
                                            "that tasks may name, comma list: `https://labels.example.com/ls`. They "
                                            "are fetched from `LABEL_STUDIO_URL`. The status page links to the first.")
    label_studio_api_key: str = _setting("LABEL_STUDIO_API_KEY", "", "Personal access token (or legacy token) of a "
                                         "Label Studio user who may read and pre-annotate the projects.", secret=True)
    ca_bundle: str = _setting("ZEROMASK_CA_BUNDLE", "", "PEM file of your own authorities' certificates, trusted "
                              "beside the system's, for Label Studio, images and `rediss://`. Nothing turns the check "
                              "off.")
    model: str = _setting("MODEL", "ViT-B-16/datacomp_xl_s13b_b90k", "`builtin`, `builtin-vit`, an open_clip "
                          "`name/tag`, a checkpoint file (or `name:file`), or `local-dir:folder`.")
    device: str = _setting("ZEROMASK_DEVICE", "auto", "`auto`, `cpu`, `cuda` or `cuda:N`.")
    threads: int = _setting("ZEROMASK_THREADS", 0, "Threads torch may use in the worker; 0 = torch's choice.", least=0)
    short_side: int = _setting("ZEROMASK_SHORT_SIDE", 0, "Short side, pixels, at which images enter the model; "
                               "0 = twice the model's native size.", least=0, most=2048)
    windows: int = _setting("ZEROMASK_WINDOWS", 0, "Most overlapping windows, one forward pass each, in which an image "
                            "larger than the model's input is read; 0 = one pass over the whole image. Below 4 only "
                            "elongated images gain.", least=0, most=64)
    readout: str = _setting("ZEROMASK_READOUT", "auto", "How patches are read out of the model (docs/guide/models.md): "
                            "`value`, `clearclip`, `sclip`, `naclip`, `pearl`, `proxy`, `standard`; `clearclip`, "
                            "`sclip`, `naclip` and `proxy` with `-stitched` attend across all windows at once; "
                            "`auto` = by the weights' family.")
    affinity_tower: str = _setting("ZEROMASK_AFFINITY_TOWER", "", "A ViT of timm whose features serve readout, "
                                   "outlines and learning, such as `vit_small_patch14_dinov2.lvd142m`, or "
                                   "`name:file` (docs/guide/models.md).")
    precision: str = _setting("ZEROMASK_PRECISION", "auto", "`fp32`, `bf16`, `fp16`; `auto` = the fastest here, "
                              "measured, whose features agree with fp32.")
    compile: bool = _setting("ZEROMASK_COMPILE", False, "Whether the image tower is compiled by torch, which needs a "
                             "C++ compiler and a longer start.")
    refiner: str = _setting("ZEROMASK_REFINER", "", "Installed model of the SAM family that redraws things where it "
                            "agrees; empty = none. See docs/research/instances.md.")
    least_score: float = _setting("ZEROMASK_LEAST_SCORE", 0.3, "Regions of a lower score, 0 to 1, are not drawn: with "
                                  "`builtin` models at once, with others once annotators have seen 50 regions of the "
                                  "project, which calibrate its scores. 0 = all are drawn.", least=0, most=1)
    state_dir: str = _setting("ZEROMASK_STATE_DIR", ".zeromask", "Folder of the embedded Redis, logs, demo data, text "
                              "embeddings, and requests kept while Redis was away.")
    host: str = _setting("ZEROMASK_HOST", "127.0.0.1", "Address the backend listens on.")
    user: str = _setting("ZEROMASK_USER", "", "Name with which Label Studio signs in to the backend, as basic auth; it "
                         "goes into the model's settings in Label Studio. Empty = nobody signs in, and the backend "
                         "listens on loopback only.")
    password: str = _setting("ZEROMASK_PASSWORD", "", "Password of `ZEROMASK_USER`, at least 12 characters.",
                             secret=True)
    webhook_secret: str = _setting("ZEROMASK_WEBHOOK_SECRET", "", "What webhooks carry in the header "
                                   "`X-Zeromask-Secret`, at least 16 characters: Label Studio does not sign in with "
                                   "them. The worker puts it into Label Studio's webhooks.", secret=True)
    allowed_hosts: str = _setting("ZEROMASK_ALLOWED_HOSTS", "", "Host names under which the backend is reached beside "
                                  "`localhost` and plain addresses, comma list: `zeromask,masks.example.com`.")
    port: int = _setting("ZEROMASK_PORT", 9090, "Port the backend listens on.", least=1, most=65535)
    max_body_mb: int = _setting("ZEROMASK_MAX_BODY_MB", 128, "Largest request body, MB; a request for predictions of "
                                "100,000 tasks fits the default.", least=1, most=4096)
    predict_wait_s: float = _setting("ZEROMASK_PREDICT_WAIT_S", 1.4, "Longest wait, seconds, of a request for a "
                                     "handful of tasks until their masks are stored.", least=0, most=1.5)
    predict_wait_tasks: int = _setting("ZEROMASK_PREDICT_WAIT_TASKS", 5, "How many tasks are a handful.", least=0)
    click_wait_s: float = _setting("ZEROMASK_CLICK_WAIT_S", 20.0, "Longest wait, seconds, of a click with a smart tool "
                                   "for its mask; Label Studio's page gives up after some 90.", least=1, most=60)
    interactive: bool = _setting("ZEROMASK_INTERACTIVE", True, "Whether a worker answers clicks of smart tools between "
                                 "two images. Workers of `--queue interactive` do nothing else.")
    prelabel: bool = _setting("ZEROMASK_PRELABEL", False, "Whether new tasks are predicted without a request.")
    control_share: float = _setting("ZEROMASK_CONTROL_SHARE", 0.0, "Share of the tasks, 0 to 0.5, that are shown "
                                    "without a prediction, so that `zeromask report` can compare times "
                                    "(docs/guide/report.md).", least=0, most=0.5)
    order: bool = _setting("ZEROMASK_ORDER", True, "Whether annotators get the image that teaches most next "
                           "(docs/guide/next_image.md), where nobody chose another order.")
    drain_tasks: int = _setting("ZEROMASK_DRAIN_TASKS", 8, "Tasks a worker takes at a time.", least=1, most=64)
    batch: int = _setting("ZEROMASK_BATCH", 8, "Most images in one forward; fewer where memory or time is short.",
                          least=1, most=256)
    lease_s: float = _setting("ZEROMASK_LEASE_S", 10.0, "Seconds after which the tasks of a dead worker go to "
                              "another.", least=2, most=3600)
    reconcile_s: float = _setting("ZEROMASK_RECONCILE_S", 60.0, "Seconds between two checks of labeling configs and "
                                  "annotations for changes without a webhook.", least=1, most=86400)
    versions: str = _setting("ZEROMASK_VERSIONS", "", "Where learned versions are kept: a folder that all workers see, "
                             "or an fsspec URL such as `s3://bucket/zeromask` (install the extra `s3`); empty = "
                             "`versions` in the state folder.")
    recipe: str = _setting("ZEROMASK_RECIPE", "quick", "What learns from corrections: `quick`; `lseg`, `sazs` or "
                           "`zegclip` learn beside it from 20 corrected images on (docs/guide/dense.md).")
    finetune_every: int = _setting("ZEROMASK_FINETUNE_EVERY", 3, "New or changed annotated images after which a "
                                   "project learns.", least=1)
    finetune_quiet_s: float = _setting("ZEROMASK_FINETUNE_QUIET_S", 10.0, "Seconds without a new annotation before "
                                       "learning starts; ten times that at most.", least=0, most=3600)
    image_max_mb: int = _setting("ZEROMASK_IMAGE_MAX_MB", 64, "Largest image file fetched, MB.", least=1)
    image_max_megapixels: float = _setting("ZEROMASK_IMAGE_MAX_MEGAPIXELS", 100.0, "Largest image decoded, millions "
                                           "of pixels.", least=0.01)
    image_timeout_s: float = _setting("ZEROMASK_IMAGE_TIMEOUT_S", 30.0, "Longest wait for an image, seconds.", least=1)
    image_cache_mb: int = _setting("ZEROMASK_IMAGE_CACHE_MB", 1000, "Image files that workers keep in the state folder "
                                   "instead of fetching them again, MB; 0 = none are kept.", least=0)
    embeddings: str = _setting("ZEROMASK_EMBEDDINGS", "", "Folder in which workers keep image embeddings for clicks, "
                               "new labels and each other, such as one that several machines mount; empty = "
                               "`embeddings` in the state folder.")
    embedding_cache_mb: int = _setting("ZEROMASK_EMBEDDING_CACHE_MB", 2000, "Size of that folder, MB; the same for all "
                                       "its workers. 0 = no image embeddings are kept.", least=0)
    allow_private_images: bool = _setting("ZEROMASK_ALLOW_PRIVATE_IMAGES", False, "Whether image URLs may point to "
                                          "private addresses other than Label Studio's own.")
    contact: str = _setting("ZEROMASK_CONTACT", "", "Your web or mail address, for the `User-Agent` that image hosts "
                            "see; some refuse programs without one.")

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_range(item.metadata, getattr(self, item.name))
        _check_sign_in(self.user, self.password, self.webhook_secret)
        if "://" in self.embeddings:
            raise SettingsError("setting ZEROMASK_EMBEDDINGS", "is a URL and no folder", "Name a folder, or unset it.")
        if not (self.contact.isascii() and self.contact.isprintable()) or set("()\\") & set(self.contact):
            problem = "holds signs that a header's comment cannot carry, such as umlauts or parentheses"
            raise SettingsError("setting ZEROMASK_CONTACT", problem, "Set it to a mail address or a URL.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from an environment such as `os.environ`; an empty value means the default.

        A secret X may be in a file, whose path is in `X_FILE`.
        """
        values: dict[str, Any] = {}
        for item in fields(cls):
            text = environ.get(item.metadata["env"], "").strip()
            if item.metadata["secret"]:
                text = _secret(item.metadata["env"], text, environ.get(f"{item.metadata['env']}_FILE", "").strip())
            if text:
                values[item.name] = _parse(item.metadata["env"], text, type(item.default))
        for env in (CA_BUNDLE, SYSTEM_BUNDLE):
            if bundle := environ.get(env, "").strip():
                check_bundle(env, bundle)
        return cls(**values)

    def require(self, *names: str) -> Settings:
        """Return the settings when the named ones are set.

        Raises:
            SettingsError: one of them is empty; the message gives the variable and its meaning.
        """
        for item in fields(self):
            if item.name in names and not getattr(self, item.name):
                remedy = f"Set it in this terminal, as where Zeromask runs. It is: {item.metadata['meaning']}"
                raise SettingsError(f"setting {item.metadata['env']}", "is not set", remedy)
        return self

    def require_guarded(self) -> Settings:
        """Return the settings when only this machine reaches the backend, or every client must sign in.

        Raises:
            SettingsError: the backend is to listen on another address, and the sign-in is not set or incomplete.
        """
        if self.webhook_secret and not self.user:
            problem = "is not set, and ZEROMASK_WEBHOOK_SECRET is"
            raise SettingsError("setting ZEROMASK_USER", problem, _ALL_OR_NONE)
        if self.signs_in or is_loopback(self.host):
            return self
        problem = f"is {self.host}, which others reach, and nobody has to sign in"
        remedy = (
            "Set ZEROMASK_USER, ZEROMASK_PASSWORD and ZEROMASK_WEBHOOK_SECRET (make a secret: python3 -c "
            "'import secrets; print(secrets.token_urlsafe())'), or unset ZEROMASK_HOST."
        )
        raise SettingsError("setting ZEROMASK_HOST", problem, remedy)

    def environment(self, process: Literal["backend", "worker"]) -> dict[str, str]:
        """The settings as environment variables for the backend or a worker, without those it never reads."""
        others = _FOR_WORKER if process == "backend" else _FOR_BACKEND
        mine = [item for item in fields(self) if item.name not in others]
        return {item.metadata["env"]: _plain(getattr(self, item.name)) for item in mine}

    @property
    def signs_in(self) -> bool:
        """Whether clients of the backend must sign in."""
        return bool(self.user)

    @property
    def backend_url(self) -> str:
        """Where this machine reaches the backend."""
        given = self.host.strip("[]")
        host = _UNSPECIFIED_HOSTS.get(given, given)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def engine(self) -> str:
        """4 hex digits of the settings other than MODEL that change predictions; "" while all have their default."""
        values = [getattr(self, item.name) for item in fields(self) if item.name in _ENGINE]
        if values == [item.default for item in fields(self) if item.name in _ENGINE]:
            return ""
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:4]

    @property
    def state_path(self) -> Path:
        """`state_dir` as an absolute path."""
        return Path(self.state_dir).expanduser().resolve()

    @property
    def versions_url(self) -> str:
        """Where learned versions are kept: an absolute path, or a URL."""
        if "://" in self.versions:
            return self.versions.rstrip("/")
        return str(Path(self.versions).expanduser().resolve() if self.versions else self.state_path / "versions")

    @property
    def embeddings_path(self) -> Path:
        """Folder of the image embeddings, an absolute path."""
        return Path(self.embeddings).expanduser().resolve() if self.embeddings else self.state_path / "embeddings"


@dataclass(frozen=True)
class SettingRow:
    """One row of the settings table in the documentation."""

    env: str
    default: str
    meaning: str


def settings_table() -> list[SettingRow]:
    """Every setting with its default as text, in the order of `Settings`."""
    return [SettingRow(item.metadata["env"], str(item.default), item.metadata["meaning"]) for item in fields(Settings)]


def setting_names() -> frozenset[str]:
    """Every environment variable that `Settings.from_env` reads."""
    rows = [item.metadata for item in fields(Settings)]
    return frozenset(row["env"] for row in rows) | {f"{row['env']}_FILE" for row in rows if row["secret"]}


def _plain(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _parse(env: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in _TRUE | _FALSE:
            raise SettingsError(f"setting {env}", f"must be yes or no, got {text!r}", f"Set {env}=1 or {env}=0.")
        return text.lower() in _TRUE
    try:
        return kind(text)
    except ValueError as error:
        problem = f"must be {'a whole number' if kind is int else 'a number'}, got {text!r}"
        raise SettingsError(f"setting {env}", problem, f"Unset {env} for the default.") from error


def _secret(env: str, text: str, path: str) -> str:
    if not path:
        return text
    if text:
        raise SettingsError(f"setting {env}_FILE", f"is set beside {env}", "Set one of them.")
    subject, remedy = f"setting {env}_FILE", f"Correct it, or set {env} itself."
    try:
        with Path(path).open("rb") as file:  # a device may go on without end
            content = file.read(_MOST_SECRET_FILE + 1)
        secret = content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(subject, f"names a file that cannot be read, {path} ({error})", remedy) from error
    if len(content) > _MOST_SECRET_FILE or not secret.isprintable():
        raise SettingsError(subject, f"names a file that holds more than one line of text, {path}", remedy)
    if not secret:  # it would count as not set, and nobody would have to sign in
        raise SettingsError(subject, f"names an empty file, {path}", remedy)
    return secret


def _check_sign_in(user: str, password: str, webhook_secret: str) -> None:
    values = {"ZEROMASK_USER": user, "ZEROMASK_PASSWORD": password, "ZEROMASK_WEBHOOK_SECRET": webhook_secret}
    missing = [env for env, value in values.items() if not value]
    if missing and (user or password):  # a worker gets the secret alone
        raise SettingsError(f"setting {missing[0]}", "is not set, and others of the sign-in are", _ALL_OR_NONE)
    if ":" in user:
        raise SettingsError("setting ZEROMASK_USER", "holds a colon, which basic auth cannot carry", "Choose another.")
    for env, value in values.items():
        if not value.isprintable():
            raise SettingsError(f"setting {env}", "holds line ends or other signs that are no text", "Choose another.")
    if not webhook_secret.isascii():  # Label Studio would fail to send it
        problem = "holds other letters than a header may carry, such as umlauts"
        raise SettingsError("setting ZEROMASK_WEBHOOK_SECRET", problem, "Choose letters, digits and signs of ASCII.")
    for env, least in _LEAST_SECRET.items():
        if values[env] and len(values[env]) < least:
            remedy = "Make one: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
            raise SettingsError(f"setting {env}", f"must have at least {least} characters", remedy)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host. Names other than localhost are not looked up: they may change."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check_range(metadata: Mapping[str, Any], value: Any) -> None:
    least, most = metadata["least"], metadata["most"]
    if least is None and most is None:
        return
    if not -math.inf < value < math.inf or (least is not None and value < least) or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"between {least} and {most}"
        env = metadata["env"]
        raise SettingsError(f"setting {env}", f"must be {bounds}, got {value!r}", f"Unset {env} for the default.")
