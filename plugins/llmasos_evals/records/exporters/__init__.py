"""Runs in the formats of other tools, a module each: ``export(source, output) -> paths written``."""

from __future__ import annotations

#: Name on the command line -> module.
EXPORTERS = {
    "lm-eval": "llmasos_evals.records.exporters.lm_eval",
    "every-eval-ever": "llmasos_evals.records.exporters.every_eval_ever",
    "eval-results": "llmasos_evals.records.exporters.eval_results",
    "model-index": "llmasos_evals.records.exporters.model_index",
}
