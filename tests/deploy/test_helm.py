"""The Helm chart: rendered by Helm's engine with every value, and strictly right by Kubernetes' schemas."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from smtp2cf import __version__
from smtp2cf.settings import loading
from smtp2cf.settings.units import octets
from tests.deploy.charts import CHART, DEPLOY, Rendered, merged, needed, report

pytestmark = needed()

OLDEST, NEWEST = "1.29", "1.37"
"""Kubernetes' versions whose schemas are asked."""
MEASURED = 120 * 2**20
"""Bytes that a bridge uses with 1,000 sessions, without the messages in them."""
SECRET = {"secret": {"accountId": "a", "apiToken": "t", "spoolUrl": "postgresql://u:p@h/d"}}
APPLICATION = {"containers": [{"name": "shop", "image": "shop:1.0"}]}
RELAY: dict[str, Any] = {**SECRET}
SIDECAR: dict[str, Any] = {**SECRET, "mode": "sidecar", "sidecar": APPLICATION}
MOUNT = {"name": "tmp", "emptyDir": {}}
OTHERS = {
    "image": {"repository": "example.com/bridge", "tag": "9", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "pull"}],
    "secret": {"accountId": "b", "apiToken": "u", "spoolUrl": "postgresql://v:q@i/e", "config": "[senders]"},
    "settings": {
        "mode": "queue",
        "max_recipients": 7,
        "max_message_size": 26214400,
        "session_timeout": 0.5,
        "check_header_from": True,
        "auth_without_tls": False,
    },
    "spool": "none",
    "allowNetworks": "10.0.0.0/8",
    "replicas": 2,
    "service": {"type": "LoadBalancer", "port": 2525, "annotations": {"a/b": "c"}},
    "drainTimeoutSeconds": 600,
    "preStopSeconds": 11,
    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
    "maxMessageMemory": "128MiB",
    "podDisruptionBudget": {"maxUnavailable": "50%"},
    "topologySpread": {"whenUnsatisfiable": "DoNotSchedule"},
    "networkPolicy": {
        "from": [{"namespaceSelector": {}}],
        "metricsFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
        "databasePort": 6432,
    },
    "podMonitor": {"enabled": True, "labels": {"release": "p"}, "interval": "1m"},
    "prometheusRule": {"enabled": True, "labels": {"release": "p"}},
    "nameOverride": "bridge",
    "fullnameOverride": "mail-bridge",
    "serviceAccountName": "bridge",
    "priorityClassName": "high",
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "mail"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "mail", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "sidecar": {
        "containers": [{"name": "shop", "image": "shop:2.0"}],
        "volumes": [MOUNT],
        "replicas": 3,
        "applicationGraceSeconds": 99,
    },
}
"""Another value for each there is."""
OFF = {name: {"enabled": False} for name in ("podDisruptionBudget", "topologySpread", "networkPolicy")}
VOLUME = {"spool": "volume", "volumeClaim": "mail", "replicas": 1}
ONLY = {"secret.name": {"secret": {"name": "there"}}, "volumeClaim": VOLUME, "mode": SIDECAR}
"""Values that make no sense beside the others, and what goes with them."""
FIRST = {name: merged(RELAY, {name: {"enabled": True}}) for name in ("podMonitor", "prometheusRule")}
"""What has to be turned on for the others of its kind to tell."""


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its path; a dictionary that is empty by default is a value."""
    for key, value in values.items():
        if isinstance(value, dict) and value and path + key not in ("settings", "resources"):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


def alone(path: str, value: Any) -> dict[str, Any]:
    """Values with nothing but this."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def base_of(path: str) -> str:
    """The case beside which this value tells."""
    kind, _, below = path.partition(".")
    if kind == "sidecar":
        return "sidecar"
    return kind if kind in FIRST and below != "enabled" else "relay"


CHANGES = merged(OTHERS, OFF)
WHOLE = ["relay", "sidecar", "relay, all", "sidecar, all"]
VALID = [*WHOLE, "relay, off", "relay, volume", "sidecar, volume", "relay, Secret"]
"""Cases with every value set between them."""

