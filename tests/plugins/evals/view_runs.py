"""Runs of any size to look at, and a browser to do it with."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from record_samples import a_sample, write_run
from test_record import a_record

from llmasos.api import canonical_digest, canonical_json, merkle_root
from llmasos_evals.records.results import Tally
from llmasos_evals.records.store import samples_name

#: Names under which the browser is installed.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = '<img src=x onerror="document.title=1">&</script><script>document.title=2</script>'


def a_choice_sample(index: int, draw: random.Random) -> dict[str, Any]:
    """A document with four choices of which the second is the key; the verdict follows from the log-likelihoods."""
    logprobs = [-5 * draw.random() for _ in range(4)]
    sample = a_sample(index, float(logprobs[1] == max(logprobs)))
    response = sample["responses"][0]
    sample["prompts"] = [f"<|user|>Question {index}: which of them?\nAnswer: "]
    sample["requests"] = [
        {"kind": "loglikelihood", "prompt": 0, "continuation": f" {name}"} for name in "abcd"
    ]
    sample["responses"] = [{**response, "logprob": logprob} for logprob in logprobs]
    sample["target"] = 1
    sample["prompt_digest"] = canonical_digest([answer["ids_digest"] for answer in sample["responses"]])
    return sample


#: Documents with answers of their own; more documents have the answers of these again.
DISTINCT = 1000
_NUMBER = 987_654_321


def choice_run(folder: Path, documents: int, *, seed: int = 1, model: str = "tiny") -> Path:
    """A run of ``documents`` documents with four choices; its record says what its samples come to."""
    draw, record = random.Random(seed), a_record()
    kinds = [a_choice_sample(_NUMBER, draw) for _ in range(min(documents, DISTINCT))]
    digest = kinds[0]["doc_digest"].encode()
    patterns = [canonical_json(kind).replace(digest, b"@") for kind in kinds]
    lines = [
        patterns[index % DISTINCT]
        .replace(str(_NUMBER).encode(), str(index).encode())
        .replace(b"@", hashlib.sha256(str(index).encode()).hexdigest().encode())
        for index in range(documents)
    ]
    tally = Tally(kinds)
    values = [tally.columns["acc", "none"][index % DISTINCT] for index in range(documents)]
    share = sum(values) / documents
    record["model"]["ref"] = model
    section = record["tasks"][0]
    section.update(
        output_type="multiple_choice",
        documents=documents,
        prompt_digest=merkle_root([kinds[index % DISTINCT]["prompt_digest"] for index in range(documents)]),
        samples_digest=merkle_root([hashlib.sha256(line).hexdigest() for line in lines]),
        counts=tally.counts() | {"requests": 4 * documents, "tokens": 4 * documents},
    )
    for score in (section["scores"][0], record["groups"][0]["scores"][0]):
        score.update(value=share, n=documents, ci_low=max(0.0, share - 0.1), ci_high=min(1.0, share + 0.1))
    write_run(folder, [], record)
    (folder / samples_name(section["name"])).write_bytes(b"".join(line + b"\n" for line in lines))
    return folder


@contextmanager
def browser_page(width: int = 1240, height: int = 900) -> Iterator[Any]:
    """A page of a headless browser on which no script may fail. Skips where there is no browser."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            failures: list[str] = []
            page.on("pageerror", lambda error: failures.append(str(error)))
            page.on("console", lambda line: failures.append(line.text) if line.type == "error" else None)
            yield page
            assert failures == []
        finally:
            browser.close()


FIRST_PAINT = """new Promise((done) => new PerformanceObserver((list) => done(list.getEntries()[0].startTime))
  .observe({type: 'paint', buffered: true}))"""
