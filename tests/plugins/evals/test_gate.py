"""`llmasos eval gate`: its grammar, its tests, what it refuses to judge, and what other programs read of it."""

from __future__ import annotations

import contextlib
import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stat_runs import digest, write_run

from llmasos import Hub
from llmasos.api import InputError, UsageError, record_digest
from llmasos.cli.main import run as command_line
from llmasos_evals.statistics.distributions import binomial_at_most, normal_below, t_below
from llmasos_evals.statistics.gate import judge, tango
from llmasos_evals.statistics.junit import junit_xml
from llmasos_evals.statistics.rules import MAX_FILE, parse_rule, read_rules
from llmasos_registry.signatures.keys import generate

OLD = [1.0] * 600 + [0.0] * 400
SLIGHTLY_WORSE = [1.0] * 590 + [0.0] * 10 + [1.0] * 5 + [0.0] * 395  # 59.5 %: 5 up, 10 down
MUCH_WORSE = [1.0] * 500 + [0.0] * 500


# ---- grammar -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("arc_easy.acc>=-0.5pp@p<0.05", ("arc_easy", "acc", None, ">=", -0.5, "pp", 0.05)),
        (
            "gsm8k.exact_match,strict-match >= 0.4",
            ("gsm8k", "exact_match", "strict-match", ">=", 0.4, "", None),
        ),
        ("wikitext.word_perplexity<=+1%", ("wikitext", "word_perplexity", None, "<=", 1.0, "%", None)),
        ("wmt.en-de.chrf++ >= -1e-1 % @ p < 1e-3", ("wmt.en-de", "chrf++", None, ">=", -0.1, "%", 1e-3)),
        ("humaneval.pass@1>=.3@p<.01", ("humaneval", "pass@1", None, ">=", 0.3, "", 0.01)),
        ("mmlu_*.acc>=0pp", ("mmlu_*", "acc", None, ">=", 0.0, "pp", None)),
        ("  x.loss<=3.  ", ("x", "loss", None, "<=", 3.0, "", None)),
    ],
)
def test_rules_are_read(text, expected):
    rule = parse_rule(text)
    assert (rule.task, rule.metric, rule.filter, rule.relation, rule.value, rule.unit, rule.alpha) == expected
    assert rule.is_relative == bool(expected[5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read the rule"),
        ("acc>=0.5", "cannot read the rule"),
        ("a.acc>0.5", "cannot read the rule"),
        ("a.acc==0.5", "cannot read the rule"),
        ("a.acc>=0.5pp", "does not say in which direction"),
        ("a.acc>=5%", "does not say in which direction"),
        ("a.acc>=-1pp@p<2", "no probability"),
        ("a.acc>=-1pp@p<0", "no probability"),
        ("a.acc>=nan", "cannot read the rule"),
        ("a.acc>=1e999", "no finite bound"),
        ("a.acc>=0.5 extra", "cannot read the rule"),
        ("a.acc>=-1pp@p>0.05", "cannot read the rule"),
    ],
)
def test_what_is_no_rule(text, message):
    with pytest.raises(UsageError, match=message):
        parse_rule(text)


@given(st.text(max_size=60))
def test_any_text_is_a_rule_or_an_error(text):
    with contextlib.suppress(UsageError):
        assert parse_rule(text).text == text.strip()