BASES = {"relay": RELAY, "sidecar": SIDECAR, **FIRST}
CASES: dict[str, dict[str, Any]] = {
    **BASES,
    **{
        f"changed {path}": merged(BASES[base_of(path)], alone(path, value)) for path, value in leaves(CHANGES)
    },
    "relay, all": merged(RELAY, {**OTHERS, "spool": "postgres"}),
    "sidecar, all": merged(SIDECAR, {**OTHERS, "spool": "postgres"}),
    "relay, off": merged(RELAY, OFF),
    "relay, volume": merged(RELAY, VOLUME),
    "sidecar, volume": merged(SIDECAR, VOLUME),
    "relay, Secret": {"secret": {"name": "there"}},
    **{f"changed {path}": merged(RELAY, values) for path, values in ONLY.items()},
    "volume of three": merged(RELAY, {**VOLUME, "replicas": 3}),
    "volume of none": merged(RELAY, {"spool": "volume", "replicas": 1}),
    "no account": {},
    "no application": {**SECRET, "mode": "sidecar"},
    "a typo": {**SECRET, "replica": 3},
    "another way of waiting": {**SECRET, "spool": "emptyDir"},
    "a longer drain": {**SECRET, "settings": {"drain_timeout": "1h"}},
}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return report(CASES)


@pytest.fixture(scope="module")
def charts(told: dict[str, Any]) -> dict[str, Rendered]:
    return told["rendered"]


def defaults() -> dict[str, Any]:
    import yaml

    return yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def objects(chart: Rendered) -> dict[str, Any]:
    """By kind."""
    assert isinstance(chart, list), chart
    return {each["kind"]: each for each in chart}


def pod_of(chart: Rendered) -> dict[str, Any]:
    return objects(chart)["Deployment"]["spec"]["template"]["spec"]


def bridge_of(chart: Rendered) -> dict[str, Any]:
    pod = pod_of(chart)
    (found,) = (
        each for each in [*pod.get("initContainers", []), *pod["containers"]] if each["name"] == "smtp2cf"
    )
    return found


def environment_of(chart: Rendered) -> dict[str, str]:
    return {each["name"]: each["value"] for each in bridge_of(chart)["env"]}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_whatever_is_set_kubernetes_takes_it(charts: dict[str, Rendered], version: str) -> None:
    import kubernetes_validate

    found = {str(each): each for case in VALID for each in objects(charts[case]).values()}
    assert {each["kind"] for each in found.values()} == {
        *("Deployment", "Service", "Secret", "PodDisruptionBudget", "NetworkPolicy"),
        *("PodMonitor", "PrometheusRule"),
    }
    for each in found.values():
        if not each["apiVersion"].startswith("monitoring.coreos.com/"):  # these are not Kubernetes' own
            kubernetes_validate.validate(each, version, strict=True)
    wrong = merged(objects(charts["relay"])["Service"], {"spec": {"port": 25}})
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_every_value_changes_something(charts: dict[str, Rendered]) -> None:
    paths = {path for path, _ in leaves(defaults())}
    tried = {name.removeprefix("changed ") for name in charts if name.startswith("changed ")}
    assert [path for path in paths if not any(f"{each}.".startswith(f"{path}.") for each in tried)] == []
    for path in tried:
        assert isinstance(charts[f"changed {path}"], list), (path, charts[f"changed {path}"])
        assert charts[f"changed {path}"] != charts[base_of(path)], path


def test_the_checked_in_manifests_and_the_lint_are_clean(told: dict[str, Any]) -> None:
    for kind, text in told["manifests"].items():
        there = (DEPLOY / f"kubernetes/{kind}.yaml").read_text(encoding="utf-8")
        assert there == text, "run 'make manifests'"
    for linted in told["lint"]:
        assert linted["errors"] == []
        assert [said for said in linted["messages"] if said["severity"] > 1] == []


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("volume of three", "spool: volume is for one replica"),
        ("volume of none", "spool: volume needs volumeClaim"),
        ("no account", "secret.accountId, or secret.name of a Secret that is there"),
        ("no application", "minItems"),
        ("a typo", "additional properties 'replica' not allowed"),
        ("another way of waiting", "'/spool': value must be one of '', 'postgres', 'volume', 'none'"),
        ("a longer drain", "invalid propertyName 'drain_timeout'"),
    ],
)
def test_what_would_not_work_is_refused(charts: dict[str, Rendered], case: str, said: str) -> None:
    assert said in str(charts[case])
    assert isinstance(charts[case], str)


