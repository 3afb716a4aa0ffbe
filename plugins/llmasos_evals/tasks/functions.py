"""Task code: the Python functions that ``!function`` names.

A task file is data until the user says otherwise (``--allow-task-code``). Then the file beside the YAML is read once, its
SHA-256 is kept for the record, and exactly those bytes are run; so are the files of other tasks that it imports.

Task code is written for another harness and imports that harness, ``datasets`` and ``evaluate``. It finds small
equivalents of what stock tasks use (``standins/``), so that a task gives the same numbers whether or not those packages
are installed. The ``import`` statement of a task's modules is ours; nothing is put into ``sys.modules``.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import hashlib
import importlib.util
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from llmasos.api import EvaluationError, InputError, LlmasosError, MissingDependency, UsageError
from llmasos_evals.tasks.standins import Context, stand_in
from llmasos_evals.tasks.taskfile import FunctionRef

_Error = TypeVar("_Error", bound=BaseException)

#: The package under which task code imports the code of other tasks.
_TASKS = "lm_eval.tasks"
#: How far above a task file the folder lies in which other tasks are looked for.
_LEVELS = 8
#: Modules through which guarded code would start programs of its own.
_PROCESSES = frozenset({"multiprocessing", "subprocess"})
#: Seeds of Python's and NumPy's global generators, as lm-evaluation-harness sets them.
PYTHON_SEED, NUMPY_SEED = 0, 1234


class TaskCode:
    """The functions of one task and the digests of the files they come from.

    ``base`` is the folder of the task file: the names in ``digests`` are relative to it. ``execution`` lets the code hand
    what a model wrote to the sandbox; ``guarded`` keeps code that says it runs what a model wrote from running it
    anywhere else.
    """

    def __init__(
        self,
        task: str,
        *,
        allowed: bool,
        base: Path | None = None,
        execution: bool = False,
        guarded: bool = False,
    ) -> None:
        self.task = task
        self.allowed = allowed
        self.base = base
        #: File relative to the task file's folder -> SHA-256 of its bytes.
        self.digests: dict[str, str] = {}
        #: Packages that the code asked for in vain and went on without.
        self.missing: set[str] = set()
        self._context = Context(task, execution=execution)
        self._number = id(self)
        self._modules: dict[Path, ModuleType] = {}
        self._packages: dict[str, ModuleType] = {}
        self._roots: list[Path] = []
        self._guarded = guarded
        self._refused: list[str] = []
        self._builtins = {**vars(builtins), "__import__": self._import, "print": _say}
        if guarded:
            self._builtins |= {name: self._refusal(name) for name in ("exec", "eval")}

    @property
    def filters(self) -> Mapping[str, Any]:
        """Filter classes that the code registered, by name."""
        return self._context.filters

    @property
    def used(self) -> bool:
        """Whether any file was run."""
        return bool(self._modules)

    def resolve(self, value: Any) -> Any:
        """``value`` with every FunctionRef in it, at any depth, made a callable.

        Raises UsageError when task code is not allowed, InputError when the file or function is missing or fails to
        import, MissingDependency when it needs a package that is not installed.
        """
        if isinstance(value, FunctionRef):
            return self._function(value)
        if isinstance(value, Mapping):
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
        self._roots = _roots(ref.folder)
        module_name, _, name = ref.spec.rpartition(".")
        elsewhere = module_name.startswith(_TASKS + ".") and not ref.file.is_file()
        if not elsewhere and not ref.file.is_file():
            raise InputError(
                f"task {self.task}: {ref} needs the file {ref.file}, which cannot be read",
                hint="only functions in a file beside the task file are supported",
            )
        what = f"task {self.task}: {ref.spec if elsewhere else ref.file}"
        try:
            module = self._from_tasks(module_name, [name]) if elsewhere else self._load(ref.file)
        except LlmasosError:
            raise
        except ImportError as error:
            raise self._lacking(f"{what} cannot be imported", error) from error
        except (Exception, SystemExit) as error:
            lacking = _cause(error, MissingDependency)
            if lacking is not None:  # the code wrapped it in an error of its own
                raise lacking from error
            raise InputError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error
        function = getattr(module, ref.name, None)
        if not callable(function):
            raise InputError(f"{what} has no function {ref.name!r}")
        if isinstance(function, type):
            return function
        return self._attributed(function, f"task {self.task}: {ref.name} in {module.__file__}")

    def _attributed(self, function: Callable[..., Any], what: str) -> Callable[..., Any]:
        """The function with its failures named: whose code failed, not where in the runner."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                value = function(*args, **kwargs)
                if self._refused:  # the code swallowed the error; what it returned is worth nothing
                    raise self._outside(self._refused[-1])
                return value
            except LlmasosError:
                raise
            except ImportError as error:
                raise self._lacking(f"{what} failed", error) from error
            except (Exception, SystemExit) as error:
                raise EvaluationError(f"{what} failed: {type(error).__name__}: {error}") from error

        return call

    def _lacking(self, what: str, error: ImportError) -> MissingDependency:
        found = error if error.name else _cause(error, ModuleNotFoundError) or error
        package = (found.name or "").partition(".")[0]
        return MissingDependency(f"{what}: {error}", hint=f"pip install {package}" if package else None)

    def _refusal(self, name: str) -> Callable[..., Any]:
        def refuse(*_args: Any, **_settings: Any) -> Any:
            self._refused.append(name)
            raise self._outside(name)

        return refuse

    def _outside(self, name: str) -> EvaluationError:
        return EvaluationError(
            f"task {self.task}: its code runs what the model wrote by `{name}`, outside the sandbox",
            hint="only `evaluate.load('code_eval')` runs such code in the sandbox",
        )

    # ---- imports --------------------------------------------------------------------------------------------------

    def _load(self, file: Path) -> ModuleType:
        """The module of a file, run once."""
        file = file.resolve()
        if file in self._modules:
            return self._modules[file]
        try:
            source = file.read_bytes()
        except OSError as error:
            raise InputError(f"task {self.task}: cannot read {file} ({error.strerror})") from error
        name = f"llmasos_task_code.{self._number}.{file.stem}"
        module = ModuleType(name)
        module.__file__ = str(file)
        module.__dict__["__builtins__"] = self._builtins
        self._modules[file] = module
        self.digests[self._relative(file)] = hashlib.sha256(source).hexdigest()
        sys.modules[name] = module  # dataclasses and the like look their module up while they are made
        try:
            with repeatable_randomness():
                exec(compile(source, str(file), "exec"), module.__dict__)
        except BaseException:
            del self._modules[file]
            raise
        finally:
            del sys.modules[name]
        return module

    def _relative(self, file: Path) -> str:
        if self.base is None:
            return file.name
        return Path(os.path.relpath(file, self.base.resolve())).as_posix()

    def _import(
        self,
        name: str,
        scope: Mapping[str, Any] | None = None,
        local: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """What an ``import`` statement in task code calls; arguments and result as ``builtins.__import__``."""
        here = Path((scope or {}).get("__file__", ".")).parent
        if level:
            folder = here
            for _ in range(level - 1):
                folder = folder.parent
            return self._from_folder(folder, name, fromlist)
        if name == _TASKS or name.startswith(_TASKS + "."):
            return self._from_tasks(name, fromlist)
        if self._guarded and name.partition(".")[0] in _PROCESSES:
            return _Refused(name, self._refusal)
        found = stand_in(name, self._context)
        if found is not None:
            return found if fromlist else stand_in(name.partition(".")[0], self._context)
        beside = here / f"{name.replace('.', '/')}.py"
        if beside.is_file() and name.partition(".")[0] not in sys.stdlib_module_names:
            return self._load(beside)
        try:
            return builtins.__import__(name, scope, local, fromlist or (), 0)
        except ImportError as error:
            if (error.name or "").partition(".")[0] == name.partition(".")[0]:
                self.missing.add(name.partition(".")[0])
            raise

    def _from_folder(self, folder: Path, name: str, names: Sequence[str] | None) -> Any:
        """``from .name import names``, or ``from . import names``."""
        target = folder / name.replace(".", "/") if name else folder
        if name and target.with_suffix(".py").is_file():
            return self._load(target.with_suffix(".py"))
        if not target.is_dir():
            raise ModuleNotFoundError(f"No module named {name!r} in {folder}", name=name)
        return self._package(str(target.resolve()), target, names)

    def _from_tasks(self, name: str, names: Sequence[str] | None) -> Any:
        """``import lm_eval.tasks.a.b`` or ``from lm_eval.tasks.a.b import names``."""
        parts = name.split(".")[2:]
        for root in self._roots:
            target = root.joinpath(*parts)
            if target.with_suffix(".py").is_file() or (parts and target.is_dir()) or not parts:
                break
        else:
            raise ModuleNotFoundError(
                f"No module named {name!r} beside the task files", name=parts[0] if parts else "lm_eval"
            )
        file = target.with_suffix(".py")
        module = self._load(file) if parts and file.is_file() else self._package(name, target, names)
        if names:
            return module
        for part in reversed(name.split(".")[1:]):  # `import a.b.c` gives `a`, the rest are attributes
            outer = ModuleType("lm_eval")
            setattr(outer, part, module)
            module = outer
        return module

    def _package(self, key: str, folder: Path, names: Sequence[str] | None) -> ModuleType:
        """A folder as a package; its ``names`` that are files become attributes."""
        start = folder / "__init__.py"
        if key not in self._packages:
            own = (
                start.is_file() and folder not in self._roots
            )  # lm_eval/tasks/__init__.py is the harness itself
            self._packages[key] = self._load(start) if own else ModuleType(key)
        package = self._packages[key]
        for name in names or ():
            if not hasattr(package, name):
                if (folder / f"{name}.py").is_file():
                    setattr(package, name, self._load(folder / f"{name}.py"))
                elif (folder / name).is_dir():
                    setattr(package, name, self._package(f"{key}.{name}", folder / name, None))
        return package


def _cause(error: BaseException, kind: type[_Error]) -> _Error | None:
    """The first error of a kind among those that led to this one."""
    inner = error.__cause__ or error.__context__
    while inner is not None and not isinstance(inner, kind):
        inner = inner.__cause__ or inner.__context__
    return inner


def _say(*values: Any, file: Any = None, **settings: Any) -> None:
    """``print`` of task code: what it says is talk, and the standard output is for data."""
    print(*values, file=sys.stderr if file is None else file, **settings)


class _Refused(ModuleType):
    """A module whose every function refuses to be called."""

    def __init__(self, name: str, refusal: Callable[[str], Callable[..., Any]]) -> None:
        super().__init__(name)
        self._refusal = refusal

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._refusal(f"{self.__name__}.{name}")


def _roots(folder: Path) -> list[Path]:
    """Where ``lm_eval.tasks`` may be: folders above the task file, nearest first, then an installed lm-eval."""
    folder = folder.resolve()
    above = [folder, *folder.parents][:_LEVELS]
    named = [path for path in above if path.name == "tasks"]
    roots = named[:1] or above
    spec = importlib.util.find_spec("lm_eval")  # looks, does not import
    for place in (spec.submodule_search_locations or ()) if spec else ():
        roots = [*roots, Path(place) / "tasks"]
    return roots


class GlobalRandomness:
    """Python's and NumPy's global random state as one stream of a task's own, seeded as lm-evaluation-harness does.

    ``seed`` replaces both of that harness's seeds.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seeds = (PYTHON_SEED, NUMPY_SEED) if seed is None else (seed, seed % 2**32)
        self._python: Any = None
        self._numpy: Any = None

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """While this lasts, the global state is this stream; it goes on where it was left the last time."""
        numpy: Any = sys.modules.get("numpy")
        python_before = random.getstate()
        numpy_before = None if numpy is None else numpy.random.get_state()
        if self._python is None:
            random.seed(self._seeds[0])
        else:
            random.setstate(self._python)
        if numpy is not None:
            if self._numpy is None:
                numpy.random.seed(self._seeds[1])
            else:
                numpy.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python = random.getstate()
            random.setstate(python_before)
            if numpy is not None:
                self._numpy = numpy.random.get_state()
                if numpy_before is not None:
                    numpy.random.set_state(numpy_before)


def repeatable_randomness(seed: int | None = None) -> contextlib.AbstractContextManager[None]:
    """A fresh ``GlobalRandomness`` for as long as this lasts.

    Task code that shuffles would otherwise ask other questions in every run, and a resumed run would mix two.
    """
    return GlobalRandomness(seed).used()
