"""`python -m backend`: reads the settings, listens, and serves until it is told to stop.

It must not know what the routes do.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from backend.access import Doors
from backend.app import create_app
from backend.queue_client import WebQueues
from backend.server import Server
from plugin_config.errors import ZeromaskError
from plugin_config.files import keep_private
from plugin_config.settings import Settings

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0 after a signal, 2 when it could not start."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = _parse(arguments, environ).require("redis_url").require_guarded()
        keep_private(settings.state_path)
        with closing(WebQueues(settings)) as queues:
            _serve(settings, queues)
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask backend: {error}\n")
        return 2
    logger.info("stopped")
    return 0


def _serve(settings: Settings, queues: WebQueues) -> None:
    doors = Doors(settings)
    server = Server(create_app(settings, queues, doors), doors, settings)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, _stop)
    asked = "whoever asks signs in" if settings.signs_in else "nobody has to sign in"
    logger.info("listening on %s:%d, model %s, %s", settings.host, settings.port, settings.model, asked)
    server.run()  # ends on SystemExit, after the requests in hand


def _parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    settings = Settings.from_env(environ)
    parser = argparse.ArgumentParser(prog="zeromask backend", description="The web half; settings: README.md.")
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    return replace(settings, model=parser.parse_args(arguments).model)


def _stop(signum: int, _: Any) -> None:
    raise SystemExit(128 + signum)
