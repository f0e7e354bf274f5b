"""Compile the kernels as they are launched on real models, for one architecture, and print what came out as JSON.

Run by test_kernels_compile.py in a process of its own: in the tests' own one Triton interprets.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.offline import compile_for_amd, compile_offline
from benchmarks.ops.cases import Case
from benchmarks.shapes import AMD_MACHINES, MACHINES, operands
from dexar_fast.inputs.methods import FOCUS, METHODS
from dexar_fast.kernels.columns import attention_columns
from dexar_fast.kernels.few import score_and_accumulate
from dexar_fast.kernels.head_scores import head_scores
from dexar_fast.kernels.launch import Launch, Operands
from dexar_fast.kernels.maps import Out, accumulate_maps
from dexar_fast.kernels.row_dots import row_dots

# One dtype and width each for what differs least between them, so that the whole compiles in seconds.
CASES: list[tuple[str, int, str, dict[str, Any]]] = [
    ("gradient", 128, "bfloat16", {}),
    ("score_gradient", 128, "bfloat16", {}),
    ("attention", 64, "float16", {"softcap": 50.0, "gathered": True}),
    ("gradient", 256, "bfloat16", {}),
    ("contribution", 512, "float16", {}),
    ("gradient", 80, "float32", {"rows": (300, 212)}),
    ("every", 128, "bfloat16", {}),
    (FOCUS, 128, "bfloat16", {}),
]


def launches(signal: str, x: Operands) -> Iterator[tuple[str, Launch]]:
    """Every launch of a layer, by name."""
    maps, lse = torch.empty(x.T, x.N, device="meta"), torch.empty(x.T, x.H, device="meta")
    pairs = {
        "every": tuple(method.pairs[0] for method in METHODS.values() if method.filters_heads),
        FOCUS: METHODS[FOCUS].pairs,
    }.get(signal, ((signal, signal),))
    of_scores = tuple(dict.fromkeys(score_signal for score_signal, _ in pairs))
    yield from zip(("head scores", "combined scores"), head_scores(x, of_scores)[0])
    outs = [Out(map_signal, of_scores.index(score_signal), maps) for score_signal, map_signal in pairs]
    unfiltered = [Out(map_signal, -1, maps) for _, map_signal in pairs]
    token_sums = [(map_signal, torch.empty(x.B, x.H, x.N, device="meta")) for _, map_signal in pairs]
    weights = torch.empty(len(of_scores), x.T, x.H, device="meta")
    for name, wanted, sums in (
        ("maps", outs, []),
        ("unfiltered maps", outs + unfiltered, []),
        ("sums", outs, token_sums),
    ):
        yield name, accumulate_maps(x, wanted, weights, lse, sums)[0][0]
    if signal in ("gradient", "every", FOCUS) and x.B == 1:
        yield from zip(("written scores", "weighed"), score_and_accumulate(x, of_scores, outs)[0])
    if signal == "attention":
        yield "columns", attention_columns(x, lse)[0]
        yield "lse", head_scores(x, ())[0][0]
    if signal in ("score_gradient", "every", FOCUS):
        assert x.d_out is not None
        yield "row dots", row_dots(x.d_out, x.d_out)[0]


def main(target: str) -> None:
    """Of a compute capability, or of an architecture of AMD's."""
    amd = target in AMD_MACHINES
    machine = AMD_MACHINES[target] if amd else MACHINES[int(target)]
    results = []
    for signal, D, dtype, options in CASES:
        # Rows of one sample fill the GPU; those of two are few, so that their work is split.
        T = sum(options.get("rows", (2048,)))
        of_operands = "every" if signal == FOCUS else signal
        case = Case("", of_operands, "", T, H=28, H_kv=4, D=D, N=4096, K=6208, dtype=dtype)
        for name, launch in launches(signal, operands(case, machine, **options)):
            compiled = compile_for_amd(launch, target) if amd else compile_offline(launch, int(target))
            results.append(
                {
                    "name": f"{name}, {signal}, D = {D}, {dtype}",
                    "registers": compiled.registers,
                    "local": compiled.local,
                    "shared": compiled.shared,
                    "wgmma": "wgmma" in compiled.ptx,
                    "half": dtype != "float32",
                    "has_product": name not in ("combined scores", "row dots", "weighed"),
                }
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
