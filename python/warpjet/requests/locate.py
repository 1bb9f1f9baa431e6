"""Where a model is: a directory, or a name of the hub that the local Hugging Face cache has. Nothing is fetched."""

import json
import os
import re
from pathlib import Path

EMBEDDED_MODEL = Path(__file__).parents[1] / "models" / "tiny"

_HUB_NAME = re.compile(r"(?P<name>(?:\w[\w.-]*/)?\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+]*)://?(?P<rest>.*)", re.ASCII | re.DOTALL)
_TAGGED = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)*):(?P<tag>[\w.-]+)", re.ASCII)
_CACHE_ENTRY = re.compile(r"models--(?P<name>.+)", re.DOTALL)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

_NO_GGUF = (
    "GGUF is not read: pass the checkpoint that it was made from, in safetensors, or convert it once with "
    "transformers: AutoModelForCausalLM.from_pretrained(DIR, gguf_file=FILE).save_pretrained(OUT), and the same with "
    "AutoTokenizer"
)


def find_model(model: str | Path | None, weights: bool = True) -> Path:
    """The directory of a checkpoint or an engine; None is the embedded model. Raises FileNotFoundError,
    NotADirectoryError or ValueError that names what was found there instead and what to do. With weights=False a
    config.json is enough."""
    if model is None:
        return EMBEDDED_MODEL
    directory = find_directory(model)
    if (directory / "engine.json").is_file():
        return directory
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(_no_model(directory))
    if weights and not any((directory / name).is_file() for name in _WEIGHTS):
        raise FileNotFoundError(_no_weights(directory))
    return directory


def find_directory(path: str | Path) -> Path:
    """The directory that a path or a name of the hub stands for, whatever is in it. Raises as find_model()."""
    text = str(path)
    if not text.strip():
        raise ValueError("the model's name is empty; pass a directory, or org/name of the Hugging Face hub")
    directory = Path(path).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists():
        raise NotADirectoryError(_a_file(directory))
    if isinstance(path, str):
        _refuse_other_forms(text)
        if found := _HUB_NAME.fullmatch(text):
            return _find_in_cache(found["name"], found["revision"])
    raise FileNotFoundError(f"{directory} does not exist; pass the directory of a checkpoint or an engine")


def is_model(text: str, hub: bool) -> bool:
    """True for the path of a directory that holds a model; with `hub` for org/name too, in the cache or not."""
    directory = Path(text).expanduser()
    try:
        if any((directory / name).is_file() for name in ("config.json", "engine.json")):
            return True
        return hub and "/" in text and _HUB_NAME.fullmatch(text) is not None and not directory.exists()
    except (OSError, ValueError):  # longer than a path may be, or with a NUL in it
        return False


def served_names(model: str | Path | None) -> list[str]:
    """model_name(), and the path as it was given, by which clients of other servers ask."""
    names = [model_name(model)]
    if model is not None and str(model).strip("./") and Path(model).is_dir():
        names.append(str(model))
    return list(dict.fromkeys(names))


def model_name(model: str | Path | None) -> str:
    """What to call a model that find_model() found: org/name of the hub, or else the directory's own name."""
    if model is None:
        return EMBEDDED_MODEL.name
    directory = Path(model).expanduser()
    if not directory.is_dir() and (found := _HUB_NAME.fullmatch(str(model))):
        return found["name"]
    for entry in directory.absolute().parents:  # a snapshot in the cache is named by its commit
        if entry.name == "snapshots" and (found := _CACHE_ENTRY.fullmatch(entry.parent.name)):
            return found["name"].replace("--", "/")
    return directory.resolve().name or str(directory)


