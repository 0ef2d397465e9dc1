"""What a click needs of its task and project, kept for the clicks that follow: a second click on an image asks Label
Studio for nothing.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from cachetools import LRUCache, TTLCache

from plugin_config.errors import ImageUnavailable, LearningError
from plugin_config.label_studio.client import Task
from plugin_config.queue.clicks import ClickRequest
from plugin_config.versions.served import ServedAdapters
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import Picture
from worker.label_studio.prompts import clicked_image
from worker.label_studio.task_images import TaskImage, images_of
from worker.segmentation.clicks.scene import ClickScene, prepare
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.text.encoder import TextClasses
from worker.service.context import WorkerContext
from worker.service.plan import Plan, read_plan

log = logging.getLogger(__name__)

_PLAN_S, _TASK_S = 60.0, 300.0
_MOST_PLANS, _MOST_TASKS = 50, 500
_MOST_SCENE_BYTES = 400_000_000


@dataclass(frozen=True)
class LoadedImage:
    """One image of a task, embedded, and the texts of the labels that are looked for in it."""

    image: TaskImage
    picture: Picture
    embedding: ImageEmbedding
    classes: TextClasses


@dataclass(frozen=True)
class Scene:
    """An image ready to be clicked on.

    Attributes:
        version: that the answers are stamped with. It names the adapter, which is not held here: one that is served no
            more is to leave the memory.
        vocabulary: the labels that are looked for in it.
        clicks: what the clicks need of it.
        size: (H, W) of the image file, pixels: the frame Label Studio draws regions in.
    """

    version: str
    vocabulary: Vocabulary
    clicks: ClickScene
    size: tuple[int, int]


class ClickScenes:
    """Reads projects, tasks and images for one worker's clicks, and keeps them for a while. For one thread.

    Args:
        context: of the process; its `click` tells what is being done.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._images = ImageLoader(context.limits, context.image_cache)
        self._served = ServedAdapters(context.redis)
        self._plans: TTLCache[tuple[int, str], tuple[str, Plan]] = TTLCache(_MOST_PLANS, _PLAN_S)
        self._tasks: TTLCache[tuple[int, int], Task] = TTLCache(_MOST_TASKS, _TASK_S)
        self._scenes: LRUCache[tuple[int, str, str, str], tuple[float, Scene]] = LRUCache(
            _MOST_SCENE_BYTES, getsizeof=lambda row: row[1].clicks.bytes
        )

    def scene(self, request: ClickRequest) -> Scene:
        """The scene of the image that is clicked on, made at the first click on it.

        Raises:
            ZeromaskError: the project, the task or its image cannot be had, or the click is on no image.
            LearningError: what was learned gives no scores; it is not used again.
        """
        plan = self.plan(request)
        image = clicked_image(request.prompts, self.images(request, plan))
        key = (request.project, image.key, plan.version, request.config)
        made_at, scene = self._scenes.get(key) or (0.0, None)
        if scene is not None and time.monotonic() - made_at < _TASK_S:
            return scene
        started = time.perf_counter()
        loaded = self.load(request, image)
        embedded = time.perf_counter()
        scene = self._made(loaded, plan)
        log.info("task %d: first click on its image: %.0f ms until it was embedded, %.0f ms for its outlines",
                 request.task, (embedded - started) * 1000, (time.perf_counter() - embedded) * 1000)  # fmt: skip
        if scene.clicks.bytes <= self._scenes.maxsize:
            self._scenes[key] = (time.monotonic(), scene)
        return scene

    def plan(self, request: ClickRequest) -> Plan:
        """The project's plan, read again when the labeling config or the served adapter is another, and once a minute.
        An answer takes it once: the adapter may change while an image is fetched. Where this process cannot use what is
        served it plans without: an annotator waits, and no answer is stored as a prediction.

        Raises:
            ZeromaskError: the project cannot be had.
        """
        key = (request.project, request.config)
        known, plan = self._plans.get(key) or ("", None)
        # Not what the backend knew when it was asked: it may have waited, or not reached Redis.
        served = self._served.served(request.project, self._context.settings.model)
        if plan is None or known != served:
            self._context.click = f"project {request.project}: is read"
            plan = read_plan(self._context, request.project, or_zeroshot=True)
            self._plans[key] = served, plan
            self._drop_scenes(request.project, but=plan.version)
        return plan

    def images(self, request: ClickRequest, plan: Plan) -> tuple[TaskImage, ...]:
        """The images of a task, one or more.

        Raises:
            ZeromaskError: the task cannot be had, or its data has no image.
        """
        return images_of(self._task(request), plan.vocabulary).images

    def load(self, request: ClickRequest, image: TaskImage) -> LoadedImage:
        """Read an image and embed it and its labels, as far as no cache has them.

        Raises:
            ZeromaskError: the image cannot be had.
        """
        context = self._context
        context.click = f"task {request.task}: its image is read"
        picture = self._images.load(
            image.address(), task=request.task, project=request.project, label_studio=context.label_studio, urgent=True
        )
        classes = context.segmenter.read_words(image.vocabulary)
        context.click = f"task {request.task}: its image is embedded"
        embedding = context.embeddings.embed([picture.pixels])[0]
        return LoadedImage(image, picture, embedding, classes)

    def refuse(self, plan: Plan, error: LearningError) -> None:
        """Stop using what a project has learned: it cannot be used."""
        log.error("project %d: %s", plan.project.id, error)
        self._context.adapters.refuse(plan.project, plan.adapter_name, error)
        self._plans.clear()

    def _made(self, loaded: LoadedImage, plan: Plan) -> Scene:
        segmenter, turns = self._context.segmenter, self._context.turns
        vocabulary = loaded.image.vocabulary
        self._context.click = f"task {loaded.image.task.id}: its outlines are found"
        scores = segmenter.score(loaded.embedding, vocabulary.words, loaded.picture.pixels, classes=loaded.classes)
        try:
            with turns.heads:
                clicks = prepare(segmenter, scores, plan.adapter)
        except LearningError as error:
            self.refuse(plan, error)
            raise
        return Scene(plan.version, vocabulary, clicks, loaded.picture.size)

    def _drop_scenes(self, project: int, *, but: str) -> None:
        """Drop the scenes of a project's other versions."""
        for key in [key for key in self._scenes if key[0] == project and key[2] != but]:
            del self._scenes[key]

    def _task(self, request: ClickRequest) -> Task:
        key = (request.project, request.task)
        task = self._tasks.get(key)
        if task is None:
            found = self._context.label_studio.tasks(request.project, [request.task])
            if not found:
                remedy = "Reload the page."
                raise ImageUnavailable(f"task {request.task}", f"is not in project {request.project} any more", remedy)
            task = self._tasks[key] = found[0]
        return task