def test_files_of_rules(tmp_path):
    path = tmp_path / "rules.txt"
    path.write_text("# before a release\n\nquiz.acc>=-1pp  # one point\nquiz.acc>=0.5\n")
    assert [rule.text for rule in read_rules(["x.acc>=0.1"], [path])] == [
        "x.acc>=0.1",
        "quiz.acc>=-1pp",
        "quiz.acc>=0.5",
    ]
    path.write_text("quiz.acc>=-1pp\nquiz.acc=>1\n")
    with pytest.raises(InputError, match=r"rules.txt, line 2: cannot read the rule"):
        read_rules([], [path])
    path.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(InputError, match="more than"):
        read_rules([], [path])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_rules([], [path])
    with pytest.raises(InputError, match="cannot read"):
        read_rules([], [tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="without a rule"):
        read_rules([])


# ---- judgement ---------------------------------------------------------------------------------------------------------


def runs(tmp_path, old=None, new=None, **changes):
    baseline = write_run(tmp_path / "old", old or {"quiz": {"acc": OLD}})
    run = write_run(tmp_path / "new", new or {"quiz": {"acc": SLIGHTLY_WORSE}}, **changes)
    return run, baseline


def verdict(rule, run, baseline=None, **options):
    (found,) = judge([parse_rule(rule)], run, baseline, Hub(), **options)
    return found


@pytest.mark.parametrize(
    ("rule", "status"),
    [
        ("quiz.acc>=0.595", "passed"),
        ("quiz.acc>=0.596", "failed"),
        ("quiz.acc>=-0.5pp", "passed"),
        ("quiz.acc>=-0.4pp", "failed"),
        ("quiz.acc>=-1%", "passed"),
        ("quiz.acc>=-0.8%", "failed"),
        ("quiz.acc>=0pp@p<0.05", "passed"),
        ("quiz.acc>=0.7@p<0.05", "failed"),
        ("quiz.acc>=0.61@p<0.05", "passed"),
        ("quiz.acc>=+3pp@p<0.05", "failed"),
        ("quiz.acc>=+10%@p<0.05", "failed"),
    ],
)
def test_verdicts(tmp_path, rule, status):
    found = verdict(rule, *runs(tmp_path))
    assert found.status == status, found
    assert (found.p is None) == ("@p" not in rule)


def test_a_great_loss_fails_whatever_the_level(tmp_path):
    run, baseline = runs(tmp_path, new={"quiz": {"acc": MUCH_WORSE}})
    found = verdict("quiz.acc>=-0.5pp@p<0.0001", run, baseline)
    assert found.status == "failed"
    assert found.margin == pytest.approx(-0.095)
    assert (found.value, found.baseline, found.bound) == (0.5, 0.6, pytest.approx(0.595))


def test_p_values_by_their_definitions(tmp_path):
    run, baseline = runs(tmp_path)
    assert verdict("quiz.acc>=0pp@p<0.05", run, baseline).p == pytest.approx(binomial_at_most(5, 15, 0.5))
    assert verdict("quiz.acc>=0.61@p<0.05", run).p == pytest.approx(binomial_at_most(595, 1000, 0.61))
    z = (5 - 10) / math.sqrt(15)
    assert tango(5, 10, 1000, 0.0) == pytest.approx(z)
    with_margin = verdict("quiz.acc>=+0.5pp@p<0.05", run, baseline)
    assert with_margin.p == pytest.approx(normal_below(tango(5, 10, 1000, 0.005)))
    assert with_margin.p < verdict("quiz.acc>=0pp@p<0.05", run, baseline).p


def test_tango_by_maximum_likelihood():
    """The restricted estimate maximises the likelihood among all with that difference."""
    up, down, n, change = 14, 31, 200, -0.03
    grid = np.linspace(1e-6, 0.4, 400_001)
    grid = grid[(grid + change > 0) & (2 * grid + change < 1)]
    likelihood = (
        up * np.log(grid + change) + down * np.log(grid) + (n - up - down) * np.log(1 - 2 * grid - change)
    )
    share = float(grid[likelihood.argmax()])
    expected = (up - down - n * change) / math.sqrt(n * (2 * share + change * (1 - change)))
    assert tango(up, down, n, change) == pytest.approx(expected, abs=1e-4)


def test_means_use_students_test(tmp_path):
    draw = np.random.default_rng(1)
    old = draw.random(40)
    new = old - draw.normal(0.05, 0.1, 40)
    run, baseline = runs(tmp_path, {"t": {"loss": old.tolist()}}, {"t": {"loss": new.tolist()}})
    found = verdict("t.loss<=-2%@p<0.05", run, baseline)
    deltas = new - 0.98 * old
    z = deltas.mean() / (deltas.std(ddof=1) / math.sqrt(40))
    assert found.p == pytest.approx(t_below(-z, 39))
    assert found.status == "passed"
    z = (new.mean() - 0.2) / (new.std(ddof=1) / math.sqrt(40))
    assert verdict("t.loss<=0.2@p<0.05", run).p == pytest.approx(t_below(-z, 39))
    assert verdict("t.loss<=0.2@p<0.05", run).status == "failed"


def test_a_score_without_an_error_can_be_held_to_values_only(tmp_path):
    run, _ = runs(tmp_path, new={"t": {"own": [1, 2, 3]}})
    assert verdict("t.own>=2", run).status == "passed"
    found = verdict("t.own>=2@p<0.05", run)
    assert (found.status, "no standard error" in found.message) == ("error", True)


def test_corpus_metrics_and_perplexities(tmp_path):
    draw = np.random.default_rng(2)
    nats = [[float(-x), 5] for x in draw.uniform(5, 9, 120)]
    worse = [[x * 1.05, n] for x, n in nats]
    run, baseline = runs(tmp_path, {"t": {"word_perplexity": nats}}, {"t": {"word_perplexity": worse}})
    assert verdict("t.word_perplexity<=+1%@p<0.05", run, baseline).status == "failed"
    assert verdict("t.word_perplexity<=+20%@p<0.05", run, baseline).status == "passed"
    assert "percentage points mean nothing" in verdict("t.word_perplexity<=+1pp", run, baseline).message


def test_what_a_rule_can_see_is_said(tmp_path):
    found = verdict("quiz.acc>=-0.5pp@p<0.05", *runs(tmp_path))
    stderr = math.sqrt((6 / 1002 + 11 / 1002 - (5 / 1002) ** 2) / 1002)
    assert found.sees == pytest.approx((1.6449 + 0.8416) * stderr, rel=1e-3)


def test_groups_and_patterns(tmp_path):
    old = {f"part_{n}": {"acc": OLD} for n in range(3)}
    new = {**old, "part_1": {"acc": MUCH_WORSE}}
    groups = {"whole": list(old)}
    baseline = write_run(tmp_path / "old", old, groups=groups)
    run = write_run(tmp_path / "new", new, groups=groups)
    found = judge([parse_rule("part_*.acc>=-1pp@p<0.05")], run, baseline, Hub())
    assert [(one.task, one.status) for one in found] == [
        ("part_0", "passed"),
        ("part_1", "failed"),
        ("part_2", "passed"),
    ]
    whole = verdict("whole.acc>=-1pp@p<0.05", run, baseline)
    assert whole.status == "failed"
    assert whole.bound == pytest.approx(0.59)
    # 5.6 % lost, with a standard error of 0.6 %
    assert verdict("whole.acc>=-4%@p<0.05", run, baseline).status == "failed"
    assert verdict("whole.acc>=-5%@p<0.05", run, baseline).status == "passed"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("nothing.acc>=0.5", "the run has no such score"),
        ("quiz.f1>=0.5", "the run has no such score"),
        ("quiz.acc,strict>=0.5", "the run has no such score"),
        ("quiz.acc<=0.9", "more is better for acc: the rule must say >="),
        ("extra.acc>=0pp", "the baseline has no such score"),
    ],
)
def test_missing_scores_are_errors(tmp_path, rule, message):
    run, baseline = runs(tmp_path, new={"quiz": {"acc": OLD}, "extra": {"acc": OLD}})
    found = verdict(rule, run, baseline)
    assert (found.status, found.message) == ("error", message)


