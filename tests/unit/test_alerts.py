"""Alert rules: tested by Prometheus' own promtool, each with its labels and a runbook that says what to do.

Where there is no promtool (deploy/local/promtool.sh gets one from Debian), those tests are SKIPPED.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "alerts"
RUNBOOKS = ROOT / "deploy" / "runbooks"
RULE_FILES = [ALERTS / f"{name}.yaml" for name in ("ledger", "image-service", "services")]
TEST_FILES = sorted((ALERTS / "tests").glob("*.yaml"))
ALERTING = [
    rule for file in RULE_FILES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]
]


def promtool(*arguments: object) -> str:
    found = shutil.which("promtool") or shutil.which("promtool", path=str(ROOT / ".tools" / "promtool"))
    if found is None:
        pytest.skip("PROMTOOL IS MISSING: the alert rules were NOT tested. Run deploy/local/promtool.sh")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_promtool_takes_the_rules_and_the_configuration() -> None:
    said = promtool("check", "config", ALERTS / "prometheus.yaml")
    assert f"{len(RULE_FILES)} rule files found" in said


def test_rules_fire_and_stay_silent_on_recorded_series() -> None:
    assert promtool("test", "rules", *TEST_FILES).count("SUCCESS") == len(TEST_FILES)


def test_every_alert_fires_in_some_test_and_every_test_has_its_rules() -> None:
    tested = "\n".join(file.read_text() for file in TEST_FILES)
    assert [rule["alert"] for rule in ALERTING if rule["alert"] not in tested] == []
    assert {file.name for file in TEST_FILES} == {file.name for file in RULE_FILES}
    assert {file.name for file in RULE_FILES} == set(
        yaml.safe_load((ALERTS / "prometheus.yaml").read_text())["rule_files"]
    )


@pytest.mark.parametrize("rule", ALERTING, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    page = ROOT / rule["annotations"]["runbook"]
    assert page == RUNBOOKS / f"{rule['alert']}.md"
    text = page.read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["What it means", "What to look at", "What to do"]
    for target in re.findall(r"\]\(([^)#:]+)", text):
        assert (RUNBOOKS / target).is_file(), f"{page.name} points to {target}"


def test_no_runbook_is_left_over() -> None:
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == {rule["alert"] for rule in ALERTING}
