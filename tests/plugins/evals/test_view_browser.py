"""The page in a real browser: one file with 30,000 documents, and the local server with a run of 100,000."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from view_runs import FIRST_PAINT, HOSTILE, browser_page, choice_run

from llmasos.cli.main import run as run_cli

MANY, EMBEDDED = 100_000, 30_000
#: Milliseconds until something is painted.
LIMIT = 2000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return choice_run(tmp_path_factory.mktemp("many") / "run", MANY)


@pytest.fixture
def address(many: Path) -> Iterator[str]:
    """The local page of the run, served by the real command."""
    command = [sys.executable, "-m", "llmasos", "eval", "view", str(many), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def look(page: Any, address: str, documents: int) -> None:
    """Open the page, filter, read a document."""
    page.goto(address, wait_until="commit")
    page.wait_for_selector("#scores")
    assert page.evaluate(FIRST_PAINT) < LIMIT
    page.click("tr.open")
    page.wait_for_selector(".row", timeout=60_000)
    assert page.inner_text("#count") == f"{documents} of {documents} documents"
    page.click('button[data-show="wrong"]')
    wrong = int(page.inner_text("#count").split()[0])
    assert 0 < wrong < documents
    assert page.locator(".row .verdict.right").count() == 0
    # Only what one can see is in the page.
    assert page.locator(".row").count() < 60
    page.locator(".row").nth(2).click()
    page.wait_for_selector("#sample pre")
    assert "Counted wrong: choice" in page.inner_text("#sample")
    assert page.inner_text("#sample .special") == "<|user|>"
    page.evaluate("document.getElementById('rows').scrollTop = 1e9")
    page.get_by_text(re.compile(rf"^{(documents - 1) // 100}\d\d$")).first.wait_for()


def test_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "run.html"
    run = choice_run(tmp_path / "run", EMBEDDED)
    assert run_cli(["eval", "view", str(run), "--output", str(target), "--quiet"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    with browser_page() as page:
        look(page, target.as_uri(), EMBEDDED)


def test_the_local_page_and_its_search(address: str) -> None:
    with browser_page() as page:
        look(page, address, MANY)
        page.click('button[data-show="all"]')
        page.fill("input[type=search]", "question 99990:")
        page.press("input[type=search]", "Enter")
        page.get_by_text(f"1 of {MANY} documents").wait_for(timeout=60_000)
        assert page.inner_text(".row .index") == "99990"


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    runs = [choice_run(tmp_path / name, 300, seed=seed, model=name) for seed, name in enumerate("xy")]
    target = tmp_path / "two.html"
    assert run_cli(["eval", "view", *map(str, runs), "--output", str(target), "--quiet"]) == 0
    with browser_page() as page:
        page.goto(target.as_uri())
        assert [page.inner_text(f"h1:nth-of-type({n})").split()[1] for n in (1, 2)] == ["x", "y"]
        assert page.locator("#comparison tr").count() >= 2
        page.wait_for_selector("#remarks[data-checked]", state="attached")
        assert page.locator("#remarks .notice").count() == 0
        page.click("tr.open")
        page.click('button[data-show="A right, B wrong"]')
        page.locator(".row").first.click()
        page.get_by_text("the same document in B").wait_for()
        verdicts = page.locator("#sample h3 b").all_inner_texts()
        assert verdicts == ["right", "wrong"]


def test_what_a_stranger_wrote_is_text_and_that_it_was_touched_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = choice_run(tmp_path / "run", 3, model=HOSTILE)
    samples = folder / "samples_t.jsonl"
    samples.write_text(samples.read_text().replace("which of them?", HOSTILE.replace('"', '\\"')))
    target = tmp_path / "run.html"
    assert run_cli(["eval", "view", str(folder), "--output", str(target), "--quiet"]) == 0
    said = "the samples are not those of the record: task t: samples_digest"
    assert f"warning: {said}" in capsys.readouterr().err
    with browser_page() as page:
        page.goto(target.as_uri())
        page.wait_for_selector("#remarks[data-checked]", state="attached")
        assert said in page.inner_text("#remarks .notice")
        title = page.title()
        page.click("tr.open")
        page.locator(".row").first.click()
        page.wait_for_selector("#sample pre")
        assert HOSTILE in page.inner_text("#sample pre")
        assert page.title() == title
        assert page.locator("img").count() == 0


def test_a_damaged_sample_is_said_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = choice_run(tmp_path / "run", 5)
    samples = folder / "samples_t.jsonl"
    samples.write_bytes(samples.read_bytes().replace(b'"items"', b'"itens"', 1))
    assert run_cli(["eval", "view", str(folder), "--output", str(tmp_path / "x.html")]) != 0
    assert "is damaged" in capsys.readouterr().err
    assert not list(tmp_path.glob("*x.html*"))


def test_three_runs_are_too_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(choice_run(tmp_path / "run", 1))
    assert run_cli(["eval", "view", folder, folder, folder]) == 2
    assert "two at most" in capsys.readouterr().err
