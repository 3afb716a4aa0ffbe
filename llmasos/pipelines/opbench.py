"""How fast the ops of a back end are beside the reference, on the shapes of a GPT-2 layer: ``llmasos backend bench``.

Both sides get the same inputs and are timed in turns, so that what slows the machine down slows down both; a short pause
before each sample lets the threads of the other side go to sleep. Weights are many copies that are gone through one after the
other, as the layers of a model are: one copy would stay in the cache.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llmasos.contracts.model import DTypeName
from llmasos.contracts.runtime import AttentionLayout, OpCallable, OpName, PackedWeight
from llmasos.errors import UsageError
from llmasos.pipelines.backends import placed
from llmasos.pipelines.binding import REFERENCE, bind_ops, offered_ops
from llmasos.pipelines.bound import BoundOps

if TYPE_CHECKING:
    from torch import Tensor

    from llmasos.contracts.evaluation import Progress
    from llmasos.kernel.hub import KernelHub

#: Width of a head and tokens of the vocabulary in GPT-2 (Radford et al. 2019).
HEAD, VOCABULARY = 64, 50257
#: Tokens of the cache that each sequence of a decode step attends to, and the most sequences: their cache is in memory once.
CONTEXT, MOST_SEQUENCES = 512, 64
#: Bytes of weights to go through before one is read again, and the most copies.
COLD, MOST_COPIES = 512 << 20, 256
#: Seconds that a sample of one side should last, so that the clock and what surrounds a call do not count.
SAMPLE = 0.002
#: Seconds between two samples: after a call the threads of a pool look out for more work for a while, and would take the
#: processor from those of the other side.
PAUSE = 0.01
#: Samples of each side, whatever the time.
ROUNDS = 3
#: Bytes read to measure the bandwidth of the memory.
BUFFER = 256 << 20


@dataclass(frozen=True, slots=True)
class Timing:
    """One op on one shape. Times are medians in microseconds; ``ratio`` is how many times faster than the reference.

    ``gflops`` counts a multiplication and an addition as two; ``gb_s`` counts what must be read and written at least once.
    """

    op: OpName
    shape: str
    rows: int
    provider: str
    packed: bool
    microseconds: float
    reference_microseconds: float
    ratio: float
    gflops: float | None
    gb_s: float


@dataclass(frozen=True, slots=True)
class _Work:
    """Calls of one op: argument tuples to go through, for its provider and for the reference."""

    own: Sequence[tuple[Any, ...]]
    reference: Sequence[tuple[Any, ...]]
    #: Per call of the provider: floating-point operations, 0 where they do not matter, and bytes.
    flops: float
    moved: float


@dataclass(frozen=True, slots=True)
class _Group:
    """One op on one kind of shape, for several numbers of rows."""

    op: OpName
    shape: str
    rows: Sequence[int]
    make: Callable[[int], _Work]


def bench_backend(
    hub: KernelHub,
    name: str | None,
    device: str,
    dtype: str,
    *,
    rows: Sequence[int] = (1, 8, 64, 512),
    width: int = 768,
    seconds: float = 0.25,
    cold: int = COLD,
    vocabulary: int = VOCABULARY,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time every op of a back end that has passed its check. ``seconds`` is spent on each op and shape.

    ``rows`` are tokens; in a decode step, sequences. Raises what ``placed`` raises, and UsageError for a width that is no
    multiple of the width of a head.
    """
    import torch

    if width < HEAD or width % HEAD:
        raise UsageError(f"a width of {width} cannot be cut into heads", hint=f"take a multiple of {HEAD}")
    full, where, precision = placed(hub, name, device, dtype)
    load, cpus = _load(), os.cpu_count() or 1
    if progress is not None:
        if load is not None and load > cpus / 2:
            progress.warn(f"the machine is busy (load {load:.1f} on {cpus} CPUs): the figures say little")
        progress.phase("binding the ops and measuring the memory")
    bound = bind_ops(hub, full, where, precision)
    offered = offered_ops(hub)
    bandwidth = read_bandwidth(where)
    timings: list[Timing] = []
    inputs = _Inputs(where, precision, bound, cold)
    with torch.inference_mode():
        for group in _groups(inputs, sorted(set(rows)), width, vocabulary):
            if progress is not None and group.rows:
                progress.phase(f"timing {group.op} {group.shape}", len(group.rows))
            reference = cast(OpCallable, hub.get("kernel_op", offered[REFERENCE, group.op][1]))
            for count in group.rows:
                timings.append(_timing(group, count, bound, reference, where, seconds))
                if progress is not None:
                    progress.advance()
            # Before the next one takes its memory.
            del group
    return {
        "name": full,
        "device": where,
        "dtype": precision,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": load,
        "width": width,
        "read_bandwidth_gb_s": bandwidth / 1e9,
        "refused": bound.refused,
        "timings": timings,
    }


