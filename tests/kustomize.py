"""`kustomize build` of what deploy/kubernetes uses of it, on Python alone; a test compares it with the real one.

Resources, other kustomizations as resources, namespace, images, replicas, and patches by strategic merge. Anything else
in a kustomization.yaml is an error here, not a silence.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

Manifest: TypeAlias = dict[str, Any]

KNOWN: Final = frozenset({"apiVersion", "kind", "resources", "namespace", "images", "replicas", "patches"})
#: Kinds that are in no namespace.
CLUSTER_WIDE: Final = frozenset({"Namespace"})
#: By the name of a list: what its items are told apart by. Lists without are replaced as a whole.
MERGE_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}


class KustomizeError(Exception):
    """A kustomization that cannot be built, or not by this."""


def build(folder: Path) -> list[Manifest]:
    """All objects of a folder's kustomization.yaml."""
    wanted = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := wanted.keys() - KNOWN:
        raise KustomizeError(f"{folder}: {', '.join(sorted(unknown))}: not known here")
    found = [manifest for name in wanted.get("resources", ()) for manifest in _resources(folder / name)]
    for patch in wanted.get("patches", ()):
        for change in _documents(folder / patch["path"]):
            _apply(found, change)
    for manifest in found:
        _replicate(manifest, wanted.get("replicas", ()))
        for container in containers(manifest):
            container["image"] = _image(container["image"], wanted.get("images", ()))
        if "namespace" in wanted and manifest["kind"] not in CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = wanted["namespace"]
    return found


def containers(manifest: Manifest) -> list[Manifest]:
    """Of the pods that the object makes."""
    pod = pod_of(manifest)
    return [] if pod is None else [*pod.get("initContainers", ()), *pod["containers"]]


def pod_of(manifest: Manifest) -> Manifest | None:
    """The spec of the pods that the object makes; None where it makes none."""
    template = manifest.get("spec", {}).get("template")
    return None if template is None else template["spec"]


def _resources(path: Path) -> Iterator[Manifest]:
    yield from build(path) if path.is_dir() else _documents(path)


def _documents(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _apply(found: list[Manifest], change: Manifest) -> None:
    same = [one for one in found if _identity(one) == _identity(change)]
    if len(same) != 1:
        raise KustomizeError(f"{_identity(change)} is to be patched, and there are {len(same)} of it")
    if change.get("$patch") == "delete":
        found.remove(same[0])
    else:
        merged = merge(same[0], change)
        same[0].clear()
        same[0].update(merged)


def _identity(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def merge(base: Manifest, change: Manifest) -> Manifest:
    """Strategic merge: objects by their members, null removes one, lists by MERGE_KEYS."""
    merged = deepcopy(base)
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = merge(merged[name], value)
        elif isinstance(value, list) and name in MERGE_KEYS and name in merged:
            merged[name] = _merge_lists(merged[name], value, MERGE_KEYS[name])
        else:
            merged[name] = deepcopy(value)
    return merged


def _merge_lists(base: list[Manifest], change: list[Manifest], key: str) -> list[Manifest]:
    """As kustomize does: what the change has, in its order, and then the rest."""
    there = {item[key]: item for item in base}
    changed = [merge(there.pop(item[key], {}), item) for item in change]
    return [*changed, *deepcopy(list(there.values()))]


def _replicate(manifest: Manifest, wanted: list[Manifest]) -> None:
    if manifest["kind"] not in ("Deployment", "StatefulSet"):
        return
    for one in wanted:
        if one["name"] == manifest["metadata"]["name"]:
            manifest["spec"]["replicas"] = one["count"]


def _image(image: str, wanted: list[Manifest]) -> str:
    for one in wanted:
        if one["name"] == image.partition(":")[0]:
            return f"{one.get('newName', one['name'])}:{one['newTag']}"
    return image
