"""What may be published here, beyond being a sound wheel: nothing that runs at start-up or lands in somebody else's package.

pip and uv install a wheel over whatever is there. So a published wheel keeps to its own packages: a plugin to those that
its entry points name or that carry its own name, any other distribution away from the standard library and from what
LLMasOS itself is built of.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llmasos_registry.wheel.archive import WheelFacts
from llmasos_registry.wheel.dist_info import check_program
from llmasos_registry.wheel.plugin import GROUP
from llmasos_registry.wheel.refusal import WheelRefused

#: Python's ``site`` runs what these hold whenever the interpreter starts (``.start``: PEP 829), or follows them.
_STARTUP = (".pth", ".start", ".egg-link")
_STARTUP_MODULES = frozenset({"sitecustomize", "usercustomize"})
_MODULE = re.compile(
    r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(\.[A-Za-z0-9_.-]*(so|pyd)|\.pyi?|\.so|\.pyd)", re.ASCII
)
#: What mypyc names the library that modules of one distribution share.
_SHARED = re.compile(r"[0-9a-f]{20}__mypyc(\..*)?\.(so|pyd)", re.ASCII)
#: Import names of what every environment of LLMasOS has, and the distributions that may bring them.
_TAKEN = {
    "_distutils_hack": "setuptools", "pkg_resources": "setuptools", "setuptools": "setuptools", "pip": "pip",
    "uv": "uv", "wheel": "wheel", "certifi": "certifi", "cffi": "cffi", "click": "click", "anyio": "anyio",
    "cryptography": "cryptography", "filelock": "filelock", "fsspec": "fsspec", "functorch": "torch",
    "gguf": "gguf", "granian": "granian", "h11": "h11", "hf_xet": "hf-xet", "httpcore": "httpcore", "httpx": "httpx",
    "httpx2": "httpx2", "huggingface_hub": "huggingface-hub", "idna": "idna", "jinja2": "jinja2", "llmasos": "llmasos",
    "lz4": "lz4", "markupsafe": "markupsafe", "numpy": "numpy", "obstore": "obstore", "packaging": "packaging",
    "pandas": "pandas", "pluggy": "pluggy", "psycopg": "psycopg", "pydantic": "pydantic", "pydantic_core": "pydantic-core",
    "pytest": "pytest", "_pytest": "pytest", "ray": "ray", "regex": "regex", "requests": "requests",
    "resolvelib": "resolvelib", "rich": "rich", "safetensors": "safetensors", "scipy": "scipy",
    "sentencepiece": "sentencepiece", "six": "six", "sqlalchemy": "sqlalchemy", "starlette": "starlette",
    "tokenizers": "tokenizers", "tomli_w": "tomli-w", "torch": "torch", "torchgen": "torch", "tqdm": "tqdm",
    "transformers": "transformers", "triton": "triton", "typing_extensions": "typing-extensions",
    "urllib3": "urllib3", "yaml": "pyyaml",
}  # fmt: skip
#: Those distributions.
TAKEN_DISTRIBUTIONS = frozenset(_TAKEN.values())


def check_hosted(facts: WheelFacts) -> None:
    """Refuse a sound wheel that must not be published or installed as a plugin. Raises WheelRefused."""
    declared = {
        value.partition(":")[0].partition(".")[0] for value in facts.entry_points.get(GROUP, {}).values()
    }
    for head in facts.top_level:
        _check_head(facts, head, declared)
    for path in facts.other_paths:
        _check_outside(path)
    check_requirements(facts.metadata.requires_dist or ())


def check_requirements(requirements: Iterable[Requirement]) -> None:
    """Refuse a requirement that names an address: installers would fetch it past this index. Raises WheelRefused."""
    for requirement in requirements:
        if requirement.url is not None:
            raise WheelRefused(
                "metadata",
                f"requires {requirement.name} from the address {requirement.url[:100]!a}",
                hint="require it by name and range; what it needs is published to the index",
            )


def import_names(facts: WheelFacts) -> tuple[str, ...]:
    """Packages and modules that this wheel brings as a whole; not the namespace packages that it adds to."""
    files = set(facts.site_paths)
    found = set()
    for head in facts.top_level:
        name = _import_name(facts, head)
        if name is not None and (
            head in files or any(f"{head}/__init__{end}" in files for end in (".py", ".pyc", ".so"))
        ):
            found.add(name)
    return tuple(sorted(found))


def _import_name(facts: WheelFacts, head: str) -> str | None:
    if head in facts.site_paths:
        match = _MODULE.fullmatch(head)
        return match["name"] if match else None
    return head if head.isidentifier() else None


def _check_head(facts: WheelFacts, head: str, declared: set[str]) -> None:
    """One name at the root of ``site-packages``."""
    if head.casefold().endswith(_STARTUP):
        raise WheelRefused(
            "runs at start-up",
            "Python would run or follow this file whenever it starts",
            member=head,
            hint="a plugin is loaded when it is used; it needs no .pth file",
        )
    if head in facts.site_paths and _SHARED.fullmatch(head):
        return
    stem = head.partition(".")[0]
    own = _derived(stem, facts.name)
    name = _import_name(facts, head)
    if name is None:
        if head.endswith((".libs", ".dylibs")) and own and head not in facts.site_paths:
            return
        raise WheelRefused("top level", "is neither a package nor a module", member=head)
    if name in _STARTUP_MODULES:
        raise WheelRefused("runs at start-up", "Python would import this whenever it starts", member=head)
    if name in sys.stdlib_module_names:
        raise WheelRefused("top level", f"`{name}` is a module of Python itself", member=head)
    # `Torch` and `torch` are one folder on macOS and Windows.
    taken = _TAKEN.get(name.casefold(), facts.name)
    if taken != facts.name:
        raise WheelRefused("top level", f"`{name}` belongs to the distribution {taken}", member=head)
    if own or name in declared:
        return
    if name.startswith("llmasos_") and facts.name != "llmasos":
        raise WheelRefused(
            "top level", f"`{name}` belongs to the distribution {canonicalize_name(name)}", member=head
        )
    if declared:
        raise WheelRefused(
            "top level",
            f"`{name}` is neither named by an entry point of this plugin nor by its name {facts.name}",
            member=head,
            hint=f"put it into the plugin's package, or name it {facts.name.replace('-', '_')}_something",
        )


def _derived(name: str, distribution: str) -> bool:
    """Whether a package's name is the distribution's, or begins with it."""
    key = canonicalize_name(name.strip("_"))
    return key == distribution or key.startswith(distribution + "-")


def _check_outside(path: str) -> None:
    """A file that goes below the environment's own folder."""
    key, _, inside = path.partition("/")
    parts = inside.casefold().split("/")
    if key == "data":
        inner = (
            parts[0].startswith(("lib", "pypy"))
            and len(parts) > 1
            and parts[1].startswith(("python", "pypy"))
        )
        if inner or parts[0] == "pyvenv.cfg" or {"site-packages", "dist-packages"} & set(parts):
            raise WheelRefused("data folder", "would be installed among Python's own files", member=path)
        if parts[0] in ("bin", "scripts") and len(parts) == 2:
            check_program(inside.split("/")[1], path)
    if path.casefold().endswith(_STARTUP):
        raise WheelRefused("runs at start-up", "Python would run or follow such a file", member=path)
