"""The files that deploy the service: what they publish, whom they run as, where secrets come from."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ITEMS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "kubernetes.yaml").read_text())["items"]
#: the order in which they start
ORDER = ["postgres", "migrate", "ray-head", "ray-worker", "controller", "dashboard"]


def test_every_service_is_started_after_those_that_it_needs() -> None:
    assert set(ORDER) | {"ray-worker-gpu"} == set(SERVICES)
    for name in ORDER:
        needed = SERVICES[name].get("depends_on", {})
        assert set(needed) <= set(ORDER[: ORDER.index(name)])
        for other, how in needed.items():
            assert how["condition"] == (
                "service_completed_successfully" if other == "migrate" else "service_healthy"
            )
            assert other == "migrate" or "healthcheck" in SERVICES[other]


def test_nothing_but_the_dashboard_is_published_and_that_on_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"dashboard": ["127.0.0.1:8080:8080"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    outside = [name for name, service in SERVICES.items() if "outside" in service["networks"]]
    assert outside == ["dashboard"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_run_without_rights_and_without_secrets_in_their_environment(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert not service["image"].endswith(":latest")
    assert ":" in service["image"]
    for variable, value in service["environment"].items():
        secret = any(word in variable for word in ("PASSWORD", "TOKEN", "SECRET"))
        assert not secret or value.startswith("/run/secrets/"), variable
        assert ":" not in value.removeprefix("postgresql://").split("@")[0], variable
    for secret in service["secrets"]:
        assert COMPOSE["secrets"][secret] == {"file": f"./secrets/{secret}"}
    if "RAY_AUTH_TOKEN_PATH" in service["environment"]:
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
    else:
        assert "ray" not in service.get("command", [])


def test_the_images_run_as_nobody_in_particular() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert lines[0].startswith("FROM python:3.12.")
    assert "USER searchsvc" in lines
    assert not any(line.startswith(("RUN", "COPY")) for line in lines[lines.index("USER searchsvc") :])
    assert SERVICES["postgres"]["user"] == "postgres"


def pods(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of an object."""
    if item["kind"] != "RayCluster":
        return [item["spec"]["template"]]
    return [group["template"] for group in (item["spec"]["headGroupSpec"], *item["spec"]["workerGroupSpecs"])]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["metadata"]["name"])
def test_kubernetes_would_accept_the_manifests(item: dict[str, Any]) -> None:
    # KubeRay's own kind is no part of Kubernetes, but its pods are
    if item["kind"] != "RayCluster":
        kubernetes_validate.validate(item, "1.32", strict=True)
    for number, template in enumerate(pods(item)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, **template}
        kubernetes_validate.validate(pod, "1.32", strict=True)
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            for variable in container["env"]:
                secret = any(word in variable["name"] for word in ("PASSWORD", "TOKEN"))
                assert not secret or variable["value"].startswith("/run/secrets/")


def test_kubernetes_runs_what_compose_runs() -> None:
    by_name = {item["metadata"]["name"]: item for item in ITEMS}

    def words(command: list[str]) -> list[str]:
        joined = " ".join(" ".join(command).split()).replace("/run/secrets/searchsvc/", "/run/secrets/")
        return joined.replace("searchsvc-head-svc:", "ray-head:").split()

    for service, name in (
        ("migrate", "searchsvc-migrate"),
        ("controller", "searchsvc-controller"),
        ("dashboard", "searchsvc-dashboard"),
    ):
        container = pods(by_name[name])[0]["spec"]["containers"][0]
        assert words(container["args"]) == words(SERVICES[service]["command"])
        assert container["image"] == SERVICES[service]["image"]