def test_a_relative_rule_needs_a_baseline(tmp_path):
    run, _ = runs(tmp_path)
    assert verdict("quiz.acc>=-1pp", run).message == "the rule is relative, and there is no --baseline"


def test_a_task_that_was_lost_does_not_slip_through_a_pattern(tmp_path):
    run, baseline = runs(tmp_path, old={"quiz": {"acc": OLD}, "quiz_2": {"acc": OLD}})
    found = judge([parse_rule("quiz*.acc>=-1pp")], run, baseline, Hub())
    assert [(one.task, one.status) for one in found] == [("quiz_2", "error"), ("quiz", "passed")]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"digest": digest("x")}, "task"),
        ({"data_digest": digest("x")}, "data"),
        ({"num_fewshot": 5}, "shots"),
        ({"chat_template_applied": True}, "template"),
        ({"generation": {"until": []}}, "generation"),
        ({"stride": 8}, "windows"),
    ],
)
@pytest.mark.parametrize("rule", ["quiz.acc>=-1pp", "quiz.acc>=-1pp@p<0.05"])
def test_a_baseline_that_is_not_comparable_is_an_error(tmp_path, changes, kind, rule):
    run, baseline = runs(tmp_path, **changes)
    found = verdict(rule, run, baseline)
    assert found.status == "error"
    assert found.message.startswith("the baseline is not comparable: ")
    assert verdict(rule, run, baseline, allow=frozenset({kind})).status == "passed"


