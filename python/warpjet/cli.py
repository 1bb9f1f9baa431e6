"""The warpjet command: parses and dispatches. Everything else is imported by the command that needs it."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_FAILURE, _USAGE_ERROR, _NO_DEVICE, _INTERRUPTED, _BROKEN_PIPE = 1, 2, 3, 130, 141

# Sampling fields that make no sense for text on a terminal.
_NO_FLAG = {"output_kind", "detokenize", "logprobs", "prompt_logprobs", "bad_words_token_ids"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 for a failure while running, 2 for bad input, 3 without the device, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        advice = getattr(args, "advice", lambda words: "")([word.partition("=")[0] for word in unknown[:1]])
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{advice}")
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads; without this Python complains while it exits
        return _BROKEN_PIPE
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        print(f"warpjet: error: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except (RuntimeError, MemoryError) as error:
        from warpjet._native import DeviceError

        print(f"warpjet: failed: {error}", file=sys.stderr)
        return _NO_DEVICE if isinstance(error, DeviceError) else _FAILURE


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="warpjet",
        description="Runs large language models.",
        epilog="warpjet COMMAND --help tells about a command.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, (help_text, fill) in _COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        if name == chosen:  # the others' flags are not looked at
            (_fill_bench_serve if list(arguments[:2]) == ["bench", "serve"] else fill)(command)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from warpjet._native import __version__

        print(f"warpjet {__version__}")
        parser.exit()


# --- Commands --------------------------------------------------------------------------------------------------------


def _fill_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="*", help="text to go on from; '-' reads standard input")
    parser.add_argument("--echo", action=argparse.BooleanOptionalAction, default=True, help="print the prompt too")
    _add_model_flags(parser)
    _add_sampling_flags(parser)

    def run(args: argparse.Namespace) -> int:
        from warpjet.terminal import generate

        return generate(args.model, args.prompt, args.echo, _given(args, "sampling"), _given(args, "engine"))

    parser.set_defaults(run=run)


def _fill_chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    _add_model_flags(parser)
    _add_sampling_flags(parser)

    def run(args: argparse.Namespace) -> int:
        from warpjet.terminal import chat

        return chat(args.model, args.system, _given(args, "sampling"), _given(args, "engine"))

    parser.set_defaults(run=run)


def _fill_build(parser: argparse.ArgumentParser) -> None:
    from warpjet._native import BuildConfig

    parser.add_argument("checkpoint", help="directory of a Hugging Face checkpoint")
    parser.add_argument("-o", "--output", required=True, metavar="ENGINE", help="engine directory to write")
    _add_fields(parser, "build", BuildConfig.__fields__)

    def run(args: argparse.Namespace) -> int:
        from warpjet.terminal import build_engine

        return build_engine(args.checkpoint, args.output, _given(args, "build"))

    parser.set_defaults(run=run)


def _fill_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="checkpoint or engine directory (default: the embedded model)")
    parser.add_argument("--gpu", default="H100", help="GPU whose memory and roofline to use (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=1, help="tokens in the step (default: %(default)s)")
    parser.add_argument("--context", type=int, default=1024, help="KV tokens behind each (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")

    def run(args: argparse.Namespace) -> int:
        from warpjet.info import info

        return info(args.model, args.gpu, args.tokens, args.context, args.json)

    parser.set_defaults(run=run)


def _fill_doctor(parser: argparse.ArgumentParser) -> None:
    def run(args: argparse.Namespace) -> int:
        from warpjet.doctor import doctor

        return doctor()

    parser.set_defaults(run=run)


def _fill_serve(parser: argparse.ArgumentParser) -> None:
    from warpjet.serve.flags import add_flags, given_flags, near, plan, read_config

    parser.add_argument(
        "model_tag", nargs="?", metavar="MODEL", help="checkpoint or engine directory (default: the embedded model)"
    )
    parser.add_argument("--model", dest="server.model", default=argparse.SUPPRESS, metavar="MODEL", help="the same")
    parser.add_argument("--config", metavar="FILE", help="settings by name, in JSON; flags come before them")
    parser.add_argument("--dry-run", action="store_true", help="check the configuration and exit")
    add_flags(parser, _add_fields)

    def run(args: argparse.Namespace) -> int:
        given = read_config(args.config) if args.config else {}
        given = {name.replace("-", "_"): value for name, value in given.items()} | given_flags(vars(args))
        if args.model_tag is not None:
            given["model"] = args.model_tag
        configuration = plan(given)
        try:
            from warpjet.serve.launch import serve
        except ModuleNotFoundError as error:
            raise ValueError(f"the server needs {error.name}: pip install 'warpjet[server]'") from None
        return serve(configuration, args.dry_run)

    parser.set_defaults(run=run, advice=lambda words: "".join(near(w.lstrip("-").replace("-", "_")) for w in words))


# Settings of the server that matter without one.
_BATCH_SETTINGS = (
    *("served_model_name", "tokenizer", "generation_config", "override_generation_config", "chat_template"),
    *("default_chat_template_kwargs", "trust_request_chat_template", "tool_call_parser", "reasoning_parser", "strict"),
    *("max_body_bytes", "max_prompts", "max_request_tokens", "prepare_timeout", "prepare_threads"),
    "return_tokens_as_token_ids",
)


def _fill_run_batch(parser: argparse.ArgumentParser) -> None:
    from warpjet.serve.flags import add_flags, given_flags, near, plan

    parser.add_argument("-i", "--input-file", "--input", dest="source", required=True, metavar="JSONL", help="requests")
    parser.add_argument("-o", "--output-file", "--output", dest="out", required=True, metavar="JSONL", help="answers")
    parser.add_argument(
        "model_tag", nargs="?", metavar="MODEL", help="checkpoint or engine directory (default: the embedded model)"
    )
    parser.add_argument("--model", dest="server.model", default=argparse.SUPPRESS, metavar="MODEL", help="the same")
    add_flags(parser, _add_fields, _BATCH_SETTINGS)

    def run(args: argparse.Namespace) -> int:
        given = given_flags(vars(args))
        if args.model_tag is not None:
            given["model"] = args.model_tag
        configuration = plan(given)
        try:
            from warpjet.run_batch import run_batch
        except ModuleNotFoundError as error:
            raise ValueError(f"run-batch needs {error.name}: pip install 'warpjet[server]'") from None
        return run_batch(configuration, args.source, args.out)

    parser.set_defaults(run=run, advice=lambda words: "".join(near(w.lstrip("-").replace("-", "_")) for w in words))


def _fill_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        choices=["latency", "throughput", "startup", "engine", "kernels", "serve"],
        help="one batch at a time; a full queue; from this process's start to its first token; what the engine itself "
        "costs, without a model; a model's kernels; or a server under load (warpjet bench serve --help)",
    )
    parser.add_argument("--batch", type=int, default=1, help="latency: requests at once (default: %(default)s)")
    parser.add_argument("--num-prompts", type=int, default=32, help="throughput: requests (default: %(default)s)")
    parser.add_argument("--input-len", type=int, default=32, help="prompt tokens (default: %(default)s)")
    parser.add_argument("--output-len", type=int, default=128, help="tokens to generate (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs after a warm-up (default: %(default)s)")
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[1, 8, 64, 256, 2048],
        help="kernels: tokens in a step (default: %(default)s)",
    )
    parser.add_argument(
        "--context", type=int, default=1024, help="kernels: KV tokens behind each (default: %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="kernels: every one that could be used")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    parser.add_argument("--output", metavar="FILE", help="write the JSON to this file too")
    _add_model_flags(parser)

    def run(args: argparse.Namespace) -> int:
        from warpjet.bench import Workload, bench, bench_engine, bench_kernels

        if args.what == "serve":
            raise ValueError("serve comes first: warpjet bench serve ...")
        if args.what == "kernels":
            return bench_kernels(
                args.model, args.rows, args.context, args.all, _given(args, "engine"), args.json, args.output
            )
        if args.what == "engine":
            return bench_engine(args.repeats, args.json, args.output)
        if min(args.batch, args.num_prompts, args.input_len, args.repeats) < 1 or args.output_len < 2:
            raise ValueError("bench needs at least 1 request, input token and repeat, and 2 output tokens")
        if args.what == "startup":
            from warpjet.startup import bench_startup

            return bench_startup(args.model, args.input_len, _given(args, "engine"), args.json, args.output)
        requests = args.batch if args.what == "latency" else args.num_prompts
        workload = Workload(args.what, requests, args.input_len, args.output_len, args.repeats)
        return bench(args.model, workload, _given(args, "engine"), args.json, args.output)

    parser.set_defaults(run=run)


def _fill_bench_serve(parser: argparse.ArgumentParser) -> None:
    """Of all that is measured, this alone needs no model here, but a server's address."""
    try:
        from warpjet.load.flags import add_flags
    except ImportError as error:
        raise SystemExit(f"warpjet: error: bench serve needs {error.name}: pip install 'warpjet[bench]'") from None

    parser.add_argument("what", choices=["serve"], help="a server under load: any that speaks the OpenAI API")
    add_flags(parser)

    def run(args: argparse.Namespace) -> int:
        from warpjet.load.command import bench_serve

        return bench_serve(args)

    parser.set_defaults(run=run)


