"""From the answers of ``engine.py``'s workers to medians, ratios, limits, correctness, and their tables."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

OURS, REFERENCE = "llmasos", ("transformers", "fp32")
#: Bytes of a weight. Four bits come with the scale of their group, as in every format in use: 18 bytes for 32 weights.
BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 18 / 32}
#: Which precision of the peers an encoder of ours is held against, beside its own.
ALSO = {"bf16": "int8"}

Answers = Mapping[tuple[str, str], Mapping[str, Any]]


def summary(rounds: Sequence[Sequence[Mapping[str, Any]]], weights: int) -> dict[str, Any]:
    """Rows of engines, ratios to the best peers, and limits, over all rounds of one workload."""
    by_round: list[Answers] = [{(a["engine"], a["precision"]): a for a in answers} for answers in rounds]
    present = [key for key in _in_order(by_round) if all(key in answers for answers in by_round)]
    measured = [answers["limits", ""]["output"] for answers in by_round if ("limits", "") in answers]
    limits = {name: statistics.median(one[name] for one in measured) for name in (measured or [{}])[0]}
    rates = {key: [rate(answers[key]) for answers in by_round] for key in present}
    rows = []
    for key in present:
        answers = [one[key] for one in by_round]
        middle = statistics.median(rates[key])
        rows.append(
            {
                "engine": key[0],
                "precision": key[1],
                "rate": middle,
                "low": min(rates[key]),
                "high": max(rates[key]),
                "whole": statistics.median(a["tokens"] / a["seconds"] for a in answers),
                "of_limit": of_limit(key[1], answers[0], middle, weights, limits),
                "batch": answers[0].get("batch"),
                "others": statistics.median(a.get("others", 0.0) for a in answers),
                "peak": max(a["peak"] for a in answers),
                "exact": exactness([one.get(REFERENCE) for one in by_round], answers),
            }
        )
    return {
        "rounds": len(rounds),
        "limits": limits,
        "weights": weights,
        "rows": rows,
        "ratios": ratios(rates, by_round),
    }


def _in_order(by_round: Sequence[Answers]) -> list[tuple[str, str]]:
    """Engines as they are printed: by precision, ours first."""
    keys = {key for answers in by_round for key in answers if key[0] != "limits"}
    precisions = list(BYTES)
    return sorted(keys, key=lambda key: (precisions.index(key[1]), key[0] != OURS, key[0]))


def rate(answer: Mapping[str, Any]) -> float:
    """Tokens a second; of decoding, once the prompts are read."""
    if "step" in answer:
        return len(answer["output"]) / float(answer["step"])
    return float(answer["tokens"]) / float(answer["seconds"])


def of_limit(
    precision: str, answer: Mapping[str, Any], rate: float, weights: int, limits: Mapping[str, float]
) -> float | None:
    """Decoding: bytes of weights read a second, of what memory gives. Otherwise: operations of the matrices a second, of what
    products alone reach. Neither counts attention."""
    if "step" in answer:
        bandwidth = limits.get("bandwidth")
        return (
            None if not bandwidth else rate / len(answer["output"]) * weights * BYTES[precision] / bandwidth
        )
    product = limits.get(f"{precision} product")
    return None if not product else rate * 2 * weights / product


def ratios(
    rates: Mapping[tuple[str, str], Sequence[float]], by_round: Sequence[Answers]
) -> list[dict[str, Any]]:
    """Ours to the best peer of the same precision, and of those in ``ALSO``."""
    found = []
    encoding = any(a.get("do") == "encode" for answers in by_round for a in answers.values())
    for engine, precision in rates:
        if engine != OURS:
            continue
        ours = rates[engine, precision]
        also = [ALSO[precision]] if encoding and precision in ALSO else []
        for theirs in (precision, *also):
            peers = [key for key in rates if key[0] != OURS and key[1] == theirs]
            if not peers:
                continue
            best = max(peers, key=lambda key: statistics.median(rates[key]))
            each = [a / b for a, b in zip(ours, rates[best], strict=True)]
            whole = [
                (a[engine, precision]["tokens"] / a[engine, precision]["seconds"])
                / (a[best]["tokens"] / a[best]["seconds"])
                for a in by_round
            ]
            found.append(
                {
                    "precision": precision,
                    "peer": best[0],
                    "peer_precision": best[1],
                    "ratio": statistics.median(ours) / statistics.median(rates[best]),
                    "low": min(each),
                    "high": max(each),
                    "whole": statistics.median(whole),
                }
            )
    return found


# ---- correctness ------------------------------------------------------------------------------------------------------


def exactness(
    reference: Sequence[Mapping[str, Any] | None], answers: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """How near to transformers in fp32 the timed answers are, as far as it took part."""
    if "step" in answers[0]:
        return _same_tokens(reference, answers)
    if answers[0]["do"] == "encode":
        return _difference(reference[0], answers[0])
    return _perplexity(reference[0], answers[0])


def _same_tokens(
    reference: Sequence[Mapping[str, Any] | None], answers: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Streams with the same tokens throughout, and the share of tokens before the first other one."""
    streams = identical = tokens = agreed = 0
    for wanted, answer in zip(reference, answers, strict=True):
        if wanted is None:
            return {}
        for expected, given in zip(wanted["output"], answer["output"], strict=True):
            pairs = zip(expected, given, strict=False)
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(given)))
            streams, tokens, agreed = streams + 1, tokens + len(expected), agreed + same
            identical += expected == given
    return {"streams": streams, "identical": identical, "agreed": agreed / max(1, tokens)}


