"""The bridge without lm-evaluation-harness: what it says, and that a stranger's task object is planned, scored and resumed.

A tiny package stands in where only files and metadata are looked at, and a tiny task object where only the calls of the
harness's ``Task`` interface count. With the real package: ``test_lmeval_real.py``.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import llmasos
from llmasos.api import InputError, MissingDependency, UnknownName, UsageError
from llmasos.testing.doubles import ByteTokenizer
from llmasos_evals.tasks.library import select
from llmasos_evals.tasks.names import Names
from llmasos_evals.tasks.program import ProgramTask
from llmasos_lmeval.package import quiet, tasks_folder, version
from llmasos_lmeval.program import ClassTask
from llmasos_lmeval.source import InstalledTasks

YAML = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: rows.jsonl}}}}
test_split: test
output_type: loglikelihood
doc_to_text: question
doc_to_target: answer
tag: riddles
"""


@pytest.fixture
def hub(tmp_path) -> llmasos.Hub:
    return llmasos.Hub(cache_dir=tmp_path / "cache", config_dir=tmp_path / "cache", offline=True)


@pytest.fixture
def absent(monkeypatch):
    """An environment in which lm-eval is not installed, whatever this one has."""
    monkeypatch.setattr("llmasos_lmeval.package.find_spec", lambda name: None)

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("llmasos_lmeval.package.installed_version", missing)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``package(version)`` puts a package of that version on the path: three task files, two of them in a group."""

    def make(number: str = "0.4.13") -> Path:
        root = tmp_path / "site"
        tasks = root / "lm_eval" / "tasks"
        tasks.mkdir(parents=True)
        (root / "lm_eval" / "__init__.py").write_text("raise AssertionError('nobody needs to import me')\n")
        for name in ("riddle_easy", "riddle_hard"):
            (tasks / f"{name}.yaml").write_text(YAML.format(name=name))
        (tasks / "_riddles.yaml").write_text("group: all_riddles\ntask: [riddles]\n")
        (tasks / "classy.yaml").write_text("task: classy\nclass: !function code.Classy\n")
        (tasks / "rows.jsonl").write_text('{"question": "What?", "answer": " That."}\n')
        metadata = root / f"lm_eval-{number}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lm_eval\nVersion: {number}\n")
        monkeypatch.delitem(sys.modules, "lm_eval", raising=False)
        monkeypatch.syspath_prepend(str(root))
        return tasks

    return make


def test_without_the_package_there_are_no_folders_and_the_way_to_it_is_said(hub, absent, tmp_path):
    assert tasks_folder() is None
    assert InstalledTasks().folders() == ()
    with pytest.raises(MissingDependency, match="lm-evaluation-harness is not installed") as caught:
        InstalledTasks().program(tmp_path / "x.yaml", {"task": "x"})
    assert "llmasos[lm-eval]" in caught.value.hint
    with pytest.raises(MissingDependency, match="lm-evaluation-harness is not installed"):
        hub.evaluate("model", ["quickstart"], engine="lm-eval")
    with pytest.raises(UnknownName, match="riddle_easy"):
        Names((), hub).find("riddle_easy")


def test_tasks_of_the_package_are_found_by_name_without_importing_it(hub, package):
    tasks = package()
    names = Names((), hub)
    assert names.find("riddle_easy").path == tasks / "riddle_easy.yaml"
    assert names.find("riddles").members == ("riddle_easy", "riddle_hard")
    assert {"riddle_easy", "riddle_hard", "all_riddles", "classy"} <= {one.name for one in names.entries()}
    selection = select(["all_riddles"], include=(), hub=hub, allow_task_code=False)
    assert [task.name for task in selection.tasks] == ["riddle_easy", "riddle_hard"]
    assert "lm_eval" not in sys.modules


def test_what_the_user_has_goes_before_the_package(hub, package, tmp_path):
    package()
    own = tmp_path / "own"
    own.mkdir()
    (own / "riddle_easy.yaml").write_text(YAML.format(name="riddle_easy").replace("question", "other"))
    names = Names((own,), hub)
    assert names.find("riddle_easy").path == own / "riddle_easy.yaml"
    # A tag of the user's means the user's tasks, not those that the package happens to call the same.
    assert names.find("riddles").members == ("riddle_easy",)


@pytest.mark.parametrize("number", ["0.4.12", "0.5.0", "1.0"])
def test_versions_that_nobody_has_looked_at_are_refused(package, number, tmp_path):
    package(number)
    with pytest.raises(MissingDependency, match=f"{number} is installed"):
        version()
    with pytest.raises(MissingDependency, match=f"{number} is installed"):
        InstalledTasks().program(tmp_path / "x.yaml", {"task": "x"})


def test_a_class_runs_only_with_permission_and_takes_only_what_it_can(hub, package):
    package()
    with pytest.raises(UsageError, match="task classy runs Python code") as caught:
        select(["classy"], include=(), hub=hub, allow_task_code=False)
    assert "--allow-task-code" in caught.value.hint
    with pytest.raises(InputError, match="`doc_to_text` cannot be set from outside"):
        InstalledTasks().program(Path("classy.yaml"), {"task": "classy", "doc_to_text": "x"})


def test_a_class_without_this_plugin_names_it(package, tmp_path):
    package()
    hub = llmasos.Hub(cache_dir=tmp_path / "cache", config_dir=tmp_path / "cache", only=["llmasos-evals"])
    with pytest.raises(MissingDependency, match="needs a plugin that knows such tasks"):
        select([str(tasks_folder() / "classy.yaml")], include=(), hub=hub, allow_task_code=True)


@pytest.mark.parametrize(
    ("option", "value"), [("workers", 2), ("batch_invariant", True), ("stride", 8), ("limit", "auto")]
)
def test_the_oracle_refuses_what_only_our_engines_have(hub, package, option, value):
    from llmasos.api import EvalRequest
    from llmasos.pipelines.evaluate import Silence
    from llmasos_lmeval.evaluator import LmEvalEvaluator

    package()
    request = EvalRequest("model", ("riddle_easy",), engine="lm-eval", **{option: value})
    with pytest.raises(UsageError, match="means nothing to the engine lm-eval"):
        LmEvalEvaluator().evaluate(request, hub, Silence())


# ---- a task object ----------------------------------------------------------------------------------------------------


class Riddles:
    """What the bridge calls of ``lm_eval.api.task.Task``: text and likelihood in one document, asked twice."""

    VERSION = 3
    DATASET_PATH, DATASET_NAME = "riddles", None

    def __init__(self) -> None:
        self.eval_docs = [{"question": f"Q{n}", "answer": "x" * (n + 1)} for n in range(5)]
        self._filters = [SimpleNamespace(apply=self._take_first)]
        self.config: dict[str, object] = {"num_fewshot": None}
        self.seed: int | None = None

    def get_config(self, key):
        return self.config.get(key)

    def set_config(self, key, value):
        self.config[key] = value

    def set_fewshot_seed(self, seed):
        self.seed = seed

    def has_test_docs(self):
        return True

    def has_training_docs(self):
        return False

    def fewshot_docs(self):
        return self.eval_docs[:2]

    def doc_to_target(self, doc):
        return doc["answer"]

    def build_all_requests(self, *, limit, chat_template, apply_chat_template, **_):
        self.instances = []
        for number, doc in enumerate(self.eval_docs[:limit]):
            text = "".join(f"{shot['question']}! " for shot in self.eval_docs[: self.config["num_fewshot"]])
            text += doc["question"]
            if apply_chat_template:
                text = chat_template([{"role": "user", "content": text}])
            for kind, arguments in (
                ("generate_until", (text, {"until": ["\n"], "max_gen_toks": 4})),
                ("loglikelihood", (text, " " + doc["answer"])),
            ):
                self.instances.append(
                    SimpleNamespace(
                        request_type=kind, args=arguments, doc=doc, doc_id=number, idx=0, repeats=1
                    )
                )

    @staticmethod
    def _take_first(instances):
        for instance in instances:
            instance.filtered_resps["none"] = instance.resps[0]

    def process_results(self, doc, results):
        text, (nats, greedy) = results
        return {"length": len(text), "nats": (nats, int(greedy)), "greedy": greedy}

    def aggregation(self):
        return {"length": _mean, "nats": _weakest}

    def higher_is_better(self):
        return {"length": True, "nats": False}


def _mean(values):
    return sum(values) / len(values)


def _weakest(values):
    return min(nats for nats, _ in values)


@pytest.fixture
def harness_metrics(monkeypatch):
    """The two names of ``lm_eval.api.metrics`` that the bridge uses."""
    module = ModuleType("lm_eval.api.metrics")
    module.mean = _mean
    module.stderr_for_metric = lambda function, iters: (lambda xs: 0.5) if function is _mean else None
    for name in ("lm_eval", "lm_eval.api"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "lm_eval.api.metrics", module)
    monkeypatch.setattr("llmasos_lmeval.program.version", lambda: "0.4.13")


def program_task(tmp_path) -> ProgramTask:
    file = tmp_path / "riddles.yaml"
    file.write_text("task: riddles\n")
    return ProgramTask(ClassTask(Riddles(), "riddles", file), file, {})


def test_a_task_object_is_planned_like_a_file(harness_metrics, tmp_path):
    task = program_task(tmp_path)
    assert (task.version, task.size(), task.num_fewshot) == ("3", 5, 0)
    settings = {"num_fewshot": None, "seed": 7, "compat": "native"}
    planned = list(task.plan(limit=3, **settings))
    assert [document.index for document in planned] == [0, 1, 2]
    first, second = planned[0].requests
    assert (first.kind, first.key, first.context) == ("generate_until", ("riddles", 0, 0), "Q0")
    assert first.options == {"until": ["\n"], "max_gen_toks": 4, "do_sample": False, "temperature": 0.0}
    assert (second.kind, second.key, second.continuation) == ("loglikelihood", ("riddles", 0, 1), " x")
    assert task.program.task.seed == 7
    assert [one.requests[0].context for one in task.plan(limit=1, **{**settings, "num_fewshot": 2})] == [
        "Q0! Q1! Q0"
    ]
    assert [one.index for one in task.plan(limit=None, documents=[4, 1], **settings)] == [1, 4]
    with pytest.raises(InputError, match="has no document 5"):
        list(task.plan(limit=None, documents=[5], **settings))
    # The same object gives the same identity; other data gives another one.
    other = program_task(tmp_path)
    assert (other.digest, other.data_digest(0)) == (task.digest, task.data_digest(0))
    assert other.data_digest(2) != other.data_digest(0)
    other = program_task(tmp_path)
    other.program.task.eval_docs[0]["question"] = "Q?"
    assert other.data_digest(0) != task.data_digest(0)


def test_a_task_object_is_scored_resumed_and_recorded(harness_metrics, tmp_path, hub, monkeypatch):
    from llmasos.contracts.evaluation import LoadedModel, PreparedModel
    from llmasos.contracts.model import Generation, GenerationChunk, ResolvedModel
    from llmasos.testing.doubles import ScriptedModel

    loads: list[str] = []
    tokenizer = ByteTokenizer()
    model = ScriptedModel(tokenizer.vocab_size)
    facts = {
        "ref": "m",
        "source": "test",
        "revision": None,
        "license": None,
        "format": "t",
        "loader": "t/t",
        "provenance": {},
        "architecture": "t/t",
        "parameters": 0,
        "dtype": "float32",
        "device": "cpu",
        "backend": "t/t",
        "files": {"w": "a" * 64},
        "ops": {},
        "ops_refused": {},
        "tokenizer": {"format": "t/t", "digest": tokenizer.digest(), "adds_bos": False},
    }
    resolved = ResolvedModel("m", tmp_path, "test")

    def load() -> LoadedModel:
        loads.append("m")
        return LoadedModel(resolved, model, tokenizer, facts)

    prepared = PreparedModel(resolved, tokenizer, facts, model.max_length, model.vocab_size, load)
    monkeypatch.setattr(type(hub), "prepare_model", lambda self, ref, **_: prepared)
    monkeypatch.setattr(type(hub), "load_model", lambda self, ref, **_: load())

    def generate(self, loaded, prompts, params, **_):
        for index, prompt in enumerate(prompts):
            text = "y" * (1 + len(prompt) % 3)
            yield GenerationChunk(
                index, text, done=Generation(text, tuple(text.encode()), "stop", len(prompt))
            )

    monkeypatch.setattr(type(hub), "generate", generate)
    monkeypatch.setattr(
        InstalledTasks, "program", lambda self, file, fields: ClassTask(Riddles(), "riddles", file)
    )
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "riddles.yaml").write_text("task: riddles\nclass: !function code.Riddles\n")

    def run():
        return hub.evaluate(
            "m", ["riddles"], include=(folder,), allow_task_code=True, bootstrap=50, output=tmp_path / "out"
        ).record

    record = run()
    (task,) = record["tasks"]
    scores = {score["metric"]: score for score in task["scores"]}
    assert scores["length"]["value"] == _mean([1 + len(f"Q{n}") % 3 for n in range(5)])
    assert scores["nats"]["value"] < 0
    assert scores["nats"]["higher_is_better"] is False
    assert "agg:mean" in scores["length"]["signature"]
    assert "agg:function:_weakest" in scores["nats"]["signature"]
    assert set(task["code"]) == {"riddles.yaml", "lm_eval"}
    done = len(loads)
    samples = (tmp_path / "out" / "samples_riddles.jsonl").read_text().splitlines()
    (tmp_path / "out" / "samples_riddles.jsonl").write_text("\n".join(samples[:2]) + "\n")
    again = run()
    assert again["digest"] == record["digest"]
    assert again["timings"]["documents_resumed"] == 2
    assert len(loads) > done
    assert [json.loads(line)["index"] for line in samples] == [0, 1, 2, 3, 4]


def test_the_package_is_kept_quiet_and_leaves_no_trace(capsys, monkeypatch):
    import os
    import random

    monkeypatch.delenv("DISABLE_MULTIPROC", raising=False)
    random.seed(5)
    expected = random.Random(5).random()
    with quiet():
        print("loud", file=sys.stderr)
        random.seed(0)
        assert os.environ["DISABLE_MULTIPROC"]
    assert capsys.readouterr() == ("", "")
    assert random.random() == expected
    assert "DISABLE_MULTIPROC" not in os.environ
