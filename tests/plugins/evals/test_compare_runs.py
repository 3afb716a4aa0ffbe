"""`llmasos eval compare`: which runs may be compared, how documents are paired, and what is said."""

from __future__ import annotations

import json
import resource
import shutil
import time

import numpy as np
import pytest
from stat_runs import METRICS, digest, write_run

from llmasos import Hub
from llmasos.api import InputError
from llmasos.cli.main import run as command_line
from llmasos_evals.statistics.pairing import pair
from llmasos_evals.statistics.permutation import mcnemar
from llmasos_evals.statistics.suites import Choice, compare_runs, corrected

RIGHT = [1.0] * 60 + [0.0] * 40
BETTER = [1.0] * 55 + [0.0] * 5 + [1.0] * 20 + [0.0] * 20


def both(tmp_path, first=None, second=None, **shared):
    a = write_run(
        tmp_path / "a", **{"tasks": {"quiz": {"acc": RIGHT}}, "model": "one", **shared, **(first or {})}
    )
    b = write_run(
        tmp_path / "b", **{"tasks": {"quiz": {"acc": BETTER}}, "model": "two", **shared, **(second or {})}
    )
    return a, b


def compared(a, b, **options):
    found = compare_runs(a, b, Hub(), **options)
    corrected([found])
    return found


def test_two_runs(tmp_path):
    found = compared(*both(tmp_path))
    (row,) = found.rows
    assert (row.task, row.metric, row.result.documents) == ("quiz", "acc", 100)
    assert (row.result.a, row.result.b, row.result.wins, row.result.losses) == (0.6, 0.75, 20, 5)
    assert row.result.p == row.p_holm == mcnemar(5, 20).p
    assert (found.skipped, found.remarks) == ([], [])


def test_every_kind_of_metric(tmp_path):
    draw = np.random.default_rng(1)
    words = ["ein", "Haus", "am", "See", "und", "der", "Wald"]
    texts = [" ".join(draw.choice(words, 8)) for _ in range(30)]
    worse = [" ".join(w if draw.random() < 0.8 else "na" for w in text.split()) for text in texts]
    columns = {
        "acc": [1.0, 0.0] * 15,
        "rouge": draw.random(30).tolist(),
        "word_perplexity": [[float(-x), 5] for x in draw.uniform(5, 9, 30)],
        "f1": [[int(x), int(y)] for x, y in draw.integers(0, 2, (30, 2))],
        "bleu": [[[text], said] for text, said in zip(texts, worse, strict=True)],
        "chrf": [[[text], said] for text, said in zip(texts, worse, strict=True)],
        "ter": [[[text], said] for text, said in zip(texts, worse, strict=True)],
    }
    improved = {**columns, **{name: [[[text], text] for text in texts] for name in ("bleu", "chrf", "ter")}}
    found = compared(*both(tmp_path, {"tasks": {"t": columns}}, {"tasks": {"t": improved}}))
    rows = {row.metric: row for row in found.rows}
    assert set(rows) == set(columns)
    assert {name: row.result.test for name, row in rows.items()} == {
        "acc": "mcnemar:exact",
        "rouge": "mcnemar:exact" if rows["rouge"].result.wins else "sign-flip:exact",
        "word_perplexity": "randomisation:10000",
        "f1": "randomisation:10000",
        "bleu": "randomisation:10000",
        "chrf": "randomisation:10000",
        "ter": "randomisation:10000",
    }
    for name in ("bleu", "chrf", "ter"):
        row = rows[name]
        assert row.p_holm < 0.05
        assert row.result.losses == 0
        assert row.result.wins > 5
        assert (row.result.difference > 0) == METRICS[name][1]
    assert rows["acc"].p_holm == 1.0


def test_documents_are_paired_by_what_they_are(tmp_path):
    """Another order, and documents that only one run has."""
    order = list(reversed(range(20, 100)))
    a, b = both(
        tmp_path,
        second={"tasks": {"quiz": {"acc": [BETTER[n] for n in order]}}, "documents": {"quiz": order}},
    )
    found = compared(a, b)
    (row,) = found.rows
    assert row.result.documents == 80
    assert (row.result.a, row.result.b) == (sum(RIGHT[20:]) / 80, sum(BETTER[20:]) / 80)
    assert (row.result.wins, row.result.losses) == (20, 5)
    assert found.remarks == [
        "quiz: 80 documents are in both runs; 20 only in the first and 0 only in the second are left out"
    ]


