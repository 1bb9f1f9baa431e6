"""The warpjet command: parses and dispatches. Everything else is imported by the command that needs it."""

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from warpjet.common.flags import Parser, add_fields, advice, default_text, given, spell_out, whole_number

if TYPE_CHECKING:
    from warpjet.serve.flags import Plan

_FAILURE, _USAGE_ERROR, _NO_DEVICE, _INTERRUPTED, _BROKEN_PIPE = 1, 2, 3, 130, 141

# Sampling fields that a checkpoint's generation_config.json may recommend.
_RECOMMENDED = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}

# Sampling fields that make no sense for text on a terminal.
_NO_FLAG = {"output_kind", "detokenize", "logprobs", "prompt_logprobs", "bad_words_token_ids"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 for a failure while running, 2 for bad input, 3 without the device, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr] # a terminal that is not UTF-8 shows a "?"
    arguments = _complete(list(sys.argv[1:] if argv is None else argv))
    parser = _parser(arguments)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}{_advice(args.parser, unknown[0])}")
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads; without this Python complains while it exits
        return _BROKEN_PIPE
    except ModuleNotFoundError as error:
        print(f"warpjet: error: {_missing(error)}", file=sys.stderr)
        return _USAGE_ERROR
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        print(f"warpjet: error: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except (RuntimeError, MemoryError) as error:
        from warpjet._native import DeviceError

        print(f"warpjet: failed: {error}", file=sys.stderr)
        return _NO_DEVICE if isinstance(error, DeviceError) else _FAILURE


def _missing(error: ModuleNotFoundError) -> str:
    """What to install, for a package that only part of warpjet needs."""
    if "pip install" in str(error):
        return str(error)
    extra = {"aiohttp": "bench", "matplotlib": "plot"}.get(error.name or "", "server")
    return f"this needs the package {error.name}: pip install '.[{extra}]' in the source of warpjet"


def _complete(words: list[str]) -> list[str]:
    """`warpjet` alone and `warpjet help` ask for help, `warpjet version` for the version."""
    match words:
        case []:
            return ["--help"]
        case ["help", *rest]:
            return [*rest, "--help"]
        case ["version"]:
            return ["--version"]
    return spell_out(words, sampling=words[0] in ("generate", "chat"))


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(
        prog="warpjet",
        usage="warpjet COMMAND [flags]",
        description="Runs large language models.",
        epilog="warpjet COMMAND --help tells about a command.",
    )
    parser.add_argument("-V", "--version", action=_Version, nargs=0, help="print the version and exit")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, command in _COMMANDS.items():
        text = command.help[0].upper() + command.help[1:] + "."
        added = commands.add_parser(
            name, prog=f"warpjet {name}", help=command.help, usage=f"warpjet {name} {command.usage}", description=text
        )
        added.set_defaults(parser=added)
        if name == chosen:  # the others' flags are not looked at
            (_fill_bench_serve if list(arguments[:2]) == ["bench", "serve"] else command.fill)(added)
    return parser


def _advice(parser: Parser, word: str) -> str:
    """A suggestion for a flag that the command does not have."""
    if not word.startswith("-"):
        return ""
    others = {}
    for name, command in _COMMANDS.items():
        other = Parser(prog=name)
        command.fill(other)
        others[name] = set(other.flags())
    return advice(word, parser.flags(), others)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from warpjet._native import __version__

        print(f"warpjet {__version__}")
        parser.exit()


# --- Commands --------------------------------------------------------------------------------------------------------


def _fill_generate(parser: Parser) -> None:
    parser.add_argument(
        "prompt",
        nargs="*",
        metavar="PROMPT",
        help="text to go on from; '-' reads standard input. The first is the model if it is the directory of one, or "
        "org/name with a prompt behind it",
    )
    parser.add_argument("-p", "--prompt", dest="prompts", action="append", metavar="TEXT", help="the same")
    parser.add_argument(
        "--echo", action=argparse.BooleanOptionalAction, help="print the prompt too (default: on a terminal)"
    )
    _add_model_flags(parser, ("tokenizer", "generation_config"))
    _add_sampling_flags(parser, {"max_tokens": "the checkpoint's, or 256"})

    def run(args: argparse.Namespace) -> int:
        from warpjet.commands.terminal import generate
        from warpjet.requests.locate import is_model

        words = list(args.prompt)
        alone = len(words) == 1 and not args.prompts
        if words and not _names_model(args) and is_model(words[0], hub=not alone):
            args.model_tag = words.pop(0)
        return generate(_plan(args), words + (args.prompts or []), args.echo, given(args, "sampling"))

    parser.set_defaults(run=run)


def _fill_chat(parser: Parser) -> None:
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument("model_tag", nargs="?", metavar="MODEL", help=_MODEL_HELP)
    _add_model_flags(parser, ("tokenizer", "generation_config", "chat_template", "default_chat_template_kwargs"))
    defaults = {"temperature": "the checkpoint's, or 0.7", "top_p": "the checkpoint's, or 0.95"}
    _add_sampling_flags(parser, defaults | {"max_tokens": "what the context holds"})

    def run(args: argparse.Namespace) -> int:
        from warpjet.commands.repl import chat

        return chat(_plan(args), args.system, given(args, "sampling"))

    parser.set_defaults(run=run)


def _fill_build(parser: Parser) -> None:
    from warpjet._native import BuildConfig

    parser.add_argument("checkpoint", help="directory of a Hugging Face checkpoint, or org/name in the local cache")
    parser.add_argument("-o", "--output", required=True, metavar="ENGINE", help="engine directory to write")
    add_fields(parser, "build", BuildConfig.__fields__)

    def run(args: argparse.Namespace) -> int:
        from warpjet.commands.terminal import build_engine

        return build_engine(args.checkpoint, args.output, given(args, "build"))

    parser.set_defaults(run=run)


def _fill_info(parser: Parser) -> None:
    from warpjet._native import SimConfig

    gpus = {field.name: field for field in SimConfig.__fields__}["gpu"].choices
    parser.add_argument("model", nargs="?", metavar="MODEL", help=_MODEL_HELP)
    parser.add_argument("--model", dest="named", metavar="MODEL", help="the same")
    parser.add_argument(
        "--gpu",
        metavar="{" + ",".join(gpus) + "}",
        help="GPU whose memory and roofline to use (default: this machine's GPU, if any)",
    )
    parser.add_argument("--all", action="store_true", help="a row for each layer, also where layers are equal")
    parser.add_argument("--tokens", type=whole_number, default=1, help="tokens in the step (default: %(default)s)")
    parser.add_argument(
        "--context", type=whole_number, default=1024, help="KV tokens behind each (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")

    def run(args: argparse.Namespace) -> int:
        from warpjet.commands.info import info

        return info(args.named or args.model, args.gpu, args.tokens, args.context, args.json, args.all)

    parser.set_defaults(run=run)


def _fill_doctor(parser: Parser) -> None:
    def run(args: argparse.Namespace) -> int:
        from warpjet.commands.doctor import doctor

        return doctor()

    parser.set_defaults(run=run)


def _fill_serve(parser: Parser) -> None:
    from warpjet.serve.flags import plan, read_config

    parser.add_argument("model_tag", nargs="?", metavar="MODEL", help=_MODEL_HELP)
    parser.add_argument("--config", metavar="FILE", help="settings by name, in JSON or YAML; flags come before them")
    parser.add_argument("--dry-run", action="store_true", help="check the configuration and exit")
    _add_model_flags(parser, None)

    def run(args: argparse.Namespace) -> int:
        settings = read_config(args.config) if args.config else {}
        settings = {name.replace("-", "_"): value for name, value in settings.items()} | _given_names(args)
        configuration = plan(settings)
        from warpjet.serve.launch import serve

        return serve(configuration, args.dry_run)

    parser.set_defaults(run=run)


# Settings of the server that matter without one.
_BATCH_SETTINGS = (
    *("served_model_name", "tokenizer", "generation_config", "override_generation_config", "chat_template"),
    *("default_chat_template_kwargs", "trust_request_chat_template", "tool_call_parser", "reasoning_parser", "strict"),
    *("max_body_bytes", "max_prompts", "max_request_tokens", "prepare_timeout", "prepare_threads"),
    "return_tokens_as_token_ids",
)


def _fill_run_batch(parser: Parser) -> None:
    parser.add_argument("-i", "--input-file", "--input", dest="source", required=True, metavar="JSONL", help="requests")
    parser.add_argument("-o", "--output-file", "--output", dest="out", required=True, metavar="JSONL", help="answers")
    parser.add_argument("model_tag", nargs="?", metavar="MODEL", help=_MODEL_HELP)
    _add_model_flags(parser, _BATCH_SETTINGS)

    def run(args: argparse.Namespace) -> int:
        configuration = _plan(args)
        from warpjet.commands.run_batch import run_batch

        return run_batch(configuration, args.source, args.out)

    parser.set_defaults(run=run)


def _fill_bench(parser: Parser) -> None:
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
    _add_model_flags(parser, ())

    def run(args: argparse.Namespace) -> int:
        from warpjet.bench.engine import Workload, bench, bench_engine, bench_kernels
        from warpjet.common.files import check_writable

        if args.what == "serve":
            raise ValueError("serve comes first: warpjet bench serve ...")
        if args.output:
            check_writable(args.output, "--output")
        model, engine = (plan := _plan(args)).model, plan.engine
        if args.what == "kernels":
            return bench_kernels(model, args.rows, args.context, args.all, engine, args.json, args.output)
        if args.what == "engine":
            return bench_engine(args.repeats, args.json, args.output)
        if min(args.batch, args.num_prompts, args.input_len, args.repeats) < 1 or args.output_len < 2:
            raise ValueError("bench needs at least 1 request, input token and repeat, and 2 output tokens")
        if args.what == "startup":
            from warpjet.bench.startup import bench_startup

            return bench_startup(model, args.input_len, engine, args.json, args.output)
        requests = args.batch if args.what == "latency" else args.num_prompts
        workload = Workload(args.what, requests, args.input_len, args.output_len, args.repeats)
        return bench(model, workload, engine, args.json, args.output)

    parser.set_defaults(run=run)


def _fill_bench_serve(parser: Parser) -> None:
    """Of all that is measured, this alone needs no model here, but a server's address."""
    from warpjet.bench.load.flags import add_flags

    parser.prog, parser.usage, parser.description = (
        "warpjet bench serve",
        "warpjet bench serve [flags]",
        "Puts a load on a server that speaks OpenAI's API.",
    )
    parser.add_argument("what", choices=["serve"], help="a server under load: any that speaks the OpenAI API")
    add_flags(parser)

    def run(args: argparse.Namespace) -> int:
        from warpjet.bench.load.command import bench_serve

        return bench_serve(args)

    parser.set_defaults(run=run)


def _fill_sim(parser: Parser) -> None:
    from warpjet._native import SimConfig

    fields = [field for field in SimConfig.__fields__ if field.name != "replicas"]
    parser.add_argument(
        "--replicas",
        type=_replicas,
        dest="simulation.replicas",
        default=argparse.SUPPRESS,
        metavar="N|auto",
        help="engines; auto searches the smallest number that meets the target (default: 1)",
    )
    parser.add_argument("--model", metavar="DIR", help="checkpoint or engine to take size and KV cache from")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--output", metavar="FILE", help="write that JSON to this file too")
    parser.add_argument("--plot", metavar="FILE", help="draw latencies, queues and throughput (needs matplotlib)")
    add_fields(parser, "simulation", fields)

    def run(args: argparse.Namespace) -> int:
        from warpjet.commands.sim import sim

        return sim(given(args, "simulation"), args.model, args.json, args.output, args.plot)

    parser.set_defaults(run=run)


def _replicas(text: str) -> int:
    return 0 if text == "auto" else whole_number(text)


# --- The model's flags -----------------------------------------------------------------------------------------------

_MODEL_HELP = (
    "checkpoint or engine directory, or org/name[@revision] in the local Hugging Face cache (default: the embedded "
    "model)"
)


def _add_model_flags(parser: Parser, settings: Collection[str] | None) -> None:
    """--model, the engine's fields, and of the server's settings these and those of the log (None: all)."""
    from warpjet.serve.flags import add_flags

    parser.add_argument("--model", dest="server.model", default=argparse.SUPPRESS, metavar="MODEL", help=_MODEL_HELP)
    # On a terminal, --seed is the request's; it has the same use.
    only = None if settings is None else {*settings, "log_level", "disable_log_stats"}
    add_flags(parser, only, without=("seed",) if parser.prog.split()[-1] in ("generate", "chat") else ())


def _add_sampling_flags(parser: Parser, defaults: dict[str, str]) -> None:
    """`defaults` are what help shows for this command's own."""
    from warpjet._native import SamplingParams

    fields = [field for field in SamplingParams.__fields__ if field.name not in _NO_FLAG]
    recommended = {
        field.name: f"the checkpoint's, or {default_text(field.default)}"
        for field in fields
        if field.name in _RECOMMENDED
    }
    add_fields(parser, "sampling", fields, recommended | defaults)


def _given_names(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of the model and its flags, by name."""
    from warpjet.serve.flags import given_flags

    names = given_flags(vars(args))
    if (model := getattr(args, "model_tag", None)) is not None:
        if names.get("model", model) != model:
            raise ValueError(f"two models are given: {model} and --model {names['model']}")
        names["model"] = model
    return names


def _names_model(args: argparse.Namespace) -> bool:
    return any(name in vars(args) for name in ("server.model", "other.model_path", "other.model_id"))


def _plan(args: argparse.Namespace) -> "Plan":
    """What the flags say; the log begins. Other engines' names of ours are taken, with a notice."""
    from warpjet.common.log import start_log
    from warpjet.serve.flags import plan

    configuration = plan(_given_names(args))
    start_log(configuration.settings.log_level, "warning")
    for notice in configuration.notices:
        print(f"warpjet: {notice}", file=sys.stderr)
    return configuration


class _Command(NamedTuple):
    help: str
    usage: str
    fill: Callable[[Parser], None]


_COMMANDS = {
    "generate": _Command("complete prompts", "[MODEL] [PROMPT ...] [flags]", _fill_generate),
    "chat": _Command("talk with a model in the terminal", "[MODEL] [flags]", _fill_chat),
    "build": _Command("compile a checkpoint into an engine directory", "CHECKPOINT -o ENGINE [flags]", _fill_build),
    "info": _Command(
        "show what a model is and what a step of it costs, without loading it", "[MODEL] [flags]", _fill_info
    ),
    "doctor": _Command("show what of this machine warpjet can use", "", _fill_doctor),
    "serve": _Command("serve a model over HTTP, with OpenAI's API", "[MODEL] [flags]", _fill_serve),
    "run-batch": _Command(
        "answer a file of requests, in the form of OpenAI's batch API", "[MODEL] -i IN -o OUT [flags]", _fill_run_batch
    ),
    "bench": _Command("measure", "WHAT [flags]", _fill_bench),
    "sim": _Command("simulate a load on many engines, and how many GPUs it needs", "[flags]", _fill_sim),
}
