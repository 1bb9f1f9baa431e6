"""Warpjet and llama.cpp on the same cores, the same weights, one request at a time, in turns.

python bench/llama_cpp.py MODEL FILE.gguf [--threads N] [--rounds N] [--output FILE]      needs xllamacpp beside warpjet

MODEL is a Hugging Face directory and FILE.gguf the same weights in the same type. In every round each engine starts
in a process of its own, warms up and is timed; the other one is not there meanwhile. llama.cpp's times are those that
its server reports, without HTTP and JSON; ours are those of generate() by the wall clock. Medians over rounds."""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import time
from pathlib import Path

from warpjet.bench.records import circumstances, write_record


def prompt(length: int, vocab: int) -> list[int]:
    return [random.Random(1).randrange(1000, vocab) for _ in range(length)]


def warpjet_rates(args: argparse.Namespace) -> dict[str, float]:
    """Prompt and output tokens a second."""
    import warpjet

    ids = prompt(args.input_len, args.vocab)
    options = {"device": "cpu", "num_threads": args.threads, "max_model_len": args.input_len + args.output_len + 64}
    with warpjet.LLM(args.model, enable_prefix_caching=False, **options) as llm:

        def seconds(tokens: int) -> float:
            params = warpjet.SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
            start = time.perf_counter()
            output = llm.generate({"prompt_token_ids": ids}, params, use_tqdm=False)[0]
            assert len(output.outputs[0].token_ids) == tokens
            return time.perf_counter() - start

        seconds(args.output_len)
        first = statistics.median(seconds(1) for _ in range(3))
        rest = seconds(args.output_len) - first
    return {"prefill": args.input_len / first, "decode": (args.output_len - 1) / rest}


def llama_cpp_rates(args: argparse.Namespace) -> dict[str, float]:
    """Prompt and output tokens a second."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(args.gguf)
    params.n_ctx, params.n_parallel = args.input_len + args.output_len + 64, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    server = xllamacpp.Server(params)
    ids = prompt(args.input_len, args.vocab)

    def timings(tokens: int) -> dict[str, float]:
        wishes = {"n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        times: dict[str, float] = server.handle_completions({"prompt": ids, **wishes})["timings"]
        assert times["prompt_n"] == args.input_len and times["predicted_n"] == tokens
        return times

    timings(args.output_len)
    first = statistics.median(timings(1)["prompt_ms"] for _ in range(3))
    return {"prefill": args.input_len / first * 1e3, "decode": timings(args.output_len)["predicted_per_second"]}


ENGINES = {"warpjet": warpjet_rates, "llama.cpp": llama_cpp_rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--input-len", type=int, default=256)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=40000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
    for _ in range(args.rounds):
        for name, rates in ENGINES.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                runs[name].append(pool.apply(rates, (args,)))
    results: dict[str, float] = {}
    for phase in ("prefill", "decode"):
        median = {name: statistics.median(run[phase] for run in runs[name]) for name in ENGINES}
        results |= {f"{name}_{phase}_tokens_per_s": round(rate, 1) for name, rate in median.items()}
        results[f"{phase}_ratio"] = round(median["warpjet"] / median["llama.cpp"], 3)

    import xllamacpp

    import warpjet

    record = circumstances() | {
        "bench": "llama_cpp",
        "command": f"python bench/llama_cpp.py {args.model.name} {args.gguf.name} --rounds {args.rounds}",
        "model": args.model.name,
        "gguf": args.gguf.name,
        "workload": {"requests": 1, "input_len": args.input_len, "output_len": args.output_len},
        "results": results,
        "versions": {"warpjet": warpjet.__version__, "xllamacpp": xllamacpp.__version__},
        "threads": args.threads,
    }
    print(json.dumps(record))
    if args.output:
        write_record(args.output, record)


if __name__ == "__main__":
    main()
