"""What a run of the demo needs: its settings, folder, ports and token, its Label Studio, its worker commands."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from plugin_config.errors import EnvironmentBroken
from plugin_config.files import keep_private, private_folder, write_private
from plugin_config.local.environments import label_studio_environment
from plugin_config.local.services import Services, start_services
from plugin_config.local.supervisor import (
    Command,
    Supervisor,
    answers_http,
    free_port,
    inherited_environment,
    module_command,
    port_is_free,
)
from plugin_config.settings import Settings

USER, PASSWORD = "demo@example.com", "zeromask-demo"
_PORT = 8080
_PORTS = "ports.json"
_COLOUR = re.compile("'#[0-9a-f]{6}'")


@dataclass(frozen=True)
class DemoSetup:
    """What one run of the demo works with.

    Attributes:
        settings: of its backend, workers and learner; they name Label Studio and its token too.
        check: CHECK=1: verify every step instead of waiting for a person.
        console: where progress is shown.
        left_port: of the last run's backend where another program has it now; 0 = none.
    """

    settings: Settings
    check: bool
    console: Console
    left_port: int = 0

    @property
    def state(self) -> Path:
        """Folder of everything the demo writes."""
        return self.settings.state_path

    @property
    def pictures(self) -> Path:
        """Folder of the drawn pictures and their ground truth."""
        return self.state / "pictures"


def checks(environ: Mapping[str, str]) -> bool:
    """Whether the environment sets CHECK."""
    return environ.get("CHECK", "").strip().lower() not in ("", "0", "no", "false")


def prepare(environ: Mapping[str, str]) -> DemoSetup:
    """Choose folder, ports and token.

    Raises:
        EnvironmentBroken: PORT is no port or is taken, or the folder cannot be written.
        SettingsError: a setting has a value it cannot have.
    """
    check = checks(environ)
    settings = Settings.from_env(environ)
    state = settings.state_path / ("check" if check else "demo")
    chosen = environ.get("PORT", "").strip()
    if chosen and not (chosen.isdecimal() and 0 < int(chosen) < 65536):
        remedy = "Give a number between 1 and 65535: make demo PORT=8090"
        raise EnvironmentBroken(f"PORT={chosen}", "is not a port", remedy)
    kept = {} if check else _kept_ports(state / _PORTS)
    port = int(chosen) if chosen else (free_port() if check else kept.get("label_studio", _PORT))
    if not port_is_free(port):
        remedy = f"Stop the other program (an earlier demo?), or choose another port: make demo PORT={port + 10}"
        raise EnvironmentBroken(f"port {port}", "is taken", remedy)
    url = f"http://localhost:{port}"
    backend = free_port() if check else kept.get("backend", settings.port)
    if backend == port or not port_is_free(backend):
        backend = free_port()
    try:
        keep_private(settings.state_path)
        token = _stored_token(state / "token")
        if not check:  # Label Studio's projects remember the backend's address
            write_private(state / _PORTS, json.dumps({"label_studio": port, "backend": backend}))
    except OSError as error:
        remedy = "Set ZEROMASK_STATE_DIR to a folder that can be written."
        raise EnvironmentBroken(f"folder {state}", f"cannot be written ({error})", remedy) from error
    settings = replace(
        settings, model="builtin", state_dir=str(state), redis_url="", host="127.0.0.1", port=backend,
        label_studio_url=url, label_studio_api_key=token, user="", password="", webhook_secret="",
    )  # fmt: skip
    former = kept.get("backend", backend)
    return DemoSetup(settings, check, Console(stderr=True), 0 if former == backend else former)


def clear_previous_run(setup: DemoSetup, content: str) -> None:
    """Delete what an earlier run left where this is a check, or where the demo shows something else now.

    Call it while the supervisor holds the folder and before anything runs in it.

    Args:
        setup: of this run.
        content: describes what the demo shows, without colours: other ones are no reason to delete anything.
    """
    marker = setup.state / "content.json"
    if setup.check or not marker.exists() or _COLOUR.sub("''", marker.read_text()) != content:
        for name in ("pictures", "label-studio", "redis"):
            shutil.rmtree(setup.state / name, ignore_errors=True)
    marker.write_text(content)


def start_everything(setup: DemoSetup, supervisor: Supervisor) -> Services:
    """Start Label Studio and the product; returns where the product is reached."""
    data = private_folder(setup.state / "label-studio")
    settings = setup.settings
    label_studio = label_studio_command(settings.label_studio_url, settings.label_studio_api_key, data)
    supervisor.launch(label_studio)  # the slowest to start, so the others start meanwhile
    services = start_services(supervisor, settings)
    supervisor.wait_ready(label_studio)
    return services


def label_studio_command(url: str, token: str, data: Path) -> Command:
    """Label Studio on SQLite, with backends and webhooks on private addresses allowed."""
    port = url.rsplit(":", 1)[-1]
    env = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(data), "DJANGO_DB": "sqlite", "LABEL_STUDIO_HOST": url,
        "LABEL_STUDIO_USERNAME": USER, "LABEL_STUDIO_PASSWORD": PASSWORD, "LABEL_STUDIO_USER_TOKEN": token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        # Since 1.23.1 both must be off, or a backend on this machine gets no webhook.
        "ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "PYTHONWARNINGS": "ignore",
        "NO_PROXY": "localhost,127.0.0.1", "no_proxy": "localhost,127.0.0.1",  # what it calls is on this machine
    }  # fmt: skip
    program = label_studio_environment().path / "bin" / "label-studio"
    argv = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", port]
    return Command("label-studio", argv, env, ready=lambda: answers_http(f"{url}/health"), ready_s=600)


def run_worker_command(module: str, *arguments: str) -> str:
    """Run a module of the worker in a process of its own and return its standard output.

    Raises:
        EnvironmentBroken: it failed; the message quotes its last line.
    """
    command, env = [*module_command(module), *arguments], inherited_environment()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        problem = f"ended with status {done.returncode}: {last_line[:300]}"
        raise EnvironmentBroken(module, problem, f"Run it by hand to see more: {shlex.join(command)}")
    return done.stdout


def _kept_ports(path: Path) -> dict[str, int]:
    """The ports of the last run: "label_studio" and "backend"; {} where there was none."""
    try:
        rows = json.loads(path.read_text())
        return {name: int(rows[name]) for name in ("label_studio", "backend") if 0 < int(rows[name]) < 65536}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _stored_token(path: Path) -> str:
    if path.exists() and path.read_text().strip():
        return path.read_text().strip()
    private_folder(path.parent)
    write_private(path, secrets.token_hex(20))
    return path.read_text()