def test_equal_documents_are_paired_one_by_one():
    assert pair(["x", "y", "x", "z"], ["x", "x", "w", "x", "y"]) == ([0, 1, 2], [0, 4, 1], 1, 2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"digest": digest("other")}, "the task itself (its file or code) differs"),
        ({"data_digest": digest("other")}, "the data differs"),
    ],
)
def test_other_tasks_and_data_are_refused(tmp_path, change, text):
    a, b = both(tmp_path, second=change)
    found = compared(a, b)
    assert found.rows == []
    assert found.skipped[0][0] == "quiz"
    assert text in found.skipped[0][1]
    kind = "task" if "digest" in change else "data"
    allowed = compared(a, b, choice=Choice(allow=frozenset({kind})))
    assert len(allowed.rows) == 1
    assert text in allowed.remarks[0]


def test_a_pool_in_the_digest_of_an_older_record_is_named(tmp_path):
    a, b = both(tmp_path, second={"data_digest": digest("other"), "num_fewshot": 0}, num_fewshot=0)
    a.record["tasks"][0]["data"]["fewshot_split"] = "train"
    b.record["tasks"][0]["data"]["fewshot_split"] = None
    assert "the few-shot pool that nothing was drawn from" in compared(a, b).skipped[0][1]


def test_another_definition_of_the_metric_is_refused(tmp_path, monkeypatch):
    a, _ = both(tmp_path)
    monkeypatch.setitem(METRICS, "acc", ("acc|norm:none|tie:first|agg:mean|v:2", True, [0.0, 1.0]))
    b = write_run(tmp_path / "c", {"quiz": {"acc": BETTER, "rouge": BETTER}})
    found = compared(a, b)
    assert found.rows == []
    assert "v:1 and acc|norm:none|tie:first|agg:mean|v:2" in found.skipped[0][1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_fewshot": 5}, "the number of shots differs: 0 and 5"),
        ({"chat_template_applied": True}, "the chat template differs: none and applied"),
        ({"generation": {"until": ["."]}}, "the generation settings differs"),
        ({"stride": 512}, "the stride of windows differs: None and 512"),
    ],
)
def test_other_ways_of_asking_are_warnings(tmp_path, change, text):
    found = compared(*both(tmp_path, second=change))
    assert len(found.rows) == 1
    assert text in found.remarks[0]


def test_shots_drawn_otherwise_are_said(tmp_path):
    found = compared(*both(tmp_path, {"seed": 1}, {"seed": 2}, num_fewshot=5))
    assert "the draw of shots" in found.remarks[0]
    assert compared(*both(tmp_path, {"seed": 1}, {"seed": 2})).remarks == []


def test_samples_that_do_not_give_the_recorded_value(tmp_path):
    a, b = both(tmp_path)
    path = b.samples_path("quiz")
    path.write_text(path.read_text().replace('["acc","none",1.0]', '["acc","none",0.0]', 1))
    with pytest.raises(InputError, match="do not give the record's acc"):
        compared(a, b)


def test_missing_samples(tmp_path):
    a, b = both(tmp_path)
    b.samples_path("quiz").unlink()
    with pytest.raises(InputError, match="came without its samples"):
        compared(a, b)


def test_a_function_of_the_tasks_own_has_a_difference_but_no_test(tmp_path):
    found = compared(
        *both(tmp_path, {"tasks": {"t": {"own": [1, 2, 3]}}}, {"tasks": {"t": {"own": [1, 2, 3]}}})
    )
    (row,) = found.rows
    assert (row.result.p, row.p_holm, row.result.difference) == (None, None, 0.0)
    assert row.note.startswith("no test")
    assert found.remarks == [
        "t.own has no test: the task's own code computes it, so nothing here says whether the difference is chance"
    ]


def test_tasks_only_one_run_has(tmp_path):
    found = compared(
        *both(
            tmp_path,
            {"tasks": {"quiz": {"acc": RIGHT}, "old": {"acc": RIGHT}}},
            {"tasks": {"quiz": {"acc": RIGHT}, "new": {"acc": RIGHT}}},
        )
    )
    assert [row.task for row in found.rows] == ["quiz"]
    assert found.skipped == [("old", "only the first run has it"), ("new", "only the second run has it")]


def test_groups_and_holm_over_the_suite(tmp_path):
    tasks = {f"part_{n}": {"acc": RIGHT} for n in range(4)}
    better = {f"part_{n}": {"acc": BETTER if n < 3 else RIGHT} for n in range(4)}
    a, b = both(tmp_path, {"tasks": tasks}, {"tasks": better}, groups={"whole": list(tasks)})
    found = compared(a, b)
    assert [row.task for row in found.rows] == [*tasks, "whole"]
    alone, whole = mcnemar(5, 20).p, mcnemar(15, 60).p
    assert [row.result.p for row in found.rows] == [alone, alone, alone, 1.0, pytest.approx(whole)]
    assert [row.p_holm for row in found.rows] == pytest.approx([4 * alone] * 3 + [1.0, 5 * whole])
    only = compared(a, b, choice=Choice(tasks=("whole",)))
    assert [(row.task, row.p_holm) for row in only.rows] == [("whole", pytest.approx(whole))]
    none = compared(
        a,
        write_run(tmp_path / "c", {**better, "part_9": {"acc": RIGHT}}, groups={"whole": [*tasks, "part_9"]}),
    )
    assert ("whole.acc", "not all of its tasks were compared") in none.skipped


