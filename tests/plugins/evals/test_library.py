"""Finding tasks: names, files, folders, tags, groups, and what cannot be found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from task_files import CHOICE, write_task

from llmasos import Hub
from llmasos.api import AmbiguousName, InputError, UnknownName, UsageError
from llmasos_evals.tasks.groups import Group
from llmasos_evals.tasks.library import Selection, select
from llmasos_evals.tasks.task import Score


def find(*names: str, include: tuple[Path, ...] = ()) -> Selection:
    return select(names, include=include, hub=Hub(), allow_task_code=False)


def names(selection: Selection) -> list[str]:
    return [task.name for task in selection.tasks]


def write_group(folder: Path, name: str, **fields: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"group": name, **fields}), encoding="utf-8")
    return path


def test_by_file_name_tag_and_full_name(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    write_task(deep, "b", **CHOICE, tag=["maths", "all"])
    path = write_task(tmp_path, "a", **CHOICE, tag="all")
    assert names(find(str(path))) == ["a"]
    assert names(find("b", include=(tmp_path,))) == ["b"]
    assert names(find("all", include=(tmp_path,))) == ["a", "b"]
    assert names(find("maths", "a", "b", include=(tmp_path,))) == ["b", "a"]
    assert (
        names(find("quickstart_blimp"))
        == names(find("llmasos-evals/quickstart_blimp"))
        == ["quickstart_blimp"]
    )


def test_unknown_names_have_near_misses(tmp_path: Path) -> None:
    write_task(tmp_path, "sums", **CHOICE)
    with pytest.raises(UnknownName, match="no task, group or tag named 'quickstrat'") as caught:
        find("quickstrat")
    assert "quickstart" in str(caught.value.hint)
    with pytest.raises(UnknownName) as caught:
        find("zzz")
    assert "quickstart, quickstart_blimp" in str(caught.value.hint)
    with pytest.raises(UnknownName) as caught:
        find("suns", include=(tmp_path,))
    assert caught.value.hint == "did you mean sums?"


def test_broken_files_hurt_only_who_asks_for_them(tmp_path: Path) -> None:
    write_task(tmp_path, "sums", **CHOICE)
    (tmp_path / "bad.yaml").write_text("task: [")
    (tmp_path / "other.yaml").write_text("just: settings")
    assert names(find("sums", include=(tmp_path,))) == ["sums"]
    with pytest.raises(UnknownName, match=r"1 files could not be read, the first: .*bad\.yaml"):
        find("nothing_like_it", include=(tmp_path,))


def test_two_files_of_one_name_are_ambiguous(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_task(tmp_path / folder, "sums", **CHOICE)
    with pytest.raises(AmbiguousName, match=r"one/sums\.yaml and .*two/sums\.yaml"):
        find("sums", include=(tmp_path,))
    assert names(find("sums", include=(tmp_path / "one",))) == ["sums"]


def test_a_file_with_a_shipped_name_is_ambiguous(tmp_path: Path) -> None:
    write_task(tmp_path, "quickstart_blimp", **CHOICE)
    with pytest.raises(AmbiguousName, match="plugin llmasos-evals"):
        find("quickstart_blimp", include=(tmp_path,))


@pytest.mark.parametrize("missing", ["gone.yaml", "gone/gone.yaml"])
def test_missing_files_and_folders(tmp_path: Path, missing: str) -> None:
    with pytest.raises(InputError, match="no task file"):
        find(str(tmp_path / missing))
    with pytest.raises(InputError, match="no such folder"):
        find("x", include=(tmp_path / "nowhere",))
    with pytest.raises(UnknownName, match="no task was named"):
        find()


def test_groups_nest_and_override(tmp_path: Path) -> None:
    write_task(tmp_path, "a", **CHOICE, tag="pair")
    write_task(tmp_path, "b", **CHOICE, tag="pair")
    write_group(tmp_path, "inner", task=["pair"], num_fewshot=2, fewshot_split="test")
    inline = {**CHOICE, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "a.jsonl"}}}
    path = write_group(
        tmp_path,
        "outer",
        group_alias="All of it",
        metadata={"version": 3},
        task=["inner", {"task": "own", **inline}, {"group": "rest", "task": [{"task": "more", **inline}]}],
    )
    selection = find(str(path))
    assert names(selection) == ["a", "b", "outer::own", "outer::rest::more"]
    assert [task.num_fewshot for task in selection.tasks] == [2, 2, 0, 0]
    (group,) = selection.groups
    assert (group.alias, group.version) == ("All of it", "3")
    assert [inner.name for inner in group.groups()] == ["inner", "outer::rest", "outer"]
    overridden = find(str(write_group(tmp_path, "top", task=[{"group": "inner", "num_fewshot": 1}])))
    assert [task.num_fewshot for task in overridden.tasks] == [1, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": ["a"], "agregate_metric_list": []}, "did you mean `aggregate_metric_list`"),
        ({"task": []}, "has no tasks"),
        ({"task": [3]}, "is a name or has a"),
        ({"task": ["g"]}, "in a circle: g -> g"),
        (
            {"task": ["a"], "aggregate_metric_list": [{"metric": "acc", "aggregation": "max"}]},
            "can only be averaged",
        ),
        (
            {"task": ["a"], "aggregate_metric_list": [{"metric": "acc", "weight": 1}]},
            "aggregate_metric_list.weight",
        ),
        ({"task": ["a"], "aggregate_metric_list": ["acc"]}, "has no `metric` name"),
    ],
)
def test_refused_groups(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write_task(tmp_path, "a", **CHOICE)
    with pytest.raises(InputError, match=message):
        find(str(write_group(tmp_path, "g", **fields)))


def test_one_name_with_two_meanings_is_an_error(tmp_path: Path) -> None:
    path = write_task(tmp_path, "a", **CHOICE, fewshot_split="test")
    group = write_group(tmp_path, "g", task=[{"task": "a", "num_fewshot": 1}])
    assert names(find(str(path), str(path))) == ["a"]
    with pytest.raises(InputError, match="asked for twice with different settings"):
        find(str(path), str(group))


# ---- means ----------------------------------------------------------------------------------------------------------


def score(
    value: float, n: int, stderr: float | None = 0.1, metric: str = "acc", pipeline: str = "none"
) -> Score:
    return Score(metric, pipeline, value, stderr, n, True, f"{metric}|v:1")


def grouped(tmp_path: Path, **rule: Any) -> Group:
    for name in "abc":
        write_task(tmp_path, name, **CHOICE)
    rules = [{"metric": "acc", **rule}]
    (group,) = find(str(write_group(tmp_path, "g", task=["a", "b", "c"], aggregate_metric_list=rules))).groups
    return group


def test_means_weighted_by_size_pool_their_errors(tmp_path: Path) -> None:
    scores = {"a": [score(0.5, 10)], "b": [score(0.8, 30, 0.2)], "c": [score(9.0, 5, metric="other")]}
    (made,) = grouped(tmp_path).aggregate(scores)
    assert made.value == pytest.approx((0.5 * 10 + 0.8 * 30) / 40)
    assert made.stderr == pytest.approx((((9 * 0.01 * 10) + (29 * 0.04 * 30)) / (40 - 2) / 40) ** 0.5)
    assert (made.n, made.filter, made.signature) == (40, "none", "mean|weight:size|of:acc|v:1")


def test_plain_means(tmp_path: Path) -> None:
    (made,) = grouped(tmp_path, weight_by_size=False).aggregate(
        {"a": [score(0.5, 10)], "b": [score(0.8, 30, 0.2)]}
    )
    assert made.value == pytest.approx(0.65)
    assert made.stderr == pytest.approx((0.01 + 0.04) ** 0.5 / 2)


def test_filters_are_discovered_or_named(tmp_path: Path) -> None:
    scores = {
        "a": [score(0.1, 4, pipeline="x"), score(0.2, 4, pipeline="y")],
        "b": [score(0.3, 4, None, pipeline="x")],
    }
    made = grouped(tmp_path).aggregate(scores)
    assert [(one.filter, one.stderr is None) for one in made] == [("x", True), ("y", False)]
    assert [one.filter for one in grouped(tmp_path, filter_list="y").aggregate(scores)] == ["y"]
    assert grouped(tmp_path, filter_list=["z"]).aggregate(scores) == []


def test_a_selection_aggregates_all_its_groups(tmp_path: Path) -> None:
    write_task(tmp_path, "a", **CHOICE)
    path = write_group(tmp_path, "g", task=["a"], aggregate_metric_list={"metric": "acc"})
    made = find(str(path)).aggregate({"a": [score(0.5, 10)]})
    assert [one.value for one in made["g"]] == [0.5]


# ---- folders --------------------------------------------------------------------------------------------------------


def test_folders_of_the_settings_need_no_include(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    write_task(tmp_path / "one", "sums", **CHOICE)
    write_task(tmp_path / "two", "sums", **CHOICE, num_fewshot=3, fewshot_split="test")
    write_task(tmp_path / "two", "more", **CHOICE, tag="mine")
    permanent = f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}"
    monkeypatch.setenv("LLMASOS_LLMASOS_EVALS_INCLUDE", permanent)
    assert names(find("mine")) == ["more"]
    with pytest.raises(AmbiguousName, match=r"one/sums\.yaml and .*two/sums\.yaml"):
        find("sums")
    # Whoever names a folder on the command line means that one.
    assert find("sums", include=(tmp_path / "two",)).tasks[0].num_fewshot == 3


def test_a_tag_is_every_task_that_has_it(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_task(tmp_path / folder, f"{folder}_sums", **CHOICE, tag="sums")
    group = write_group(tmp_path / "one", "all", task=["sums"])
    assert names(find("all", include=(tmp_path,))) == ["one_sums", "two_sums"]
    assert names(find(str(group))) == ["one_sums"]


def test_who_lists_a_group_may_set_its_own_fields(tmp_path: Path) -> None:
    write_task(tmp_path, "a", **CHOICE)
    write_group(tmp_path, "inner", task=["a"], group_alias="Inner")
    member = {"group": "inner", "group_alias": "Other", "aggregate_metric_list": [{"metric": "acc"}]}
    (group,) = find(str(write_group(tmp_path, "outer", task=[member]))).groups
    (inner,) = group.members
    assert isinstance(inner, Group)
    assert (inner.alias, [rule.metric for rule in inner.rules]) == ("Other", ["acc"])


def test_a_task_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_task(tmp_path, name, **CHOICE, tag="pair")
    (group,) = find(str(write_group(tmp_path, "g", task=["a", "pair"]))).groups
    assert [member.name for member in group.members] == ["a", "b"]


def test_a_group_may_bring_its_own_aggregation(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_task(tmp_path, name, **CHOICE)
    (tmp_path / "work.py").write_text(
        "def gap(values, sizes, weight_by_size): return values[0] - values[1]\n"
    )
    path = tmp_path / "g.yaml"
    path.write_text(
        "group: g\ntask: [a, b]\naggregate_metric_list:\n- {metric: acc, aggregation: !function work.gap}\n"
    )
    with pytest.raises(UsageError, match="which was not allowed"):
        find(str(path))
    (group,) = select([str(path)], include=(), hub=Hub(), allow_task_code=True).groups
    scores = {
        name: [Score("acc", "none", value, 0.1, 10, True, "acc")] for name, value in (("a", 0.75), ("b", 0.5))
    }
    (made,) = group.aggregate(scores)
    assert (made.value, made.stderr, made.n) == (0.25, None, 20)
    assert made.signature.startswith("function|code:")
