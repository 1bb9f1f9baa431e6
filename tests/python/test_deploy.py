"""Files to run a server with: what they name must exist."""

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import warpjet
from warpjet import LLM
from warpjet.commands.main import _parser

pytest.importorskip("yaml")
pytest.importorskip("httptools")

import yaml
from api_server import endpoints

from warpjet.serve.flags import plan, read_config
from warpjet.serve.http.counters import HttpMetrics

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = Path(warpjet.__file__).parent / "deploy"
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in KUBERNETES if entry["kind"] == kind)
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = of_kind("Deployment")["spec"]["template"]["spec"]
    return spec


def serve_arguments(words: list[str]) -> dict[str, Any]:
    """What the command line understands, by name; it exits for what it does not."""
    return vars(_parser(["serve", *words]).parse_args(["serve", *words]))


def settings_of(words: list[str]) -> Any:
    from warpjet.serve.flags import given_flags

    return plan(given_flags(serve_arguments(words))).settings


def entry_point() -> list[str]:
    match = re.search(r"^ENTRYPOINT (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert match
    words: list[str] = json.loads(match[1])
    assert words[:2] == ["warpjet", "serve"]
    return words[2:]


def service() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "warpjet.service").read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture(scope="module")
def metric_names(llm: LLM) -> set[str]:
    """All that /metrics has."""
    http = HttpMetrics()
    http.count("/v1/completions", 200, 0.1)
    text = llm._session.engine.metrics() + http.text(live=0)
    return set(re.findall(r"^(warpjet:\w+)", text, re.MULTILINE))


def queries(value: object) -> list[str]:
    """Every expr in a JSON or YAML value."""
    if isinstance(value, dict):
        return [text for key, part in value.items() for text in ([part] if key == "expr" else queries(part))]
    return [text for part in value for text in queries(part)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", ["grafana.json", "alerts.yml"])
def test_every_metric_of_a_query_exists(name: str, metric_names: set[str]) -> None:
    found = queries(yaml.safe_load((DEPLOY / name).read_text()))
    used = {metric for query in found for metric in re.findall(r"warpjet:\w+", query)}
    assert len(found) >= 8 and used and used <= metric_names, used - metric_names


def test_the_dashboard_shows_what_matters_and_panels_do_not_overlap() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    panels = dashboard["panels"]
    shown = " ".join(queries(dashboard))
    for metric in (
        *("time_to_first_token_seconds", "inter_token_latency_seconds", "request_queue_time_seconds"),
        *("kv_cache_usage_perc", "generation_tokens_total", "num_preemptions_total", "http_requests_total"),
        *("admission_rejections_total", "num_requests_waiting", "prefix_cache_hits_total"),
    ):
        assert f"warpjet:{metric}" in shown
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "instance"]


def test_prometheus_scrapes_the_route_with_a_key() -> None:
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["metrics_path"] in {endpoint.path for endpoint in endpoints()}
    assert scrape["authorization"]["type"] == "Bearer"
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)


def test_the_image_serves_as_nobody_and_its_copies_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    settings = settings_of(entry_point())
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert re.search(r"^USER 10001", text, re.MULTILINE) and "EXPOSE 8000" in text and "127.0.0.1:8000/health" in text
    kept = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "python", "cpp", "bindings"} <= set(kept)
    assert all((ROOT / name).exists() for name in kept)
    project = (ROOT / "pyproject.toml").read_text()
    assert "server = [" in project and "WARPJET_PYPI_NVCC" in project


def test_the_pods_flags_and_paths_exist() -> None:
    container = pod()["containers"][0]
    settings = settings_of(entry_point() + container["args"])
    assert settings.shutdown_timeout == 60
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert str(Path(settings.api_key_file).parent) in mounts
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod()["volumes"]}
    paths = {endpoint.path: endpoint for endpoint in endpoints()}
    for probe, path in (("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/health")):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
        assert paths[path].scope == "open", "a probe has no key"
    assert container["ports"] == [{"name": "http", "containerPort": settings.port}]


def test_the_pod_lives_as_long_as_its_drain() -> None:
    container = pod()["containers"][0]
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = settings_of(container["args"]).shutdown_timeout
    assert pod()["terminationGracePeriodSeconds"] >= wait + drain + 5


def test_the_pod_may_do_little() -> None:
    container = pod()["containers"][0]
    assert pod()["securityContext"]["runAsNonRoot"] is True and pod()["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_services_select_the_pods() -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Service")["spec"]["selector"] == labels
    assert of_kind("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    policy = of_kind("NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels and policy["egress"] == []


def test_the_unit_starts_a_server_that_has_time_to_drain() -> None:
    unit = service()
    words = shlex.split(unit["ExecStart"][0])
    assert words[1] == "serve"
    arguments = serve_arguments(words[2:])
    assert arguments["server.api_key_file"].endswith("/api-keys")
    made = plan(read_config(str(DEPLOY / "serve.json")))
    assert int(unit["TimeoutStopSec"][0]) >= made.settings.shutdown_timeout + 10
    assert made.model and made.settings.host == "127.0.0.1"
    assert unit["RestartPreventExitStatus"] == ["2"]


def test_the_unit_is_hardened() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "warpjet.service")
    assert unit.sections() == ["Unit", "Service", "Install"]
    for name in ("NoNewPrivileges", "DynamicUser", "ProtectHome", "PrivateTmp", "RestrictNamespaces"):
        assert unit["Service"][name] == "yes"
    assert unit["Service"]["ProtectSystem"] == "strict" and unit["Service"]["CapabilityBoundingSet"] == ""
