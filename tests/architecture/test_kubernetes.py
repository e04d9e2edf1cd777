"""The Kubernetes files are checked without a cluster: they are valid, closed by default, and run what Compose runs.

The schemas are those that `kubernetes-validate` carries (https://github.com/kubernetes/kubernetes, api/openapi-spec).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate.utils import validate

from tests.architecture.test_deployment import COMPOSE, OPTIONAL_OF, SERVICES, instructions

FOLDER = Path(__file__).parents[2] / "k8s"
VERSION = "1.34"
WORKLOADS = ("Deployment", "StatefulSet")
SEAL_KEY = "LEDGER_SEAL_KEY_FILE"
# What the images of the backing parts read.
IMAGE_SECRETS = {"POSTGRES_PASSWORD", "RABBITMQ_DEFAULT_PASS"}


def resources(folder: Path) -> list[dict[str, Any]]:
    """All that a kustomization comes to, but for what Kustomize makes itself."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found: list[dict[str, Any]] = []
    for name in kustomization["resources"]:
        path = folder / name
        found += resources(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    return found


RESOURCES = resources(FOLDER)
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
PODS = {each["metadata"]["name"]: each for each in RESOURCES if each["kind"] in WORKLOADS}
OURS = sorted(name for name in PODS if name not in ("postgresql", "rabbitmq", "mongodb", "jaeger"))


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = PODS[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    [only] = pod(name)["containers"]
    found: dict[str, Any] = only
    return found


def variables(file: str) -> dict[str, str]:
    """What a file of variables holds."""
    lines = [line for line in (FOLDER / file).read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
def test_a_resource_is_valid(resource: dict[str, Any]) -> None:
    validate(resource, VERSION, strict=True)


def test_every_file_is_part_of_the_whole() -> None:
    named = {path.relative_to(FOLDER) for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml"}
    documents = sum(len(list(yaml.safe_load_all((FOLDER / path).read_text()))) for path in named)
    assert documents == len(RESOURCES)


def test_the_same_processes_run_as_with_compose() -> None:
    assert set(PODS) == set(SERVICES)
    for name in OURS:
        assert container(name)["command"] == SERVICES[name]["command"]
        image, tag = SERVICES[name]["image"].split(":")
        assert container(name)["image"] == image
        assert KUSTOMIZATION["images"] == [{"name": image, "newTag": tag}]
    for name in set(PODS) - set(OURS):
        assert container(name)["image"] == SERVICES[name]["image"]
        assert container(name).get("args") == SERVICES[name].get("command")


def test_every_process_is_given_what_compose_gives_it() -> None:
    shared = set(variables("settings.env")) | set(variables("secrets.env.example")) - IMAGE_SECRETS
    for name in OURS:
        mine = {each["name"] for each in container(name).get("env", [])}
        compose = set(SERVICES[name].get("environment", COMPOSE["x-ledger"]["environment"]))
        assert shared | mine == compose - OPTIONAL_OF.get(name, set())
        given = [next(iter(each.values()))["name"] for each in container(name)["envFrom"]]
        assert given[:2] == ["ledger-settings", "ledger-secrets"]
    for name, value in variables("settings.env").items():
        assert value == COMPOSE["x-ledger"]["environment"][name]


def test_no_secret_is_kept_here() -> None:
    ignored = (FOLDER / ".gitignore").read_text().split()
    made = [file for each in KUSTOMIZATION["secretGenerator"] for file in each.get("envs", []) + each.get("files", [])]
    assert sorted(made) == sorted(ignored)
    for name, value in variables("secrets.env.example").items():
        assert value == "" or name in ("LEDGER_DATABASE_URL", "CELERY_BROKER_URL")
    assert not [each for each in RESOURCES if each["kind"] == "Secret"]


def test_the_key_that_seals_is_given_to_the_sealer_alone() -> None:
    holding = [name for name in PODS if "ledger-seal-key" in str(pod(name).get("volumes"))]
    assert holding == ["sealer"]
    [variable] = [each for each in container("sealer")["env"] if each["name"] == SEAL_KEY]
    folders = {each["name"]: each["mountPath"] for each in container("sealer")["volumeMounts"]}
    assert variable["value"] == f"{folders['seal-key']}/seal.pem"


@pytest.mark.parametrize("name", sorted(PODS))
def test_a_pod_has_no_more_rights_than_it_needs(name: str) -> None:
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(name)["automountServiceAccountToken"] is False
    assert pod(name)["enableServiceLinks"] is False
    rights = container(name)["securityContext"]
    assert (rights["allowPrivilegeEscalation"], rights["capabilities"]) == (False, {"drop": ["ALL"]})
    if name in OURS:
        assert rights["readOnlyRootFilesystem"] is True
        [user] = [line for line in instructions("RUN") if "useradd" in line]
        assert f"--uid {pod(name)['securityContext']['runAsUser']} " in user
    assert container(name)["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", OURS)
def test_every_folder_that_a_setting_names_is_mounted_and_only_the_sealer_writes_checkpoints(name: str) -> None:
    mounts = {each["mountPath"]: each for each in container(name)["volumeMounts"]}
    named = {value.removeprefix("file://") for value in variables("settings.env").values() if value.startswith("file")}
    assert named <= set(mounts)
    assert mounts["/var/lib/ledger/checkpoints"].get("readOnly", False) is (name != "sealer")
    assert {each["name"] for each in mounts.values()} == {each["name"] for each in pod(name)["volumes"]}
    claims = {each["metadata"]["name"] for each in RESOURCES if each["kind"] == "PersistentVolumeClaim"}
    used = {
        each["persistentVolumeClaim"]["claimName"] for each in pod(name)["volumes"] if "persistentVolumeClaim" in each
    }
    assert used == claims


def test_a_service_leads_to_the_port_of_its_pods() -> None:
    for service in (each for each in RESOURCES if each["kind"] == "Service"):
        name = service["metadata"]["name"]
        labels = PODS[name]["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        assert PODS[name]["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ports = {each["name"]: each["containerPort"] for each in container(name)["ports"]}
        assert [ports[each["targetPort"]] for each in service["spec"]["ports"]] == [
            each["port"] for each in service["spec"]["ports"]
        ]
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_nobody_but_the_ledger_reaches_its_parts() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in RESOURCES if each["kind"] == "NetworkPolicy"}
    assert policies["closed"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    opened = {name: spec["podSelector"]["matchLabels"] for name, spec in policies.items() if "ingress" in spec}
    reached = {
        name
        for name, each in PODS.items()
        for labels in opened.values()
        if labels.items() <= each["spec"]["template"]["metadata"]["labels"].items()
    }
    assert reached == set(PODS) - set(OURS) | {"api"}
    assert policies["backing"]["ingress"] == [
        {"from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "ledger"}}}]}
    ]
