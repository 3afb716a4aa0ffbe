"""Native attention beside torch's, and where the time of a decoding step goes.

    python benchmarks/cpu_attention.py [--threads 1] [--seconds 0.3]

Prints operations per second of packed sequences (queries of unit scale, fp32 and bf16), microseconds and bytes per second of
decoding, each beside scaled_dot_product_attention in the same round, medians of rounds that take turns. The largest
difference from float64 stands beside every figure, so that none is of a wrong result.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from llmasos.api import AttentionLayout
from llmasos_cpu.library import Absence, Library, library
from llmasos_cpu.structures import FilledLayout, attention_call

ROUNDS = 7


def in_turns(functions: list[Callable[[], object]], seconds: float) -> list[float]:
    """Median seconds a call of each, from rounds in which they take turns."""
    samples: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(ROUNDS):
        for function, found in zip(functions, samples, strict=True):
            calls, begin = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - begin) < seconds / ROUNDS:
                function()
                calls += 1
            found.append(elapsed / calls)
    return [statistics.median(found) for found in samples]


def batched(x: Tensor, sequences: int) -> Tensor:
    """Packed [N, H, E] of equal lengths as [B, H, n, E]."""
    return x.unflatten(0, (sequences, -1)).transpose(1, 2)


def measure(
    native: Library, q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, used: int, seconds: float
) -> tuple[float, float, float]:
    """(seconds of ours, of torch's, largest difference of ours from float64); ``used`` keys of each row of k count."""
    sequences, grouped = len(layout.q_starts) - 1, q.shape[1] != k.shape[1]
    out, scale = torch.empty_like(q), q.shape[2] ** -0.5
    filled, call = FilledLayout(layout), attention_call(out, q, k, v, scale)
    pointers = ctypes.byref(call), ctypes.byref(filled.struct)
    queries, keys, values = (batched(x, sequences) for x in (q, k, v))
    keys, values = keys[:, :, :used], values[:, :, :used]
    causal = layout.causal and queries.shape[2] > 1

    def ours() -> None:
        if native.functions.llmc_attention(*pointers):
            raise RuntimeError("attention was refused")

    def theirs() -> Tensor:
        return F.scaled_dot_product_attention(
            queries, keys, values, is_causal=causal, scale=scale, enable_gqa=grouped
        )

    times = in_turns([ours, theirs], seconds)
    exact = F.scaled_dot_product_attention(
        queries.double(), keys.double(), values.double(), is_causal=causal, scale=scale, enable_gqa=grouped
    )
    wrong = (batched(out, sequences).double() - exact).abs().max().item()
    return times[0], times[1], wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    options = parser.parse_args()
    native = library()
    if isinstance(native, Absence):
        raise SystemExit(native.detail)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    if native.functions.llmc_set_threads(options.threads):
        raise SystemExit(f"{options.threads} threads are refused")
    print(f"{native.isa}, {options.threads} threads, torch {torch.__version__}")
    print("shape                          mask    type   ours GF/s  torch GF/s  ratio  difference")
    for sequences, length, heads, key_heads in ((4, 256, 12, 12), (1, 1024, 12, 12), (8, 100, 9, 3)):
        edges = tuple(range(0, sequences * length + 1, length))
        for causal in (True, False):
            for dtype in (torch.float32, torch.bfloat16):
                q, k, v = (torch.randn(edges[-1], h, 64).to(dtype) for h in (heads, key_heads, key_heads))
                layout = AttentionLayout(edges, edges, causal)
                ours, theirs, wrong = measure(native, q, k, v, layout, length, options.seconds)
                pairs = length * (length + 1) / 2 if causal else length**2
                work = 4 * 64 * sequences * heads * pairs / 1e9
                name = f"{sequences} x {length}, {heads}/{key_heads} heads of 64"
                print(
                    f"{name:30} {'causal' if causal else 'full':7} {str(dtype)[6:]:8} {work / ours:7.0f} "
                    f"{work / theirs:10.0f} {theirs / ours:8.2f}  {wrong:.1e}"
                )
    print("decoding                               type      ours us   torch us  ratio  ours GB/s  difference")
    for sequences, length, heads, key_heads in (
        (1, 192, 12, 12),
        (8, 192, 12, 12),
        (1, 192, 9, 3),
        (8, 192, 9, 3),
        (1, 2000, 9, 3),
    ):
        room = length + 64
        layout = AttentionLayout(
            tuple(range(sequences + 1)), tuple(range(0, sequences * room, room)), True, (length,) * sequences
        )
        for dtype in (torch.float32, torch.bfloat16):
            q = torch.randn(sequences, heads, 64).to(dtype)
            k, v = (torch.randn(sequences * room, key_heads, 64).to(dtype) for _ in range(2))
            ours, theirs, wrong = measure(native, q, k, v, layout, length, options.seconds)
            read = 2 * sequences * length * key_heads * 64 * k.element_size()
            name = f"{sequences} x {length} keys, {heads}/{key_heads} heads of 64"
            print(
                f"{name:38} {str(dtype)[6:]:8} {ours * 1e6:8.1f} {theirs * 1e6:10.1f} {theirs / ours:6.2f} "
                f"{read / ours / 1e9:10.1f}  {wrong:.1e}"
            )


if __name__ == "__main__":
    main()
