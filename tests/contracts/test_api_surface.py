"""``llmasos.api`` is exactly what ``__all__`` says, and importing it costs nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import llmasos
from llmasos import api, errors
from llmasos.contracts.base import Contribution
from llmasos.hooks.specs import HOOKS


def test_all_is_exact() -> None:
    public = {
        name
        for name, value in vars(api).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public - {"annotations"} == set(api.__all__)
    assert len(api.__all__) == len(set(api.__all__))


def test_every_error_is_public() -> None:
    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.LlmasosError)
    }
    assert tree <= set(api.__all__)


def test_every_kind_has_one_public_descriptor() -> None:
    forms = [
        value
        for name in api.__all__
        if isinstance(value := getattr(api, name), type)
        and issubclass(value, Contribution)
        and value is not Contribution
    ]
    assert sorted(form.kind for form in forms) == sorted(info.kind for info in HOOKS.values() if info.kind)


def test_the_package_has_what_it_says() -> None:
    for name in llmasos.__all__:
        assert getattr(llmasos, name) is not None
    assert llmasos.__all__ == sorted(llmasos.__all__)


def test_importing_the_api_imports_nothing_heavy() -> None:
    code = "import sys, llmasos.api; print(sorted({'torch', 'pydantic', 'numpy', 'rich', 'yaml', 'huggingface_hub', 'jinja2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
