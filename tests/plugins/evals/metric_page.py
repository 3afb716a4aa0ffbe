"""The table of docs/reference/metrics.md, made from the catalogue: ``python tests/plugins/evals/metric_page.py`` writes it."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

from llmasos import Hub
from llmasos.api import MetricDef
from llmasos_evals.metrics.base import AggregatedMetric
from llmasos_evals.metrics.catalogue import METRICS

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
BEGIN, END = "<!-- table of metrics: begin -->\n", "<!-- table of metrics: end -->\n"


def summaries() -> dict[str, str]:
    manifest = tomllib.loads(files("llmasos_evals").joinpath("llmasos.toml").read_text(encoding="utf-8"))
    return {entry["name"]: entry["summary"] for entry in manifest["provides"] if entry["kind"] == "metric"}


def limits(definition: MetricDef) -> str:
    low, high = definition.range
    if low is None:
        return f"up to {high:g}"
    return f"{low:g} up" if high is None else f"{low:g} to {high:g}"


def options(definition: MetricDef) -> str:
    factory: type[AggregatedMetric] = Hub().get("metric", definition.name)
    names = [name for name in factory.options() if name != "idle"]
    return ", ".join(f"`{name}`" for name in names) or "none"


def table() -> str:
    known = summaries()
    lines = [
        "| metric | what | unit | range | better | scores | options |",
        "|---|---|---|---|---|---|---|",
    ]
    for definition in METRICS:
        cells = [
            f"`{definition.name}`",
            known[definition.name],
            definition.unit,
            limits(definition),
            "higher" if definition.higher_is_better else "lower",
            ", ".join(definition.scores),
            options(definition),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """``page`` with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
