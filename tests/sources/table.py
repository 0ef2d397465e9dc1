"""The cells of the table: every image fetched by the worker's own code, twice, and compared pixel by pixel."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from plugin_config.errors import ZeromaskError
from plugin_config.label_studio.client import LabelStudio, Task
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary
from tests.house import CONFIG, picture
from tests.http_server import Answer, Asked, serving
from tests.sources.storage import s3
from tests.tls import Authority
from worker.label_studio.image_address import address_in
from worker.label_studio.image_cache import ImageCache
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import ImageLimits

LABEL_CONFIG = CONFIG.format(more="")


@dataclass(frozen=True)
class Cell:
    """One image fetched. `again`: what the second time took, after a restart."""

    source: str
    token: str
    way: str
    fetched: bool
    again: str
    note: str = ""


@dataclass(frozen=True)
class Way:
    """How the worker reaches Label Studio.

    Attributes:
        name: in the table.
        url: setting LABEL_STUDIO_URL.
        legacy: token of an owner.
        files: folder of Label Studio's local files; None = it serves none.
        authority: of every certificate.
    """

    name: str
    url: str
    legacy: str
    files: Path | None
    authority: Authority

    def client(self, token: str) -> LabelStudio:
        """As the worker makes it."""
        return LabelStudio(self.url, token, ca_bundle=self.authority.bundle)


class Sources:
    """A project with one task of each source. Made in a `with` block by `sources`."""

    def __init__(self, api: LabelStudio, way: Way) -> None:
        self._api, self._way = api, way
        body = {"title": f"sources {way.name}", "label_config": LABEL_CONFIG}
        self.project = int(api.request("POST", "/api/projects/", json=body)["id"])
        self.pictures: dict[str, bytes] = {}
        self.tasks: dict[str, int] = {}

    def add(self, source: str, make: Callable[[bytes], None]) -> None:
        """Import a picture of its own by `make`, and find its task."""
        content = picture(top=10 + 5 * len(self.pictures))
        make(content)
        known = set(self.tasks.values())
        (task,) = [row.id for row in self._api.all_tasks(self.project) if row.id not in known]
        self.pictures[source], self.tasks[source] = content, task

    def upload(self, content: bytes) -> None:
        files = [("a.png", ("a.png", content, "image/png"))]
        self._api.request("POST", f"/api/projects/{self.project}/import", files=files)

    def url(self, address: str) -> None:
        self._api.request("POST", f"/api/projects/{self.project}/import", json=[{"image": address}])

    def storage(self, kind: str, **fields: Any) -> None:
        body = {"project": self.project, "title": kind, "use_blob_urls": True, **fields}
        made = self._api.request("POST", f"/api/storages/{kind}/", json=body)["id"]
        self._api.request("POST", f"/api/storages/{kind}/{made}/sync")


@contextmanager
def sources(api: LabelStudio, way: Way, chosen: Sequence[str]) -> Iterator[Sources]:
    """Fill a project with tasks of the sources named, whose servers run as long as the `with` block lasts."""
    with ExitStack() as stack:
        found = Sources(api, way)

        def serve(content: bytes, **options: Any) -> str:
            tag = {"ETag": f'"{len(content)}-{content[-20:].hex()}"'}

            def answer(asked: Asked) -> Answer:
                same = asked.headers.get("If-None-Match") == tag["ETag"]
                return Answer(304, headers=tag) if same else Answer(200, content, tag)

            return f"{stack.enter_context(serving(answer, host='localhost', **options)).url}/a.png"

        def store(content: bytes, *, presign: bool) -> None:
            bucket = "presigned" if presign else "proxied"  # Label Studio asks the first storage of a bucket only
            endpoint = stack.enter_context(serving(s3(bucket, {"a b.png": content}), host="localhost")).url
            found.storage("s3", bucket=bucket, s3_endpoint=endpoint, aws_access_key_id="key", region_name="us-east-1",
                          aws_secret_access_key="secret", presign=presign)  # fmt: skip

        def local(content: bytes) -> None:
            assert way.files is not None
            folder = way.files / f"{way.name.split()[0]}-{found.project}"
            folder.mkdir(parents=True)
            (folder / "a picture.png").write_bytes(content)
            found.storage("localfiles", path=str(folder))

        tls = way.authority.context("localhost")
        makers: Mapping[str, Callable[[bytes], None]] = {
            "uploaded file": found.upload,
            "local files storage": local,
            "s3, presigned": lambda content: store(content, presign=True),
            "s3, through Label Studio": lambda content: store(content, presign=False),
            "http of another host": lambda content: found.url(serve(content)),
            "https of another host, own CA": lambda content: found.url(serve(content, tls=tls)),
            "data: URI": lambda content: found.url(f"data:image/png;base64,{base64.b64encode(content).decode()}"),
        }
        for source in chosen or makers:
            found.add(source, makers[source])
        yield found


def read(found: Sources, way: Way, tokens: Mapping[str, str], state: Path) -> list[Cell]:
    """Fetch every image with every token, twice."""
    cells = []
    for kind, token in tokens.items():
        with way.client(token) as client:
            value = parse_vocabulary(client.project(found.project).label_config).image_value
            tasks = {task.id: task for task in client.tasks(found.project, list(found.tasks.values()))}
            for source, content in found.pictures.items():
                folder = state / f"{way.name}-{kind}"
                cells.append(_cell(source, kind, way, client, found.project, tasks[found.tasks[source]], value, content,
                                   folder))  # fmt: skip
    return cells


def _cell(
    source: str, kind: str, way: Way, client: LabelStudio, project: int, task: Task, value: str, content: bytes,
    folder: Path,
) -> Cell:  # fmt: skip
    try:
        before, after = Counting(folder), Counting(folder)
        first = load(client, project, task, value, way, before)
        same = np.array_equal(first, load(client, project, task, value, way, after))
    except ZeromaskError as error:
        return Cell(source, kind, way.name, fetched=False, again="", note=str(error)[:200])
    right = same and np.array_equal(first, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    again = "fetched again" if after.kept else "from the cache" if before.kept else "from the task"
    return Cell(source, kind, way.name, fetched=right, again=again, note="" if right else "other pixels")


class Counting(ImageCache):
    """A cache as a worker has it after a restart, that counts what came over the network."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 100_000_000)
        self.kept = 0

    def keep(
        self, *identity: object, content: bytes, url: httpx.URL, headers: Mapping[str, str], lasting: bool = False
    ) -> None:
        """See `ImageCache`."""
        self.kept += 1
        super().keep(*identity, content=content, url=url, headers=headers, lasting=lasting)


def load(client: LabelStudio, project: int, task: Task, value: str, way: Way, cache: ImageCache) -> Any:
    """The pixels of a task's image, as the worker's first stage has them."""
    limits = ImageLimits.from_settings(Settings(allow_private_images=True, ca_bundle=way.authority.bundle))
    loader = ImageLoader(limits, cache)
    address = address_in(task, value)
    return loader.load(address, task=task.id, project=project, label_studio=client, urgent=False).pixels


def read_in_threads(client: LabelStudio, found: Sources, way: Way, *, until: Callable[[], bool]) -> tuple[int, str]:
    """Fetch the uploaded file from eight threads again and again; returns how often, and the first error."""
    value = parse_vocabulary(LABEL_CONFIG).image_value
    (task,) = client.tasks(found.project, [found.tasks["uploaded file"]])
    done, lock = [0], threading.Lock()
    errors: list[str] = []

    def work(_: int) -> None:
        while not until() and not errors:
            try:
                load(client, found.project, task, value, way, ImageCache(Path("/dev/null"), 0))
            except ZeromaskError as error:
                errors.append(str(error))
            with lock:
                done[0] += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    return done[0], (errors or [""])[0]
