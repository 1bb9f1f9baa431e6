"""Text on a terminal: generate and build."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from warpjet._native import SamplingParams, build_peak_rss_bound
from warpjet.common.tables import bytes_text
from warpjet.llm import LLM
from warpjet.requests.building import build
from warpjet.requests.locate import find_model
from warpjet.requests.outputs import RequestOutput

if TYPE_CHECKING:
    from warpjet.serve.flags import Plan

_MAX_TOKENS = 256

# Fields that draw, or shape what is drawn: beam search takes none of them.
_DRAWING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


def generate(plan: "Plan", prompts: Sequence[str], echo: bool | None, sampling: Mapping[str, Any]) -> int:
    """Completes prompts: one streams as it comes, several are printed in order. Figures go to stderr. Prompts are
    printed too where `echo` says so, by default on a terminal."""
    texts = _read_prompts(prompts)
    echo = sys.stdout.isatty() if echo is None else echo
    with open_llm(plan) as llm:
        params = sampling_params(llm, {"max_tokens": _MAX_TOKENS}, sampling)
        report = Report()
        try:
            if len(texts) == 1 and params.n == 1:
                _print_stream(llm, texts[0], params, echo, report)
            else:
                _print_all(llm, texts, params, echo, report)
        except KeyboardInterrupt:
            print()  # the shell's prompt begins a line of its own
            raise
        print(report.line(), file=sys.stderr)
    return 0


def open_llm(plan: "Plan") -> LLM:
    """The model that the flags of a command name."""
    settings = plan.settings
    return LLM(
        plan.model,
        tokenizer=settings.tokenizer,
        chat_template=settings.chat_template,
        generation_config=settings.generation_config,
        **plan.engine,
    )


def sampling_params(llm: LLM, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> SamplingParams:
    """What the user gave, else what the checkpoint recommends, else `defaults`. Beam search leaves out what the
    checkpoint recommends for drawing."""
    neutral, recommended = SamplingParams(), llm.get_default_sampling_params()
    limit = llm.get_model_info().max_model_len
    unnamed = {name: getattr(neutral, name) for name in _DRAWING} | {"max_tokens": limit}
    names_none = all(getattr(recommended, name) == unnamed[name] for name in _DRAWING)
    own = {
        name: value
        for name, value in defaults.items()
        if (getattr(recommended, name) == unnamed["max_tokens"] if name == "max_tokens" else names_none)
    }
    if given.get("beam_width", 1) > 1:
        own |= {name: getattr(neutral, name) for name in _DRAWING}
    if isinstance(tokens := own.get("max_tokens"), int):
        own["max_tokens"] = min(tokens, limit)
    return recommended.replace(**{"output_kind": "delta", **own, **given})


def _print_stream(llm: LLM, text: str, params: SamplingParams, echo: bool, report: "Report") -> None:
    shown = text if echo else ""  # not before the request is accepted
    for output in report.watch(llm.stream(text, params)):
        print(shown + output.outputs[0].text, end="", flush=True)
        shown = ""
        check(output)
    print()


def _print_all(llm: LLM, texts: Sequence[str], params: SamplingParams, echo: bool, report: "Report") -> None:
    outputs: dict[str, RequestOutput] = {}
    for output in report.watch(llm.stream(texts, params.replace(output_kind="final_only"))):
        check(output)
        outputs[output.request_id] = output
    for _, output in sorted(outputs.items(), key=lambda item: int(item[0])):
        for completion in output.outputs:
            print((output.prompt or "" if echo else "") + completion.text, end="\n\n")


def build_engine(checkpoint: str, out: str, config: Mapping[str, Any]) -> int:
    """Builds with a progress bar and prints what it did."""
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    find_model(checkpoint)
    print(f"memory: at most {bytes_text(build_peak_rss_bound())}", file=sys.stderr)
    with tqdm(desc="weights", unit="B", unit_scale=True, unit_divisor=1024, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = build(checkpoint, out, progress=progress, **config)
    print(f"{out}: {bytes_text(report.weight_bytes)} of {report.scheme} weights in {report.seconds:.1f} s")
    return 0


def _read_prompts(prompts: Sequence[str]) -> list[str]:
    if not prompts and sys.stdin.isatty():
        raise ValueError('no prompt; try: warpjet generate "Once upon a time"')
    return [_read_stdin() if prompt == "-" else _utf8(prompt) for prompt in prompts or ["-"]]


def _read_stdin() -> str:
    """Standard input without its last line's end, which an editor or echo adds."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompt on standard input is not UTF-8: byte {error.start} cannot be read") from None
    return text.removesuffix("\n").removesuffix("\r")


def _utf8(prompt: str) -> str:
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the prompt is not UTF-8; what is the encoding of your terminal?") from None
    return prompt


def check(output: RequestOutput) -> None:
    """Raises RuntimeError for a request that failed while it ran."""
    if output.error:
        raise RuntimeError(output.error)


class Report:
    """Counts tokens and takes the time of a stream of deltas or finals."""

    def __init__(self) -> None:
        self._tokens = 0
        self._start = self._end = time.perf_counter()
        self._first: float | None = None

    def watch(self, stream: Iterator[RequestOutput]) -> Iterator[RequestOutput]:
        """The same stream, counted."""
        self._start = time.perf_counter()
        for output in stream:
            self._end = time.perf_counter()
            self._tokens += sum(len(completion.token_ids) for completion in output.outputs)
            if self._first is None and output.metrics.ttft_ms > 0:
                self._first = output.metrics.ttft_ms
            yield output

    def line(self) -> str:
        """Tokens, their rate and the time to the first one."""
        seconds = max(self._end - self._start, 1e-9)
        first = "" if self._first is None else f", first after {self._first:.0f} ms"
        return f"[{self._tokens} tokens, {self._tokens / seconds:.0f} tok/s{first}]"