def _fill_sim(parser: argparse.ArgumentParser) -> None:
    from warpjet._native import SimConfig

    rows = [row for row in SimConfig.__fields__ if row[0] != "replicas"]
    parser.add_argument(
        "--replicas",
        type=_replicas,
        dest="simulation.replicas",
        default=argparse.SUPPRESS,
        metavar="N|auto",
        help="engines; auto searches the smallest number that meets the target",
    )
    parser.add_argument("--model", metavar="DIR", help="checkpoint or engine to take size and KV cache from")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--output", metavar="FILE", help="write that JSON to this file too")
    parser.add_argument("--plot", metavar="PNG", help="draw latencies, queues and throughput (needs warpjet[plot])")
    _add_fields(parser, "simulation", rows)

    def run(args: argparse.Namespace) -> int:
        from warpjet.sim import sim

        return sim(_given(args, "simulation"), args.model, args.json, args.output, args.plot)

    parser.set_defaults(run=run)


def _replicas(text: str) -> int:
    return 0 if text == "auto" else int(text)


_MODEL_HELP = "checkpoint or engine directory (default: the embedded model)"

_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "generate": ("complete prompts", _fill_generate),
    "chat": ("talk with a model in the terminal", _fill_chat),
    "build": ("compile a checkpoint into an engine directory", _fill_build),
    "info": ("show what a model is and what a step of it costs, without loading it", _fill_info),
    "doctor": ("show what of this machine warpjet can use", _fill_doctor),
    "serve": ("serve a model over HTTP, with OpenAI's API", _fill_serve),
    "run-batch": ("answer a file of requests, in the form of OpenAI's batch API", _fill_run_batch),
    "bench": ("measure", _fill_bench),
    "sim": ("simulate a load on many engines, and how many GPUs it needs", _fill_sim),
}