@pytest.mark.parametrize("case", VALID)
def test_a_250_stays_true_when_the_pod_is_gone(charts: dict[str, Rendered], case: str) -> None:
    (state,) = (volume for volume in pod_of(charts[case])["volumes"] if volume["name"] == "smtp2cf-state")
    environ = environment_of(charts[case])
    outside = "SMTP2CF_SPOOL_URL_FILE" in environ or environ.get("SMTP2CF_SPOOL_URL") == "none"
    assert ("emptyDir" in state) == outside
    if "persistentVolumeClaim" in state:
        assert objects(charts[case])["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("case", WHOLE)
def test_the_bridge_starts_with_its_settings_and_ends_in_time(
    charts: dict[str, Rendered], case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = objects(charts[case])["Secret"]["stringData"]
    for name, content in secret.items():
        (tmp_path / name).write_text(content)
    for variable in [name for name in os.environ if name.startswith(("SMTP2CF_", "CLOUDFLARE_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("SMTP2CF_CONFIG", str(tmp_path / "smtp2cf.toml"))
    for variable, value in environment_of(charts[case]).items():
        monkeypatch.setenv(variable, value.replace("/etc/smtp2cf", str(tmp_path)))
    assert loading.unknown_variables() == []
    settings = loading.load()
    values = CASES[case]["secret"]
    assert settings.account_id == values["accountId"]
    assert settings.api_token.get_secret_value() == values["apiToken"]
    assert pod_of(charts[case])["terminationGracePeriodSeconds"] > settings.drain_timeout + 10
    limit = octets(f"{bridge_of(charts[case])['resources']['limits']['memory']}B")
    assert limit > settings.max_message_memory + MEASURED
    assert settings.max_recipients == (7 if "all" in case else 1000)
    assert settings.max_message_size == (25 if "all" in case else 5) * 2**20


@pytest.mark.parametrize("case", WHOLE)
def test_the_bridge_has_no_privilege(charts: dict[str, Rendered], case: str) -> None:
    assert bridge_of(charts[case])["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10025,
        "runAsGroup": 10025,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod_of(charts[case])["securityContext"]["fsGroup"] == 10025
    for probe in ("startupProbe", "livenessProbe"):
        assert bridge_of(charts[case])[probe]["httpGet"]["path"] == "/livez"
    mounts = {mount["mountPath"]: mount for mount in bridge_of(charts[case])["volumeMounts"]}
    assert "subPath" not in mounts["/etc/smtp2cf"], "its files would never change"


def test_a_sidecar_stops_last_and_takes_mail_from_its_pod_only(charts: dict[str, Rendered]) -> None:
    bridge = bridge_of(charts["sidecar"])
    assert bridge in pod_of(charts["sidecar"])["initContainers"]
    assert bridge["restartPolicy"] == "Always"
    assert environment_of(charts["sidecar"])["SMTP2CF_SMTP_LISTEN"].startswith("127.0.0.1:")
    assert "readinessProbe" not in bridge


def test_a_relay_is_three_behind_a_service(charts: dict[str, Rendered]) -> None:
    relay = objects(charts["relay"])
    assert relay["Deployment"]["spec"]["replicas"] == 3
    assert relay["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    labels = relay["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        relay["Service"]["spec"]["selector"],
        relay["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        relay["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        relay["Deployment"]["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    named = {port["name"] for port in bridge_of(charts["relay"])["ports"]}
    asked = {relay["Service"]["spec"]["ports"][0]["targetPort"]}
    asked |= {port["port"] for rule in relay["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert asked == named


def test_the_operators_objects_ask_for_what_is_there(charts: dict[str, Rendered]) -> None:
    import yaml

    found = objects(charts["relay, all"])
    rules = yaml.safe_load((DEPLOY / "prometheus/smtp2cf.rules.yaml").read_text(encoding="utf-8"))
    assert found["PrometheusRule"]["spec"] == rules
    (endpoint,) = found["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "smtp2cf-admin", "path": "/metrics", "interval": "1m"}


def test_the_chart_is_of_this_version() -> None:
    import yaml

    assert yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"] == __version__
