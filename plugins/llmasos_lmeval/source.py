"""Tasks of the installed lm-eval package: its folder of task files, and its Python classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.api import InputError, LlmasosError
from llmasos_lmeval.package import quiet, tasks_folder, version
from llmasos_lmeval.program import ClassTask

#: What groups and users may put on top of a class; everything else is in its code.
_SETTABLE = frozenset({"task", "task_alias", "num_fewshot", "metadata", "tag"})


class InstalledTasks:
    """The TaskSource of this plugin."""

    def folders(self) -> Sequence[Path]:
        """The folder of the package's task files; none when the package is not installed."""
        folder = tasks_folder()
        return () if folder is None else (folder,)

    def program(self, file: Path, fields: Mapping[str, Any]) -> ClassTask:
        """The task of a file with ``class``, built as lm-evaluation-harness builds it.

        Raises MissingDependency without the package, InputError when the class cannot be built, for example because its
        data is not there.
        """
        version()
        unknown = sorted(set(fields) - _SETTABLE)
        if unknown:
            raise InputError(
                f"{file}: the task is a Python class, `{unknown[0]}` cannot be set from outside",
                hint=f"only {', '.join(sorted(_SETTABLE))}",
            )
        from lm_eval.tasks import TaskManager

        name = str(fields["task"])
        try:
            with quiet():
                loaded = TaskManager(include_defaults=False).load([str(file)])["tasks"]
        except LlmasosError:
            raise
        except Exception as error:
            raise InputError(
                f"{file}: task {name} cannot be built: {type(error).__name__}: {error}",
                hint="data sets of the Hugging Face hub must be in its cache when HF_HUB_OFFLINE is set",
            ) from error
        (task,) = loaded.values()
        return ClassTask(task, name, file, num_fewshot=fields.get("num_fewshot"))