# --- Flags from the native structs -----------------------------------------------------------------------------------


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    from warpjet._native import EngineConfig

    parser.add_argument("--model", help="checkpoint or engine directory (default: the embedded model)")
    # --seed is the request's; it has the same use on a terminal.
    _add_fields(parser, "engine", (row for row in EngineConfig.__fields__ if row[0] != "seed"))


def _add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    from warpjet._native import SamplingParams

    _add_fields(parser, "sampling", (row for row in SamplingParams.__fields__ if row[0] not in _NO_FLAG))


def _add_fields(parser: argparse.ArgumentParser, group_name: str, rows: Iterable[tuple[str, str, object, str]]) -> None:
    """One flag a field. Flags that are not given leave no trace, so defaults stay where they are defined."""
    group = parser.add_argument_group(group_name)
    for name, kind, _, doc in rows:
        group.add_argument(
            "--" + name.replace("_", "-"),
            dest=f"{group_name}.{name}",
            default=argparse.SUPPRESS,
            help=doc.replace("%", "%%"),
            **_flag_form(kind.removesuffix(" | None")),
        )


def _flag_form(kind: str) -> dict[str, Any]:
    if kind == "bool":
        return {"action": argparse.BooleanOptionalAction}
    if kind == "tuple[str, ...]":
        return {"action": "append", "metavar": "TEXT"}
    if kind == "tuple[int, ...]":
        return {"nargs": "+", "type": int, "metavar": "ID"}
    if kind == "StructuredOutputsParams":
        return {"metavar": "JSON"}
    if kind.startswith("Mapping"):
        return {"nargs": "+", "type": _pair, "metavar": "ID=VALUE"}
    return {"type": {"int": int, "float": float, "str": str}[kind], "metavar": kind.upper()}


def _pair(text: str) -> tuple[int, float]:
    key, _, value = text.partition("=")
    return int(key), float(value)


def _given(args: argparse.Namespace, group: str) -> dict[str, Any]:
    """The flags of a group that were given, by field."""
    values = {key.removeprefix(group + "."): value for key, value in vars(args).items() if key.startswith(group + ".")}
    if pairs := values.get("logit_bias"):
        values["logit_bias"] = dict(pairs)
    return values
