"""A small tree of tokens computed tile by tile, beside every one of its sequences by itself; used by the model checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llmasos.contracts.model import TreeLM, TreeTile
from llmasos.testing.conformance.sequences import hidden_alone, pack, sequences

if TYPE_CHECKING:
    from torch import Tensor

#: Positions that ``trials`` needs.
DEPTH = 16


def trials(model: TreeLM) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(what, scores in the tree, scores of the sequence alone); scores are [n, V].

    The tree: ``trunk`` (6 tokens); ``long`` (5) goes on from its end, ``twig`` (3) from the third token of ``long``; two
    leaves of 2 and 3 tokens, in one sequence with a mask, go on from the fourth token of the trunk.
    """
    import torch

    trunk, long, twig, one, other, last = sequences(model, [6, 5, 3, 2, 3, 4], seed=29)
    path = model.new_path(len(trunk) + len(long) + len(twig) + len(one) + len(other))
    whole = TreeTile(prefix=(0,), ancestors=((),), visible=(None,), keep=0, kept=((0, len(trunk)),))
    rows = model.hidden(replace(pack(model, [trunk]), tree=whole), path)
    yield "the first pass", model.logits(rows), _alone(model, trunk, len(trunk))

    forked = [[*one, *other]]
    leaf = torch.tensor([0] * len(one) + [1] * len(other))
    mask = (leaf[:, None] == leaf).tril()
    begins = [6, 9, 4]
    parts = [long, twig, *forked]
    edge = len(long) + len(twig)
    batch = pack(model, parts, begin=begins)
    # The positions of the second leaf begin where those of the first did.
    batch.positions[edge + len(one) :] -= len(one)
    tile = TreeTile(
        prefix=(6, 6, 4),
        ancestors=((), ((0, 3),), ()),
        visible=(None, None, mask.to(model.device)),
        keep=4,
        kept=((edge + len(one), edge + len(one) + len(other)),),
    )
    scores = model.logits(model.hidden(replace(batch, tree=tile), path))
    for what, begin, text, count in (
        ("what continues the path", 0, [*trunk, *long], len(long)),
        ("what continues a row of the same batch", len(long), [*trunk, *long[:3], *twig], len(twig)),
        ("the first leaf under a mask", edge, [*trunk[:4], *one], len(one)),
        ("the second leaf under a mask", edge + len(one), [*trunk[:4], *other], len(other)),
    ):
        yield what, scores[begin : begin + count], _alone(model, text, count)

    after = pack(model, [last], begin=[4 + len(other)])
    tile = TreeTile(
        prefix=(4 + len(other),), ancestors=((),), visible=(None,), keep=2, kept=((0, len(last)),)
    )
    rows = model.hidden(replace(after, tree=tile), path)
    yield "what continues the rows kept", model.logits(rows), _alone(model, [*trunk[:4], *other, *last], 4)

    path.rewind(2)
    wanted = torch.tensor([0, 2], device=model.device)
    tile = TreeTile(
        prefix=(2,), ancestors=((),), visible=(None,), keep=2, kept=((0, len(twig)),), wanted=wanted
    )
    rows = model.hidden(replace(pack(model, [twig], begin=[2]), tree=tile), path)
    expected = _alone(model, [*trunk[:2], *twig], len(twig))[wanted]
    yield "the rows wanted of what continues a path that was rewound", model.logits(rows), expected

    tile = replace(tile, prefix=(2 + len(twig),), keep=0, kept=(), wanted=wanted[:0])
    rows = model.hidden(replace(pack(model, [one], begin=[2 + len(twig)]), tree=tile), path)
    yield "no rows at all", model.logits(rows), expected[:0]


def _alone(model: TreeLM, tokens: Sequence[int], count: int) -> Tensor:
    return model.logits(hidden_alone(model, list(tokens))[-count:])
