"""The manifests of deploy/ are valid for Kubernetes, fit together, and start the node with settings it knows.

Works offline: the schemas come with the package `kubernetes-validate`.
"""

import os
import pathlib
import re
import subprocess
import tomllib

import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy" / "k8s"
VERSIONS = ["1.32", "1.34", "1.36"]
MANIFESTS = sorted(path for path in K8S.glob("*.yaml") if path.name != "kustomization.yaml")


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def one(kind, name=None):
    found = [
        document for path in MANIFESTS for document in documents(path)
        if document["kind"] == kind and name in (None, document["metadata"]["name"])
    ]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def container():
    return one("StatefulSet")["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_is_valid(path, version):
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_kustomization_names_what_is_there():
    kustomization = yaml.safe_load((K8S / "kustomization.yaml").read_text())
    for resource in kustomization["resources"]:
        assert (K8S / resource).is_file(), resource
    assert "secrets.example.yaml" not in kustomization["resources"], "an example must not be applied by accident"
    assert kustomization["images"][0]["name"] == container()["image"]


def test_selectors_ports_and_services_fit():
    stateful_set = one("StatefulSet")
    labels = stateful_set["spec"]["template"]["metadata"]["labels"].items()
    assert stateful_set["spec"]["selector"]["matchLabels"].items() <= labels
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    ports = {port["name"] for port in container()["ports"]}
    for name in ("keyward", "keyward-peers"):
        service = one("Service", name)
        assert service["spec"]["selector"].items() <= labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    assert stateful_set["spec"]["serviceName"] == "keyward-peers"
    peers = one("Service", "keyward-peers")["spec"]
    assert peers["clusterIP"] == "None" and peers["publishNotReadyAddresses"]


def test_the_pod_is_restricted():
    pod = one("StatefulSet")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["fsGroup"]
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["enableServiceLinks"] is False and pod["automountServiceAccountToken"] is False
    own = container()["securityContext"]
    assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] and own["capabilities"]["drop"] == ["ALL"]


def test_probes_use_the_http_port_and_liveness_does_not_ask_for_readiness():
    for probe, path in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]:
        assert container()[probe]["httpGet"] == {"path": path, "port": "http"}


def test_secrets_are_mounted_as_folders_and_named_as_in_the_example():
    for mount in container()["volumeMounts"]:
        assert "subPath" not in mount, "a subPath is never refreshed"
    volumes = {volume["name"]: volume["secret"]["secretName"] for volume in one("StatefulSet")["spec"]["template"]["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    for flag in ("--cluster-secret-file", "--acl-file"):
        file = pathlib.PurePosixPath(flags()[flag])
        volume = next(name for name, path in mounts.items() if path == str(file.parent))
        assert file.name in one("Secret", volumes[volume])["stringData"]


def test_the_node_has_time_to_stop():
    pod = one("StatefulSet")["spec"]["template"]["spec"]
    waiting = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= waiting + 30 + 10


def test_the_members_are_the_pods():
    stateful_set = one("StatefulSet")
    names = [member.split("=")[0] for member in flags()["--members"].split(",")]
    assert names == [f"keyward-{ordinal}" for ordinal in range(stateful_set["spec"]["replicas"])]


def test_a_service_of_all_nodes_has_primaries_only():
    """Clients that look for a primary by role get whichever node the Service picks."""
    assert one("Service", "keyward")["spec"]["selector"].items() <= one("StatefulSet")["spec"]["template"]["metadata"]["labels"].items()
    assert flags()["--advertise-role"] == "primary"


def test_the_node_accepts_the_settings(tmp_path):
    binary = os.environ.get("KEYWARD_BIN")
    if not binary:
        pytest.skip("no KEYWARD_BIN")
    (tmp_path / "cluster").write_text(one("Secret", "keyward-cluster")["stringData"]["cluster"])
    (tmp_path / "users.acl").write_text(one("Secret", "keyward-users")["stringData"]["users.acl"])
    places = {"/data": str(tmp_path), "/secret/cluster": str(tmp_path / "cluster"), "/etc/keyward/acl/users.acl": str(tmp_path / "users.acl")}
    arguments = []
    for flag, value in flags().items():
        value = value.replace("$(POD_NAME)", "keyward-0").replace("$(POD_NAMESPACE)", "cache")
        arguments += [flag, places.get(value, value)]
    # What a run of the tests is told is no setting.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("KEYWARD_")}
    done = subprocess.run([binary, "config", "check", *arguments], capture_output=True, text=True, timeout=60, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_runs_as_nobody_and_is_built_from_the_lock_file():
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    last_stage = dockerfile.split("\nFROM ")[-1]
    assert re.search(r"^USER 65532:65532$", last_stage, re.MULTILINE)
    assert "--locked" in dockerfile and "SOURCE_DATE_EPOCH" in dockerfile
    pod = one("StatefulSet")["spec"]["template"]["spec"]["securityContext"]
    assert pod["runAsUser"] == 65532


def test_the_build_of_the_image_sees_every_member_of_the_workspace():
    with (ROOT / "Cargo.toml").open("rb") as manifest:
        workspace = tomllib.load(manifest)["workspace"]
    lines = (ROOT / "deploy" / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = [pathlib.PurePath(line[1:]) for line in lines if line.startswith("!")]
    for member in workspace["members"]:
        manifest = pathlib.PurePath(member) / "Cargo.toml"
        assert any(manifest.is_relative_to(path) for path in let_in), f"{member} is not in the image's build context"
        with (ROOT / manifest).open("rb") as file:
            package = tomllib.load(file)
        targets = [target["path"] for kind in ("bin", "test", "bench") for target in package.get(kind, []) if "path" in target]
        for target in targets:
            source = pathlib.PurePath(member) / target
            assert any(source.is_relative_to(path) for path in let_in), f"{source} is not in the image's build context"


def flags():
    return dict(argument.split("=", 1) for argument in container()["args"][1:])
