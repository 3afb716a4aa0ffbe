"""Task code: the Python functions that ``!function`` names.

A task file is data until the user says otherwise (``--allow-task-code``). Then the file beside the YAML is read once,
its SHA-256 is kept for the record, and exactly those bytes are run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import random
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from llmasos.api import EvaluationError, InputError, MissingDependency, UsageError
from llmasos_evals.datasets.local import Rows
from llmasos_evals.tasks.taskfile import FunctionRef


class TaskCode:
    """The functions of one task and the digests of the files they come from."""

    def __init__(self, task: str, *, allowed: bool) -> None:
        self.task = task
        self.allowed = allowed
        #: File name relative to the YAML's folder -> SHA-256 of its bytes.
        self.digests: dict[str, str] = {}
        self._modules: dict[str, ModuleType] = {}

    def resolve(self, value: Any) -> Any:
        """``value`` with every FunctionRef in it, at any depth, made a callable.

        Raises UsageError when task code is not allowed, InputError when the file or function is missing or fails to
        import, MissingDependency when it needs a package that is not installed.
        """
        if isinstance(value, FunctionRef):
            return self._function(value)
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        return value

    def _function(self, ref: FunctionRef) -> Callable[..., Any]:
        if not self.allowed:
            raise UsageError(
                f"task {self.task} runs Python code ({ref}, file {ref.file}), which was not allowed",
                hint="read that file, then add --allow-task-code",
            )
        module = self._module(ref)
        function = getattr(module, ref.name, None)
        if not callable(function):
            raise InputError(f"task {self.task}: {ref.file} has no function {ref.name!r}")
        return _attributed(function, f"task {self.task}: {ref.name} in {ref.file}")

    def _module(self, ref: FunctionRef) -> ModuleType:
        key = str(ref.file)
        if key in self._modules:
            return self._modules[key]
        try:
            source = ref.file.read_bytes()
        except OSError as error:
            raise InputError(
                f"task {self.task}: {ref} needs the file {ref.file}, which cannot be read ({error.strerror})",
                hint="only functions in a file beside the task file are supported",
            ) from error
        module = ModuleType(f"llmasos_task_code.{ref.file.stem}")
        module.__file__ = key
        try:
            with _row_types():
                exec(compile(source, key, "exec"), module.__dict__)
        except ImportError as error:
            package = (error.name or "").partition(".")[0]
            raise MissingDependency(
                f"task {self.task}: {ref.file} cannot be imported: {error}",
                hint=f"pip install {package}" if package else None,
            ) from error
        except Exception as error:
            raise InputError(
                f"task {self.task}: {ref.file} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        self._modules[key] = module
        self.digests[ref.file.name] = hashlib.sha256(source).hexdigest()
        return module


def _attributed(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """The function with its failures named: whose code failed, not where in the runner."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise EvaluationError(f"{what} failed: {type(error).__name__}: {error}") from error

    call.__name__ = getattr(function, "__name__", "function")
    return call


@contextlib.contextmanager
def repeatable_randomness() -> Iterator[None]:
    """Python's global random state as lm-evaluation-harness sets it (seed 0), put back afterwards.

    Task code that shuffles would otherwise ask other questions in every run, and a resumed run would mix two.
    """
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def _row_types() -> Iterator[None]:
    """While task code is imported, ``import datasets`` finds our rows if the real package is not there.

    Most task functions use that package for an annotation and for ``map`` and ``filter``, which Rows has.
    """
    if "datasets" in sys.modules or importlib.util.find_spec("datasets") is not None:
        yield
        return
    stand_in = ModuleType("datasets")
    stand_in.__dict__.update(Dataset=Rows)
    sys.modules["datasets"] = stand_in
    try:
        yield
    finally:
        del sys.modules["datasets"]
