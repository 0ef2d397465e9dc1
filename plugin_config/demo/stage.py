"""Where a run of the demo lives: its folder, ports and secrets, its Label Studio, its worker commands.

It must not know what the demo shows.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from plugin_config.cli.up import Halves, start_halves
from plugin_config.errors import EnvironmentBroken
from plugin_config.files import keep_private, private_folder, write_private
from plugin_config.local.environments import label_studio_environment
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


@dataclass(frozen=True)
class Stage:
    """Where this run of the demo lives: its settings, its Label Studio, its pictures."""

    settings: Settings
    label_studio_url: str
    token: str = field(repr=False)
    check: bool
    console: Console

    @property
    def state(self) -> Path:
        """Folder of everything the demo writes."""
        return self.settings.state_path

    @property
    def pictures(self) -> Path:
        """Folder of the drawn pictures and their truth."""
        return self.state / "pictures"


def checking(environ: Mapping[str, str]) -> bool:
    return environ.get("CHECK", "").strip().lower() not in ("", "0", "no", "false")


def prepare(environ: Mapping[str, str]) -> Stage:
    """Choose folder, ports and tokens.

    Raises:
        EnvironmentBroken: Label Studio's port is taken.
    """
    check = checking(environ)
    settings = Settings.from_env(environ)
    state = settings.state_path / ("check" if check else "demo")
    asked = environ.get("PORT", "").strip()
    if asked and not (asked.isdecimal() and 0 < int(asked) < 65536):
        remedy = "Give a number between 1 and 65535: make demo PORT=8090"
        raise EnvironmentBroken(f"PORT={asked}", "is not a port", remedy)
    port = int(asked) if asked else (free_port() if check else _PORT)
    if not port_is_free(port):
        remedy = f"Stop the other program (an earlier demo?), or choose another port: make demo PORT={port + 10}"
        raise EnvironmentBroken(f"port {port}", "is taken", remedy)
    url = f"http://localhost:{port}"
    try:
        keep_private(settings.state_path)
        token = _kept_secret(state / "token")
    except OSError as error:
        remedy = "Set ZEROMASK_STATE_DIR to a folder that can be written."
        raise EnvironmentBroken(f"folder {state}", f"cannot be written ({error})", remedy) from error
    mine = replace(
        settings, model="builtin", state_dir=str(state), redis_url="", host="127.0.0.1", port=free_port(),
        label_studio_url=url, label_studio_api_key=token, user="", password="", webhook_secret="",
    )  # fmt: skip
    return Stage(mine, url, token, check, Console(stderr=True))


def clear_old_run(stage: Stage, content: str) -> None:
    """Forget what an earlier run left when this is a check, or when the demo shows something else by now.

    Call it once the folder is held and before anything runs in it. `content` describes what the demo shows.
    """
    marker = stage.state / "content.json"
    if stage.check or not marker.exists() or marker.read_text() != content:
        for name in ("pictures", "label-studio", "redis"):
            shutil.rmtree(stage.state / name, ignore_errors=True)
    marker.write_text(content)


def start_everything(stage: Stage, supervisor: Supervisor) -> Halves:
    """Start the halves and Label Studio; returns where the halves are."""
    data = private_folder(stage.state / "label-studio")
    label_studio = label_studio_command(stage.label_studio_url, stage.token, data)
    supervisor.launch(label_studio)  # takes longest, so the halves come up beside it
    halves = start_halves(supervisor, stage.settings)
    supervisor.wait_ready(label_studio)
    return halves


def label_studio_command(url: str, token: str, data: Path) -> Command:
    """Label Studio on SQLite, open for a backend on a private address and for its webhook."""
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
    """Run a command of the worker half in its own process and return its standard output.

    Raises:
        EnvironmentBroken: it failed; the message quotes its last line.
    """
    command, env = [*module_command(module), *arguments], inherited_environment()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        problem = f"ended with status {done.returncode}: {said[:300]}"
        raise EnvironmentBroken(module, problem, "Run it by hand to see more.")
    return done.stdout


def _kept_secret(path: Path) -> str:
    if path.exists() and path.read_text().strip():
        return path.read_text().strip()
    private_folder(path.parent)
    write_private(path, secrets.token_hex(20))
    return path.read_text()
