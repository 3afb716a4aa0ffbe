"""Which checks apply to a plugin: one pytest item for each check of each thing it offers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from llmasos.contracts.runtime import WEIGHT_OPS, PackingBackend
from llmasos.errors import InputError, LlmasosError, ModelNotFound, UnknownName
from llmasos.pipelines.binding import prepared_backend
from llmasos.testing.conformance import backend, encoder, model, plugin, processor, tokenizer
from llmasos.testing.conformance.check import Check, does_not_apply
from llmasos.testing.conformance.plugin import PluginSubject

if TYPE_CHECKING:
    from llmasos.contracts.runtime import Backend, KernelOp
    from llmasos.hub import Hub


class Conformance(pytest.Collector):
    """The node that all items of one plugin hang from, so that they are listed under its name."""

    def collect(self) -> list[pytest.Item]:
        """Nothing: the items are made by ``conformance_items``."""
        return []


class ConformanceItem(pytest.Item):
    """One check. ``subject`` builds what is checked when the item runs; equal builders share the result."""

    def __init__(
        self, *, check: Check[Any], subject: Callable[[], Any], plugin_id: str, **options: Any
    ) -> None:
        super().__init__(**options)
        self.check = check
        self.subject = subject
        self.plugin_id = plugin_id

    def runtest(self) -> None:
        """Run the check; a rule that does not apply is a skip with its reason."""
        finding = self.check.run(self.subject())
        self.add_report_section("call", "llmasos", str(finding))
        if finding.outcome == "broken":
            raise RuleBroken(str(finding))
        if finding.outcome == "does not apply":
            pytest.skip(finding.observation)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Rule, observation and fix; a traceback only for what is not the plugin's doing."""
        if isinstance(excinfo.value, RuleBroken | LlmasosError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


class RuleBroken(Exception):
    """Carries a finding out of an item."""


class MissingSample(ConformanceItem):
    """Stands for the checks of something that cannot be built without a sample or options."""

    def runtest(self) -> None:
        """Skipped, and says how to run it."""
        pytest.skip(self.check.rule)


def conformance_items(
    session: pytest.Session, named: str, samples: Sequence[Path]
) -> Iterator[ConformanceItem]:
    """Items for one plugin: those about being a plugin first, then those about each thing it offers.

    Raises pytest.UsageError when there is no such plugin, or a sample does not exist.
    """
    for path in samples:
        if not path.exists():
            raise pytest.UsageError(f"llmasos sample {path} does not exist")
    folder = Path(named)
    local = "/" in named or (folder / "llmasos.toml").is_file()
    subject = PluginSubject(folder=folder.resolve()) if local else PluginSubject(named)
    try:
        plugin_id = subject.plugin_id
    except LlmasosError as error:
        raise pytest.UsageError(str(error)) from None

    title = f"llmasos-conformance {plugin_id}"
    parent = Conformance.from_parent(session, name=title, nodeid=title)

    def item(
        check: Check[Any], about: str, build: Callable[[], Any], kind: type[ConformanceItem] = ConformanceItem
    ) -> Any:
        name = f"{about}: {check.name}" if about else check.name
        return kind.from_parent(parent, name=name, check=check, subject=build, plugin_id=plugin_id)

    for check in plugin.CHECKS:
        yield item(check, "", lambda: subject)
    hub = _open_hub(subject, session.config)
    if hub is None:
        return  # the items above say why it cannot be loaded
    offered = set(subject.contributions)
    for kind, make in (("tokenizer", _tokenizers), ("model_architecture", _models)):
        names = sorted(name for k, name in offered if k == kind)
        for name in names:
            found = False
            for about, checks, build in make(hub, name, samples):
                found = True
                for check in checks:
                    yield item(check, about, build)
            if not found:
                yield item(_no_sample(samples), f"{kind} {name}", lambda: None, MissingSample)
    for name in sorted(name for k, name in offered if k == "processor"):
        made = _processor(hub, name)
        if made is not None:
            for processor_check in processor.CHECKS:
                yield item(processor_check, f"processor {name}", made)
        else:
            yield item(_needs_options(name), f"processor {name}", lambda: None, MissingSample)
    for name in sorted(name for k, name in offered if k == "backend"):
        for device_check in backend.CHECKS:
            yield item(device_check, f"backend {name}", cache(lambda name=name: hub.get("backend", name)()))
    for name in sorted(name for k, name in offered if k == "kernel_op"):
        for about, op_checks, build in _ops(hub, name):
            for op_check in op_checks:
                yield item(op_check, about, build)


def _needs_options(name: str) -> Check[None]:
    reason = f"{name} needs options: test it with llmasos.testing.conformance.processor.ProcessorSubject"
    return Check("options", reason, reason, lambda _: does_not_apply(reason))


def _no_sample(samples: Sequence[Path]) -> Check[None]:
    tried = (
        f"none of {', '.join(path.name for path in samples)} is for it" if samples else "no sample was given"
    )
    reason = f"{tried}: give --llmasos-sample PATH or set llmasos_samples"
    return Check("sample", reason, reason, lambda _: does_not_apply(reason))


def _open_hub(subject: PluginSubject, config: pytest.Config) -> Hub | None:
    """A Hub that lives as long as the run, or None when the plugin cannot be loaded."""
    scratch = Path(tempfile.mkdtemp(prefix="llmasos-conformance-"))
    config.add_cleanup(lambda: shutil.rmtree(scratch, ignore_errors=True))
    hub = subject.open_hub(scratch)
    config.add_cleanup(hub.close)
    try:
        for kind, name in subject.contributions:
            hub.contribution(kind, name)
    except LlmasosError:
        return None
    return hub


def _tokenizers(
    hub: Hub, name: str, samples: Sequence[Path]
) -> Iterator[tuple[str, Sequence[Check[Any]], Callable[[], Any]]]:
    form = hub.get("tokenizer", name)()
    provided = next(p for p in hub.names("tokenizer") if p.full_name == name)
    for path in samples:
        if not form.accepts(path):
            continue

        def build(path: Path = path) -> tokenizer.TokenizerSubject:
            def reopen() -> Any:
                return form.open(path, _checkpoint(hub, path))

            opened = reopen()
            lossless = getattr(opened, "lossless", provided.capabilities.get("lossless", True))
            return tokenizer.TokenizerSubject(opened, lossless=bool(lossless), reopen=reopen)

        yield f"tokenizer {name} on {path.name}", tokenizer.CHECKS, cache(build)


def _checkpoint(hub: Hub, path: Path) -> Any:
    """The open weight file at ``path`` for formats that read its header; None where there is none."""
    from llmasos.contracts.model import ResolvedModel
    from llmasos.pipelines.load import open_checkpoint

    try:
        return open_checkpoint(hub, ResolvedModel(str(path), path, "sample"), allow_pickle=False)[0]
    except LlmasosError:
        return None


def _models(
    hub: Hub, name: str, samples: Sequence[Path]
) -> Iterator[tuple[str, Sequence[Check[Any]], Callable[[], Any]]]:
    from llmasos.pipelines.load import build_model, open_model, opened_model

    provided = next(p for p in hub.names("model_architecture") if p.full_name == name)
    positions = bool(provided.capabilities.get("positions", True))
    for path in samples:
        try:
            with opened_model(hub, str(path)) as opened:
                if opened.architecture_name != name:
                    continue
                summary = opened.architecture.summarize(opened.checkpoint)
        except (ModelNotFound, UnknownName):
            continue  # a sample of something else, a tokenizer without weights for example
        except LlmasosError as error:
            raise pytest.UsageError(f"llmasos sample {path}: {error}") from None
        decoder = summary.kind == "decoder"

        def build(path: Path = path, decoder: bool = decoder, parameters: int = summary.parameters) -> Any:
            # Left open: the weights may be views of the mapped file.
            built, _ = build_model(hub, open_model(hub, str(path)), device="cpu", dtype="float32")
            if decoder:
                return model.ModelSubject(cast(Any, built), uses_positions=positions, parameters=parameters)
            return encoder.EncoderSubject(cast(Any, built), parameters=parameters)

        checks: Sequence[Check[Any]] = model.CHECKS if decoder else encoder.CHECKS
        yield f"model {name} on {path.name}", checks, cache(build)


def _processor(hub: Hub, name: str) -> Callable[[], processor.ProcessorSubject] | None:
    """The subject of a processor with its default options; None when it does not work without options."""
    factory = hub.get("processor", name)
    try:
        factory({}, hub)
    except InputError:
        return None
    except Exception:
        pass  # a broken factory is for the checks to say
    return lambda: processor.ProcessorSubject(lambda: factory({}, hub))


def _ops(hub: Hub, name: str) -> Iterator[tuple[str, Sequence[Check[Any]], Callable[[], Any]]]:
    """Each op on each device that its back end finds here, in each element type that both it and the back end know.

    One that reads weights is tried on packed ones, too, where its back end packs.
    """
    definition = cast("KernelOp", hub.contribution("kernel_op", name))
    owner = f"{name.rpartition('/')[0]}/{definition.backend}"
    packs = definition.op in WEIGHT_OPS and isinstance(_driver(hub, owner), PackingBackend)
    for device, dtypes in _devices(hub, owner):
        for dtype in dtypes:
            if device not in definition.devices or dtype not in definition.dtypes:
                continue

            def build(device: str = device, dtype: str = dtype, *, packed: bool = False) -> backend.OpSubject:
                pack = None
                if packed:
                    ready = prepared_backend(hub, owner, device, cast(Any, dtype))
                    pack = cast(PackingBackend, ready).pack
                return backend.OpSubject(
                    definition.op,
                    hub.get("kernel_op", name),
                    hub.get("kernel_op", f"llmasos-transformer/reference.{definition.op}"),
                    device=device,
                    dtype=cast(Any, dtype),
                    tolerance=definition.tolerance,
                    pack=pack,
                )

            yield f"op {name} {device} {dtype}", backend.OP_CHECKS, cache(build)
            if packs:
                checks = (*backend.OP_CHECKS, *backend.PACKED_CHECKS)
                yield f"op {name} {device} {dtype} packed", checks, cache(partial(build, packed=True))


def _driver(hub: Hub, name: str) -> Backend | None:
    """The back end of an op, not prepared; None when it is not of the same plugin."""
    if name not in {provided.full_name for provided in hub.names("backend")}:
        return None
    return cast("Backend", hub.get("backend", name)())


def _devices(hub: Hub, name: str) -> list[tuple[str, tuple[str, ...]]]:
    driver = _driver(hub, name)
    if driver is None:
        return [("cpu", ("float32",))]
    return [(device, driver.dtypes(device)) for device in driver.devices()]
