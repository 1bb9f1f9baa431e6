"""Write wgmma_table.cuh: one macro a width and form, because an instruction lists every accumulator by name.

python cuda/ptx/wgmma_table.py > cuda/ptx/wgmma_table.cuh
"""

import sys

WIDTHS = range(8, 257, 8)

HEADER = """\
// Written by wgmma_table.py. WJ_WGMMA_SS_n(type, tail) and WJ_WGMMA_RS_n(type, tail) are m64 n wgmma instructions with
// a from shared memory or from registers; `tail` is what follows the scales: the transpositions of 16-bit operands.
#pragma once

// clang-format off
"""


def instruction(form: str, n: int) -> str:
    count = n // 2
    d = ", ".join(f"%{i}" for i in range(count))
    registers = 1 if form == "SS" else 4
    a = f"%{count}" if form == "SS" else "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}"
    b, scale = f"%{count + registers}", f"%{count + registers + 1}"
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    inputs = '"l"(a)' if form == "SS" else ", ".join(f'"r"(a[{i}])' for i in range(4))
    return (
        f"#define WJ_WGMMA_{form}_{n}(type, tail) \\\n"
        f'  asm volatile("{{\\n.reg .pred scale;\\nsetp.ne.b32 scale, {scale}, 0;\\n" \\\n'
        f'               "wgmma.mma_async.sync.aligned.m64n{n}" type \\\n'
        f'               " {{{d}}}, {a}, {b}, scale, 1, 1" tail ";\\n}}" \\\n'
        f'               : {outputs} \\\n               : {inputs}, "l"(b), "r"(accumulate))\n'
    )


def switch(form: str) -> str:
    cases = " ".join(f"else if constexpr (n == {n}) WJ_WGMMA_{form}_{n}(type, tail);" for n in WIDTHS)
    return f"#define WJ_WGMMA_{form}(n, type, tail) {cases.removeprefix('else ')}\n"


if __name__ == "__main__":
    for piece in (HEADER, *(instruction(form, n) for form in ("SS", "RS") for n in WIDTHS), switch("SS"), switch("RS")):
        sys.stdout.write(piece + "\n")
    sys.stdout.write("// clang-format on\n")
