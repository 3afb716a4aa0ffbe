"""docs/reference/metrics.md says what the catalogue says."""

from __future__ import annotations

import re

from metric_page import BEGIN, END, PAGE, summaries, written

from llmasos_evals.metrics.catalogue import METRICS


def test_the_table_is_made_from_the_catalogue() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert page == written(page), "run python tests/plugins/evals/metric_page.py"


def test_every_metric_has_a_summary_and_a_paragraph() -> None:
    page = PAGE.read_text(encoding="utf-8").partition(END)[2]
    assert set(summaries()) == {definition.name for definition in METRICS}
    families = {definition.factory.partition(":")[0].rpartition(".")[2] for definition in METRICS}
    for definition in METRICS:
        assert f"`{definition.name}`" in page, definition.name
    assert len(re.findall(r"^### ", page, re.MULTILINE)) >= len(families)