def _load() -> float | None:
    """Processes that wanted a CPU in the last minute, on average, where the system counts them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _timing(
    group: _Group, count: int, bound: BoundOps, reference: OpCallable, device: str, seconds: float
) -> Timing:
    work = group.make(count)
    own = _Side(getattr(bound, group.op), work.own, device)
    mine, theirs = _in_turns(own, _Side(reference, work.reference, device), seconds)
    return Timing(
        op=group.op,
        shape=group.shape,
        rows=count,
        provider=bound.providers[group.op],
        packed=any(isinstance(argument, PackedWeight) for argument in work.own[0]),
        microseconds=mine * 1e6,
        reference_microseconds=theirs * 1e6,
        ratio=theirs / mine,
        gflops=work.flops / mine / 1e9 if work.flops else None,
        gb_s=work.moved / mine / 1e9,
    )


def read_bandwidth(device: str, size: int = BUFFER) -> float:
    """Bytes a second that plain torch reads from memory: the best of some passes over one large buffer."""
    import torch

    buffer = torch.ones(size // 4, device=device)
    passes: tuple[Callable[[], Tensor], ...] = (
        lambda: torch.sum(buffer),
        lambda: torch.dot(buffer, buffer),
    )
    best = math.inf
    for work in passes:
        for _ in range(4):
            started = time.perf_counter()
            work()
            _wait(device)
            best = min(best, time.perf_counter() - started)
    return float(buffer.nbytes / best)


def _wait(device: str) -> None:
    """Until the device has done what it was given; a CPU has."""
    import torch

    if not device.startswith("cpu"):
        torch.accelerator.synchronize()


class _Side:
    """Calls one op on one argument tuple after the other."""

    def __init__(self, call: OpCallable, arguments: Sequence[tuple[Any, ...]], device: str) -> None:
        self._call = call
        self._arguments = arguments
        self._device = device
        self._next = 0
        self.samples: list[float] = []
        # The first call is slower; it also says how many are long enough to be timed.
        self._count = 1
        once = self._timed()
        if once < SAMPLE:
            self._count = min(max(math.ceil(SAMPLE / max(self._timed(), 1e-7)), 1), 10_000)

    def _timed(self) -> float:
        """Seconds a call, over one sample."""
        call, arguments, place = self._call, self._arguments, self._next
        started = time.perf_counter()
        for _ in range(self._count):
            call(*arguments[place])
            place = (place + 1) % len(arguments)
        _wait(self._device)
        spent = time.perf_counter() - started
        self._next = place
        return spent / self._count

    def sample(self) -> None:
        """Time one sample, once the other side is quiet and this one's threads are awake."""
        time.sleep(PAUSE)
        if self._count > 1:
            self._call(*self._arguments[self._next])
        self.samples.append(self._timed())


def _in_turns(own: _Side, reference: _Side, seconds: float) -> tuple[float, float]:
    """Median seconds a call of both, sampled in turns."""
    deadline = time.perf_counter() + seconds
    while len(own.samples) < ROUNDS or time.perf_counter() < deadline:
        own.sample()
        reference.sample()
    return statistics.median(own.samples), statistics.median(reference.samples)


