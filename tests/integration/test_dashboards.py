"""Rules and dashboards ask for what the running services tell, in PromQL that Prometheus takes."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from image_service.providers.base import ProviderError
from image_service.providers.registry import Providers
from tests.builders import check, completed, limit
from tests.conftest import StartLedger
from tests.integration.image_harness import GENERATE, image_service, make_settings
from tests.integration.scripted_provider import ScriptedProvider, raising
from tests.integration.test_metrics import samples
from tests.unit.test_alerts import ALERTING, ROOT, RULE_FILES, promtool

DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
#: Prometheus itself tells them.
OF_PROMETHEUS = {"up", "ALERTS"}
#: What Grafana puts there.
VARIABLES = {"$__rate_interval": "5m"}
WORDS = {"sum", "min", "max", "by", "and", "on", "absent", "unless", "rate", "increase", "offset", "histogram_quantile"}
WORDS |= {"avg_over_time"}


def metrics_in(expression: str) -> set[str]:
    """Every name in it that is no word of PromQL, no label and no string."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby\s*\([^)]*\)|\boffset\s+\d+[a-z]", "", bare)
    return set(re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*", bare)) - WORDS


def labels_in(expression: str) -> set[str]:
    groups = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    matchers = re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    return {name.strip() for group in groups for name in group.split(",")} | set(matchers)


def panels(file: Path) -> list[dict[str, Any]]:
    return list(json.loads(file.read_text())["panels"])


EXPRESSIONS = [(rule["alert"], rule["expr"]) for rule in ALERTING] + [
    (f"{file.stem}: {panel['title']}", target["expr"])
    for file in DASHBOARDS
    for panel in panels(file)
    for target in panel["targets"]
]


async def test_rules_and_dashboards_ask_for_what_the_running_services_tell(
    start_ledger: StartLedger, tmp_path: Path
) -> None:
    ledger = await start_ledger(seals_key_file=tmp_path / "key.pem")
    await ledger.set_up(limit("images", maximum=2))
    await ledger.put_account("globex")
    for _ in range(3):
        await ledger.check(check(account_id="globex"))
    unlike = completed()
    await ledger.send(unlike)
    await ledger.send({**unlike, "time": "2026-11-01T00:00:00Z"})  # a dead letter
    told = await samples(ledger.http)
    failing = ScriptedProvider(name="paid")
    failing.script.append(raising(ProviderError("provider_unavailable", "down"), sent=False))
    settings = make_settings(tmp_path, ledger.url)
    async with image_service(settings, Providers([failing], ())) as client:
        await use(client)
        told += await samples(client)
    known = {sample.name for sample in told} | OF_PROMETHEUS
    labels = {name for sample in told for name in sample.labels} | {"instance", "job"}
    for where, expression in EXPRESSIONS:
        asked = metrics_in(expression)
        assert asked, where
        assert asked <= known, f"{where}: {asked - known} is told by nobody"
        assert labels_in(expression) <= labels, where


async def use(client: httpx.AsyncClient) -> None:
    """Failed, done twice, denied."""
    asked = {**GENERATE, "provider": "paid", "model": "fixed-1"}
    for _ in range(4):
        await client.post("/v1/images/generate", json=asked)


def test_dashboards_are_in_promql_that_prometheus_takes(tmp_path: Path) -> None:
    rules = []
    for number, (_, expression) in enumerate(EXPRESSIONS):
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        rules.append({"record": f"checked:{number}", "expr": expression})
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    assert f"{len(EXPRESSIONS)} rules found" in promtool("check", "rules", file)


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_panels_say_what_they_show_and_do_not_overlap(file: Path) -> None:
    seen: set[tuple[int, int]] = set()
    names = [rule["alert"] for rule in ALERTING]
    for panel in panels(file):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}", "it is chosen when it is imported"
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & seen, panel["title"]
        assert place["x"] + place["w"] <= 24
        seen |= cells
        for alert in re.findall(r"Alert: (\w+)", panel["description"]):
            assert alert in names
    assert len({panel["id"] for panel in panels(file)}) == len(panels(file))


def test_every_alert_has_a_panel_that_shows_the_same() -> None:
    shown = "".join(panel["description"] for file in DASHBOARDS for panel in panels(file))
    missing = [rule["alert"] for rule in ALERTING if f"Alert: {rule['alert']}." not in shown]
    assert missing == ["DeadLettersUnknown"], "which is about what nobody tells"
    assert len(RULE_FILES) == 3
