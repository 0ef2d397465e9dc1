"""What is examined: the settings, connections that are opened when a check first needs them, and what earlier checks
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property

import httpx
from redis import Redis

from plugin_config.addresses import read_address
from plugin_config.certificates import trust
from plugin_config.doctor.sample import SampleProcess
from plugin_config.errors import LabelStudioError, ZeromaskError
from plugin_config.http_requests import user_agent
from plugin_config.label_studio.client import LabelStudio, Project, Task
from plugin_config.label_studio.connecting import ConnectedModel, models, webhook_of
from plugin_config.label_studio.opening import label_studio_of
from plugin_config.label_studio.transport import unreachable
from plugin_config.label_studio.webhooks import Webhook, leads_here, webhooks
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.queue.presence import WorkerPresence, WorkerState
from plugin_config.settings import Settings, is_loopback
from plugin_config.vocabulary import Vocabulary, parse_vocabulary

_ANSWER_S = 5.0


class Installation:
    """Holds the connections of one examination; use `with`. What a check cannot have raises where it is asked for.

    Args:
        environ: the settings as environment variables.
        projects: to examine; none = those that are connected to this backend, once `connected` has found them.
        draw: whether a mask is drawn, for which a model is loaded.
    """

    def __init__(self, environ: Mapping[str, str], projects: tuple[int, ...] = (), *, draw: bool = True) -> None:
        self.environ = environ
        self.projects = projects
        self.draw = draw
        self.answered: httpx.Response | None = None

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("label_studio", "redis", "sample"):
            if name in self.__dict__:  # opened
                getattr(self, name).close()

    @cached_property
    def settings(self) -> Settings:
        """The settings. Raises SettingsError."""
        return Settings.from_env(self.environ).require("label_studio_url", "label_studio_api_key")

    @cached_property
    def label_studio(self) -> LabelStudio:
        """The client. Raises LabelStudioError where the token is none."""
        settings = self.settings
        return label_studio_of(settings, timeout_s=_ANSWER_S)

    @cached_property
    def redis(self) -> Redis:
        """A client of the queue's Redis. Raises SettingsError where no address is known."""
        return connect_briefly(self.settings)

    @cached_property
    def workers(self) -> list[WorkerState]:
        """The living workers. Raises QueueUnavailable."""
        return WorkerPresence(self.redis).workers()

    @cached_property
    def sample(self) -> SampleProcess:
        """A process of the worker that tries a task of each project, with the model that the workers have."""
        return SampleProcess(self.settings, self.projects, model=self.drawing_model, draw=self.draw)

    @property
    def drawing_model(self) -> str:
        """The MODEL of the living workers where they agree, or else that of the settings."""
        models_alive: set[str] = set()
        with suppress(ZeromaskError):
            models_alive = {worker.about.get("model", "") for worker in self.workers} - {""}
        return models_alive.pop() if len(models_alive) == 1 else self.settings.model

    def ask_label_studio(self) -> httpx.Response:
        """What Label Studio answers about its version, without the token.

        Raises:
            LabelStudioError: the address is none.
            LabelStudioUnreachable: there is no answer.
        """
        url = self.settings.label_studio_url.strip(" ").rstrip("/")
        try:
            root = read_address(url)
        except ValueError as error:
            remedy = "Set LABEL_STUDIO_URL with its scheme and without a user name, http://host:port."
            raise LabelStudioError("address of Label Studio", f"is not an address: {error}", remedy) from error
        try:
            self.answered = httpx.get(
                f"{url}/api/version/",
                timeout=_ANSWER_S,
                trust_env=not is_loopback(root.host),
                verify=trust(self.settings.ca_bundle),
                headers={"User-Agent": user_agent(self.settings.contact)},
            )
        except httpx.TransportError as error:
            raise unreachable(url, error) from error
        return self.answered

    def ask_backend(self, url: str, path: str, *, signed_in: bool = False) -> httpx.Response:
        """What the backend answers at an address.

        Args:
            url: of the backend.
            path: of the route.
            signed_in: whether to sign in as the settings say.

        Raises:
            httpx.HTTPError, httpx.InvalidURL: there is no answer.
        """
        auth = (self.settings.user, self.settings.password) if signed_in and self.settings.signs_in else None
        return httpx.get(
            f"{url.rstrip('/')}{path}",
            timeout=_ANSWER_S,
            trust_env=False,
            auth=auth,
            verify=trust(self.settings.ca_bundle),
            headers={"User-Agent": user_agent()},
        )


class ExaminedProject:
    """What is read of one project, when a check first needs it. Everything raises LabelStudioError where Label Studio
    does not answer, or refuses.

    Args:
        installation: whose connections are used.
        id: of the project.
    """

    def __init__(self, installation: Installation, id: int) -> None:
        self.installation = installation
        self.id = id
        self._api = installation.label_studio

    @cached_property
    def row(self) -> Mapping[str, object]:
        """The project as Label Studio's API has it."""
        found = self._api.request("GET", f"/api/projects/{self.id}/")
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def project(self) -> Project:
        """The project."""
        return self._api.project(self.id)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its labels. Raises LabelingConfigError, too."""
        return parse_vocabulary(self.project.label_config)

    @cached_property
    def sample_task(self) -> Task | None:
        """The first task that Label Studio lists; None where there is none."""
        return next(iter(self._api.all_tasks(self.id)), None)

    @cached_property
    def models(self) -> list[ConnectedModel]:
        """The models connected to it, ours or not."""
        return models(self._api, self.id)

    @property
    def model(self) -> ConnectedModel | None:
        """The connection to this backend; None = there is none."""
        return next((row for row in self.models if leads_here(row.url, self.installation.settings)), None)

    @cached_property
    def webhooks(self) -> list[Webhook]:
        """Its webhooks, ours or not."""
        return webhooks(self._api, self.id)

    @property
    def webhook(self) -> Webhook | None:
        """The webhook to this backend; None = there is none."""
        return None if self.model is None else webhook_of(self.model, self.webhooks)

    @property
    def backend_url(self) -> str:
        """Where Label Studio reaches this backend, or would by the settings."""
        return self.model.url if self.model else self.installation.settings.backend_url
