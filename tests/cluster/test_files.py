"""The files of a deployment pass the checks of those who will read them, and agree with each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployment import COMPOSE, LAUNCHER, MANIFESTS, PLACEHOLDER, PROGRAMS, ROOT, SCRIPTS, documents, pin, values

from tensorrl.sweeps.store.gauges import CELLS, STEPS_PER_SECOND

DOCKERFILE = ROOT / "docker/Dockerfile"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
FILLED = {
    "AMI": "ami-0123456789abcdef0", "HEAD": "198.51.100.1", "IMAGE": f"registry.example/tensorrl:{VERSION}-gpu",
    "MACHINE_IMAGE": "projects/example/global/images/family/example", "PROJECT": "example", "REGION": "eu-west-1",
    "SSH_FROM": "192.0.2.7/32", "SSH_USER": "ubuntu", "STORAGE": "/mnt/storage", "STORAGE_ADDRESS": "198.51.100.9",
    "WORKERS": "198.51.100.2, 198.51.100.3", "ZONE": "europe-west4-a",
}  # fmt: skip


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)


# Each by the checker of its kind


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    ran = _run(PROGRAMS / "hadolint", DOCKERFILE)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && apt-get install curl\n")
    ran = _run(PROGRAMS / "hadolint", tmp_path / "Dockerfile")
    assert ran.returncode != 0
    assert "DL3006" in ran.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name: str) -> None:
    ran = _run(PROGRAMS / "shellcheck", SCRIPTS[name])
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_follow_the_specification(name: str) -> None:
    ran = _run(PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE[name])
    assert ran.returncode == 0, ran.stdout


def test_the_specification_refuses_an_unknown_field(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text("services: {head: {image: tensorrl, portz: ['1:1']}}\n")
    assert _run(PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong).returncode == 1


def _kubernetes_objects(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A document, or, of KubeRay's kinds, whose schema is not Kubernetes' own, the pods in it."""
    if not document["apiVersion"].startswith("ray.io/"):
        return [document]
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    pods = [group["template"] for group in groups] + [document["spec"].get("submitterPodTemplate")]
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{number}", **pod["metadata"]},
            "spec": pod["spec"],
        }
        for number, pod in enumerate(filter(None, pods))
    ]


def _kubernetes_faults(content: list[dict[str, Any]], folder: Path) -> str:
    path = folder / "objects.yaml"
    path.write_text(yaml.safe_dump_all(content))
    ran = _run(PROGRAMS / "kubernetes-validate", "--strict", "--no-warn", "--quiet", path)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr or "refused"


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_objects_follow_their_schema(name: str, tmp_path: Path) -> None:
    found = [one for document in documents(MANIFESTS[name]) for one in _kubernetes_objects(document)]
    assert found
    assert _kubernetes_faults(found, tmp_path) == ""


def test_the_kubernetes_schema_refuses_a_misspelt_field(tmp_path: Path) -> None:
    pods = _kubernetes_objects(documents(MANIFESTS["raycluster.yaml"])[0])
    pods[0]["spec"]["containers"][0]["volumeMount"] = []
    assert "volumeMount" in _kubernetes_faults(pods[:1], tmp_path)


