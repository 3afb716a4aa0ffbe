"""Verdicts as JUnit XML, which every CI system shows, and as annotations of GitHub's workflows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from llmasos_evals.statistics.gate import Verdict

#: What XML 1.0 cannot hold, escaped or not.
_UNFIT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(verdicts: Sequence[Verdict], name: str, seconds: float) -> bytes:
    """A test suite with a test case a verdict: failures are broken rules, errors are rules that could not be judged."""
    counts = {
        "tests": str(len(verdicts)),
        "failures": str(sum(verdict.status == "failed" for verdict in verdicts)),
        "errors": str(sum(verdict.status == "error" for verdict in verdicts)),
        "time": f"{seconds:.3f}",
    }
    root = ElementTree.Element("testsuites", {"name": "llmasos eval gate", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _fit(name), **counts, "skipped": "0"})
    for verdict in verdicts:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {"classname": _fit(title(verdict)), "name": _fit(verdict.rule.text), "time": "0.000"},
        )
        if verdict.status != "passed":
            kind = {"failed": "failure", "error": "error"}[verdict.status]
            found = ElementTree.SubElement(case, kind, {"message": _fit(verdict.message), "type": kind})
            found.text = _fit(f"{verdict.rule.text}\n{verdict.message}")
        else:
            ElementTree.SubElement(case, "system-out").text = _fit(verdict.message)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def title(verdict: Verdict) -> str:
    """``task.metric`` or ``task.metric,filter``."""
    plain = verdict.filter in ("", "none")
    return (
        f"{verdict.task}.{verdict.metric}" if plain else f"{verdict.task}.{verdict.metric},{verdict.filter}"
    )


def workflow_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Lines that GitHub Actions turns into annotations of the run."""
    for verdict in verdicts:
        if verdict.status != "passed":
            what = _escaped(f"{title(verdict)}: {verdict.rule.text}").replace(":", "%3A").replace(",", "%2C")
            yield f"::error title={what}::{_escaped(verdict.message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _fit(text: str) -> str:
    return _UNFIT.sub("?", text)
