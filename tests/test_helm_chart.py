"""The Helm chart: what it makes is valid, names only what there is, and agrees with the compose file, whose commands
and environments tests/test_compose_files.py runs. Helm renders it as a library; no cluster is there.
"""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from helm_python import Chart, HelmError, lint
from kubernetes_validate import utils as kubernetes_schemas
from prometheus_client.parser import text_string_to_metric_families

from plugin_config.cli.main import zeromask
from plugin_config.label_studio.webhooks import leads_here
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings, setting_names, settings_table
from tests.backend_client import patient_fixture
from tests.queue_states import PROJECT, refs, take
from tests.served_backend import PASSWORD, USER, backend, signing_in
from tests.test_compose_files import COMPOSE, SERVICES, make_secrets

__all__ = ["patient_fixture"]  # pytest finds fixtures by their being here

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "plugin_config" / "deploy" / "helm" / "zeromask"
OLDEST, NEWEST = "1.25", "1.37"  # of Kubernetes: what Chart.yaml asks for, and the newest whose schema is there
NEEDED = {"image": {"registry": "registry.example.com/team"}, "labelStudio": {"url": "http://studio.example:8080"}}
GPU = {"gpu": {"enabled": True}, "nodeSelector": {"accelerator": "nvidia"}, "runtimeClassName": "nvidia",
       "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]}  # fmt: skip
VALUES: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "external Redis": {"redis": {"enabled": False}, "caBundle": {"configMap": "authorities"},
                       "networkPolicy": {"redisPorts": [6379, 26379],
                                         "redisTo": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}},
    "S3": {"versions": {"url": "s3://bucket/zeromask", "s3": {"secretName": "s3", "endpoint": "https://s3.example",
                                                             "region": "eu-1"}}},
    "GPU": {"worker": {**GPU, "resources": {"limits": {"cpu": "4", "memory": "16Gi"}}}, "learner": GPU},
    "KEDA": {"keda": {"enabled": True, "minReplicas": 0}},
    "everything": {
        "backend": {"replicas": 2, "persistence": {"enabled": False}, "allowedHosts": ["masks.team.example"]},
        "ingress": {"enabled": True, "host": "masks.example.com", "tlsSecret": "tls", "className": "nginx",
                    "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "128m"}},
        "clickWorker": {"replicas": 2}, "weights": {"persistence": {"enabled": True}}, "keda": {"enabled": True},
        "monitoring": {"serviceMonitor": True, "rules": True, "dashboard": True, "labels": {"release": "prometheus"}},
        "settings": {"ZEROMASK_BATCH": "16"}, "image": {"pullSecrets": ["registry"], "tag": "main"},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/zeromask"}},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
    },
    "the least": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False},
                  "learner": {"enabled": False}, "redis": {"enabled": False}, "signInUser": "studio",
                  "versions": {"persistence": {"existingClaim": "shared"}}},
}  # fmt: skip
# Part of the chart -> service of the compose file.
PARTS = {"backend": "backend", "worker": "worker", "learner": "learner"}
OF_OTHERS = {"HF_HOME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION",
             "HTTPS_PROXY"}  # fmt: skip
# What the chart sets itself, by values of their own.
_BY_CHART = {"MODEL", "LABEL_STUDIO_URL", "LABEL_STUDIO_PUBLIC_URL", "ZEROMASK_CA_BUNDLE", "ZEROMASK_DEVICE",
             "ZEROMASK_STATE_DIR", "ZEROMASK_HOST", "ZEROMASK_USER", "ZEROMASK_ALLOWED_HOSTS", "ZEROMASK_PORT",
             "ZEROMASK_VERSIONS"}  # fmt: skip
_EXTENSIONS = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PrometheusRule"}  # no schema is at hand

Manifest = Mapping[str, Any]