class _Inputs:
    """Random inputs of unit scale, and weights in as many copies as stay out of the cache."""

    def __init__(self, device: str, dtype: DTypeName, bound: BoundOps, cold: int) -> None:
        import torch

        self.kind: torch.dtype = getattr(torch, dtype)
        self.device = device
        self.size: int = self.kind.itemsize
        self._bound = bound
        self._cold = cold
        self._generator = torch.Generator().manual_seed(20261122)

    def random(self, *shape: int) -> Tensor:
        import torch

        return torch.randn(*shape, generator=self._generator).to(device=self.device, dtype=self.kind)

    def integers(self, high: int, count: int) -> Tensor:
        import torch

        return torch.randint(0, high, (count,), generator=self._generator).to(self.device)

    def weights(
        self, outputs: int, inputs: int, *, lookup: bool = False, copies: bool = True
    ) -> tuple[list[Any], list[Tensor]]:
        """Matrices [O, I] as the back end packs them, and as they are."""
        first: Tensor = self.random(outputs, inputs) / math.sqrt(inputs)
        count = min(max(self._cold // first.nbytes, 1), MOST_COPIES) if copies else 1
        plain = [first, *(first.clone() for _ in range(count - 1))]
        return [self._bound.pack(matrix, lookup) for matrix in plain], plain


def _groups(inputs: _Inputs, rows: Sequence[int], width: int, vocabulary: int) -> Iterator[_Group]:
    yield _embedding(inputs, rows, width, vocabulary)
    yield from _pointwise(inputs, rows, width)
    for outputs, inner in ((width, width), (4 * width, width), (width, 4 * width)):
        yield _linear(inputs, rows, outputs, inner)
    yield _prefill(inputs, [count for count in rows if count > 1], width)
    yield _decode(inputs, [count for count in rows if count <= MOST_SEQUENCES], width)
    yield _head(inputs, rows, width, vocabulary)


def _same(arguments: tuple[Any, ...], flops: float, moved: float) -> _Work:
    return _Work([arguments], [arguments], flops, moved)


def _embedding(inputs: _Inputs, rows: Sequence[int], width: int, vocabulary: int) -> _Group:
    packed, plain = inputs.weights(vocabulary, width, lookup=True, copies=False)

    def make(n: int) -> _Work:
        # Other rows each time, or they would be in the cache.
        ids = [inputs.integers(vocabulary, n) for _ in range(16)]
        moved = 2 * n * width * inputs.size
        return _Work([(i, packed[0]) for i in ids], [(i, plain[0]) for i in ids], 0, moved)

    return _Group("embedding", f"{vocabulary} x {width}", rows, make)


def _pointwise(inputs: _Inputs, rows: Sequence[int], width: int) -> Iterator[_Group]:
    import torch

    wide, heads = 4 * width, width // HEAD
    weight, bias = inputs.random(width), inputs.random(width)

    def passes(n: int, columns: int, count: int) -> float:
        return count * n * columns * inputs.size

    def rotary(n: int) -> _Work:
        angles = torch.rand(n, HEAD // 2, device=inputs.device)
        moved = passes(n, width, 2) + 2 * angles.nbytes
        return _same((inputs.random(n, heads, HEAD), angles.cos(), angles.sin()), 0, moved)

    yield _Group(
        "layer_norm",
        f"{width}",
        rows,
        lambda n: _same((inputs.random(n, width), weight, bias, 1e-5), 0, passes(n, width, 2)),
    )
    yield _Group(
        "rms_norm",
        f"{width}",
        rows,
        lambda n: _same((inputs.random(n, width), weight, 1e-5), 0, passes(n, width, 2)),
    )
    yield _Group("rotary", f"{heads} x {HEAD}", rows, rotary)
    yield _Group(
        "activation",
        f"gelu_new {wide}",
        rows,
        lambda n: _same((inputs.random(n, wide), "gelu_new"), 0, passes(n, wide, 2)),
    )
    yield _Group(
        "gated_activation",
        f"silu {wide}",
        rows,
        lambda n: _same((inputs.random(n, wide), inputs.random(n, wide), "silu"), 0, passes(n, wide, 3)),
    )


def _linear(inputs: _Inputs, rows: Sequence[int], outputs: int, inner: int) -> _Group:
    packed, plain = inputs.weights(outputs, inner)
    bias = inputs.random(outputs)

    def make(n: int) -> _Work:
        x = inputs.random(n, inner)
        moved = packed[0].nbytes + n * (inner + outputs) * inputs.size
        return _Work(
            [(x, w, bias) for w in packed], [(x, w, bias) for w in plain], 2 * n * inner * outputs, moved
        )

    return _Group("linear", f"{inner} -> {outputs}", rows, make)


def _prefill(inputs: _Inputs, rows: Sequence[int], width: int) -> _Group:
    heads = width // HEAD

    def make(n: int) -> _Work:
        q, k, v = (inputs.random(n, heads, HEAD) for _ in range(3))
        layout = AttentionLayout((0, n), (0, n), causal=True)
        return _same((q, k, v, layout, HEAD**-0.5), 2 * width * n * (n + 1), 4 * n * width * inputs.size)

    return _Group("attention", f"prefill {heads} x {HEAD}", rows, make)


def _decode(inputs: _Inputs, rows: Sequence[int], width: int) -> _Group:
    """One token of each sequence; its keys are in the cache, in slots with room to grow."""
    heads, slot = width // HEAD, CONTEXT + CONTEXT // 8
    most = max(rows, default=0)
    keys, values = inputs.random(most * slot, heads, HEAD), inputs.random(most * slot, heads, HEAD)

    def make(n: int) -> _Work:
        layout = AttentionLayout(
            tuple(range(n + 1)), tuple(i * slot for i in range(n)), causal=True, k_lengths=(CONTEXT,) * n
        )
        moved = 2 * n * (CONTEXT + 1) * width * inputs.size
        return _same(
            (inputs.random(n, heads, HEAD), keys, values, layout, HEAD**-0.5), 4 * n * CONTEXT * width, moved
        )

    return _Group("attention", f"decode {heads} x {HEAD}, {CONTEXT} cached", rows, make)


def _head(inputs: _Inputs, rows: Sequence[int], width: int, vocabulary: int) -> _Group:
    packed, plain = inputs.weights(vocabulary, width, copies=False)

    def make(n: int) -> _Work:
        x, targets = inputs.random(n, width), inputs.integers(vocabulary, n)
        moved = packed[0].nbytes + n * width * inputs.size
        return _Work(
            [(x, packed[0], None, targets)], [(x, plain[0], None, targets)], 2 * n * width * vocabulary, moved
        )

    return _Group("token_logprobs", f"{width} -> {vocabulary}", rows, make)
