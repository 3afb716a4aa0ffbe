"""Every error that reaches a user, with its exit code and a hint.

::

    LlmasosError                    1  the run failed
    ├── UsageError                  2  what was asked for makes no sense
    │   ├── ConfigError                settings file or environment variable
    │   └── InputError                 a file the user named is malformed (task, pipeline, data)
    ├── PluginError                 3  a plugin is broken, incompatible or in conflict
    │   ├── ManifestError              llmasos.toml is invalid
    │   ├── PluginLoadError            import or registration failed; the plugin is quarantined
    │   ├── PluginCallError            a hook of a named plugin raised
    │   ├── IncompatiblePlugin         API, Python, package or device requirement is not met
    │   ├── AmbiguousName              two plugins provide the same bare name
    │   └── PluginRequired             a model names a plugin that is not there; the hint installs it
    ├── EnvironmentProblem          4  the machine lacks something
    │   ├── MissingDependency          a Python package; the hint is the pip line
    │   └── DeviceUnavailable          no such accelerator
    ├── NotFound                    5  no such thing
    │   ├── UnknownName                no plugin provides it; the hint lists near misses
    │   └── ModelNotFound              the model reference leads nowhere
    └── RunError                    1
        ├── WeightsError               a weight file is truncated, lies about itself or does not fit the architecture
        ├── TokenizerError             a tokenizer file is malformed
        └── EvaluationError            scoring could not be completed

Rule: say what, where and why, name both sides of a conflict, and end with ``hint:``. The command line prints
``error: MESSAGE`` and ``hint: HINT`` on stderr and exits with the code; it never prints a traceback for these.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command; documented in docs/reference/exit-codes.md."""

    OK = 0
    RUN_FAILED = 1
    USAGE = 2
    PLUGIN = 3
    ENVIRONMENT = 4
    NOT_FOUND = 5
    INTERRUPTED = 130


class LlmasosError(Exception):
    """Base of all errors that are reported to the user without a traceback."""

    exit_code: ExitCode = ExitCode.RUN_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(LlmasosError):
    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    pass


class InputError(UsageError):
    pass


class PluginError(LlmasosError):
    exit_code = ExitCode.PLUGIN


class ManifestError(PluginError):
    pass


class PluginLoadError(PluginError):
    pass


class PluginCallError(PluginError):
    pass


class IncompatiblePlugin(PluginError):
    pass


class AmbiguousName(PluginError):
    pass


class PluginRequired(PluginError):
    """``requirements`` are the lines of the model's ``llmasos.toml`` that are not met."""

    def __init__(self, message: str, requirements: Sequence[str] = (), *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.requirements = tuple(requirements)


class EnvironmentProblem(LlmasosError):
    exit_code = ExitCode.ENVIRONMENT


class MissingDependency(EnvironmentProblem):
    pass


class DeviceUnavailable(EnvironmentProblem):
    pass


class NotFound(LlmasosError):
    exit_code = ExitCode.NOT_FOUND


class UnknownName(NotFound):
    pass


class ModelNotFound(NotFound):
    pass


class RunError(LlmasosError):
    pass


class WeightsError(RunError):
    pass


class TokenizerError(RunError):
    pass


class EvaluationError(RunError):
    pass