def test_other_documents_are_an_error(tmp_path):
    run, baseline = runs(tmp_path, new={"quiz": {"acc": SLIGHTLY_WORSE[:500]}})
    found = verdict("quiz.acc>=-1pp", run, baseline)
    assert "the documents differ: 1000 and 500" in found.message
    assert verdict("quiz.acc>=-1pp@p<0.05", run, baseline, allow=frozenset({"documents"})).status == "passed"
    others = write_run(tmp_path / "o", {"quiz": {"acc": OLD}}, documents={"quiz": range(7, 1007)})
    assert "the documents differ" in verdict("quiz.acc>=-1pp@p<0.05", others, baseline).message


def test_a_record_without_samples_can_be_held_to_values_only(tmp_path):
    run, baseline = runs(tmp_path)
    baseline.samples_path("quiz").unlink()
    assert verdict("quiz.acc>=-1pp", run, baseline).status == "passed"
    found = verdict("quiz.acc>=-1pp@p<0.05", run, baseline)
    assert found.status == "error"
    assert "without its samples" in found.message


@pytest.mark.parametrize("change", [{"value": None}, {"higher_is_better": None}])
def test_a_record_that_does_not_say_enough(tmp_path, change):
    run, baseline = runs(tmp_path)
    run.record["tasks"][0]["scores"][0].update(change)
    assert verdict("quiz.acc>=0.1", run, baseline).status == "error"


# ---- level -------------------------------------------------------------------------------------------------------------


def failures(times, size, loss, margin, alpha=0.05):
    """How often a rule of ``margin`` fails when the true loss is ``loss``."""
    draw, hits = np.random.default_rng(4), 0
    for _ in range(times):
        kept = draw.random(size)
        down, up = int((kept < 0.06 + loss).sum()), int((kept > 0.94).sum())
        hits += normal_below(tango(up, down, size, margin)) < alpha
    return hits / times


def test_a_rule_fails_by_chance_as_often_as_its_level_says():
    assert 0.03 <= failures(4000, 400, 0.01, -0.01) <= 0.065
    assert failures(4000, 400, 0.0, -0.01) < 0.03
    assert failures(1000, 4000, 0.05, -0.01) > 0.99


# ---- the command -------------------------------------------------------------------------------------------------------


def gate(tmp_path, *arguments):
    return command_line(
        ["eval", "gate", str(tmp_path / "new"), "--baseline", str(tmp_path / "old"), *arguments]
    )


def test_exit_codes(tmp_path, capsys):
    runs(tmp_path)
    assert gate(tmp_path, "--rule", "quiz.acc>=-1pp@p<0.05") == 0
    assert "1 verdict: 1 passed, 0 failed, 0 not judged" in capsys.readouterr().out
    assert gate(tmp_path, "--rule", "quiz.acc>=-1pp", "--rule", "quiz.acc>=0.9") == 1
    out = capsys.readouterr().out
    assert "0.595 does not keep >= 0.9" in out
    assert gate(tmp_path, "--rule", "quiz.acc>=0.9", "--rule", "other.acc>=0.1") == 2
    assert gate(tmp_path) == 2
    assert "without a rule" in capsys.readouterr().err
    assert gate(tmp_path, "--rule", "quiz.acc>0.9") == 2
    assert command_line(["eval", "gate", str(tmp_path / "none"), "--rule", "a.acc>=0"]) == 2


@pytest.mark.parametrize("touched", ["new", "old"])
def test_a_record_that_was_touched_is_not_judged(tmp_path, capsys, touched):
    runs(tmp_path)
    path = tmp_path / touched / "record.json"
    record = json.loads(path.read_text())
    record["tasks"][0]["scores"][0]["value"] = 0.95
    path.write_text(json.dumps(record))
    assert gate(tmp_path, "--rule", "quiz.acc>=0.9") == 2
    captured = capsys.readouterr()
    assert "it was changed after it was written" in captured.err
    assert "passed" not in captured.out


