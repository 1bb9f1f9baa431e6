"""Text on a terminal: generate, chat and build."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from warpjet._native import SamplingParams, build_peak_rss_bound
from warpjet.building import build
from warpjet.llm import LLM
from warpjet.outputs import RequestOutput
from warpjet.tables import bytes_text

_MAX_TOKENS = 200


def generate(
    model: str | None, prompts: Sequence[str], echo: bool, sampling: Mapping[str, Any], engine: Mapping[str, Any]
) -> int:
    """Completes prompts: one streams as it comes, several are printed in order. Figures go to stderr."""
    texts = _read_prompts(prompts)
    with LLM(model, **engine) as llm:
        params = _params(llm, sampling)
        report = _Report()
        if len(texts) == 1 and params.n == 1:
            shown = texts[0] if echo else ""  # not before the request is accepted
            for output in report.watch(llm.stream(texts, params)):
                print(shown + output.outputs[0].text, end="", flush=True)
                shown = ""
                _check(output)
            print()
        else:
            _print_all(llm, texts, params, echo, report)
        print(report.line(), file=sys.stderr)
    return 0


def _print_all(llm: LLM, texts: Sequence[str], params: SamplingParams, echo: bool, report: "_Report") -> None:
    outputs: dict[str, RequestOutput] = {}
    for output in report.watch(llm.stream(texts, params.replace(output_kind="final_only"))):
        _check(output)
        outputs[output.request_id] = output
    for _, output in sorted(outputs.items(), key=lambda item: int(item[0])):
        for completion in output.outputs:
            print((output.prompt or "" if echo else "") + completion.text, end="\n\n")


def chat(model: str | None, system: str | None, sampling: Mapping[str, Any], engine: Mapping[str, Any]) -> int:
    """Reads a line, answers, until /exit or the end of input. Ctrl-C ends an answer, or the chat between answers."""
    interactive = sys.stdin.isatty()
    with LLM(model, **engine) as llm:
        params = _params(llm, sampling)
        start = [{"role": "system", "content": system}] if system else []
        messages = list(start)
        if interactive:
            import readline  # noqa: F401  line editing and history for input()

            print("Type a message. /reset forgets the conversation, /exit ends.", file=sys.stderr)
        for line in _lines(interactive):
            if line == "/exit":
                break
            if line == "/reset":
                messages = list(start)
            elif line.startswith("/"):
                print(f"unknown command {line}; there are /reset and /exit", file=sys.stderr)
            elif line:
                messages.append({"role": "user", "content": line})
                if (answer := _answer(llm, messages, params)) is None:
                    messages.pop()
                else:
                    messages.append({"role": "assistant", "content": answer})
    return 0


def _lines(interactive: bool) -> Iterator[str]:
    while True:
        try:
            yield input("> " if interactive else "").strip()
        except EOFError:
            return


def _answer(llm: LLM, messages: list[dict[str, str]], params: SamplingParams) -> str | None:
    """Prints the answer as it comes; None if there was none."""
    answer = ""
    report = _Report()
    try:
        for output in report.watch(llm.stream_chat(messages, params)):
            _check(output)
            answer += output.outputs[0].text
            print(output.outputs[0].text, end="", flush=True)
    except KeyboardInterrupt:
        pass  # the answer ends here; the conversation goes on
    except ValueError as error:
        print(f"warpjet: {error} (/reset starts anew)", file=sys.stderr)
        return None
    print()
    if sys.stdin.isatty():
        print(report.line(), file=sys.stderr)
    return answer


def build_engine(checkpoint: str, out: str, config: Mapping[str, Any]) -> int:
    """Builds with a progress bar and prints what it did."""
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    bound = build_peak_rss_bound()
    print(f"memory: at most {bytes_text(bound)}", file=sys.stderr)
    with tqdm(desc="weights", unit="B", unit_scale=True, unit_divisor=1024, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = build(checkpoint, out, progress=progress, **config)
    print(f"{out}: {bytes_text(report.weight_bytes)} of {report.scheme} weights in {report.seconds:.1f} s")
    return 0


def _params(llm: LLM, sampling: Mapping[str, Any]) -> SamplingParams:
    """The checkpoint's recommendation, changed by flags."""
    max_tokens = min(_MAX_TOKENS, llm.get_model_info().max_model_len)
    return llm.get_default_sampling_params().replace(**{"max_tokens": max_tokens, "output_kind": "delta", **sampling})


def _read_prompts(prompts: Sequence[str]) -> list[str]:
    if not prompts and sys.stdin.isatty():
        raise ValueError('no prompt; try: warpjet generate "Once upon a time"')
    return [sys.stdin.read() if prompt == "-" else prompt for prompt in prompts or ["-"]]


def _check(output: RequestOutput) -> None:
    if output.error:
        raise RuntimeError(output.error)


class _Report:
    """Counts tokens and takes the time of a stream of deltas or finals."""

    def __init__(self) -> None:
        self._tokens = 0
        self._start = self._end = time.perf_counter()
        self._first: float | None = None

    def watch(self, stream: Iterator[RequestOutput]) -> Iterator[RequestOutput]:
        self._start = time.perf_counter()
        for output in stream:
            self._end = time.perf_counter()
            self._tokens += sum(len(completion.token_ids) for completion in output.outputs)
            if self._first is None and output.metrics.ttft_ms > 0:
                self._first = output.metrics.ttft_ms
            yield output

    def line(self) -> str:
        seconds = max(self._end - self._start, 1e-9)
        first = "" if self._first is None else f", first after {self._first:.0f} ms"
        return f"[{self._tokens} tokens, {self._tokens / seconds:.0f} tok/s{first}]"