def _perplexity(reference: Mapping[str, Any] | None, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Perplexity; its relative distance from the reference's, and the largest of a sequence's log-probability a token."""

    def perplexity(of: Mapping[str, Any]) -> float:
        return math.exp(-math.fsum(of["output"]) / (of["tokens"] - len(of["output"])))

    found = {"perplexity": perplexity(answer)}
    if reference is not None:
        each = (answer["tokens"] - len(answer["output"])) / len(answer["output"])
        gaps = [abs(a - b) / each for a, b in zip(reference["output"], answer["output"], strict=True)]
        found |= {"off": found["perplexity"] / perplexity(reference) - 1, "largest": max(gaps)}
    return found


def _difference(reference: Mapping[str, Any] | None, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Largest difference of an entry, and the root mean square of all differences."""
    if reference is None:
        return {}
    gaps = [
        a - b
        for expected, given in zip(reference["output"], answer["output"], strict=True)
        for a, b in zip(expected, given, strict=True)
    ]
    return {"largest": max(map(abs, gaps)), "rms": math.sqrt(math.fsum(g * g for g in gaps) / len(gaps))}


# ---- tables -----------------------------------------------------------------------------------------------------------


def table(result: Mapping[str, Any]) -> str:
    decoding = result["do"] == "decode"
    heads = {
        "decode": "identical to transformers fp32",
        "score": "perplexity, off",
        "encode": "largest difference, rms",
    }
    limit = "of bandwidth" if decoding else "of products"
    lines = [
        f"{result['model']}, {result['title']}, medians of {result['rounds']} rounds, tokens/s",
        (
            f"  {'engine':<20} {'class':<5} {'median':>8} {'min - max':>17} {'with prompt' if decoding else 'batch':>11} "
            f"{limit:>12} {'others':>7} {'peak MB':>8}  {heads[result['do']]}"
        ),
    ]
    for row in result["rows"]:
        apart = f"{row['whole']:.1f}" if decoding else str(row["batch"])
        reached = "" if row["of_limit"] is None else f"{row['of_limit']:.0%}"
        lines.append(
            f"  {row['engine']:<20} {row['precision']:<5} {row['rate']:>8.1f} {row['low']:>8.1f} -{row['high']:>7.1f} "
            f"{apart:>11} {reached:>12} {row['others']:>7.2f} {row['peak'] / 1e6:>8.0f}  {_exact(row['exact'])}"
        )
    for one in result["ratios"]:
        against = f"{one['peer']} {one['peer_precision']}"
        whole = f", with prompt {one['whole']:.2f}" if decoding else ""
        lines.append(
            f"  {OURS} {one['precision']} / {against}: {one['ratio']:.2f} ({one['low']:.2f} - {one['high']:.2f}){whole}"
        )
    limits = result["limits"]
    if limits:
        products = ", ".join(
            f"{name.split()[0]} {value / 1e9:.0f}" for name, value in limits.items() if name != "bandwidth"
        )
        lines.append(
            f"  memory {limits['bandwidth'] / 1e9:.1f} GB/s read; products of matrices {products} Gop/s"
        )
    return "\n".join(lines)


def _exact(found: Mapping[str, Any]) -> str:
    if "streams" in found:
        return f"{found['identical']} of {found['streams']}, {found['agreed']:.0%} before the first other"
    if "perplexity" in found:
        return f"{found['perplexity']:.3f}" + (f", {found['off']:+.3%}" if "off" in found else "")
    return f"{found['largest']:.1e}, {found['rms']:.1e}" if found else ""


def load_table(result: Mapping[str, Any]) -> str:
    lines = [
        f"{result['model']}, {result['title']} of a fresh process, fp32; peak memory, that of imported libraries apart, beside {result['weights'] / 1e6:.0f} MB of weights",
        f"  {'engine':<14} {'format':<12} {'median s':>9} {'min - max':>13} {'first time':>11} {'peak MB':>8} {'of it bare':>10} {'rest / weights':>14}  token",
    ]
    medians: dict[tuple[str, str], float] = {}
    for row in result["rows"]:
        first, *rest = row["answers"] * (2 if len(row["answers"]) == 1 else 1)
        seconds = [answer["seconds"] for answer in rest]
        medians[row["engine"], row["format"]] = statistics.median(seconds)
        highest = max(answer["peak"] for answer in row["answers"])
        bare = max(answer["bare"] for answer in row["answers"])
        lines.append(
            f"  {row['engine']:<14} {row['format']:<12} {statistics.median(seconds):>9.2f} {min(seconds):>6.2f} -{max(seconds):>5.2f} "
            f"{first['seconds']:>11.2f} {highest / 1e6:>8.0f} {bare / 1e6:>10.0f} {(highest - bare) / result['weights']:>14.2f}  {first['token']}"
        )
    for (engine, form), value in medians.items():
        if engine != OURS and (OURS, form) in medians:
            lines.append(f"  {engine} / {OURS}, {form}: {value / medians[OURS, form]:.2f} times as long")
    return "\n".join(lines)


def environment_lines(
    facts: Mapping[str, Any], engines: Mapping[str, Mapping[str, Any]], left_out: Sequence[str]
) -> list[str]:
    versions: dict[str, str] = {}
    ours: dict[str, str] = {}
    for name, found in engines.items():
        engine = name.split()[0]
        versions[engine] = str(found.get("version", ""))
        if engine == OURS:
            ours[name] = f"{found['backend']}: " + ", ".join(
                f"{op} {provider}" for op, provider in found["ops"].items()
            )
        if "system" in found:
            versions[engine] += f" ({found['system']})"
    return [
        json.dumps(facts),
        *(f"{engine} {version}" for engine, version in sorted(versions.items())),
        *(f"{name} runs on {what}" for name, what in ours.items()),
        *(f"left out: {line}" for line in left_out),
    ]
