"""Plans of attention: whatever the layout, each query meets each key that it may see once, and no other."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install 'llmasos[cuda]'")

import torch
from kernel_grid import layouts, visible_keys

from llmasos.api import AttentionLayout
from llmasos_cuda.plan import ITEM, AttentionPlan, Cut, make_plan

FORMS = list(layouts(thorough=True))


def planned(layout: AttentionLayout, group: int, few: Cut, many: Cut, room: int = 0) -> AttentionPlan:
    return make_plan(layout, group, few=few, many=many, device=torch.device("cpu"), room=room)


def met(plan: AttentionPlan, queries: int) -> tuple[list[list[int]], list[list[int]]]:
    """For each query the keys it meets, over all items, and the rows of parts it writes."""
    keys: list[list[int]] = [[] for _ in range(queries)]
    parts: list[list[int]] = [[] for _ in range(queries)]
    for item in plan.items.view(-1, ITEM).tolist():
        first, count, span, last, own, own_count, place, mask_at, mask_row, part = item
        for i in range(count):
            for at in range(span, last):
                keys[first + i] += range(*plan.spans[2 * at : 2 * at + 2].tolist())
            for j in range(own_count):
                shown = j <= place + i
                if shown and mask_at >= 0:
                    assert plan.mask is not None
                    shown = bool(plan.mask[mask_at + (place + i) * mask_row + j])
                if shown:
                    keys[first + i].append(own + j)
            parts[first + i].append(part + i)
    return keys, parts


def check(layout: AttentionLayout, plan: AttentionPlan, group: int) -> None:
    queries = layout.q_starts[-1]
    keys, parts = met(plan, queries)
    assert [sorted(one) for one in keys] == [sorted(one) for one in visible_keys(layout)]
    if plan.parts is None or plan.offsets is None:
        assert all(len(one) == 1 for one in parts)
        return
    offsets = plan.offsets.tolist()
    listed = [plan.parts[begin:end].tolist() for begin, end in pairwise(offsets)]
    assert [sorted(one) for one in listed[:queries]] == [sorted(one) for one in parts]
    assert not any(listed[queries:])
    written = [row for one in parts for row in one]
    assert len(set(written)) == len(written)
    assert max(written, default=0) < plan.part_rows
    assert max(item[1] for item in plan.items.view(-1, ITEM).tolist()) * group <= plan.rows


@pytest.mark.parametrize("group", [1, 4, 40])
@pytest.mark.parametrize(
    ("layout", "room"), [(form[1], form[3]) for form in FORMS], ids=[f[0] for f in FORMS]
)
def test_every_layout(layout: AttentionLayout, room: int, group: int) -> None:
    for few, many in ((Cut(16, 48), Cut(32, 96)), (Cut(16, 512), Cut(64, 2048))):
        check(layout, planned(layout, group, few, many, room), group)


def test_layouts_nobody_thought_of() -> None:
    draw = random.Random(7)
    for _ in range(60):
        counts = [draw.choice([0, 1, 1, 2, 5, 40]) for _ in range(draw.randint(1, 7))]
        starts = [0]
        for count in counts:
            starts.append(starts[-1] + count)
        common, base = draw.randint(0, 200), 400
        before, masks = [], []
        for count in counts:
            tail = draw.randint(200, 300)
            before.append(
                (
                    (0, common if draw.random() < 0.8 else draw.randint(0, 200)),
                    (tail, tail + draw.randint(0, 90)),
                )
            )
            mask = torch.rand(count, count).round().tril().bool() | torch.eye(count, dtype=torch.bool)
            masks.append(mask if draw.random() < 0.5 else None)
        layout = AttentionLayout(
            tuple(starts),
            tuple(base + start for start in starts[:-1]),
            True,
            before=tuple(before),
            visible=tuple(masks),
        )
        check(layout, planned(layout, draw.choice([1, 3]), Cut(16, 64), Cut(32, 128)), 1)


def test_what_sequences_share_is_read_once() -> None:
    layout = AttentionLayout(
        tuple(range(9)), tuple(range(5000, 5008)), True, before=(((0, 4096),),) * 8, visible=(None,) * 8
    )
    plan = planned(layout, 1, Cut(16, 512), Cut(64, 2048))
    spans = plan.spans.view(-1, 2).tolist()
    assert sum(end - begin for begin, end in spans) == 4096 + 8
    # Eight pieces of the prefix for all, and a row of its own for each.
    assert plan.count == 16


def test_steps_of_one_shape_have_plans_of_one_shape() -> None:
    shapes = set()
    for length in (513, 600, 1000, 1024):
        layout = AttentionLayout((0, 1, 2, 3), (0, 2048, 4096), True, k_lengths=(length, length - 1, length))
        plan = planned(layout, 4, Cut(16, 512), Cut(64, 2048), room=4)
        shapes.add((plan.places, plan.part_rows, plan.rows, plan.tables.shape))
    assert len(shapes) == 1
