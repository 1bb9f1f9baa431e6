"""Flags of warpjet bench serve, named as in other engines' load tools, and what they say."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpjet._native import SamplingParams
from warpjet.bench.load.datasets import DATASETS
from warpjet.bench.load.report import METRICS, Wanted
from warpjet.bench.records import file_time
from warpjet.common.flags import flag_of

if TYPE_CHECKING:
    from warpjet.bench.load.client import Target

# --backend: the endpoint
_BACKENDS = {"openai": "/v1/completions", "vllm": "/v1/completions", "openai-chat": "/v1/chat/completions"}

# Numbers that shape the draw of a token; lengths come from the dataset.
_SAMPLING = [
    field
    for field in SamplingParams.__fields__
    if field.type in ("int", "float") and field.name not in ("n", "min_tokens", "beam_width", "length_penalty")
]


def add_flags(parser: argparse.ArgumentParser) -> None:
    _add_server_flags(parser.add_argument_group("server"))
    _add_load_flags(parser.add_argument_group("load"))
    _add_dataset_flags(parser.add_argument_group("dataset"))
    _add_request_flags(parser.add_argument_group("request"))
    _add_report_flags(parser.add_argument_group("report"))


def _add_server_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--base-url", metavar="URL", help="such as https://host:8000, instead of --host and --port")
    group.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    group.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    group.add_argument("--backend", choices=list(_BACKENDS), default="openai", help="sets the endpoint")
    group.add_argument("--endpoint", metavar="PATH", help="/v1/completions (default) or /v1/chat/completions")
    group.add_argument("--model", help="name to ask for (default: the first that /v1/models has)")
    group.add_argument("--tokenizer", metavar="DIR", help="of the model; without it, lengths are what a probe suggests")
    group.add_argument("--api-key", metavar="KEY", help="sent as a bearer token")
    group.add_argument(
        "--header", action="append", type=_pair, default=[], metavar="NAME=VALUE", help="sent with each request"
    )
    group.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    group.add_argument(
        "--ready-check-timeout-sec", type=float, default=0, metavar="S", help="wait so long for the server to come up"
    )


def _add_load_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--num-prompts", type=int, metavar="N", help="requests (default: 1000, or all of a file)")
    group.add_argument(
        "--request-rate",
        type=float,
        nargs="+",
        default=[None],
        metavar="R",
        help="requests a second, inf for all at once (default), a trace's own by default; one run for each",
    )
    group.add_argument(
        "--burstiness", type=float, default=1.0, help="1 is Poisson, less has more bursts, inf is even (default: 1)"
    )
    group.add_argument(
        "--max-concurrency",
        type=int,
        nargs="+",
        default=[None],
        metavar="N",
        help="most requests at once, others wait here; one run for each",
    )
    group.add_argument("--num-warmups", type=int, default=2, metavar="N", help="not counted (default: %(default)s)")
    group.add_argument("--timeout", type=float, default=600, metavar="S", help="of a request (default: %(default)s)")
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of texts and arrivals; with an equal one, prompts are in the prefix cache already (default: 0)",
    )


def _add_dataset_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--dataset-name", choices=list(DATASETS), default="random", help="(default: %(default)s)")
    options = {name: option for dataset in reversed(DATASETS.values()) for name, option in dataset.options.items()}
    for name, (kind, default, text) in options.items():
        form: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind, "metavar": kind.__name__}
        if default is not None and kind is not bool:
            text = f"{text} (default: {default})"
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, dest=f"dataset.{name}", default=argparse.SUPPRESS, help=text, **form)


def _add_request_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--ignore-eos", action="store_true", help="answers are as long as asked for")
    for field in _SAMPLING:
        kind = {"int": int, "float": float}[field.type]
        text = f"{field.doc} ({field.takes}; default: the server's)"
        group.add_argument(flag_of(field.name), type=kind, metavar="X", help=text)
    group.add_argument(
        "--extra-body", type=_json_object, default={}, metavar="JSON", help="more fields; null takes one away"
    )


def _add_report_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--goodput",
        nargs="+",
        type=_limit,
        default=[],
        metavar="METRIC:MS",
        help="count the requests that keep such limits of ttft, tpot and e2el",
    )
    group.add_argument(
        "--percentile-metrics",
        type=_metrics,
        default=[*METRICS],
        metavar="A,B",
        help="(default: all of ttft,tpot,itl,e2el)",
    )
    group.add_argument(
        "--metric-percentiles", type=_percentiles, default=[95.0, 99.0], metavar="P,Q", help="(default: 95,99)"
    )
    group.add_argument("--json", action="store_true", help="print JSON instead of a table")
    group.add_argument(
        "--save-result",
        "--output",
        nargs="?",
        const="",
        metavar="FILE",
        help="write the JSON to this file too; without FILE to --result-dir/--result-filename",
    )
    group.add_argument("--result-dir", metavar="DIR", help="where --save-result writes (default: here)")
    group.add_argument(
        "--result-filename", metavar="FILE", help="what it writes (default: BACKEND-RATEqps-MODEL-TIME.json)"
    )
    group.add_argument("--append-result", action="store_true", help="append it there, as a line")
    group.add_argument("--save-detailed", action="store_true", help="each request in the JSON")
    group.add_argument("--metadata", nargs="+", type=_pair, default=[], metavar="NAME=VALUE", help="goes into the JSON")
    group.add_argument("--plot", metavar="PNG", help="draw it (needs matplotlib)")
    group.add_argument("--disable-tqdm", action="store_true", help="no progress bar")


# --- Kinds of values -------------------------------------------------------------------------------------------------


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value


def _pair(text: str, separator: str = "=") -> tuple[str, str]:
    key, found, value = text.partition(separator)
    if not found:
        raise ValueError
    return key, value


def _limit(text: str) -> tuple[str, float]:
    metric, limit = _pair(text, ":")
    if metric not in METRICS or metric == "itl" or not float(limit) > 0:
        raise ValueError
    return metric, float(limit)


def _metrics(text: str) -> list[str]:
    if unknown := {*text.split(",")} - {*METRICS}:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}, but {', '.join(METRICS)}")
    return text.split(",")


def _percentiles(text: str) -> list[float]:
    shares = [float(share) for share in text.split(",")]
    if not all(0 <= share <= 100 for share in shares):
        raise argparse.ArgumentTypeError(f"they are from 0 to 100, got {text}")
    return shares


# --- What the flags say ----------------------------------------------------------------------------------------------


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for numbers out of range."""
    least = {"num_prompts": 1, "num_warmups": 0, "ready_check_timeout_sec": 0}
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and value < low:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {low}, got {value}")
    positive = {"burstiness": [args.burstiness], "timeout": [args.timeout]}
    positive |= {"request-rate": args.request_rate, "max-concurrency": args.max_concurrency}
    for name, values in positive.items():
        for value in values:
            if value is not None and not value > 0:
                raise ValueError(f"--{name} must be above 0, got {value}")
    if args.append_result and args.save_result is None:
        raise ValueError("--append-result needs --save-result")
    if args.save_result is None and (args.result_dir or args.result_filename):
        raise ValueError("--result-dir and --result-filename need --save-result")
    if args.save_result and (args.result_dir or args.result_filename):
        raise ValueError(f"--save-result {args.save_result} names the file: leave --result-dir and --result-filename")


