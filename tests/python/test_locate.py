"""Names of models: directories, names of the hub in the local cache, and what is neither."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
from checkpoints import TINY

from warpjet import LLM, SamplingParams, build
from warpjet.commands.main import main
from warpjet.requests.locate import EMBEDDED_MODEL, find_directory, find_model, is_model, model_name, served_names
from warpjet.serve.flags import plan
from warpjet.serve.launch import open_serving

COMMIT = "c1899de289a04d12100db370d81485cdf75e47ca"
OTHER = "0123456789abcdef0123456789abcdef01234567"


def add_to_cache(cache: Path, name: str = "acme/tiny", commit: str = COMMIT, ref: str | None = "main") -> Path:
    """The embedded model as a download leaves it: blobs, and links to them."""
    entry = cache / f"models--{name.replace('/', '--')}"
    snapshot = entry / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (entry / "blobs").mkdir(exist_ok=True)
    for file in TINY.iterdir():
        blob = entry / "blobs" / file.name
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    if ref is not None:
        (entry / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (entry / "refs" / ref).write_text(commit)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "hub"
    directory.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(directory))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return directory


def test_a_name_of_the_hub_is_its_snapshot_in_the_cache(cache: Path) -> None:
    snapshot = add_to_cache(cache)
    assert find_model("acme/tiny") == find_model("acme/tiny@main") == find_model(f"acme/tiny@{COMMIT}") == snapshot


def test_a_revision_is_a_branch_a_tag_a_pull_request_or_a_commit(cache: Path) -> None:
    add_to_cache(cache)
    other = add_to_cache(cache, commit=OTHER, ref="refs/pr/7")
    assert find_model("acme/tiny@refs/pr/7") == find_model(f"acme/tiny@{OTHER}") == other
    with pytest.raises(FileNotFoundError, match=r"revision v2, but acme/tiny@main, acme/tiny@refs/pr/7.*--revision v2"):
        find_model("acme/tiny@v2")


def test_a_name_without_an_organisation_is_one_too(cache: Path) -> None:
    snapshot = add_to_cache(cache, "gpt2")
    assert find_model("gpt2") == snapshot


def test_a_directory_comes_before_the_hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_to_cache(cache)
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "tiny").symlink_to(TINY)
    monkeypatch.chdir(tmp_path)
    assert find_model("acme/tiny") == Path("acme/tiny")


def test_what_the_cache_lacks_is_refused_with_the_command_that_fetches_it(cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"hf download acme/tiny$"):
        find_model("acme/tiny")
    with pytest.raises(FileNotFoundError, match=r"hf download acme/tiny --revision v2$"):
        find_model("acme/tiny@v2")


def test_a_download_that_stopped_half_way_is_named(cache: Path) -> None:
    snapshot = add_to_cache(cache)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=f"in part.*hf download acme/tiny --revision {COMMIT}"):
        find_model("acme/tiny")
    assert find_model("acme/tiny", weights=False) == snapshot
    (snapshot / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"in part.*hf download acme/tiny --revision {COMMIT}"):
        find_model("acme/tiny")


def test_a_branch_whose_commit_is_not_there_is_told_with_those_that_are(cache: Path) -> None:
    add_to_cache(cache, ref="dev")
    with pytest.raises(FileNotFoundError, match=r"its revision main, but acme/tiny@dev\..*hf download acme/tiny$"):
        find_model("acme/tiny")
    (cache / "models--acme--tiny" / "refs" / "main").write_text(OTHER)
    with pytest.raises(FileNotFoundError, match=r"its revision main, but acme/tiny@dev\..*hf download acme/tiny$"):
        find_model("acme/tiny")


def test_every_part_of_warpjet_takes_a_name_of_the_hub(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_to_cache(cache)
    with LLM("acme/tiny", tokenizer="acme/tiny@main", device="cpu") as llm:
        assert llm.generate("Once", SamplingParams(max_tokens=2), use_tqdm=False)[0].outputs[0].text
    build("acme/tiny", tmp_path / "engine", device="cpu")
    serving = open_serving(plan({"model": "acme/tiny@main", "device": "cpu"}))
    assert serving.model_names == ["acme/tiny"]
    serving.close()
    requests, answers = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    body = {"model": "acme/tiny", "prompt": "Once", "max_tokens": 2}
    requests.write_text(json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}))
    shape = ("--input-len", "4", "--output-len", "2", "--repeats", "1", "--num-prompts", "1", "--device", "cpu")
    for arguments in (
        ("generate", "--model", "acme/tiny", "--max-tokens", "2", "Once"),
        ("info", "acme/tiny"),
        ("serve", "acme/tiny", "--dry-run"),
        ("run-batch", "acme/tiny", "-i", str(requests), "-o", str(answers)),
        ("bench", "latency", "--model", "acme/tiny", *shape),
    ):
        assert main(arguments) == 0, capsys.readouterr().err
    assert json.loads(answers.read_text())["response"]["status_code"] == 200


def test_the_cache_is_where_the_environment_says_and_no_network_is_needed(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    snapshot = add_to_cache(hub)
    code = "import sys; from warpjet.requests.locate import find_model; print(find_model(sys.argv[1]))"
    for environment in ({"HF_HOME": str(tmp_path)}, {"HF_HUB_CACHE": str(hub)}, {"TRANSFORMERS_CACHE": str(hub)}):
        unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code, "acme/tiny"], env=environment | unreachable, capture_output=True, text=True
        )
        assert done.stdout.strip() == str(snapshot), done.stderr


def _empty(directory: Path) -> None:
    pass


def _gguf(directory: Path) -> None:
    (directory / "tiny-Q8_0.gguf").touch()


def _adapter(directory: Path) -> None:
    (directory / "adapter_model.safetensors").touch()
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "acme/base"}')


def _entry(directory: Path) -> None:
    add_to_cache(directory, "acme/tiny")


def _pickles(directory: Path) -> None:
    (directory / "config.json").write_text("{}")
    (directory / "pytorch_model.bin").touch()


def _inner(directory: Path) -> None:
    (directory / "checkpoint-100").mkdir()
    (directory / "checkpoint-100" / "config.json").write_text("{}")


def _original(directory: Path) -> None:
    (directory / "params.json").touch()
    (directory / "consolidated.00.pth").touch()


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        (_empty, "is empty"),
        (_gguf, r"tiny-Q8_0.gguf .*GGUF is not read.*gguf_file=FILE"),
        (_adapter, "LoRA adapter of acme/base; merge it"),
        (_entry, "is a Hugging Face cache; pass a name in it, such as acme/tiny"),
        (_pickles, "pickles are not read. Convert them"),
        (_inner, "checkpoint-100 has; pass that"),
        (_original, "in Hugging Face's format"),
    ],
)
def test_a_directory_that_holds_no_model_is_named_for_what_it_is(
    fill: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    fill(tmp_path)
    with pytest.raises(FileNotFoundError, match=says):
        find_model(tmp_path)


def test_an_entry_of_the_cache_is_named_by_its_model(tmp_path: Path) -> None:
    entry = add_to_cache(tmp_path).parents[1]
    with pytest.raises(FileNotFoundError, match="pass its name: acme/tiny"):
        find_model(entry)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("hf://acme/tiny", "is a URL.*pass acme/tiny"),
        ("hf:/acme/tiny", "pass acme/tiny"),
        ("https://huggingface.co/acme/tiny/", "pass acme/tiny"),
        ("s3://bucket/models/tiny", "download it"),
        ("acme/tiny:Q4_K_M", "GGUF.*org/name@revision"),
        ("llama3.2:1b", "Ollama"),
        ("/no/such/model", "/no/such/model does not exist"),
        ("acme/../tiny", "does not exist"),
    ],
)
def test_a_name_of_another_form_is_refused_with_the_form_that_works(name: str, says: str, cache: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        find_model(name)


def test_a_file_is_refused_with_the_directory_to_pass(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(NotADirectoryError, match=f"pass the directory.*{tmp_path}$"):
        find_model(tmp_path / "model.safetensors")
    (tmp_path / "tiny.GGUF").touch()
    with pytest.raises(NotADirectoryError, match="GGUF is not read"):
        find_model(tmp_path / "tiny.GGUF")


def test_other_directories_need_no_config(tmp_path: Path) -> None:
    assert find_directory(tmp_path) == tmp_path


def test_a_model_is_called_by_its_name_on_the_hub_or_its_directory(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = add_to_cache(cache)
    (tmp_path / "llama").mkdir()
    monkeypatch.chdir(tmp_path / "llama")
    assert model_name(None) == EMBEDDED_MODEL.name
    assert model_name("acme/tiny@main") == model_name(snapshot) == model_name(str(snapshot)) == "acme/tiny"
    assert model_name(".") == model_name("../llama/") == model_name(tmp_path / "llama") == "llama"
    assert served_names(".") == ["llama"] and served_names("acme/tiny") == ["acme/tiny"]
    assert served_names(str(tmp_path / "llama")) == ["llama", str(tmp_path / "llama")]


@pytest.mark.parametrize(
    ("text", "hub", "found"),
    [
        (str(TINY), False, True),
        ("acme/tiny", True, True),
        ("acme/tiny", False, False),
        ("gpt2", True, False),
        ("Once upon a time", True, False),
        ("x" * 9000, True, False),
        ("a\0b", True, False),
    ],
)
def test_a_word_that_could_be_a_model_is_told_from_a_prompt(text: str, hub: bool, found: bool) -> None:
    assert is_model(text, hub) == found
