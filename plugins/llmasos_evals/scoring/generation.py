"""Generation settings of a request: one meaning, nothing ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llmasos.api import InputError, SamplingParams

#: Settings that take a number, with the value that changes nothing.
_NUMBERS = {"temperature": 0.0, "top_k": 0.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
_BEAMS = {"num_beams": 1.0, "length_penalty": 1.0, "num_return_sequences": 1.0}
_KNOWN = (*_NUMBERS, *_BEAMS, "do_sample", "early_stopping", "max_gen_toks", "until")


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """Settings with one meaning. ``until`` are the stop strings in the order they cut the text; greedy at temperature 0."""

    until: tuple[str, ...]
    max_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    #: As in ``SamplingParams``.
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    @property
    def greedy(self) -> bool:
        """Whether the text is a function of the prompt alone."""
        return self.temperature == 0.0

    def sampling(self, *, seed: int) -> SamplingParams:
        """The settings as the generator takes them."""
        return SamplingParams(
            max_new_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            stop=self.until,
            seed=seed,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
        )

    def as_json(self) -> dict[str, Any]:
        """For the record. The settings of beams are in it where there are beams."""
        said = asdict(self) | {"until": list(self.until)}
        if self.num_beams == 1:
            for name in ("num_beams", "length_penalty", "early_stopping"):
                del said[name]
        return said

    def cut(self, text: str) -> str:
        """``text`` up to the first stop string; the strings are applied one after the other."""
        for stop in self.until:
            text = text.split(stop, 1)[0]
        return text


def generation_plan(options: Mapping[str, Any], *, where: str) -> GenerationPlan:
    """The meaning of a request's options. ``where`` names the task in errors.

    ``do_sample: false`` means temperature 0; without ``do_sample`` the temperature decides. Raises InputError for an
    unknown setting, for sampling at temperature 0, with beams, and for more than one answer to a prompt.
    """
    unknown = sorted(set(options) - set(_KNOWN))
    if unknown:
        raise InputError(
            f"{where}: unknown generation setting {unknown[0]!r}",
            hint=f"known settings: {', '.join(sorted(_KNOWN))}",
        )
    numbers = {name: _number(options, name, default, where) for name, default in _NUMBERS.items()}
    sample = options.get("do_sample")
    if sample is False:
        numbers["temperature"] = 0.0
    elif sample and numbers["temperature"] == 0.0:
        raise InputError(
            f"{where}: do_sample is true but the temperature is 0", hint="give a temperature above 0"
        )
    beams = _beams(options, where)
    if beams["num_beams"] > 1 and numbers["temperature"] > 0:
        raise InputError(
            f"{where}: num_beams {beams['num_beams']} with temperature {numbers['temperature']:g}",
            hint="beam search is not sampled: set do_sample to false, or num_beams to 1",
        )
    return GenerationPlan(
        # An empty stop string would end every text before its first character.
        until=tuple(stop for stop in options.get("until") or () if stop),
        max_tokens=int(_number(options, "max_gen_toks", 256, where)),
        temperature=numbers["temperature"],
        top_k=int(numbers["top_k"]),
        top_p=numbers["top_p"],
        min_p=numbers["min_p"],
        repetition_penalty=numbers["repetition_penalty"],
        **beams,
    )


def _beams(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of beam search; those that change nothing where there is one beam."""
    numbers = {name: _number(options, name, default, where) for name, default in _BEAMS.items()}
    early = options.get("early_stopping") or False
    count = numbers["num_beams"]
    if count < 1 or count != int(count):
        raise InputError(
            f"{where}: num_beams is {options['num_beams']!r}", hint="num_beams must be 1 or more"
        )
    if numbers["num_return_sequences"] != 1:
        raise InputError(
            f"{where}: num_return_sequences {options['num_return_sequences']} is not supported",
            hint="the best beam is the answer; `repeats` asks a prompt several times",
        )
    if early not in (True, False, "never"):
        raise InputError(f"{where}: early_stopping is {early!r}", hint="it is true, false or never")
    if count == 1:
        return {"num_beams": 1}
    return {
        "num_beams": int(count),
        "length_penalty": numbers["length_penalty"],
        "early_stopping": early,
    }


def _number(options: Mapping[str, Any], name: str, default: float, where: str) -> float:
    value = options.get(name)
    try:
        return float(default if value is None else value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {name} is {value!r}", hint=f"{name} must be a number") from None