def merged(values: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Values laid over others, as Helm does."""
    found = dict(values)
    for other in others:
        for key, value in other.items():
            both = isinstance(value, dict) and isinstance(found.get(key), dict)
            found[key] = merged(found[key], value) if both else value
    return found


def texts(values: Mapping[str, Any], name: str = "zeromask") -> dict[str, str]:
    """File of the chart -> what Helm makes of it for a release in the namespace `team`."""
    with Chart.load(CHART) as chart:
        chart.validate_schema(dict(values))
        return chart.render(dict(values), name=name, namespace="team")


def manifests(rendered: Mapping[str, str]) -> list[Manifest]:
    files = [text for path, text in rendered.items() if path.endswith(".yaml")]
    return [manifest for text in files for manifest in yaml.safe_load_all(text) if manifest]


@cache
def release(case: str) -> tuple[Manifest, ...]:
    """What is installed with the values of a case."""
    return tuple(manifests(texts(merged(NEEDED, VALUES[case]))))


def of_kind(case: str, *kinds: str) -> list[Manifest]:
    return [manifest for manifest in release(case) if manifest["kind"] in kinds]


def named(case: str, kind: str, name: str) -> Manifest:
    (found,) = [manifest for manifest in of_kind(case, kind) if manifest["metadata"]["name"] == name]
    return found


def pods(case: str) -> dict[str, Manifest]:
    """Part -> the pods that it has."""
    found = {}
    for manifest in of_kind(case, "Deployment", "StatefulSet"):
        template = manifest["spec"]["template"]
        found[template["metadata"]["labels"]["app.kubernetes.io/component"]] = template
    return found


def container(case: str, part: str) -> Manifest:
    (found,) = pods(case)[part]["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def environment(case: str, part: str) -> dict[str, Any]:
    """Variable -> its value, or where it comes from."""
    rows = container(case, part)["env"]
    assert len({row["name"] for row in rows}) == len(rows), "a variable that is there twice"
    return {row["name"]: row.get("value", row.get("valueFrom")) for row in rows}


@pytest.fixture(scope="module", name="schemas", autouse=True)
def schemas_fixture() -> Iterator[None]:
    """Each schema of Kubernetes is read from disk once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_schemas, "schema_contents", cache(kubernetes_schemas.schema_contents))
        yield


@pytest.mark.parametrize("case", VALUES)
def test_the_linter_has_no_remark(case: str) -> None:
    report = lint(CHART, merged(NEEDED, VALUES[case]), strict=True)
    remarks = [row["error"] for row in report["messages"]]
    assert (report["errors"], set(remarks)) == ([], {"icon is recommended"})


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("case", VALUES)
def test_what_is_made_is_valid(case: str, version: str) -> None:
    for manifest in release(case):
        if manifest["kind"] not in _EXTENSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_what_is_wrong_is_found() -> None:
    worker = json.loads(json.dumps(named("defaults", "Deployment", "zeromask-worker")))
    worker["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProb"):
        kubernetes_validate.validate(worker, NEWEST, strict=True)


@pytest.mark.parametrize("case", VALUES)
def test_every_name_is_there_once(case: str) -> None:
    names = [(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]) for manifest in release(case)]
    assert len(set(names)) == len(names)
    assert all("namespace" not in manifest["metadata"] for manifest in release(case)), "Helm's own"


def test_a_long_name_of_a_release_fits() -> None:
    for manifest in manifests(texts(NEEDED, name="a-rather-long-name-of-a-release-that-somebody-chose")):
        assert len(manifest["metadata"]["name"]) <= 63
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])


@pytest.mark.parametrize("case", VALUES)
def test_a_container_has_only_settings_that_there_are_and_secrets_by_file(case: str) -> None:
    for part in set(pods(case)) - {"redis"}:
        found = environment(case, part)
        assert set(found) - OF_OTHERS <= setting_names()
        for name, value in found.items():
            if re.search("KEY|PASSWORD|SECRET|REDIS_URL", name):
                assert name.endswith("_FILE") or set(value) == {"secretKeyRef"}