def test_a_score_that_was_typed_in_and_sealed_anew_is_not_judged(tmp_path, capsys):
    runs(tmp_path)
    path = tmp_path / "new" / "record.json"
    record = json.loads(path.read_text())
    record["tasks"][0]["scores"][0]["value"] = 0.95
    path.write_text(json.dumps(record | {"digest": record_digest(record)}))
    assert gate(tmp_path, "--rule", "quiz.acc>=0.9") == 2
    assert "do not give the record's acc" in capsys.readouterr().err


@pytest.mark.parametrize("touched", ["new", "old"])
def test_a_signature_that_does_not_hold_is_looked_at(tmp_path, monkeypatch, capsys, touched):
    monkeypatch.setenv("LLMASOS_CONFIG", str(tmp_path / "config"))
    runs(tmp_path)
    generate(tmp_path / "config" / "keys" / "publisher.pem")
    assert command_line(["eval", "sign", str(tmp_path / touched), "--quiet"]) == 0
    assert gate(tmp_path, "--rule", "quiz.acc>=0.1") == 0
    path = tmp_path / touched / "record.json"
    record = json.loads(path.read_text())
    record["timings"]["started"] = "2020-01-01T00:00:00+00:00"
    path.write_text(json.dumps(record | {"digest": record_digest(record)}))
    assert gate(tmp_path, "--rule", "quiz.acc>=0.1") == 2
    assert f"{path}: signature: the signature is for another document" in capsys.readouterr().err


def test_json_junit_and_annotations(tmp_path, capsys):
    runs(tmp_path)
    rules = tmp_path / "rules"
    rules.write_text("quiz.acc>=-1pp\nquiz.acc>=0.9\nlost.acc>=0.1\n")
    code = gate(tmp_path, "--rules", str(rules), "--junit", str(tmp_path / "out.xml"), "--github", "--json")
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert code == 2
    assert (found["schema"], found["status"]) == ("llmasos-gate/1", "error")
    assert [one["status"] for one in found["verdicts"]] == ["passed", "failed", "error"]
    lines = [line for line in captured.err.splitlines() if line.startswith("::")]
    assert lines[0] == "::error title=quiz.acc%3A quiz.acc>=0.9::0.595 does not keep >= 0.9"
    assert len(lines) == 2
    check_junit((tmp_path / "out.xml").read_bytes(), tests=3, failures=1, errors=1)


def check_junit(data: bytes, **counts: int) -> None:
    """What readers of JUnit XML rely on: the elements of its schema, in their places, with their required attributes."""
    root = ElementTree.fromstring(data)
    assert root.tag == "testsuites"
    (suite,) = root
    assert suite.tag == "testsuite"
    cases = list(suite)
    for element in (root, suite):
        assert {name: int(element.attrib[name]) for name in counts} == counts
        assert float(element.attrib["time"]) >= 0
    assert {case.tag for case in cases} == {"testcase"}
    assert len(cases) == counts["tests"]
    for case in cases:
        assert set(case.attrib) == {"classname", "name", "time"}
        assert [child.tag for child in case] in (["failure"], ["error"], ["system-out"])
        for child in case:
            if child.tag != "system-out":
                assert {"message", "type"} == set(child.attrib)
    for name, tag in (("failures", "failure"), ("errors", "error")):
        assert sum(child.tag == tag for case in cases for child in case) == counts[name]


@given(st.text(max_size=30))
def test_names_that_xml_cannot_hold(name):
    from llmasos_evals.statistics.gate import Verdict

    rule = parse_rule("a.acc>=1")
    found = Verdict(rule, name, name, "none", "failed", f"{name} & <b> ]]> \x00")
    check_junit(junit_xml([found], name, 0.1), tests=1, failures=1, errors=0)


def test_a_junit_file_that_cannot_be_written(tmp_path, capsys):
    runs(tmp_path)
    assert gate(tmp_path, "--rule", "quiz.acc>=0.1", "--junit", str(tmp_path / "no" / "such.xml")) == 2
    assert "cannot write" in capsys.readouterr().err
