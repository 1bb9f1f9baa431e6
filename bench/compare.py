"""Warpjet and Hugging Face transformers on the same machine, model and workload: one request at a time, greedy.

python bench/compare.py [--model DIR] [--output FILE]      needs torch and transformers beside warpjet
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

import warpjet
from warpjet.bench.records import circumstances, write_record

TINY = Path(warpjet.__file__).parent / "models" / "tiny"


def median_rate(generate: Callable[[], int], repeats: int) -> float:
    """Tokens a second, the median after one warm-up."""
    generate()
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        tokens = generate()
        rates.append(tokens / (time.perf_counter() - start))
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--input-len", type=int, default=32)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    ids = [random.Random(1).randrange(10, 3000) for _ in range(args.input_len)]
    rates = {}

    with warpjet.LLM(args.model, enable_prefix_caching=False) as llm:
        params = warpjet.SamplingParams(temperature=0, max_tokens=args.output_len, ignore_eos=True, detokenize=False)

        def ours() -> int:
            output = llm.generate({"prompt_token_ids": ids}, params, use_tqdm=False)[0]
            return len(output.outputs[0].token_ids)

        rates["warpjet"] = median_rate(ours, args.repeats)

    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype="auto").eval()
    prompt = torch.tensor([ids])

    def theirs() -> int:
        lengths = {"max_new_tokens": args.output_len, "min_new_tokens": args.output_len}
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, **lengths)
        return out.shape[1] - prompt.shape[1]

    with torch.no_grad():
        rates["transformers"] = median_rate(theirs, args.repeats)

    record = circumstances() | {
        "bench": "compare",
        "command": "python bench/compare.py",
        "model": args.model.name,
        "workload": {"requests": 1, "input_len": args.input_len, "output_len": args.output_len},
        "results": {f"{name}_tokens_per_s": round(rate, 1) for name, rate in rates.items()}
        | {"ratio": round(rates["warpjet"] / rates["transformers"], 2)},
        "versions": {
            "warpjet": warpjet.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    print(json.dumps(record))
    if args.output:
        write_record(args.output, record)


if __name__ == "__main__":
    main()