@pytest.mark.parametrize("case", VALUES)
def test_a_secret_that_is_read_is_mounted_and_made(case: str, tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    made = {path.name for path in (tmp_path / "secrets").iterdir()}
    for part, pod in pods(case).items():
        (volume,) = [row["secret"] for row in pod["spec"]["volumes"] if row["name"] == "secrets"]
        (mount,) = [row for row in container(case, part)["volumeMounts"] if row["name"] == "secrets"]
        files = {f"{mount['mountPath']}/{item['path']}" for item in volume["items"]}
        assert {item["key"] for item in volume["items"]} <= made
        if part == "redis":
            read = set(re.findall(r"^aclfile (\S+)", redis_conf(), re.MULTILINE))
        else:
            read = {value for name, value in environment(case, part).items() if name.endswith("_FILE")}
        assert read == files
        assert volume["secretName"] == "zeromask"
        assert volume["defaultMode"] == 0o440
        assert pod["spec"]["securityContext"]["fsGroup"], "who may read them"


def redis_conf() -> str:
    return (CHART / "files" / "redis.conf").read_text(encoding="utf-8")


def test_the_secrets_that_are_made_name_the_server_of_the_queue(tmp_path: Path) -> None:
    service = next(row["metadata"]["name"] for row in of_kind("defaults", "Service") if "redis" in str(row["spec"]))
    make_secrets(tmp_path, service)
    assert urlsplit((tmp_path / "redis_url").read_text()).hostname == service == "zeromask-redis"


@pytest.mark.parametrize(("part", "service"), PARTS.items())
def test_a_part_is_as_in_the_compose_file(part: str, service: str) -> None:
    ours, theirs = container("defaults", part), SERVICES[service]
    assert ours["command"] == theirs["command"]
    expected = {name: str(value).replace("/run/secrets", "/secrets") for name, value in theirs["environment"].items()}
    expected.pop("LABEL_STUDIO_PUBLIC_URL", None)  # the default is none
    found = environment("defaults", part)
    differ = {name for name in {*found, *expected} if found.get(name) != expected.get(name)}
    assert differ <= {"LABEL_STUDIO_URL", "ZEROMASK_ALLOWED_HOSTS"}
    mounts = {row["mountPath"] for row in ours["volumeMounts"]}
    there = {"/secrets", "/tmp", *(volume.partition(":")[2] for volume in theirs["volumes"])}
    assert there - mounts <= ({"/versions"} if part == "backend" else set()), "a volume of one node at a time"
    assert mounts <= there


def test_the_server_of_the_queue_is_as_in_the_compose_file() -> None:
    ours, theirs = container("defaults", "redis"), SERVICES["redis"]
    assert (ours["image"], ours["command"]) == (theirs["image"], theirs["command"])
    assert ours["livenessProbe"]["exec"]["command"] == ["sh", "-c", theirs["healthcheck"]["test"][1]]
    assert pods("defaults")["redis"]["spec"]["securityContext"]["runAsUser"] == int(theirs["user"].partition(":")[0])
    config = named("defaults", "ConfigMap", "zeromask-redis")["data"]["redis.conf"]
    compose = ROOT / "plugin_config" / "deploy" / "compose" / COMPOSE["configs"]["redis_conf"]["file"]
    assert config.strip() == redis_conf().strip() == compose.read_text(encoding="utf-8").strip()


def test_a_worker_with_a_gpu_gets_one_and_the_image_for_it() -> None:
    for part in ("worker", "learner"):
        assert container("GPU", part)["image"] == "registry.example.com/team/zeromask-worker:0.1.0-cuda"
        assert container("GPU", part)["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert environment("GPU", part)["ZEROMASK_DEVICE"] == "cuda"
        spec = pods("GPU")[part]["spec"]
        assert (spec["nodeSelector"], spec["tolerations"]) == (GPU["nodeSelector"], GPU["tolerations"])
    assert container("GPU", "worker")["resources"]["limits"]["memory"] == "16Gi"
    assert environment("GPU", "worker")["ZEROMASK_THREADS"] == {"resourceFieldRef": {"resource": "limits.cpu"}}
    assert "ZEROMASK_THREADS" not in environment("defaults", "worker")
    assert container("defaults", "worker")["image"].endswith("-cpu")


def commands(case: str) -> Iterator[tuple[str, list[str]]]:
    """Every command of a pod: its own, and those of its probes."""
    for part in pods(case):
        its = container(case, part)
        probes = [row["exec"]["command"] for key, row in its.items() if key.endswith("Probe") and "exec" in row]
        yield from ((part, command) for command in [its["command"], *probes])


def test_every_command_and_option_is_there() -> None:
    ours = {tuple(command) for _, command in commands("everything") if command[0] == "zeromask"}
    assert len(ours) == 10
    for command in ours:
        if command[1] == "alive":
            done = CliRunner().invoke(zeromask, [*command[1:], "--help"])
            assert (done.exit_code, done.stderr) == (0, "")
    assert {command for command in ours if command[1] != "alive"} == {
        ("zeromask", "backend"), ("zeromask", "worker"), ("zeromask", "worker", "--queue", "interactive"),
        ("zeromask", "worker", "--queue", "finetune"),
    }  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_a_pod_is_watched_and_given_time_to_stop(case: str) -> None:
    for part, pod in pods(case).items():
        its = container(case, part)
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(its)
        grace_s = int(SERVICES[PARTS.get(part, "redis" if part == "redis" else "worker")]["stop_grace_period"][:-1])
        assert pod["spec"]["terminationGracePeriodSeconds"] >= grace_s
    startup = container(case, "worker")["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 15 * 60, "as the compose file's start_period"
    assert container(case, "worker")["livenessProbe"]["exec"]["command"][-1] == "--redis-may-be-away"
    wait = container(case, "backend")["lifecycle"]["preStop"]["exec"]["command"]
    assert int(wait[1]) + 30 < pods(case)["backend"]["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("case", VALUES)
def test_a_container_has_few_rights(case: str) -> None:
    for part, pod in pods(case).items():
        spec, guarded = pod["spec"], container(case, part)["securityContext"]
        assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == (999 if part == "redis" else 10001)
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert guarded == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                           "capabilities": {"drop": ["ALL"]}}  # fmt: skip
        mounted = {row["name"] for row in container(case, part)["volumeMounts"]}
        assert mounted - {"data"} == {row["name"] for row in spec["volumes"]}


def chosen(selector: Mapping[str, Any], case: str) -> set[str]:
    """Parts whose pods a selector chooses."""
    found = set()
    for part, pod in pods(case).items():
        labels = pod["metadata"]["labels"]
        equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
        among = all(labels.get(row["key"]) in row["values"] for row in selector.get("matchExpressions", []))
        if equal and among:
            found.add(part)
    return found


@pytest.mark.parametrize("case", VALUES)
def test_selectors_choose_the_pods_they_mean(case: str) -> None:
    for manifest in of_kind(case, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        part = manifest["metadata"]["labels"]["app.kubernetes.io/component"]
        assert chosen(manifest["spec"]["selector"], case) == {part}
    for manifest in of_kind(case, "Service"):
        (part,) = chosen({"matchLabels": manifest["spec"]["selector"]}, case)
        ports = {port["name"] for port in container(case, part)["ports"]}
        assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= ports
    for manifest in of_kind(case, "ServiceMonitor"):
        services = [row for row in of_kind(case, "Service") if manifest["spec"]["selector"]["matchLabels"].items()
                    <= row["metadata"]["labels"].items()]  # fmt: skip
        assert [row["metadata"]["name"] for row in services] == ["zeromask-backend"]
        assert manifest["spec"]["endpoints"][0]["port"] == services[0]["spec"]["ports"][0]["name"]


def test_only_our_pods_reach_the_server_of_the_queue_and_only_chosen_ones_the_backend() -> None:
    policies = {row["metadata"]["name"]: row["spec"] for row in of_kind("everything", "NetworkPolicy")}
    assert all(set(policy["policyTypes"]) == {"Ingress", "Egress"} for policy in policies.values())
    parts = set(pods("everything"))
    assert set().union(*(chosen(policy["podSelector"], "everything") for policy in policies.values())) == parts

    redis = policies["zeromask-redis"]
    ((peer,),) = [rule["from"] for rule in redis["ingress"]]
    assert (set(peer), chosen(peer["podSelector"], "everything")) == ({"podSelector"}, parts - {"redis"})
    assert redis["egress"] == []

    ((rule),) = policies["zeromask-backend"]["ingress"]
    spaces = {row["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for row in rule["from"][1:]}
    assert (rule["from"][0], spaces) == ({"podSelector": {}}, {"keda", "monitoring", "ingress-nginx"})
    names, queue = policies["zeromask-backend"]["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert chosen(queue["to"][0]["podSelector"], "everything") == {"redis"}
    assert policies["zeromask-worker"]["ingress"] == []
    assert policies["zeromask-worker"]["egress"][:2] == [names, queue]


def test_nobody_reaches_a_backend_that_nobody_may_reach() -> None:
    made = manifests(texts(merged(NEEDED, {"networkPolicy": {"backendFrom": []}})))
    (policy,) = [row["spec"] for row in made if row["kind"] == "NetworkPolicy"
                 and row["metadata"]["name"] == "zeromask-backend"]  # fmt: skip
    assert policy["ingress"] == [], "a rule without peers would let in everybody"


def test_an_external_server_of_the_queue_is_let_through() -> None:
    assert "redis" not in pods("external Redis")
    _, queue = named("external Redis", "NetworkPolicy", "zeromask-backend")["spec"]["egress"]
    assert queue == {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 6379}, {"port": 26379}]}
    assert environment("external Redis", "worker")["ZEROMASK_CA_BUNDLE"] == "/etc/zeromask/ca.pem"


def test_versions_on_s3_need_no_volume() -> None:
    for part in ("worker", "learner"):
        found = environment("S3", part)
        assert found["ZEROMASK_VERSIONS"] == "s3://bucket/zeromask"
        assert found["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "s3", "key": "AWS_SECRET_ACCESS_KEY"}}
        assert (found["AWS_ENDPOINT_URL"], found["AWS_DEFAULT_REGION"]) == ("https://s3.example", "eu-1")
    claims = {row["metadata"]["name"] for row in of_kind("S3", "PersistentVolumeClaim")}
    assert claims == {"zeromask-backend"}
    assert "AWS_SECRET_ACCESS_KEY" not in environment("S3", "backend")
    assert {row["metadata"]["name"] for row in of_kind("defaults", "PersistentVolumeClaim")} == {
        "zeromask-backend", "zeromask-versions"
    }  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_a_claim_that_is_mounted_is_made_or_was_there(case: str) -> None:
    made = {row["metadata"]["name"] for row in of_kind(case, "PersistentVolumeClaim")}
    used = {row["persistentVolumeClaim"]["claimName"] for pod in pods(case).values() for row in pod["spec"]["volumes"]
            if "persistentVolumeClaim" in row}  # fmt: skip
    assert used - made <= {"shared"}
    assert made <= used
    accounts = {row["metadata"]["name"] for row in of_kind(case, "ServiceAccount")}
    assert {pod["spec"]["serviceAccountName"] for part, pod in pods(case).items() if part != "redis"} == accounts


def test_there_is_one_learner_and_it_is_never_doubled() -> None:
    spec = named("defaults", "Deployment", "zeromask-learner")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_backend_answers_to_the_names_that_lead_to_it() -> None:
    hosts = environment("everything", "backend")["ZEROMASK_ALLOWED_HOSTS"].split(",")
    assert {"zeromask-backend", "zeromask-backend.team.svc", "masks.team.example", "masks.example.com"} <= set(hosts)
    assert urlsplit(trigger("KEDA")["metadata"]["url"]).hostname in hosts


@pytest.mark.parametrize("case", ["defaults", "everything"])
def test_workers_know_the_backend_by_the_same_names_and_give_its_webhooks_the_secret(case: str) -> None:
    names = {part: environment(case, part)["ZEROMASK_ALLOWED_HOSTS"] for part in PARTS}
    assert len(set(names.values())) == 1
    settings = Settings(allowed_hosts=names["worker"])
    assert leads_here("http://zeromask-backend:9090/webhook", settings)


def trigger(case: str) -> Manifest:
    (found,) = named(case, "ScaledObject", "zeromask-worker")["spec"]["triggers"]
    return found  # type: ignore[no-any-return]


def test_workers_are_scaled_by_one_number_and_slowly_down() -> None:
    spec = named("KEDA", "ScaledObject", "zeromask-worker")["spec"]
    target = named("KEDA", "Deployment", spec["scaleTargetRef"]["name"])
    assert "replicas" not in target["spec"], "an upgrade would set them back"
    assert (spec["minReplicaCount"], spec["maxReplicaCount"], spec["cooldownPeriod"]) == (0, 10, 900)
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] == 900
    assert trigger("KEDA") == {
        "type": "metrics-api", "authenticationRef": {"name": "zeromask"},
        "metadata": {"url": "http://zeromask-backend.team.svc:9090/metrics", "format": "prometheus",
                     "valueLocation": "zeromask_queue_tasks", "targetValue": "200", "authMode": "basic"},
    }  # fmt: skip
    wanted = named("KEDA", "TriggerAuthentication", "zeromask")["spec"]["secretTargetRef"]
    user = named("KEDA", "Secret", "zeromask-user")["stringData"]
    assert {row["parameter"]: (row["name"], row["key"]) for row in wanted} == {
        "username": ("zeromask-user", "user"), "password": ("zeromask", "zeromask_password"),
    }  # fmt: skip
    assert user == {"user": environment("KEDA", "backend")["ZEROMASK_USER"]}


def test_the_number_is_on_the_page_of_a_backend_without_labels_and_counts_what_is_leased(
    pending: PendingTasks, settings: Settings, patient: None
) -> None:
    pending.add(PROJECT, refs(1, 2, 3))
    take(pending, "a worker", limit=2)
    asked = urlsplit(trigger("KEDA")["metadata"]["url"])
    hosts = environment("KEDA", "backend")["ZEROMASK_ALLOWED_HOSTS"]
    credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    with backend(replace(signing_in(settings), allowed_hosts=hosts)) as served:
        assert served.ask("GET", asked.path, Host=asked.netloc).status == 401
        page = served.ask("GET", asked.path, Host=asked.netloc, Authorization=f"Basic {credentials}")
    assert page.status == 200
    families = {family.name: family for family in text_string_to_metric_families(page.content.decode())}
    (sample,) = families[trigger("KEDA")["metadata"]["valueLocation"]].samples
    assert (sample.labels, sample.value) == ({}, 3)


def test_dashboard_and_alert_rules_are_the_files() -> None:
    config = named("everything", "ConfigMap", "zeromask-dashboard")
    assert json.loads(config["data"]["zeromask.json"]) == json.loads((CHART / "files" / "zeromask.json").read_text())
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    rules = named("everything", "PrometheusRule", "zeromask")
    assert rules["spec"] == yaml.safe_load((CHART / "files" / "zeromask.rules.yml").read_text(encoding="utf-8"))
    assert rules["metadata"]["labels"]["release"] == "prometheus"


def test_the_chart_has_the_version_of_the_package() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (about["appVersion"], about["version"]) == (project["version"], project["version"])
    assert about["kubeVersion"] == f">={OLDEST}.0-0"
    assert container("everything", "backend")["image"] == "registry.example.com/team/zeromask-backend:main"


def default_values() -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return found


def schema() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return found


def not_told(schema: Mapping[str, Any], values: Any, path: str = "") -> list[str]:
    """Values that the schema allows, and values.yaml does not show."""
    found = []
    for name, below in schema.get("properties", {}).items():
        if name not in values:
            found.append(f"{path}{name}")
        elif isinstance(values[name], dict):
            found += not_told(below, values[name], f"{path}{name}.")
    return found


def test_every_value_is_told() -> None:
    found = not_told(schema(), default_values())
    assert [path for path in found if not re.match(r"settings\.|global$|\w+\.resources\.", path)] == []


def test_the_settings_that_may_be_given_are_those_that_there_are() -> None:
    secret = {name.removesuffix("_FILE") for name in setting_names() if name.endswith("_FILE")}
    allowed = set(schema()["properties"]["settings"]["properties"])
    assert allowed == {row.env for row in settings_table()} - secret - _BY_CHART, "see values.schema.json"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        pytest.param({"image": {"registry": ""}}, "image.registry is not set", id="no registry"),
        pytest.param({"labelStudio": {"url": ""}}, "labelStudio.url is not set", id="no Label Studio"),
        pytest.param({"backend": {"replica": 2}}, "'replica' not allowed", id="misspelt"),
        pytest.param({"backend": {"replicas": 2}}, "set backend.persistence.enabled to false", id="two backends"),
        pytest.param({"ingress": {"enabled": True}}, "ingress.host is not set", id="no host"),
        pytest.param({"settings": {"ZEROMASK_PASSWORD": "x"}}, "'ZEROMASK_PASSWORD' not allowed", id="secret"),
        pytest.param({"settings": {"ZEROMASK_BATCH": 16}}, "got number, want string", id="a number"),
        pytest.param({"settings": {"ZEROMASK_HOST": "::"}}, "'ZEROMASK_HOST' not allowed", id="of the chart"),
        pytest.param({"versions": {"url": "bucket/path"}}, "/versions/url", id="no URL"),
        pytest.param({"worker": {"stopSeconds": 5}}, "got 5, want 30", id="too short"),
        pytest.param({"keda": {"enabled": True, "minReplicas": 11}}, "keda.minReplicas is above", id="more than most"),
        pytest.param({"networkPolicy": {"workerTo": [{}]}}, "/networkPolicy/workerTo/0", id="a peer of nothing"),
    ],
)
def test_wrong_values_are_told(values: Mapping[str, Any], told: str) -> None:
    with pytest.raises(HelmError, match=re.escape(told)):
        texts(merged(NEEDED, values))


@pytest.mark.parametrize(
    ("case", "told", "not_told"),
    [
        ("defaults", ["http://zeromask-backend.team.svc:9090", "zeromask-redis", "zeromask-versions"], ["keda"]),
        ("KEDA", ["clicks of smart tools are not answered", "namespace keda"], []),
        ("everything", ["https://masks.example.com\n"], ["clicks"]),
        ("external Redis", ["redis_url,\n"], ["redis_users", "zeromask-redis"]),
    ],
)
def test_what_is_told_after_an_installation(case: str, told: Sequence[str], not_told: Sequence[str]) -> None:
    notes = texts(merged(NEEDED, VALUES[case]))["zeromask/templates/NOTES.txt"]
    assert [words for words in told if words not in notes] == []
    assert [words for words in not_told if words in notes] == []
