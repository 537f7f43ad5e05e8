"""The alert rules and the dashboard: they are right, and ask only for what a bridge exports and logs."""

import ast
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.process.metrics import wait_for_metric
from tests.support.bridge import running_bridge
from tests.support.needs import needs

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/smtp2cf.rules.yaml"
RULES_TEST = ROOT / "deploy/prometheus/smtp2cf.rules.test.yaml"
DASHBOARD = ROOT / "deploy/grafana/smtp2cf.json"
LISTED = [("smtp2cf_deferrals_total", "reason"), ("smtp2cf_refusals_total", "reason")]
"""Labels whose every value has a line on the page."""
NEVER_IN_CODE = {"job", "instance", "le"}
"""Labels that Prometheus adds, and a histogram's."""

PAGE = ROOT / "docs/metrics.md"
CODE = ROOT / "smtp2cf"
MAKERS = {"Counter", "Counters", "Gauge", "Histogram", "Histograms", "Latest"}

Series = dict[str, dict[str, set[str]]]
"""The values of each label of each series."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """What a bridge with everything turned on shows at /metrics."""
    directory = tmp_path_factory.mktemp("metrics")
    with running_bridge(
        directory, "--sandbox-quota", "1000", API_RATE="1200/300", STATE_DIR=str(directory)
    ) as bridge:
        with bridge.client() as client:
            client.sendmail("a@example.com", "b@example.net", "Subject: x\r\n\r\nx\r\n")
        wait_for_metric(bridge, "smtp2cf_quota", 1000)
        with urllib.request.urlopen(f"{bridge.admin_url}/metrics") as answer:
            text = answer.read().decode()
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def documented() -> dict[str, tuple[str, set[str]]]:
    """The metrics of the page: of which type each is, and its labels."""
    rows = re.findall(r"^\| `(smtp2cf_\w+)` \| (\w+) \| ?([^|]*)\|", PAGE.read_text("utf-8"), re.MULTILINE)
    return {name: (kind, set(labels.replace(",", " ").split())) for name, kind, labels in rows}


def made() -> set[str]:
    """The metrics that the code makes, also those that only some bridges show."""
    found = {"smtp2cf_build_info"}
    for path in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names: list[ast.expr | None] = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS:
                names = node.args[:1]
            elif isinstance(node, ast.Dict):
                names = node.keys
            elif isinstance(node, ast.Subscript):
                names = [node.slice]
            constants = [name.value for name in names if isinstance(name, ast.Constant)]
            found |= {name for name in constants if isinstance(name, str) and name.startswith("smtp2cf_")}
    return found


def test_every_metric_is_on_the_page_and_no_other() -> None:
    assert made() == set(documented())


def test_the_page_says_of_each_metric_what_a_bridge_shows(exported: Series) -> None:
    page = documented()
    shown = {name: labels.keys() - NEVER_IN_CODE for name, labels in exported.items()}
    suffixes = {"histogram": "_bucket", "counter": "", "gauge": ""}
    for name, (kind, labels) in page.items():
        series = f"{name}{suffixes[kind]}"
        assert name.endswith("_total") == (kind == "counter"), name
        if series in shown:
            # Where there is one account, nothing has its name.
            assert shown[series] == labels - {"account"}, name
    hidden = {name for name, (kind, _) in page.items() if f"{name}{suffixes[kind]}" not in shown}
    assert hidden == {
        "smtp2cf_listener_sessions",
        "smtp2cf_quota_refused_total",
        "smtp2cf_webhook_events_total",
        "smtp2cf_webhook_waiting",
    }
    ours = {re.sub("_(bucket|count|sum)$", "", name) for name in shown if name.startswith("smtp2cf_")}
    assert ours - {"smtp2cf_build"} <= page.keys()
    text = PAGE.read_text("utf-8")
    for name, label in LISTED:
        assert [value for value in exported[name][label] if f"| `{value}` |" not in text] == [], name


def panels() -> list[dict]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def queries() -> list[str]:
    """The dashboard's and the alerts'."""
    dashboard = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    rules = pytest.importorskip("yaml", reason="not installed: yaml").safe_load(RULES.read_text("utf-8"))
    return [*dashboard, *(rule["expr"] for group in rules["groups"] for rule in group["rules"])]


def unknown(query: str, exported: Series) -> Iterator[str]:
    """What a query asks for that no bridge exports: series, labels, labels' values."""
    for name, matchers in re.findall(r"\b((?:smtp2cf|process)_\w+)(?:\{([^}]*)\})?", query):
        if name not in exported:
            yield name
            continue
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            missing = set(values.split("|")) - exported[name].get(label, set())
            if label not in NEVER_IN_CODE and missing:
                yield f"{name}: {label}={missing}"
        grouped = {
            label for by in re.findall(r"\b(?:by|without) \(([^)]*)\)", query) for label in by.split(", ")
        }
        if wrong := grouped - NEVER_IN_CODE - exported[name].keys():
            yield f"{name} has no label {wrong}"


def test_every_query_asks_for_what_a_bridge_exports(exported: Series) -> None:
    asked = queries()
    assert len(asked) > 40
    assert [problem for query in asked for problem in unknown(query, exported)] == []
    assert list(unknown('rate(smtp2cf_nothing_total{a="b"}[5m])', exported)) == ["smtp2cf_nothing_total"]
    assert list(unknown('smtp2cf_spool_messages{status="lost"}', exported))
    assert list(unknown("sum by (state) (smtp2cf_spool_messages)", exported))


@needs("promtool")
def test_every_query_of_the_dashboard_can_be_evaluated(tmp_path: Path) -> None:
    """Checked as rules, since promtool knows no dashboards."""
    asked = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    plain = [query.replace("$__rate_interval", "5m") for query in asked]
    rules = {"groups": [{"name": "g", "rules": [{"record": "r", "expr": query} for query in plain]}]}
    (tmp_path / "rules.yaml").write_text(json.dumps(rules))  # JSON is YAML
    checked = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", tmp_path / "rules.yaml"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


def test_the_panels_stand_beside_one_another() -> None:
    places = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + line)
        for panel in panels()
        for column in range(panel["gridPos"]["w"])
        for line in range(panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())


@needs("promtool")
def test_the_alerts_fire_when_they_should() -> None:
    for command in (["check", "rules", RULES], ["test", "rules", RULES_TEST]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways_and_names_only_events_that_are_logged() -> None:
    yaml = pytest.importorskip("yaml", reason="not installed: yaml")
    rules = [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]
    tested: dict[str, set[bool]] = {}
    for group in yaml.safe_load(RULES_TEST.read_text("utf-8"))["tests"]:
        for case in group["alert_rule_test"]:
            tested.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert tested == {rule["alert"]: {True, False} for rule in rules}
    source = "".join(path.read_text("utf-8") for path in (ROOT / "smtp2cf").rglob("*.py"))
    for rule in rules:
        said = rule["annotations"]["description"]
        events = re.findall(r"\b(?:mail|spool|api|tls|sender)\.[a-z_]+\b", said)
        unknown_events = [event for event in events if not re.search(rf'["`]{event}["`]', source)]
        assert unknown_events == [], rule["alert"]
