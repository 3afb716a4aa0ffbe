"""The local page: what it answers, and whom."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from view_runs import HOSTILE, choice_run

from llmasos import Hub
from llmasos.errors import UsageError
from llmasos_evals.records.checks import doubts
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.standing import standing_of
from llmasos_evals.view.page import as_script, render, summary
from llmasos_evals.view.server import Viewer, make_server


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    run = open_run(choice_run(tmp_path, 250))
    with make_server(Viewer([run], summary([run], [standing_of(run, Hub())]), list, print), 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def get(port: int, path: str, host: str | None = None) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


def test_page_columns_blocks_and_search(port: int) -> None:
    status, kind, page = get(port, "/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert page.rstrip().endswith("</html>")
    columns = json.loads(get(port, "/columns?run=0&task=0")[2])
    assert columns["index"] == list(range(250))
    blocks = [json.loads(get(port, f"/block?run=0&task=0&block={n}")[2]) for n in range(4)]
    assert [len(block) for block in blocks] == [100, 100, 50, 0]
    assert [sample["index"] for block in blocks for sample in block] == columns["index"]
    assert json.loads(get(port, "/search?run=0&task=0&text=QUESTION%20249")[2]) == [249]


def test_samples_that_are_not_those_of_the_record_are_said(tmp_path: Path) -> None:
    run = open_run(choice_run(tmp_path, 20))
    for touched in (False, True):
        if touched:
            samples = tmp_path / "samples_t.jsonl"
            samples.write_bytes(samples.read_bytes().replace(b'"is_greedy":true', b'"is_greedy":null', 1))
        said: list[str] = []
        shown = summary([run], [standing_of(run, Hub())])
        viewer = Viewer([run], shown, lambda: doubts(open_run(tmp_path, fresh=True), Hub()), said.append)
        viewer.prepare()
        assert viewer.remarks(0, 0) == said
        assert [line.partition(" is ")[0] for line in said] == (
            ["the samples are not those of the record: task t: samples_digest of the samples"]
            if touched
            else []
        )


def test_a_record_that_was_touched_is_said(tmp_path: Path) -> None:
    path = choice_run(tmp_path, 3) / "record.json"
    path.write_text(path.read_text().replace('"seed": 1234', '"seed": 1235'))
    run = open_run(tmp_path)
    (remark,) = summary([run], [standing_of(run, Hub())])["runs"][0]["remarks"]
    assert "it was changed after it was written" in remark


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/columns?run=1", 400),
        ("/columns?task=-1", 400),
        ("/block?block=x", 400),
        ("/../record.json", 404),
    ],
)
def test_what_is_not_there(port: int, path: str, status: int) -> None:
    assert get(port, path)[0] == status


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example:80"])
def test_another_site_cannot_read_a_run_through_the_browser(port: int, host: str) -> None:
    status, _, body = get(port, "/columns?run=0&task=0", host)
    assert status == 403
    assert "digest" not in body


def test_a_port_that_is_taken(tmp_path: Path, port: int) -> None:
    with pytest.raises(UsageError, match=f"cannot listen on port {port}"):
        make_server(Viewer([], {"runs": []}, list, print), port)


def test_what_strangers_wrote_cannot_end_the_script() -> None:
    assert "<" not in as_script({"name": HOSTILE})
    assert json.loads(as_script({"name": HOSTILE})) == {"name": HOSTILE}
    page = "".join(render({"runs": []}, HOSTILE))
    assert HOSTILE not in page
