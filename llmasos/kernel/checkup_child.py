"""The child process of ``llmasos plugin check``: imports one plugin and writes what it saw. Run by ``checkup`` only."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import locale
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from llmasos.kernel.record import PluginRecord
from llmasos.near_miss import did_you_mean


def observed_state() -> dict[str, Any]:
    """Process-global state that importing a plugin must not change."""
    return {
        "os.environ": dict(os.environ),
        "sys.path": list(sys.path),
        "sys.meta_path": [id(finder) for finder in sys.meta_path],
        "the working directory": os.getcwd(),
        "logging handlers": [id(handler) for handler in logging.getLogger().handlers],
        "the logging level": logging.getLogger().level,
        "warning filters": list(warnings.filters),
        "signal handlers": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "the locale": locale.setlocale(locale.LC_ALL),
        "sys.excepthook": id(sys.excepthook),
        "sys.stdout": id(sys.stdout),
    }


def import_and_measure(module: str) -> dict[str, Any]:
    """Import the plugin's module once and say what that did."""
    before = observed_state()
    known = set(sys.modules)
    report: dict[str, Any] = {
        "import_error": "",
        "where": "",
        "load_error": "",
        "load_hint": "",
        "factories": [],
    }
    started = time.process_time()
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        report["import_error"] = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        frames = traceback.extract_tb(error.__traceback__)
        report["where"] = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else module
    report["seconds"] = time.process_time() - started
    added = sorted(set(sys.modules) - known)
    report["module_count"] = len(added)
    report["modules"] = sorted({name.partition(".")[0] for name in added})
    after = observed_state()
    report["changes"] = [name for name, value in before.items() if after[name] != value]
    return report


def load(record: PluginRecord, scratch: Path, report: dict[str, Any]) -> None:
    """Load the plugin as a Hub would, and look at its factories without importing them."""
    from llmasos.contracts.evaluation import TaskDef
    from llmasos.errors import LlmasosError
    from llmasos.hooks.calls import HookCalls, new_manager
    from llmasos.kernel.loader import Loader
    from llmasos.kernel.state import Quarantine

    manager = new_manager()
    calls = HookCalls(manager, warn=lambda line: None)
    loader = Loader(manager, calls, Quarantine(scratch))
    try:
        loaded = loader.load(record)
    except LlmasosError as error:
        cause = error.__cause__ if isinstance(error.__cause__, LlmasosError) else error
        report["load_error"], report["load_hint"] = cause.message, cause.hint or ""
        return
    for (kind, name), item in sorted(loaded.contributions.items()):
        module, _, attribute = item.factory.partition(":")
        problem = (
            _file_problem(module, attribute)
            if isinstance(item, TaskDef)
            else _module_problem(module, attribute)
        )
        if problem:
            report["factories"].append({"name": f"{kind} {name}", "problem": problem})
    for table in record.provides():
        if (probe := table.get("probe")) and (problem := _module_problem(*probe.split(":"))):
            name = f"probe of {table['kind']} {table['name']}"
            report["factories"].append({"name": name, "problem": problem})


def _module_problem(module: str, attribute: str) -> str:
    parts = module.split(".")
    try:
        # Parents are imported by find_spec; a plugin's packages hold nothing heavy in __init__.py, which is the point.
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        return f"no module {module} ({error})"
    if found is None:
        return f"no module {parts[-1]} in {'.'.join(parts[:-1]) or 'the search path'}"
    if not str(found.origin).endswith(".py"):
        return ""
    first = attribute.partition(".")[0]
    try:
        names = _top_level_names(Path(str(found.origin)))
    except SyntaxError as error:
        return f"{found.origin}, line {error.lineno}: {error.msg}"
    if names is None or first in names:
        return ""
    return f"no {first} in {found.origin}{did_you_mean(first, names)}"


def _top_level_names(file: Path) -> set[str] | None:
    """Names that a source file may bind at its top level; None when reading it cannot tell. Raises SyntaxError."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    names: set[str] = set()
    # Bodies of functions are walked too: a name too many only means that the check says nothing.
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    dynamic = "*" in names or "__getattr__" in names or _calls(tree, {"globals", "exec", "setattr"})
    return None if dynamic else names


def _calls(tree: ast.AST, functions: set[str]) -> bool:
    return any(isinstance(node, ast.Name) and node.id in functions for node in ast.walk(tree))


def _file_problem(package: str, inside: str) -> str:
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError) as error:
        return f"no package {package} ({error})"
    folders = list(found.submodule_search_locations or []) if found is not None else []
    return (
        "" if any(Path(folder, inside).is_file() for folder in folders) else f"no file {inside} in {package}"
    )


def main() -> None:
    """Read the request from stdin, write the report to the file it names."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    record = PluginRecord(**request["record"], local=request["local"])
    if record.local:
        from llmasos.kernel.local import install_finder

        install_finder(record)
    # Imported before measuring: what every plugin needs anyway is not the plugin's cost.
    importlib.import_module("llmasos.api")
    report = import_and_measure(record.manifest["module"])
    if not report["import_error"]:
        load(record, Path(request["scratch"]), report)
    Path(request["answer"]).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
