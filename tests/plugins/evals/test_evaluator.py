"""From task files to a record, on a scripted model: what is counted, what is resumed, what stays the same."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from scripted_model import ByteTokenizer, ScriptedHub, ScriptedModel

from llmasos.api import (
    EvalRequest,
    EvaluationError,
    InputError,
    ModelNotFound,
    PluginCallError,
    UnknownName,
    UsageError,
)
from llmasos.pipelines.evaluate import evaluate
from llmasos_evals.records.record import record_digest
from llmasos_evals.records.store import RECORD_FILE
from llmasos_evals.scoring.reference import ReferenceEngine
from llmasos_evals.scoring.stage import ScoringWorker, _Meter

CHOICE = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 1.0}
"""
STORY = """
task: story
dataset_path: json
dataset_kwargs: {data_files: {test: story.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{end}}"
generation_kwargs: {until: ["!"], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
"""
PROSE = """
task: prose
dataset_path: json
dataset_kwargs: {data_files: {test: prose.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_target: "{{page}}"
"""
SUITE = """
group: everything
task: [colours, story, prose]
aggregate_metric_list: [{metric: acc}]
"""


class Recorder:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int | None]] = []
        self.counts: list[int] = []
        self.warnings: list[str] = []

    def phase(self, name, total=None):
        self.phases.append((name, total))
        self.counts.append(0)

    def advance(self, amount=1):
        self.counts[-1] += amount

    def warn(self, message):
        self.warnings.append(message)


def rows(path: Path, documents: list[dict]) -> None:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))