def test_clusters_that_were_recorded_are_used(tmp_path):
    clusters = {"quiz": [str(n // 10) for n in range(100)]}
    a, b = both(tmp_path, clusters=clusters, cluster_column="passage")
    (row,) = compared(a, b).rows
    assert row.result.method == "clustered:passage"
    assert row.result.test.startswith("sign-flip")


def imported(run, **changes):
    """The run as another harness's record would have it: much is not said."""
    nothing = {"digest": None, "data_digest": None, "generation": None}
    scores = {"signature": None, "higher_is_better": None, "range": None, "unit": None, "stderr": None}
    run.record["tasks"][0].update(nothing)
    run.record["tasks"][0]["scores"][0].update(scores | changes)
    run.record.update(settings=None, tokenizer=None, groups=[])
    run.record["model"]["ref"] = None
    return run


def test_runs_of_other_harnesses_that_do_not_say_what_they_ran(tmp_path):
    a, b = (imported(run) for run in both(tmp_path))
    found = compared(a, b)
    assert found.rows == []
    assert "the task itself (its file or code) is not recorded" in found.skipped[0][1]
    (row,) = compared(a, b, choice=Choice(allow=frozenset({"task", "data", "signature"}))).rows
    assert row.result.p == mcnemar(5, 20).p
    other = imported(write_run(tmp_path / "c", {"quiz": {"acc": RIGHT}}), value=None)
    (row,) = compared(other, b, choice=Choice(allow=frozenset({"task", "data", "signature"}))).rows
    assert row.note.startswith("no test")


# ---- the command -------------------------------------------------------------------------------------------------------


def test_the_table(tmp_path, capsys):
    both(tmp_path)
    assert command_line(["eval", "compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "A  a  one, float32\n" in out
    assert "B  b  two" in out
    line = next(line for line in out.splitlines() if line.startswith("quiz"))
    for cell in ("acc", "100", "0.6000", "0.7500", "+0.1500", "better", "20/75/5", "mcnemar:exact"):
        assert cell in line


def test_json_of_three_runs(tmp_path, capsys):
    both(tmp_path)
    write_run(tmp_path / "c", {"quiz": {"acc": RIGHT}}, num_fewshot=3)
    paths = [str(tmp_path / name) for name in "abc"]
    assert command_line(["eval", "compare", *paths, "--json", "--alpha", "0.01"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["schema"] == "llmasos-comparison/1"
    assert found["tests"] == 2
    first, second = (one["rows"][0] for one in found["comparisons"])
    assert (first["verdict"], first["significant"]) == ("better", True)
    assert first["p_holm"] == pytest.approx(2 * first["p"])
    assert (second["verdict"], second["p"], second["same"]) == ("", 1.0, 100)
    assert "c: quiz: the number of shots differs" in captured.err


def test_what_cannot_be_compared_is_an_error(tmp_path, capsys):
    both(tmp_path, second={"digest": digest("other")})
    paths = [str(tmp_path / name) for name in "ab"]
    assert command_line(["eval", "compare", *paths]) == 2
    assert "nothing can be compared: quiz: the task itself" in capsys.readouterr().err
    assert command_line(["eval", "compare", paths[0]]) == 2
    assert "one run cannot be compared" in capsys.readouterr().err
    assert command_line(["eval", "compare", paths[0], str(tmp_path / "nowhere")]) == 2
    assert "there is no record" in capsys.readouterr().err
    assert command_line(["eval", "compare", *paths, "--allow", "task", "--metric", "f1"]) == 2
    assert "no score was chosen" in capsys.readouterr().err


def test_a_large_run_is_read_a_document_at_a_time(tmp_path):
    """Fast twin of the test below."""
    timed(tmp_path, 2000, seconds=20, megabytes=200)


@pytest.mark.slow
def test_200_000_documents(tmp_path):
    timed(tmp_path, 200_000, seconds=120, megabytes=600)


def timed(tmp_path, size, seconds, megabytes):
    draw = np.random.default_rng(1)
    columns = {
        "acc": draw.integers(0, 2, size).astype(float).tolist(),
        "loss": draw.random(size).tolist(),
        "word_perplexity": [[float(-x), 5] for x in draw.uniform(5, 9, size)],
    }
    a, b = both(tmp_path, {"tasks": {"t": columns}}, {"tasks": {"t": columns}})
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert len(compared(a, b).rows) == 3
    assert time.process_time() - begin < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < megabytes
    shutil.rmtree(tmp_path / "a")
