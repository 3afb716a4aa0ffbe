"""``llmasos plugin check``: load one plugin in a process of its own and compare it with the rules for plugins.

Each finding has the rule, what was observed and how to put it right. Behaviour of tokenizers, models and back ends is the
business of the conformance kit (``llmasos.testing.conformance``); this is about being a good guest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from llmasos.kernel.compat import Rejected, check
from llmasos.kernel.record import PluginRecord

#: Seconds the child process may take.
TIMEOUT = 120.0
#: Importing ``module`` may take this long, in seconds of CPU time: it declares things, it does no work.
IMPORT_BUDGET = 0.5
#: Packages that must not be imported with ``module``; factories import them when they are used.
HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "pydantic",
    "datasets",
    "tokenizers",
    "safetensors",
    "pandas",
    "scipy",
    "sklearn",
    "tensorflow",
    "jax",
    "huggingface_hub",
    "requests",
    "httpx",
    "yaml",
    "jinja2",
    "ray",
)


class Finding(NamedTuple):
    """One rule and whether it is kept."""

    rule: str
    ok: bool
    observation: str
    fix: str = ""


def examine(record: PluginRecord) -> list[Finding]:
    """Check one plugin. Never raises for what the plugin does, and imports it only in a child process."""
    if record.error is not None:
        return [Finding("manifest", False, record.error, "docs/reference/manifest.md lists the keys")]
    findings = [Finding("manifest", True, f"{record.manifest_path} is valid")]
    verdict = check(record.manifest, devices=True)
    if isinstance(verdict, Rejected):
        findings.append(Finding("requirements", False, verdict.reason, verdict.hint))
        return findings
    findings.append(Finding("requirements", True, f"{len(verdict.trace)} requirements are met"))
    report = _in_child(record)
    if isinstance(report, Finding):
        return [*findings, report]
    return [*findings, *_judge(record, report)]


def _in_child(record: PluginRecord) -> dict[str, Any] | Finding:
    with tempfile.TemporaryDirectory(prefix="llmasos-check-") as scratch:
        answer = Path(scratch, "report.json")
        request = {
            "record": record.to_json(),
            "local": record.local,
            "scratch": scratch,
            "answer": str(answer),
            # The child must find what this process finds, however it was started.
            "path": [folder for folder in sys.path if folder],
        }
        environ = {**os.environ, "LLMASOS_STRICT": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "llmasos.kernel.checkup_child"],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                check=False,
                env=environ,
            )
        except subprocess.TimeoutExpired:
            return Finding(
                "loads",
                False,
                f"did not finish loading within {TIMEOUT:.0f} s",
                "do no work when the module is imported",
            )
        try:
            report = json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return Finding(
                "loads",
                False,
                f"the process ended with {done.returncode}: {last}",
                "do not end the process at import",
            )
        report["printed"] = done.stdout.strip()
        return dict(report)


def _judge(record: PluginRecord, report: dict[str, Any]) -> list[Finding]:
    module = record.manifest["module"]
    if report["import_error"]:
        return [
            Finding(
                "loads",
                False,
                f"importing {module} failed: {report['import_error']}",
                f"it was raised in {report['where']}",
            )
        ]
    heavy = sorted(set(report["modules"]) & set(HEAVY))
    findings = [
        Finding("loads", True, f"{module} imports"),
        Finding(
            "import time",
            report["seconds"] <= IMPORT_BUDGET,
            f"{report['seconds'] * 1000:.0f} ms of CPU time (at most {IMPORT_BUDGET * 1000:.0f})",
            'import inside functions, and name factories as "module:attribute"',
        ),
        Finding(
            "light import",
            not heavy,
            f"imports {', '.join(heavy)}"
            if heavy
            else f"{report['module_count']} modules, none of them heavy",
            f"import {heavy[0] if heavy else ''} where it is used, not at the top of {module}",
        ),
        Finding(
            "process state",
            not report["changes"],
            f"changes {', '.join(report['changes'])}"
            if report["changes"]
            else "importing changes no global state",
            "leave the process as it was; a host runs many plugins",
        ),
        Finding(
            "silence",
            not report["printed"],
            f"prints {report['printed'].splitlines()[0]!r}"
            if report["printed"]
            else "importing prints nothing",
            "stdout belongs to commands: return values, or use progress.warn",
        ),
        Finding(
            "hooks",
            not report["load_error"],
            report["load_error"]
            or f"delivers what it promises: {len(record.provides())} contributions, {len(record.hooks())} hooks",
            report["load_hint"],
        ),
    ]
    findings.extend(
        Finding(
            "factory", False, f"{item['name']}: {item['problem']}", "correct the factory of the descriptor"
        )
        for item in report["factories"]
    )
    if not report["load_error"] and not report["factories"]:
        findings.append(Finding("factory", True, "every factory names something that exists"))
    return findings