def result_file(args: argparse.Namespace, model: str) -> Path | None:
    """Where results go, if anywhere; the folder is made."""
    if args.save_result is None:
        return None
    name = args.save_result or args.result_filename
    if not name:
        rate = args.request_rate[0] or math.inf
        name = f"{args.backend}-{rate:g}qps-{model.rsplit('/', 1)[-1]}-{file_time()}.json"
    path = Path(args.result_dir or ".", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def target(args: argparse.Namespace) -> "Target":
    """Its model is "" where the flags do not name one."""
    from warpjet.bench.load.client import Target

    base_url = (args.base_url or f"http://{args.host}:{args.port}").rstrip("/").removesuffix("/v1")
    endpoint = args.endpoint or _BACKENDS[args.backend]
    if not endpoint.startswith("/") or not endpoint.endswith("/completions"):
        raise ValueError(f"--endpoint must be a path that ends with /completions, got {endpoint}")
    headers = dict(args.header)
    if args.api_key:
        headers["Authorization"] = f"Bearer {args.api_key}"
    body = {name: value for name in (f.name for f in _SAMPLING) if (value := getattr(args, name)) is not None}
    if args.ignore_eos:
        body["ignore_eos"] = True
    return Target(base_url, endpoint, args.model or "", headers, body | args.extra_body, args.timeout, args.insecure)


def wanted(args: argparse.Namespace) -> Wanted:
    return Wanted(args.percentile_metrics, args.metric_percentiles, dict(args.goodput))


def dataset_options(args: argparse.Namespace) -> dict[str, Any]:
    """Of the dataset that was chosen. Raises ValueError for another's."""
    own = DATASETS[args.dataset_name].options
    given = {key.removeprefix("dataset."): value for key, value in vars(args).items() if key.startswith("dataset.")}
    for name in given:
        if name not in own:
            owners = " or ".join(key for key, dataset in DATASETS.items() if name in dataset.options)
            raise ValueError(f"--{name.replace('_', '-')} needs --dataset-name {owners}")
    return {name: default for name, (_, default, _) in own.items()} | given