def _find_in_cache(name: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    caches = [constants.HF_HUB_CACHE, *filter(None, [os.environ.get("TRANSFORMERS_CACHE")])]  # the latter until 5
    for cache in caches:
        try:
            return Path(snapshot_download(name, revision=revision, cache_dir=cache, local_files_only=True))
        except HFValidationError:
            raise FileNotFoundError(f"{name} does not exist, and is no name of the Hugging Face hub") from None
        except LocalEntryNotFoundError:
            continue
    has = _cached_revisions(Path(caches[0]) / f"models--{name.replace('/', '--')}")
    what = f"its revision {revision or 'main'}" if revision or has else "it"
    there = f", but {', '.join(f'{name}@{one}' for one in has)}" if has else ""
    raise FileNotFoundError(
        f"{name} is not a directory, and the Hugging Face cache ({', '.join(caches)}) does not have {what}{there}. "
        f"Nothing is fetched here; download it with: {_download_command(name, revision)}"
    )


def _cached_revisions(entry: Path) -> list[str]:
    """Branches and tags first, then the commits that none of them is."""
    refs = {
        path.relative_to(entry / "refs").as_posix(): path.read_text(encoding="utf-8", errors="replace").strip()
        for path in sorted((entry / "refs").rglob("*"))
        if path.is_file()
    }
    commits = [path.name for path in sorted(entry.glob("snapshots/*"))]
    named = [ref for ref, commit in refs.items() if commit in commits]
    return named + [commit for commit in commits if commit not in refs.values()]


def _download_command(name: str, revision: str | None) -> str:
    return f"hf download {name}" + (f" --revision {revision}" if revision else "")


# --- What is there instead -------------------------------------------------------------------------------------------


def _refuse_other_forms(text: str) -> None:
    if found := _URL.fullmatch(text):
        name = found["rest"].removeprefix("huggingface.co/").rstrip("/")
        advice = f"pass {name}" if _HUB_NAME.fullmatch(name) else "download it and pass its directory"
        raise ValueError(f"{text} is a URL, and nothing is fetched; {advice}")
    if found := _TAGGED.fullmatch(text):
        raise ValueError(
            f"{text} has a tag after a colon, as names of Ollama and llama.cpp do, whose models are GGUF. {_NO_GGUF}. "
            "A revision of the hub is written org/name@revision"
        )


def _a_file(path: Path) -> str:
    if path.suffix.lower() == ".gguf":
        return f"{path}: {_NO_GGUF}"
    return f"{path} is a file; pass the directory that holds config.json and the weights: {path.parent}"


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _is_snapshot(directory: Path) -> bool:
    return directory.parent.name == "snapshots" and directory.parent.parent.name.startswith("models--")


def _no_model(directory: Path) -> str:
    """What a directory without config.json is."""
    names = sorted(path.name for path in directory.iterdir())
    if _is_snapshot(directory) and "adapter_config.json" not in names and not any(map(_is_gguf, names)):
        return f"{directory} has no config.json: the cache has it in part. Download the rest with: " + (
            _download_command(model_name(directory), directory.name)
        )
    if not names:
        return f"{directory} is empty; pass the directory that holds config.json and the weights"
    if "adapter_config.json" in names:
        return f"{directory} is a LoRA adapter{_base_of(directory)}; merge it into its base first, with peft: {_MERGE}"
    if gguf := next(filter(_is_gguf, names), None):
        return f"{directory} holds {gguf} and no config.json. {_NO_GGUF}"
    if (directory / "snapshots").is_dir() and (found := _CACHE_ENTRY.fullmatch(directory.resolve().name)):
        return f"{directory} is an entry of the Hugging Face cache; pass its name: {found['name'].replace('--', '/')}"
    if entry := next((found for name in names if (found := _CACHE_ENTRY.fullmatch(name))), None):
        return f"{directory} is a Hugging Face cache; pass a name in it, such as {entry['name'].replace('--', '/')}"
    if "model_index.json" in names:
        return f"{directory} is a diffusers pipeline; language models are what runs here"
    if "params.json" in names:
        return (
            f"{directory} holds weights in the format that their authors train with; pass a checkpoint in Hugging "
            "Face's format (config.json and *.safetensors)"
        )
    if inner := next((name for name in names if (directory / name / "config.json").is_file()), None):
        return f"{directory} has no config.json, but {directory / inner} has; pass that"
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{directory} has no config.json; it holds {shown}. Pass the directory of a checkpoint or an engine"


_MERGE = "AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT)"


def _base_of(adapter: Path) -> str:
    try:
        base = json.loads((adapter / "adapter_config.json").read_bytes())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        return ""
    return f" of {base}" if isinstance(base, str) else ""


def _no_weights(directory: Path) -> str:
    """What a directory with a config.json and no weights is."""
    names = sorted(path.name for path in directory.iterdir())
    missing = f"{directory} holds neither {' nor '.join(_WEIGHTS)}"
    if _is_snapshot(directory):
        return f"{missing}: the cache has it in part. Download the rest with: " + _download_command(
            model_name(directory), directory.name
        )
    if any(map(_is_gguf, names)):
        return f"{missing}. {_NO_GGUF}"
    if any(name.endswith((".bin", ".pth", ".pt")) for name in names):
        return (
            f"{missing}; weights in PyTorch's pickles are not read. Convert them once with transformers: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)"
        )
    if "adapter_config.json" in names:
        return f"{missing}; it is a LoRA adapter{_base_of(directory)}; merge it into its base first: {_MERGE}"
    return f"{missing}; other weight formats are not read"
