"""What this plugin offers. Importing this module imports neither torch nor numpy: factories are named, not imported."""

from __future__ import annotations

from collections.abc import Iterator

from llmasos.api import (
    CommandDef,
    MetricDef,
    ModelArchitecture,
    TaskDef,
    TokenizerDef,
    WeightLoader,
    hookimpl,
)


@hookimpl
def llmasos_model_architectures() -> Iterator[ModelArchitecture]:
    yield ModelArchitecture(name="kneser-ney", factory="llmasos_ngram.model:NgramArchitecture")


@hookimpl
def llmasos_weight_loaders() -> Iterator[WeightLoader]:
    yield WeightLoader(name="ngram", factory="llmasos_ngram.weights:NgramFormat", priority=5)


@hookimpl
def llmasos_tokenizers() -> Iterator[TokenizerDef]:
    yield TokenizerDef(name="words", factory="llmasos_ngram.words:WordsFormat", priority=5)


@hookimpl
def llmasos_metrics() -> Iterator[MetricDef]:
    yield MetricDef(
        name="bits_per_character",
        factory="llmasos_ngram.metric:BitsPerCharacter",
        higher_is_better=False,
        unit="bits",
        range=(0.0, None),
        scores=("loglikelihood_rolling",),
    )


@hookimpl
def llmasos_tasks() -> Iterator[TaskDef]:
    yield TaskDef(name="ngram_weather", factory="llmasos_ngram:tasks/weather.yaml")


@hookimpl
def llmasos_commands() -> Iterator[CommandDef]:
    yield CommandDef(name="ngram", factory="llmasos_ngram.command:ngram")