def _launcher_config(path: Path) -> dict[str, Any]:
    """A launcher file as `ray up` loads and checks it before it asks a cloud for anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = PLACEHOLDER.sub(lambda found: FILLED[found[1]], path.read_text())
    prepared: dict[str, Any] = prepare_config(yaml.safe_load(text))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_up_loads_the_launcher_files(name: str) -> None:
    config = _launcher_config(LAUNCHER[name])
    kinds = config["available_node_types"]
    head = kinds[config["head_node_type"]]
    workers = [kind for node, kind in kinds.items() if node != config["head_node_type"]]
    assert head["resources"].get("CPU", 0) == 0
    assert all(kind["max_workers"] > 0 for kind in workers)
    if config["provider"]["type"] != "local":
        assert all(kind["min_workers"] == 0 for kind in workers)


def test_ray_up_refuses_a_misspelt_field(tmp_path: Path) -> None:
    wrong = tmp_path / "cluster.yaml"
    wrong.write_text(LAUNCHER["cluster/aws.yaml"].read_text().replace("idle_timeout_minutes", "idle_timeout_minute"))
    with pytest.raises(Exception, match="idle_timeout_minute"):
        _launcher_config(wrong)


@pytest.mark.parametrize(("name", "page"), [("cluster/aws.yaml", "AWS"), ("cluster/gcp.yaml", "GCP")])
def test_the_page_fills_in_every_name_of_a_launcher_file(name: str, page: str) -> None:
    text = (ROOT / "cluster/launcher.md").read_text()
    section = text.partition(f"## {page}")[2].partition("\n## ")[0]
    filled = re.search(r"envsubst '([^']+)'", section)
    assert filled is not None
    assert set(re.findall(r"\w+", filled[1])) == set(PLACEHOLDER.findall(LAUNCHER[name].read_text()))


# One with another


def _images() -> dict[str, set[str]]:
    """The images that each file names."""
    found = {name: set(values(documents(path), "image")) for name, path in (MANIFESTS | COMPOSE).items()}
    return {name: {image for image in images if isinstance(image, str)} for name, images in found.items()}


def test_every_image_is_of_one_version() -> None:
    own = {image for images in _images().values() for image in images if image.startswith("tensorrl:")}
    assert own == {
        f"tensorrl:{VERSION}-cpu",
        f"tensorrl:{VERSION}-gpu",
        f"tensorrl:{VERSION}-${{TENSORRL_TARGET:-cpu}}",
    }
    others: dict[str, set[str]] = {}
    for image in {image for images in _images().values() for image in images} - own:
        name, _, tag = image.partition(":")
        assert re.match(r"\d+\.\d+", tag), image
        others.setdefault(name, set()).add(tag)
    assert {name for name, tags in others.items() if len(tags) > 1} == set()
    for page in ("docker/README.md", "cluster/launcher.md", "cluster/kuberay/README.md", "docker/Dockerfile"):
        assert set(re.findall(r"tensorrl:(\d\S*?)-(?:cpu|gpu)", (ROOT / page).read_text())) <= {VERSION}, page


def test_manifests_name_the_pinned_ray() -> None:
    named = {str(value) for path in MANIFESTS.values() for value in values(documents(path), "rayVersion")}
    assert named == {pin("ray")}


def test_the_image_has_the_python_that_the_pins_were_made_with() -> None:
    made = re.search(r"made with Python (\d+\.\d+)", (ROOT / "constraints.txt").read_text())
    base = re.search(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)\.\d+-", DOCKERFILE.read_text(), re.MULTILINE)
    assert made is not None
    assert base is not None
    assert made[1] == base[1]


def test_a_job_has_the_cluster_that_stays() -> None:
    job, cluster = documents(MANIFESTS["rayjob.yaml"])[0], documents(MANIFESTS["raycluster.yaml"])[0]
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_the_image_gets_all_that_its_steps_copy() -> None:
    ignored = (ROOT / "docker/Dockerfile.dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    kept = {path for pattern in allowed for path in ROOT.glob(pattern)}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    wanted = {ROOT / name for line in copied for name in line.split()}
    assert wanted
    assert all(path.exists() for path in wanted)
    assert {str(path) for path in wanted if path not in kept} == set()


def test_the_dashboard_shows_the_gauges_that_a_sweep_sets() -> None:
    board = json.loads((ROOT / "cluster/monitoring/grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    ours = set(re.findall(r"ray_(tensorrl_\w+)", asked))
    assert ours == {CELLS, STEPS_PER_SECOND}
    page = (ROOT / "cluster/README.md").read_text()
    assert all(f"`ray_{name}`" in page for name in ours)


# Nothing is open


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_publishes_on_loopback_only(name: str) -> None:
    published = [port for ports in values(documents(COMPOSE[name]), "ports") for port in ports]
    assert all(str(port).startswith("127.0.0.1:") for port in published)
    assert published or name != "compose.yaml"


def test_no_service_has_a_password_of_its_own() -> None:
    secret = re.compile(r"PASSWORD|TOKEN|SECRET|SESSION_KEY|ACCESS_KEY")
    environments = [e for e in values(documents(COMPOSE["compose.yaml"]), "environment") if isinstance(e, dict)]
    given = {name: str(value) for e in environments for name, value in e.items() if secret.search(name)}
    assert len(given) >= 6
    assert {name: value for name, value in given.items() if not re.fullmatch(r"\$\{\w+(:\?[^}]+)?\}", value)} == {}
    for example in ("docker/.env.example", "cluster/secrets.env.example", "cluster/mlflow.env.example"):
        lines = [line for line in (ROOT / example).read_text().splitlines() if secret.search(line.partition("=")[0])]
        assert lines
        assert [line for line in lines if not re.fullmatch(r"\w+=(\$\w+)?", line) and not line.startswith("#")] == []


def test_manifests_hold_no_secret_and_expose_no_service() -> None:
    for path in MANIFESTS.values():
        for document in documents(path):
            assert document["kind"] != "Secret"
            assert document["kind"] != "Ingress"
        assert set(values(documents(path), "type")) & {"NodePort", "LoadBalancer"} == set()
        assert set(values(documents(path), "serviceType")) <= {"ClusterIP"}
    modes = [mode["mode"] for path in MANIFESTS.values() for mode in values(documents(path), "authOptions")]
    assert modes == ["token", "token"]


def test_no_pod_runs_as_root_or_may_become_it() -> None:
    for path in MANIFESTS.values():
        for document in documents(path):
            pods = list(values(document, "containers"))
            contexts = list(values(document, "securityContext"))
            if not pods:
                continue
            assert sum(c.get("runAsNonRoot") is True for c in contexts) == len(pods)
            containers = [container for pod in pods for container in pod]
            assert all(c["securityContext"]["allowPrivilegeEscalation"] is False for c in containers)
            assert all(c["securityContext"]["capabilities"] == {"drop": ["ALL"]} for c in containers)


def test_the_launchers_dashboards_stay_on_loopback_and_ssh_on_one_address() -> None:
    for path in LAUNCHER.values():
        text = path.read_text()
        assert "--dashboard-host=127.0.0.1" in text
        assert "0.0.0.0" not in text
        assert "RAY_AUTH_MODE=token" in text
    group = documents(LAUNCHER["cluster/aws.yaml"])[0]["provider"]["security_group"]["IpPermissions"]
    allowed = [(rule["FromPort"], rule["ToPort"], rule["IpRanges"]) for rule in group]
    assert allowed == [(22, 22, [{"CidrIp": "${SSH_FROM}"}])]


def test_git_ignores_the_files_that_hold_secrets() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.fail("this test reads git's rules: run it in a checkout")
    for name in (
        "docker/.env",
        "cluster/secrets.env",
        "cluster/mlflow.env",
        "cluster/aws.local.yaml",
        "cluster/hosts/mine.yaml",
    ):
        assert _run("git", "check-ignore", "--quiet", name).returncode == 0, name
