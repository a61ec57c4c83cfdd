"""deploy/kubernetes: each overlay is what the API of Kubernetes takes, and keeps to what images and services need."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic_settings import BaseSettings

from image_service.config import Settings as ImageSettings
from ledger_service.config import Settings as LedgerSettings
from tests.kustomize import KustomizeError, Manifest, build, containers, merge, pod_of

ROOT: Final = Path(__file__).parents[2]
KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
OVERLAYS: Final = ("dev", "production")
OLDEST: Final = "1.32"
SETTINGS: Final[dict[str, type[BaseSettings]]] = {"LEDGER_": LedgerSettings, "IMAGE_": ImageSettings}
UID: Final = 10_001


@cache
def built(overlay: str) -> list[Manifest]:
    return build(KUBERNETES / "overlays" / overlay)


def of_kind(overlay: str, kind: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in built(overlay) if one["kind"] == kind}


def workloads(overlay: str) -> list[Manifest]:
    return [one for one in built(overlay) if pod_of(one) is not None]


@pytest.mark.parametrize(("overlay", "version"), [("dev", "newest"), ("production", "newest"), ("production", OLDEST)])
def test_every_object_is_what_the_api_takes(overlay: str, version: str) -> None:
    import kubernetes_validate  # a second, which each worker that collects this file would take

    wanted = kubernetes_validate.latest_version() if version == "newest" else version
    for manifest in built(overlay):
        kubernetes_validate.validate(manifest, wanted, strict=True)


def test_what_the_api_does_not_take_is_found() -> None:
    import kubernetes_validate

    [ledger] = of_kind("production", "Deployment").values()
    for change in (
        {"spec": {"replica": 2}},
        {"spec": {"template": {"spec": {"containers": [{"name": "ledger", "readynessProbe": {}}]}}}},
        {"spec": {"selector": None}},
        {"spec": {"replicas": "many"}},
    ):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(merge(ledger, change), OLDEST, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_builds_the_same(overlay: str) -> None:
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    if shutil.which(command[0]) is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    place = str(KUBERNETES / "overlays" / overlay)
    done = subprocess.run([*command, place], check=True, capture_output=True, text=True, timeout=60)
    theirs = {_name(one): one for one in yaml.safe_load_all(done.stdout)}
    ours = {_name(one): one for one in built(overlay)}
    assert theirs == ours


def _name(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def test_a_kustomization_that_we_do_not_understand_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("namePrefix: x-\n")
    with pytest.raises(KustomizeError, match="namePrefix"):
        build(tmp_path)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_as_nobody_on_a_root_that_nobody_can_write(overlay: str) -> None:
    assert {one["kind"] for one in workloads(overlay)} == {"Deployment", "StatefulSet", "Job"}
    for workload in workloads(overlay):
        pod = pod_of(workload) or {}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == UID
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        # A service "ledger" would set LEDGER_PORT=tcp://…, and the ledger would not start.
        assert pod["enableServiceLinks"] is False
        assert pod["serviceAccountName"] in of_kind(overlay, "ServiceAccount")
        for container in containers(workload):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_referred_to_and_never_said(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == {}
    for workload in workloads(overlay):
        volumes = {volume["name"]: volume for volume in (pod_of(workload) or {})["volumes"]}
        assert volumes["secrets"]["secret"]["secretName"] == workload["metadata"]["name"]
        for container in containers(workload):
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert mounts["/run/secrets"] == {"name": "secrets", "mountPath": "/run/secrets", "readOnly": True}
            assert not [one for one in container["env"] if "@" in one["value"]], "a password in a URL"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_variable_is_a_setting_that_takes_its_value(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for workload in workloads(overlay):
        for container in containers(workload):
            prefix = "IMAGE_" if workload["metadata"]["name"] == "image" else "LEDGER_"
            with monkeypatch.context() as environment:
                for variable in container["env"]:
                    name = variable["name"].removeprefix(prefix).lower()
                    assert name in SETTINGS[prefix].model_fields, variable["name"]
                    environment.setenv(variable["name"], variable["value"])
                SETTINGS[prefix]()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_selects_pods_selects_those_that_are_meant(overlay: str) -> None:
    labels = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in workloads(overlay)}

    def selected(selector: dict[str, str]) -> set[str]:
        return {name for name, found in labels.items() if selector.items() <= found.items()}

    for service in of_kind(overlay, "Service").values():
        [name] = selected(service["spec"]["selector"])
        ports = {port["name"] for one in workloads(overlay) for port in _ports(one) if one["metadata"]["name"] == name}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for budget in of_kind(overlay, "PodDisruptionBudget").values():
        assert len(selected(budget["spec"]["selector"]["matchLabels"])) == 1
    policies = of_kind(overlay, "NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    allowed = {name: selected(one["spec"]["podSelector"].get("matchLabels", {})) for name, one in policies.items()}
    for name in labels:
        assert allowed[name] == {name}, f"{name} has a policy of its own"
    callers = [
        peer["podSelector"] for peer in policies["ledger"]["spec"]["ingress"][0]["from"] if "podSelector" in peer
    ]
    assert [selected(peer["matchLabels"]) for peer in callers] == [{"image"}]
    for one in workloads(overlay):
        if one["kind"] != "Job":
            assert one["spec"]["selector"]["matchLabels"].items() <= labels[one["metadata"]["name"]].items()


def _ports(workload: Manifest) -> list[dict[str, Any]]:
    return [port for container in containers(workload) for port in container.get("ports", ())]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_service_is_asked_before_it_gets_work_and_stops_in_its_own_time(overlay: str) -> None:
    for workload in workloads(overlay):
        if workload["kind"] == "Job":
            continue
        [container] = containers(workload)
        dockerfile = (ROOT / "deploy" / "docker" / f"{workload['metadata']['name']}.Dockerfile").read_text()
        [exposed] = re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE)
        assert [port["containerPort"] for port in container["ports"]] == [int(exposed)]
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["path"] == "/livez", "a restart mends no database"
        pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert (pod_of(workload) or {})["terminationGracePeriodSeconds"] > pause + ImageSettings().shutdown_seconds


def test_journals_are_volumes_that_stay() -> None:
    [image] = of_kind("production", "StatefulSet").values()
    assert image["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    [claim] = image["spec"]["volumeClaimTemplates"]
    [container] = containers(image)
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in container["volumeMounts"]
    assert "IMAGE_DATA_DIR=/data" in (ROOT / "deploy" / "docker" / "image.Dockerfile").read_text()


def test_the_autoscaler_goes_by_lag_and_keeps_to_the_databases_connections() -> None:
    [scaler] = of_kind("production", "HorizontalPodAutoscaler").values()
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in {_name(one) for one in workloads("production")}
    [lag] = [one["external"] for one in scaler["spec"]["metrics"] if one["type"] == "External"]
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    assert [rule["name"]["as"] for rule in adapter["rules"]["external"]] == [lag["metric"]["name"]]
    roles = (ROOT / "deploy" / "postgres" / "roles.sql").read_text()
    [connections] = re.findall(r"\('ledger_service', (\d+)\)", roles)
    [a_process] = re.findall(r"the ledger opens at most some (\d+) a process", roles)
    surge = of_kind("production", "Deployment")["ledger"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    assert (scaler["spec"]["maxReplicas"] + surge) * int(a_process) <= int(connections)