@pytest.fixture
def tasks(tmp_path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, text in {"colours": CHOICE, "story": STORY, "prose": PROSE, "everything": SUITE}.items():
        (folder / f"{name}.yaml").write_text(text)
    rows(
        folder / "colours.jsonl",
        [
            {"question": f"Q{n} " * (n % 3 + 1), "options": ["red", "green", "blue"], "answer": n % 3}
            for n in range(9)
        ],
    )
    rows(folder / "story.jsonl", [{"prompt": f"once {n}", "end": "x"} for n in range(7)])
    rows(folder / "prose.jsonl", [{"page": "It was a dark and stormy night. " * n} for n in range(1, 5)])
    return folder


def run(tmp_path, tasks, *names, hub=None, progress=None, **settings):
    hub = hub or ScriptedHub(tmp_path / "cache")
    request = EvalRequest(
        "scripted", names or ("everything",), include=(tasks,), bootstrap=100, **{"batch_size": 3, **settings}
    )
    return evaluate(hub, request, progress)


def test_every_document_is_scored_and_recorded(tmp_path, tasks):
    progress = Recorder()
    result = run(tmp_path, tasks, progress=progress, output=tmp_path / "out")
    record = result.record
    assert [(task["name"], task["documents"], task["scores"][0]["n"]) for task in record["tasks"]] == [
        ("colours", 9, 9),
        ("prose", 4, 4),
        ("story", 7, 7),
    ]
    assert [group["name"] for group in record["groups"]] == ["everything"]
    assert record["groups"][0]["scores"][0]["value"] == record["tasks"][0]["scores"][0]["value"]
    assert json.loads((tmp_path / "out" / RECORD_FILE).read_text()) == record
    # 27 choices and 5 windows, of which some are equal, and 7 prompts.
    execution = record["execution"]
    assert execution["requests"] == 40
    assert dict(progress.phases)["scoring"] == execution["unique_requests"] < 40
    assert (
        progress.counts[[name for name, _ in progress.phases].index("scoring")]
        == dict(progress.phases)["scoring"]
    )
    (warning,) = progress.warnings  # of a model that cannot compute trees
    assert "every request is computed in full" in warning
    assert record["timings"]["documents_computed"] == 20
    story = record["tasks"][2]
    assert story["generation"]["until"] == ["!"]
    assert story["counts"]["tokens"] == 42


def test_the_numbers_are_those_of_the_model(tmp_path, tasks):
    hub = ScriptedHub(tmp_path / "cache")
    record = run(tmp_path, tasks, "colours", hub=hub).record
    right = 0
    for n in range(9):
        question = f"Q{n} " * (n % 3 + 1)
        context = question.rstrip()
        moved = question[len(context) :]
        totals = [
            hub.model.answer(list(context.encode()), list(f"{moved} {option}".encode()))[0]
            for option in ("red", "green", "blue")
        ]
        right += totals.index(max(totals)) == n % 3
    assert record["tasks"][0]["scores"][0]["value"] == right / 9


IDLE = {"num_fewshot": 3, "stride": 5, "gen_kwargs": {"top_k": 2}}


@pytest.mark.parametrize(
    ("task", "idle"),
    [("colours", ["stride", "gen_kwargs"]), ("story", ["stride"]), ("prose", ["num_fewshot", "gen_kwargs"])],
)
def test_settings_without_effect_are_said_and_not_in_the_run(tmp_path, tasks, task, idle):
    progress = Recorder()
    used = {name: value for name, value in IDLE.items() if name not in idle}
    record = run(tmp_path, tasks, task, **IDLE, progress=progress).record
    said = [line for line in progress.warnings if "has no effect" in line]
    assert [line.split()[0] for line in said] == ["--" + name.replace("_", "-") for name in idle]
    again = run(tmp_path, tasks, task, **used).record
    assert again["run_key"] == record["run_key"]
    assert again["settings"] == record["settings"]
    assert run(tmp_path, tasks, task).record["run_key"] != record["run_key"]


def test_limit_and_seed_are_respected_and_named_in_the_run_key(tmp_path, tasks):
    first = run(tmp_path, tasks, "colours", limit=4)
    assert first.record["tasks"][0]["scores"][0]["n"] == 4
    other = run(tmp_path, tasks, "colours", limit=4, seed=5)
    assert other.record["run_key"] != first.record["run_key"]
    assert other.output != first.output  # without --output each run has a folder of its own


def test_batch_size_and_order_do_not_change_a_number(tmp_path, tasks):
    def numbers(record):
        return {task["name"]: (task["scores"], task["samples_digest"]) for task in record["tasks"]}

    expected = numbers(run(tmp_path, tasks, "colours", "story", "prose").record)
    for batch_size, names in ((1, ("prose", "colours", "story")), (64, ("story", "prose", "colours"))):
        assert numbers(run(tmp_path, tasks, *names, batch_size=batch_size).record) == expected


class Killed(BaseException):
    """Stands for whatever ends a process in the middle."""


def interrupt_after(monkeypatch, count: int) -> None:
    """Die when so many requests are answered."""
    original = _Meter.count
    left = [count]

    def counted(self):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        original(self)

    monkeypatch.setattr(_Meter, "count", counted)


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of a few documents."""
    monkeypatch.setattr("llmasos_evals.scoring.session.SHARD_TOKENS", 40)
    monkeypatch.setattr("llmasos_evals.scoring.prompts.ROUNDS", 1)


def test_an_interrupted_run_resumes_to_the_same_record(tmp_path, tasks, monkeypatch, small_shards):
    whole = run(tmp_path, tasks, output=tmp_path / "whole").record
    chance = random.Random(4)
    for attempt in range(4):
        folder = tmp_path / f"part{attempt}"
        restarts = 0
        while True:
            with monkeypatch.context() as patch:
                interrupt_after(patch, chance.randrange(8, 16))
                try:
                    record = run(tmp_path, tasks, output=folder).record
                    break
                except Killed:
                    restarts += 1
            for samples in folder.glob("samples_*.jsonl"):  # tear the last line, as a power cut does
                if chance.random() < 0.5:
                    data = samples.read_bytes()
                    samples.write_bytes(data[: -chance.randrange(1, 30)])
        assert restarts
        assert record["digest"] == whole["digest"]
        assert record["samples_digest"] == whole["samples_digest"]
        outside = ("timings", "execution")
        assert {k: v for k, v in record.items() if k not in outside} == {
            k: v for k, v in whole.items() if k not in outside
        }
        assert not (folder / ".work").exists()


def test_an_interruption_before_anything_is_kept_says_so(tmp_path, tasks, monkeypatch):
    def pressed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(_Meter, "count", pressed)
    progress = Recorder()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tasks, "colours", output=tmp_path / "out", progress=progress)
    assert progress.warnings[-1].startswith("nothing is kept yet")


def test_finished_documents_are_not_computed_again(tmp_path, tasks, monkeypatch, small_shards):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 12)
        progress = Recorder()
        with pytest.raises(Killed):
            run(tmp_path, tasks, "colours", output=tmp_path / "out", progress=progress)
    kept = len((tmp_path / "out" / "samples_colours.jsonl").read_text().splitlines())
    assert 0 < kept < 9
    assert progress.warnings[1:] == [
        f"{kept} of 9 documents are kept in {tmp_path / 'out'}; the same command goes on from there"
    ]
    hub = ScriptedHub(tmp_path / "cache")
    record = run(tmp_path, tasks, "colours", output=tmp_path / "out", hub=hub).record
    assert record["timings"]["documents_resumed"] == kept
    assert hub.loads == 1
    computed = sum(len(batch.tokens) for batch in hub.model.batches)
    again = ScriptedHub(tmp_path / "cache")
    run(tmp_path, tasks, "colours", output=tmp_path / "out", hub=again)
    assert (again.loads, again.model.batches) == (0, [])  # a finished run asks for no weights
    run(tmp_path, tasks, "colours", output=tmp_path / "out", hub=again, resume=False)
    assert sum(len(batch.tokens) for batch in again.model.batches) > computed


@pytest.mark.parametrize("damage", [{"requests": None}, {"doc_digest": "0" * 64}], ids=str)
def test_a_stored_document_that_is_not_the_planned_one_is_an_error(tmp_path, tasks, damage):
    run(tmp_path, tasks, "colours", output=tmp_path / "out")
    path = tmp_path / "out" / "samples_colours.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    sample = {key: value for key, value in (json.loads(first) | damage).items() if value is not None}
    path.write_text("".join([json.dumps(sample) + "\n", *others]))
    with pytest.raises(EvaluationError, match=r"document 0 of task colours in .* is damaged") as caught:
        run(tmp_path, tasks, "colours", output=tmp_path / "out")
    assert "--no-resume" in caught.value.hint


def test_a_torn_shard_of_prompts_runs_again_whole_and_writes_only_what_was_missing(
    tmp_path, tasks, monkeypatch, small_shards
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)  # one shard of three, and one prompt of the second
        with pytest.raises(Killed):
            run(tmp_path, tasks, "story", output=tmp_path / "out")
    hub = ScriptedHub(tmp_path / "cache")
    run(tmp_path, tasks, "story", output=tmp_path / "out", hub=hub)
    assert [len(prompts) for prompts in hub.generated] == [3, 1]
    lines = (tmp_path / "out" / "samples_story.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["index"] for line in lines) == list(range(7))


def test_a_folder_is_never_used_for_two_runs(tmp_path, tasks):
    run(tmp_path, tasks, "colours", output=tmp_path / "out", limit=3)
    with pytest.raises(UsageError, match=r"settings\.limit is 3 there and 4 here"):
        run(tmp_path, tasks, "colours", output=tmp_path / "out", limit=4)
    (tasks / "colours.jsonl").write_text((tasks / "colours.jsonl").read_text().replace("blue", "grey"))
    with pytest.raises(UsageError, match="data_digest"):
        run(tmp_path, tasks, "colours", output=tmp_path / "out", limit=3)


def test_what_does_not_fit_is_counted_and_said(tmp_path, tasks):
    progress = Recorder()
    hub = ScriptedHub(tmp_path / "cache", ScriptedModel(max_length=8))
    counts = run(tmp_path, tasks, "colours", hub=hub, progress=progress).record["tasks"][0]["counts"]
    assert counts["requests"] == 27
    assert counts["truncated_requests"] > 0
    assert counts["truncated_tokens"] > counts["truncated_requests"]
    assert counts["cut_continuations"] == counts["unscored_tokens"] == 0
    assert any("tokens were left out on the left" in line for line in progress.warnings)

    progress = Recorder()
    hub = ScriptedHub(tmp_path / "cache", ScriptedModel(max_length=4))
    counts = run(tmp_path, tasks, "colours", hub=hub, progress=progress).record["tasks"][0]["counts"]
    assert counts["cut_continuations"] > 0
    assert any("are not scored" in line for line in progress.warnings)


def test_an_empty_continuation_is_counted_and_said(tmp_path, tasks):
    # The tokenizer merges the last character of the context with the continuation: nothing is left to score.
    class Merging(ByteTokenizer):
        def encode(self, text, **options):
            return super().encode(text.replace("? z", "?"), **options)

    (tasks / "merge.yaml").write_text(CHOICE.replace("colours", "merge"))
    rows(tasks / "merge.jsonl", [{"question": "Q?", "options": ["z", "y"], "answer": 0}])
    progress = Recorder()
    hub = ScriptedHub(tmp_path / "cache", tokenizer=Merging())
    record = run(tmp_path, tasks, "merge", hub=hub, progress=progress).record
    assert record["tasks"][0]["counts"]["empty_continuations"] == 1
    assert any("are empty" in line for line in progress.warnings)


def test_a_misspelt_field_is_found_before_the_model_is_loaded(tmp_path, tasks):
    (tasks / "colours.yaml").write_text(CHOICE.replace("doc_to_choice", "doc_to_choise"))
    hub = ScriptedHub(tmp_path / "cache")
    with pytest.raises(InputError, match="doc_to_choise"):
        run(tmp_path, tasks, str(tasks / "colours.yaml"), hub=hub)
    with pytest.raises(UnknownName):
        run(tmp_path, tasks, "colors", hub=hub)
    assert hub.loads == 0


def test_a_task_may_come_with_the_plugin_that_the_model_requires(tmp_path, tasks):
    class Provided(ScriptedHub):
        """Looking at the model installs its plugin, here a task file."""

        def resolve_model(self, ref, *, fetch=True):
            assert (ref, fetch) == ("scripted", False)  # a misspelt task must not cost a download
            (tasks / "late.yaml").write_text(CHOICE.replace("colours", "late"))
            rows(tasks / "late.jsonl", [{"question": "Q?", "options": ["z", "y"], "answer": 0}])

    hub = Provided(tmp_path / "cache")
    assert run(tmp_path, tasks, "late", hub=hub).record["tasks"][0]["name"] == "late"


@pytest.mark.parametrize(("name", "fetched"), [("colour", False), ("riddles", True)])
def test_a_slip_in_a_name_costs_no_download_of_a_registrys_model(tmp_path, tasks, name, fetched):
    looked = []

    class Far(ScriptedHub):
        def resolve_model(self, ref, *, fetch=True):
            looked.append(fetch)
            raise ModelNotFound(ref)

    request = EvalRequest("registry://acme/m", (name,), include=(tasks,))
    with pytest.raises(UnknownName) as caught:
        evaluate(Far(tmp_path / "cache"), request, None)
    assert looked == [fetched]
    assert ("did you mean colours? Or" in caught.value.hint) is not fetched
    assert ("llmasos model pull registry://acme/m" in caught.value.hint) is not fetched


def test_an_unknown_generation_setting_stops_before_scoring(tmp_path, tasks):
    (tasks / "story.yaml").write_text(STORY.replace("max_gen_toks", "top_z: 1, max_gen_toks"))
    hub = ScriptedHub(tmp_path / "cache")
    with pytest.raises(InputError, match="top_z"):
        run(tmp_path, tasks, "story", hub=hub)
    assert hub.generated == []


def test_the_folder_says_how_the_run_is_doing(tmp_path, tasks, monkeypatch):
    def status():
        return json.loads((tmp_path / "out" / "status.json").read_text())

    seen = []
    original = ScoringWorker.run

    def score(self, shard, folder):
        seen.append(status()["state"])
        return original(self, shard, folder)

    monkeypatch.setattr(ScoringWorker, "run", score)
    record = run(tmp_path, tasks, "colours", output=tmp_path / "out").record
    assert seen == ["running"]
    assert status()["state"] == "finished"
    assert status()["record"] == record["digest"]

    shutil.rmtree(tmp_path / "out")
    with pytest.raises(UnknownName):
        run(tmp_path, tasks, "colors", output=tmp_path / "out")
    assert status()["state"] == "failed"
    assert "colors" in status()["error"]


def test_an_engine_that_forgets_requests_is_an_error(tmp_path, tasks, monkeypatch):
    monkeypatch.setattr(ReferenceEngine, "run", lambda self, shard: iter(()))
    with pytest.raises(EvaluationError, match=r"engine reference answered 0 of 2[0-9] requests"):
        run(tmp_path, tasks, "colours")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"num_fewshot": -1}, "num_fewshot is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"bootstrap": -1}, "bootstrap is -1"),
        ({"compat": "lmeval"}, "compat is 'lmeval'"),
        ({"engine": "fast"}, "engine is 'fast'"),
        ({"workers": 0}, "workers is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"token_budget": 0}, "token_budget is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"limit": "all"}, "limit is 'all'"),
        ({"limit": "auto"}, "need each other"),
        ({"interval": 0.01}, "need each other"),
        ({"limit": "auto", "interval": -1.0}, "interval is -1"),
        ({"batch_invariant": True, "threads": 2}, "threads is 2 with batch_invariant"),
        ({"batch_invariant": True, "engine": "lm-eval"}, "not batch-invariant"),
        ({"fewshot_as_multiturn": True}, "needs a chat template"),
        ({"dtype": "exakt"}, "dtype"),
        ({"tasks": ()}, "no task was named"),
        ({"include": (Path("/no/such/folder"),)}, "no such folder"),
        ({"output": Path(__file__)}, "is a file"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_at_once(tmp_path, settings, message):
    hub = ScriptedHub(tmp_path)
    request = EvalRequest(**{"model": "scripted", "tasks": ("quickstart",), **settings})
    with pytest.raises(UsageError, match=message) as caught:
        evaluate(hub, request)
    assert caught.value.hint
    assert hub.loads == 0


def test_failure_is_told_to_plugins_and_passes_unchanged(tmp_path, tasks, monkeypatch):
    hub = ScriptedHub(tmp_path / "cache")
    told = []
    monkeypatch.setattr(hub, "notify", lambda hook, **arguments: told.append((hook, arguments["event"])))

    def missing(*args, **kwargs):
        raise ModelNotFound("nothing there", hint="look elsewhere")

    monkeypatch.setattr(hub, "load_model", missing)
    with pytest.raises(ModelNotFound):
        run(tmp_path, tasks, "colours", hub=hub)
    assert [hook for hook, _ in told] == ["eval_started", "eval_failed"]
    assert isinstance(told[1][1].error, ModelNotFound)


def test_no_plugin_to_run_it_is_an_error_that_names_the_plugin(tmp_path):
    import llmasos

    hub = llmasos.Hub(cache_dir=tmp_path, config_dir=tmp_path, no_plugins=True)
    with pytest.raises(UnknownName, match="no enabled plugin runs evaluations") as caught:
        evaluate(hub, EvalRequest("m", ("t",)))
    assert "llmasos-evals" in caught.value.hint


def test_a_wrapper_that_answers_nonsense_is_not_taken_for_a_missing_plugin(tmp_path, monkeypatch):
    import llmasos

    hub = llmasos.Hub(cache_dir=tmp_path, config_dir=tmp_path, no_plugins=True)
    monkeypatch.setattr(hub, "wrap", lambda hook, **arguments: 42)
    with pytest.raises(PluginCallError, match="answered with int, which is not an EvalResult"):
        evaluate(hub, EvalRequest("m", ("t",)))


def test_the_digest_leaves_out_time_and_machine(tmp_path, tasks):
    record = dict(run(tmp_path, tasks, "colours").record)
    assert record_digest(record) == record["digest"]
    changed = {**record, "timings": {}, "environment": {}}
    assert record_digest(changed) == record["digest"]
    assert record_digest({**record, "seed": 1}) != record["digest"]
