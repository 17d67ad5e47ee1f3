"""The files of a deployment as one reads them who looks for what they give away."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployment import COMPOSE, LAUNCHER, MANIFESTS, ROOT, documents, values

DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
LOCKS = ("docker/requirements.lock", "docker/build.lock")
CLUSTERS = ("raycluster.yaml", "rayjob.yaml")
ADMIN = {"MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"}


def _policies() -> dict[str, dict[str, Any]]:
    return {policy["metadata"]["name"]: policy["spec"] for policy in documents(MANIFESTS["network.yaml"])}


def _ray_pods(name: str) -> list[dict[str, Any]]:
    document = documents(MANIFESTS[name])[0]
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def _names(environment: Any) -> set[str]:
    return set(environment) if isinstance(environment, dict) else {item["name"] for item in environment}


def test_images_of_others_are_named_by_digest() -> None:
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert base is not None
    found = [base[1]]
    for path in (*COMPOSE.values(), *MANIFESTS.values()):
        found += [image for document in documents(path) for image in values(document, "image")]
    others = {image for image in found if not image.startswith("tensorrl:")}
    assert len(others) == 3
    assert {image for image in others if not DIGEST.search(image)} == set()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_the_pinned_versions_and_a_hash_for_each(name: str) -> None:
    text = (ROOT / name).read_text()
    pins = dict(
        re.findall(r"^([a-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE | re.IGNORECASE)
    )
    entries = [entry for entry in re.split(r"\n(?=[a-z0-9])", text.partition("\n")[2]) if entry.strip()]
    assert len(entries) >= 5
    for entry in entries:
        package, version = re.match(r"([a-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", entry).groups()  # type: ignore[union-attr]
        assert version == pins.get(package, version), package
        assert re.findall(r"--hash=sha256:[0-9a-f]{64}", entry), package
    assert "://" not in text
    assert "index-url" not in text


def test_the_image_installs_nothing_without_its_hash() -> None:
    script = (ROOT / "docker/install.sh").read_text()
    installs = [line for line in script.splitlines() if " install " in line]
    assert sum("--require-hashes" in line for line in installs) == 2
    # The others: the wheel built here, and the PyTorch of an index of one's own.
    assert all("--require-hashes" in line or "--no-index" in line or "TORCH_INDEX" in line for line in installs)


def test_the_locks_hold_every_requirement_of_the_project() -> None:
    for name, parts in (("docker/requirements.lock", "server"), ("docker/build.lock", "build")):
        ran = subprocess.run(
            ["python3", "docker/requirements.py", "pyproject.toml", parts], cwd=ROOT, capture_output=True, text=True
        )
        wanted = {re.split(r"[\[<>=!~ ]", line)[0].lower().replace("_", "-") for line in ran.stdout.splitlines()}
        held = set(re.findall(r"^([a-z0-9._-]+)(?:\[|==)", (ROOT / name).read_text(), re.MULTILINE))
        assert wanted
        assert wanted - held == set()


def test_no_service_of_compose_is_root_or_may_take_all_there_is() -> None:
    services = documents(COMPOSE["compose.yaml"])[0]["services"]
    assert set(services) == {"postgres", "artifacts", "mlflow", "head", "worker"}
    for name, service in services.items():
        assert service["user"] in ("1000:1000", "postgres", "seaweed"), name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["pids_limit"] > 0, name
        assert not {"privileged", "pid", "ipc", "network_mode"} & service.keys(), name


def test_only_the_operators_own_namespace_reaches_the_head() -> None:
    sources = [source for rule in _policies()["ray"]["ingress"] for source in rule["from"]]
    spaces = [source["namespaceSelector"] for source in sources if "namespaceSelector" in source]
    assert spaces == [{"matchLabels": {"kubernetes.io/metadata.name": "kuberay-operator"}}]
    assert not any(policy == {} for spec in _policies().values() for policy in values(spec, "namespaceSelector"))


def test_nothing_goes_out_but_what_is_said() -> None:
    policies = _policies()
    assert policies["nothing-in-or-out"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    wide = [
        name
        for name, spec in policies.items()
        for rule in spec.get("egress", ())
        if "to" not in rule or any(target.get("ipBlock", {}).get("cidr", "").endswith("/0") for target in rule["to"])
    ]
    assert wide == []
    targets = {name: [t for rule in spec.get("egress", ()) for t in rule["to"]] for name, spec in policies.items()}
    assert [name for name, found in targets.items() if any("ipBlock" in t for t in found)] == ["head-to-kubernetes"]
    assert targets["mlflow"] == [{"podSelector": {"matchLabels": {"app": "postgres"}}}]
    assert targets["postgres"] == []


@pytest.mark.parametrize("name", CLUSTERS)
def test_no_trials_container_has_a_token_of_kubernetes(name: str) -> None:
    for document in documents(MANIFESTS[name]):
        pods = [pod for pod in values(document, "spec") if isinstance(pod, dict) and "containers" in pod]
        assert pods
        assert all(pod["automountServiceAccountToken"] is False for pod in pods)
    mounted = [
        (container["name"], mount["name"])
        for pod in _ray_pods(name)
        for container in pod["containers"]
        for mount in container["volumeMounts"]
    ]
    assert {mount for _, mount in mounted} == {"storage"}
    (autoscaler,) = values(documents(MANIFESTS[name]), "autoscalerOptions")
    assert [mount["mountPath"] for mount in autoscaler["volumeMounts"]] == [
        "/var/run/secrets/kubernetes.io/serviceaccount"
    ]


def test_where_trials_run_there_is_no_admins_password_and_no_key_of_sessions() -> None:
    services = documents(COMPOSE["compose.yaml"])[0]["services"]
    for name in ("head", "worker"):
        environment = services[name]["environment"]
        assert not ADMIN & _names(environment)
        assert "MLFLOW_TRIALS" in environment["MLFLOW_TRACKING_PASSWORD"]
    for name in CLUSTERS:
        secrets = {key["name"] for pod in _ray_pods(name) for key in values(pod, "secretKeyRef")}
        assert secrets == {"mlflow-trials"}
    everywhere = (ROOT / "cluster/secrets.env.example").read_text()
    assert set(re.findall(r"^(\w+)=", everywhere, re.MULTILINE)) == {
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    }
    for path in LAUNCHER.values():
        mounts = re.search(r"^file_mounts:\n((?:  .+\n)+)", path.read_text(), re.MULTILINE)
        assert mounts is not None
        assert "secrets.env" in mounts[1]
        assert "mlflow.env" not in mounts[1]


@pytest.mark.parametrize("name", ["cluster/aws.yaml", "cluster/gcp.yaml"])
def test_mlflows_users_lie_where_no_trial_writes(name: str) -> None:
    document = documents(LAUNCHER[name])[0]
    text = LAUNCHER[name].read_text()
    assert re.findall(r"MLFLOW_AUTH_DATABASE_URI=(\S+?);", text) == ["sqlite:////mlflow/auth.db"]
    assert "--volume /var/lib/tensorrl/mlflow:/mlflow" in document["docker"]["head_run_options"]
    assert not any("/mlflow" in option for option in document["docker"]["run_options"])


@pytest.mark.parametrize(
    ("hosts", "storage", "said"),
    [
        ("a\n-oProxyCommand=touch$IFS/tmp/x\n", "", "is no host"),
        ("-oProxyCommand=x@a\nb\n", "", "is no host"),
        ("a\nb]\n", "", "is no host"),
        ("a\n$(id)\n", "", "is no host"),
        ("a\n", "", "1 hosts"),
        ("a\nb\n", "/it's", "a folder of another name"),
        ("a\nb\n", "/x; id", "a folder of another name"),
        ("a\nb\n", "/x}\n", "a folder of another name"),
    ],
)
def test_hosts_and_folders_that_a_shell_would_take_for_commands_are_refused(
    hosts: str, storage: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "hosts").write_text(hosts)
    folder = Path(f"{tmp_path}{storage}")
    folder.mkdir(exist_ok=True)
    script = ROOT / "cluster/hosts/prepare.sh"
    ran = subprocess.run([script, tmp_path / "hosts", folder], capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert said in line
    assert list(folder.iterdir()) == ([tmp_path / "hosts"] if not storage else [])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in (
        "cluster/make-secrets.sh",
        "docker/.env.example",
        "cluster/secrets.env.example",
        "cluster/mlflow.env.example",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def _make(checkout: Path, what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"umask 022; cluster/make-secrets.sh {what}"], cwd=checkout, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("what", "files"),
    [("compose", ["docker/.env"]), ("launcher", ["cluster/secrets.env", "cluster/mlflow.env"])],
)
def test_secrets_are_made_random_and_for_their_owner_alone(checkout: Path, what: str, files: list[str]) -> None:
    assert _make(checkout, what).returncode == 0
    before = [(checkout / name).read_text() for name in files]
    for name, text in zip(files, before, strict=True):
        assert stat.S_IMODE((checkout / name).stat().st_mode) == 0o600
        example = (checkout / f"{name}.example").read_text()
        assert re.findall(r"^(\w+)=", text, re.MULTILINE) == re.findall(r"^(\w+)=", example, re.MULTILINE)
        assert re.findall(r"^\w+=$", text, re.MULTILINE) == []
    secrets = re.findall(r"=([0-9a-f]{64})$", "\n".join(before), re.MULTILINE)
    # The trials' password is in both files of the launcher, every other secret in one place.
    assert len(secrets) - len(set(secrets)) == (what == "launcher")
    again = _make(checkout, what)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert [(checkout / name).read_text() for name in files] == before
    assert list(checkout.rglob("*.draft")) == []


def test_the_secrets_of_kubernetes_are_objects_on_standard_output_and_in_no_file(checkout: Path) -> None:
    before = sorted(checkout.rglob("*"))
    admin, trials = yaml.safe_load_all(_make(checkout, "kuberay").stdout)
    assert (admin["metadata"]["name"], trials["metadata"]["name"]) == ("mlflow", "mlflow-trials")
    asked = {
        (key["name"], key["key"]) for path in MANIFESTS.values() for key in values(documents(path), "secretKeyRef")
    }
    assert asked == {(s["metadata"]["name"], key) for s in (admin, trials) for key in s["stringData"]}
    assert sorted(checkout.rglob("*")) == before
