"""The command as a user runs it: text, exit codes, and no traceback."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from checkpoints import TINY, write_checkpoint
from waiting import PATIENCE_S, until

from warpjet import LLM, BuildConfig, SamplingParams, __version__
from warpjet._native import cuda_status

WARPJET = [sys.executable, "-m", "warpjet"]
GREEDY = ("--temperature", "0", "--max-tokens", "16")
BUILD_FLAGS = {
    "device": ("--device", "cpu"),
    "scheme": ("--scheme", "fp32"),
    "kv_cache_dtype": ("--kv-cache-dtype", "fp32"),
    "hf_overrides": ("--hf-overrides", '{"rms_norm_eps": 1e-5}'),
    "overwrite": ("--overwrite",),
}


def warpjet(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*WARPJET, *map(str, arguments)],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def story(llm: LLM) -> str:
    output = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=16), use_tqdm=False)[0]
    return "Once upon a time" + output.outputs[0].text


def test_the_first_command_of_the_readme() -> None:
    done = warpjet("generate", "Once upon a time")
    assert done.returncode == 0
    assert len(done.stdout.split()) > 60
    assert "tok/s" in done.stderr and "first after" in done.stderr


def test_generate_streams_one_prompt(story: str) -> None:
    assert warpjet("generate", "Once upon a time", *GREEDY, "--echo").stdout == story + "\n"
    assert warpjet("generate", "Once upon a time", *GREEDY).stdout == story[16:] + "\n"


def test_generate_reads_standard_input(story: str) -> None:
    for text in ("Once upon a time", "Once upon a time\n", "Once upon a time\r\n"):
        assert warpjet("generate", *GREEDY, "--echo", stdin=text).stdout == story + "\n"
    assert warpjet("generate", "-", *GREEDY, "--echo", stdin="Once upon a time").stdout == story + "\n"


def test_generate_takes_many_prompts_in_order(story: str) -> None:
    done = warpjet("generate", "Once upon a time", "The fox", "Once upon a time", *GREEDY, "--echo")
    assert done.stdout.split("\n\n")[0] == story
    assert done.stdout.index(story) < done.stdout.index("The fox") < done.stdout.rindex(story)


def test_sampling_flags_reach_the_request() -> None:
    flags = ("--seed", 5, "--max-tokens", 9, "--top-k", 5, "--stop", "zzz", "--logit-bias", "5=-1", "--ignore-eos")
    first = warpjet("generate", "The fox", *flags)
    assert first.stdout == warpjet("generate", "The fox", *flags).stdout
    assert "[9 tokens" in first.stderr
    assert first.stdout != warpjet("generate", "The fox", *flags[2:], "--seed", 6).stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("frobnicate",), "frobnicate"),
        (("genrate", "x"), "did you mean generate?"),
        (("bench", "latncy"), "did you mean latency?"),
        (("bench", "serve", "--frobnicate"), "(warpjet bench serve --help)"),
        (("generate", "x", "--frobnicate"), "--frobnicate"),
        (("generate", "x", "--temperature", "-1"), "temperature"),
        (("generate", "x", "--temperature", "hot"), "temperature"),
        (("generate", "x", "--model", "/no/such/model"), "/no/such/model"),
        (("generate", "x", "--model", "org/name"), "hf download org/name"),
        (("generate", "x", "--block-size", "7"), "block_size"),
        (("generate", "word " * 2000), "context"),
        (("generate", ""), "empty"),
        (("info", "/no/such/model"), "/no/such/model"),
        (("info", "--gpu", "Z9"), "Z9"),
        (("build", "/no/such/model", "-o", "/tmp/never"), "/no/such/model"),
        (("build", TINY), "-o"),
        (("bench", "latency", "--batch", "0"), "bench"),
    ],
)
def test_bad_usage_is_exit_code_2_and_a_clear_line(arguments: tuple[str, ...], says: str) -> None:
    done = warpjet(*arguments)
    assert done.returncode == 2 and says in done.stderr
    assert done.stdout == ""


def test_a_malformed_model_is_exit_code_2(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model", tokenizer=True)
    (directory / "model.safetensors").write_bytes(b"\0" * 64)
    done = warpjet("generate", "x", "--model", directory)
    assert done.returncode == 2 and "model.safetensors" in done.stderr


@pytest.mark.skipif(cuda_status().usable >= 0, reason="there is a GPU")
def test_R1_no_gpu_is_exit_code_3_and_says_what_to_do() -> None:
    done = warpjet("generate", "--device", "cuda", "Hello")
    assert done.returncode == 3
    assert done.stderr.startswith("warpjet: failed: ") and cuda_status().unavailable_reason in done.stderr


def test_ctrl_c_is_exit_code_130() -> None:
    """While it writes to a pipe that is full before the text has ended."""
    reading, writing = os.pipe()
    room = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096) // 2
    os.write(writing, b" " * room)
    command = [*WARPJET, "generate", "Once", "--max-tokens", "1000", "--ignore-eos", "--num-threads", "1"]
    process = subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    until(lambda: int.from_bytes(fcntl.ioctl(reading, termios.FIONREAD, bytes(4)), sys.byteorder) > room)
    process.send_signal(signal.SIGINT)
    with open(reading, "rb") as rest:
        rest.read()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (130, "")


def test_a_reader_that_leaves_is_no_error_message() -> None:
    process = subprocess.Popen(
        [*WARPJET, "generate", "Once", "--max-tokens", "1000", "--ignore-eos"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(8)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=PATIENCE_S) != 0


def test_chat_keeps_the_conversation_and_resets_it() -> None:
    done = warpjet("chat", *GREEDY, stdin="What is 3 + 4?\n/nonsense\n/reset\nWhat is 3 + 4?\n/exit\nunread\n")
    lines = done.stdout.strip().split("\n")
    assert done.returncode == 0 and len(lines) == 2 and lines[0] == lines[1] and "7" in lines[0]
    assert "/nonsense" in done.stderr


def test_build_writes_an_engine_that_generates_the_same(story: str, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    done = warpjet("build", TINY, "-o", engine)
    assert done.returncode == 0 and "at most" in done.stderr and "bf16" in done.stdout
    for model in (("--model", engine), (engine,)):
        assert warpjet("generate", *model, "Once upon a time", *GREEDY, "--echo").stdout == story + "\n"
    rebuilt = warpjet("build", engine, "-o", tmp_path / "again")
    assert rebuilt.returncode == 2 and "is an engine already" in rebuilt.stderr
    again = warpjet("build", TINY, "-o", engine)
    assert again.returncode == 2 and "--overwrite" in again.stderr
    assert warpjet("build", TINY, "-o", engine, "--overwrite").returncode == 0


def test_build_takes_every_field_as_a_flag(tmp_path: Path) -> None:
    flags = [word for name, *_ in BuildConfig.__fields__ for word in BUILD_FLAGS[name]]
    done = warpjet("build", TINY, "-o", tmp_path / "engine", *flags)
    assert done.returncode == 0 and "fp32" in done.stdout


def test_info_describes_a_checkpoint_without_weights(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model", "qwen2")
    (directory / "model.safetensors").unlink()
    done = warpjet("info", directory, "--gpu", "H200")
    assert done.returncode == 0 and "Qwen2ForCausalLM" in done.stdout and "H200" in done.stdout
    facts = json.loads(warpjet("info", directory, "--json", "--tokens", 8).stdout)
    assert facts["tokens"] == 8 and facts["parameters"] > 0 and facts["steps"]


def test_doctor_is_never_an_error() -> None:
    done = warpjet("doctor")
    assert done.returncode == 0 and __version__ in done.stdout
    assert "cuda:0" in done.stdout or "Models run on the CPU: " in done.stdout


@pytest.mark.parametrize("what", ["latency", "throughput"])
def test_bench_reports_and_writes(what: str, tmp_path: Path) -> None:
    shape = ("--input-len", 8, "--output-len", 4, "--batch", 2, "--num-prompts", 3, "--repeats", 2)
    done = warpjet("bench", what, *shape, "--json", "--output", tmp_path / "out.json")
    record = json.loads(done.stdout)
    assert record == json.loads((tmp_path / "out.json").read_text())
    assert record["bench"] == what and record["device"] == "cpu" and record["version"] == __version__
    assert len(record["runs"]) == 2 and all(value > 0 for value in record["results"].values())
    assert "median" in warpjet("bench", what, *shape).stdout


@pytest.mark.parametrize("what", ["latency", "throughput", "startup"])
def test_bench_of_random_weights_needs_no_more_than_a_config(what: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((TINY / "config.json").read_text())
    shape = ("--input-len", 8, "--output-len", 4, "--num-prompts", 3, "--repeats", 1)
    done = warpjet("bench", what, "--model", tmp_path, "--load-format", "dummy", *shape, "--json")
    record = json.loads(done.stdout)
    assert record["engine"] == {"load_format": "dummy"}
    assert all(value > 0 for value in record["results"].values())


def test_bench_startup_adds_up() -> None:
    record = json.loads(warpjet("bench", "startup", "--json").stdout)
    assert record["load"]["source"] == "checkpoint" and record["load"]["bytes"] > 0
    results = record["results"]
    stages = sum(results[key] for key in ("import_s", "open_s", "first_token_s"))
    assert stages == pytest.approx(results["total_s"], abs=1e-3) and results["weights_s"] <= results["open_s"]


def test_bench_kernels_needs_a_gpu() -> None:
    done = warpjet("bench", "kernels", "--device", "cpu")
    assert done.returncode != 0 and "GPU" in done.stderr and done.stdout == ""


def test_version() -> None:
    assert warpjet("--version").stdout == f"warpjet {__version__}\n"


def modules_read(*command: str) -> set[str]:
    """The modules that a run of the interpreter imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True)
    return {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize("command", [("--help",), ("--version",), ("generate", "--help")])
def test_help_and_version_read_few_modules(command: tuple[str, ...]) -> None:
    modules = modules_read("-m", "warpjet", *command)
    assert "warpjet.commands.main" in modules and len(modules) < 300
    assert not modules & {"torch", "transformers", "numpy", "llguidance", "httptools"}


def test_importing_reads_few_modules() -> None:
    modules = modules_read("-c", "import warpjet")
    assert "warpjet" in modules and len(modules) < 300
    assert not modules & {"torch", "transformers", "numpy", "tokenizers", "llguidance", "httptools"}


def test_the_environment_is_not_consulted_for_more_than_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "WARPJET_LOG", "debug")
    done = warpjet("generate", "x", *GREEDY)
    assert done.returncode == 0 and "warpjet" in done.stderr


def test_the_table_in_the_readme_is_made_from_the_results() -> None:
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, root / "bench" / "table.py", "--check"]).returncode == 0
