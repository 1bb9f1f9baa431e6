"""warpjet sim: the command, its report and its figure. What it computes is tests/cpp/simulate_test.cpp's business."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE_S

import warpjet
from warpjet._native import EngineConfig, SimConfig, arrivals, simulate
from warpjet.commands import info

SHORT = ("--duration-s", "20")


def sim(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "warpjet", "sim", *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_prints_a_table() -> None:
    done = sim(*SHORT)
    assert done.returncode == 0, done.stderr
    for word in (
        "azure-conv-23",
        "1 engine of 1 x H100",
        "objective",
        "met",
        "ttft ms",
        "p99",
        "prefix cache",
        "steps/s",
    ):
        assert word in done.stdout, done.stdout


def test_a_load_that_is_there_at_once_has_its_rate_until_the_end(tmp_path: Path) -> None:
    trace = tmp_path / "at_once.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 100, "output_length": 200}\n' * 100)
    summary = json.loads(simulate(SimConfig(trace=str(trace), duration_s=1000)))["summary"]
    assert summary["finished"] == 100 and summary["output_tokens"] == 20000
    assert summary["output_tokens_per_s_to_the_end"] == pytest.approx(20000 / summary["simulated_s"])
    assert summary["requests_per_s_to_the_end"] == pytest.approx(100 / summary["simulated_s"])


def test_the_report_is_json_and_has_everything(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = sim(*SHORT, "--json", "--output", file, "--replicas", 2, "--router", "least_loaded")
    report = json.loads(done.stdout)
    assert json.loads(file.read_text()) == report
    assert set(report) >= {"config", "trace", "replicas", "gpus", "search", "summary", "percentiles", "cdf", "series"}
    assert (report["replicas"], report["gpus"], report["config"]["router"]) == (2, 2, "least_loaded")
    summary = report["summary"]
    assert summary["finished"] + summary["refused"] == summary["requests"] == report["trace"]["requests"] > 0
    for metric in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
        row = report["percentiles"][metric]
        assert 0 < row["p50"] <= row["p90"] <= row["p95"] <= row["p99"] <= row["max"]
    for points in report["cdf"].values():
        assert points == sorted(points) and points[-1][1] == 1
    assert {len(values) for values in report["series"].values()} == {200}


def test_a_model_gives_size_and_cache_and_is_named(tmp_path: Path) -> None:
    tiny = Path(warpjet.__file__).parent / "models" / "tiny"
    report = json.loads(sim(*SHORT, "--model", tiny, "--json").stdout)
    config = report["config"]
    assert (config["kv_bytes_per_token"], config["queries_per_kv"]) == (2560, 2)
    assert config["params_b"] == pytest.approx(0.003738368) and config["weight_bytes_per_param"] == pytest.approx(
        2.01, abs=0.01
    )
    assert str(tiny) in report["model"]
    assert json.loads(sim(*SHORT, "--model", tiny, "--params-b", 1, "--json").stdout)["config"]["params_b"] == 1
    assert "Llama-3.1-8B" in sim(*SHORT).stdout.splitlines()[0]
    assert "no/such" in sim("--model", "/no/such").stderr


def test_fields_of_an_engine_have_its_defaults() -> None:
    """And their ranges and units."""

    def facts(config: type[EngineConfig] | type[SimConfig]) -> dict[str, Any]:
        return {f.name: (f.type, f.default, f.unit, f.takes, f.choices, f.shape) for f in config.__fields__}

    engine = facts(EngineConfig)
    simulated = {name: row for name, row in facts(SimConfig).items() if name in engine and name != "trace"}
    assert len(simulated) > 5 and simulated.items() <= engine.items()


@pytest.mark.parametrize("name", ["l40s", "4090", "RTX 5090", "rtx-pro-6000", "GH200", "NVIDIA A10G"])
def test_gpus_are_named_as_users_name_them(name: str) -> None:
    report = json.loads(simulate(SimConfig(gpu=name, params_b=1, duration_s=1)))
    assert report["kv_tokens_per_replica"] > 0


@pytest.mark.parametrize("name", {field.name: field for field in SimConfig.__fields__}["gpu"].choices)
def test_this_machine_s_gpu_is_known_by_the_name_of_its_driver(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"NVIDIA GeForce {name} 80GB HBM3, compute capability 9.0, 132 multiprocessors, 81079 MiB"
    monkeypatch.setattr(info, "cuda_status", lambda: SimpleNamespace(gpus=[text], usable=0))
    assert info._gpu_here() == name


def test_auto_searches_the_number_of_replicas() -> None:
    report = json.loads(sim(*SHORT, "--rate", 40, "--replicas", "auto", "--json").stdout)
    tried = {probe["replicas"]: probe["target_met"] for probe in report["search"]}
    assert tried[report["replicas"]] and not tried[report["replicas"] - 1]
    assert report["summary"]["goodput"] >= report["config"]["goodput_target"]
    assert "smallest number" in sim(*SHORT, "--rate", 40, "--replicas", "auto").stdout
    done = sim(*SHORT, "--itl-ms", "1", "--replicas", "auto", "--max-replicas", 2)
    assert "NOT met" in done.stdout and "more than 2" in done.stdout


def test_runs_a_trace_with_shared_prefixes(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 1000 * i, "input_length": 1000, "output_length": 8, "hash_ids": [7, 8 + i % 2]} for i in range(10)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    report = json.loads(sim("--trace", file, "--json").stdout)
    assert report["trace"]["requests"] == 10
    assert report["summary"]["prefix_hit_rate"] > 0.5


def test_takes_measured_steps(tmp_path: Path) -> None:
    file = tmp_path / "steps.json"
    file.write_text(json.dumps({"step_us": [[t, c, 5000 + 30 * t + c / 20] for t in (1, 64, 512) for c in (0, 9999)]}))
    report = json.loads(sim(*SHORT, "--cost-model", file, "--json").stdout)
    assert report["cost_model"]["source"] == str(file)
    assert report["cost_model"]["token_us"] == pytest.approx(30)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--trace", "azure-conv"), "azure-conv-23"),
        (("--trace", "/no/such.jsonl"), "/no/such.jsonl"),
        (("--replicas", "many"), "--replicas"),
        (("--replicas", "-1"), "replicas"),
        (("--router", "random"), "round_robin, least_loaded, prefix_affinity"),
        (("--gpu", "V100"), "H200, B200, GH200, L4, L40S, A10G, RTX 4090, RTX 5090, RTX PRO 6000"),
        (("--params-b", "70"), "gpus_per_replica"),
        (("--scheduling-policy", "lifo"), "scheduling_policy"),
        (("--cost-model", "/no/such.json"), "/no/such.json"),
        (("--goodput-target", "1.5"), "goodput_target"),
        (("--frobnicate",), "--frobnicate"),
    ],
)
def test_bad_arguments_are_explained(arguments: tuple[str, ...], says: str) -> None:
    done = sim(*arguments)
    assert done.returncode == 2, done.stdout
    assert says in done.stderr


def test_a_bad_trace_is_named_by_line_and_field(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"timestamp": 0, "input_length": 5, "output_length": 5}\n{"timestamp": 0, "input_length": 5}\n')
    done = sim("--trace", file)
    assert done.returncode == 2
    assert "trace.jsonl:2: output_length" in done.stderr


def test_draws_a_figure(tmp_path: Path) -> None:
    file = tmp_path / "figure.png"
    done = sim(*SHORT, "--plot", file)
    if importlib.util.find_spec("matplotlib") is None:
        assert done.returncode == 2 and "pip install '.[plot]'" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert file.read_bytes().startswith(b"\x89PNG")


def test_the_same_config_gives_the_same_report() -> None:
    config = SimConfig(duration_s=10, replicas=3, router="least_loaded", threads=2)
    assert simulate(config) == simulate(config)
    assert simulate(config) != simulate(config.replace(seed=1))


def test_arrivals_are_those_of_the_simulation() -> None:
    config = SimConfig(trace="tool-agent", duration_s=20, seed=3)
    found = json.loads(arrivals(config))
    report = json.loads(simulate(config))
    assert found["name"] == "tool-agent" and found["duration_s"] == 20
    assert len(found["requests"]) == report["trace"]["requests"]
    mean = sum(request[1] for request in found["requests"]) / len(found["requests"])
    assert mean == pytest.approx(report["trace"]["input_mean"], rel=1e-6)
    times = [request[0] for request in found["requests"]]
    assert times == sorted(times) and times[-1] < 20
    assert all(sum(tokens for _, tokens in request[4]) <= request[1] for request in found["requests"])
