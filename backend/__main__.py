"""`python -m backend`: reads the settings, listens, and serves until it is told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from backend.access import AccessControl
from backend.app import create_app
from backend.queue_client import QueueClient
from backend.server.server import Server
from plugin_config.closed_output import run_command
from plugin_config.errors import ZeromaskError
from plugin_config.files import keep_private
from plugin_config.settings import Settings

logger = logging.getLogger("backend")  # the name of this module is "__main__"


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0 after a signal, 2 when it could not start."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = _parse(arguments, environ).require("redis_url").require_guarded()
        keep_private(settings.state_path)
        access = AccessControl(settings)
        # The port comes first: only the backend that holds it may read and send the outbox, as the queue client does.
        with closing(Server(access, settings)) as server, closing(QueueClient(settings)) as queues:
            _serve(server, access, settings, queues)
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask backend: {error}\n")
        return 2
    logger.info("stopped")
    return 0


def _serve(server: Server, access: AccessControl, settings: Settings, queues: QueueClient) -> None:
    app = create_app(settings, queues, access)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, _stop)
    sign_in = "sign-in required" if settings.signs_in else "no sign-in required"
    logger.info("listening on %s:%d, model %s, %s", settings.host, settings.port, settings.model, sign_in)
    server.run(app)  # ends on SystemExit, after the requests being answered


def _parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    settings = Settings.from_env(environ)
    description = "The backend; its settings are in docs/reference/settings.md."
    parser = argparse.ArgumentParser(prog="zeromask backend", description=description)
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    return replace(settings, model=parser.parse_args(arguments).model)


def _stop(signum: int, _: Any) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], os.environ))
