"""Small data files of every kind, and how their values are written into ``dataset_goldens.json``."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """A file of one format; ``text`` is its contents, ``rows`` what the library writes it from (Parquet, Arrow)."""

    name: str
    format: str
    text: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, list[Any]] | None = None
    #: Column -> names of its classes.
    classes: dict[str, list[str]] = field(default_factory=dict)
    suffix: str = ""

    @property
    def file(self) -> str:
        """A file name with the ending of the format."""
        return f"{self.name}{self.suffix or {'json': '.jsonl', 'text': '.txt'}.get(self.format, '.' + self.format)}"


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


JSON = [
    Case("missing_columns", "json", lines({"a": 1}, {"b": "x"}, {"a": None, "b": None})),
    Case("whole_and_broken", "json", lines({"a": 1, "b": [1, 2]}, {"a": 2.5, "b": [0.5]}, {"a": None, "b": []})),
    Case("broken_deep", "json", lines({"a": {"x": [1], "y": {"z": 1}}}, {"a": {"x": [2.5], "y": {"z": 2.0}}}, {"a": None})),
    Case("structs_of_one_shape", "json", lines({"a": {"t": ["p"], "n": [1]}}, {"a": {"t": [], "n": []}})),
    Case("structs_of_other_shapes", "json", lines({"a": {"x": 1}}, {"a": {"y": 2.5}}, {"a": {}})),
    Case("lists_of_structs", "json", lines({"a": [{"x": 1}, {"x": 2}]}, {"a": []}, {"a": None})),
    Case("lists_of_other_structs", "json", lines({"a": [{"x": 1}]}, {"a": [{"x": 1, "y": 2}]})),
    Case("days", "json", lines({"a": "2020-01-31"}, {"a": None}, {"a": "1999-12-01"})),
    Case("times", "json", lines({"a": "2020-01-31 10:11:12"}, {"a": "2020-01-31T10:11"}, {"a": "2020-01-31T10"})),
    Case("times_with_zones", "json", lines({"a": "2020-01-31T10:11:12Z"}, {"a": "2020-01-31 10:11:12+02:30"}, {"a": "2020-01-31 10:11:12-0100"})),
    Case("times_with_fractions", "json", lines({"a": "2020-01-31T10:11:12.5"}, {"a": "2020-01-31T10:11:12.25"})),
    Case("no_times", "json", lines({"a": "2020-01-31", "b": "2020-02-30", "c": "2020-1-1"}, {"a": "soon", "b": "2020-02-30", "c": "2020-1-2"})),
    Case("times_deep", "json", lines({"a": {"x": "2020-01-31"}, "b": ["2020-01-01"]}, {"a": {"x": "2021-01-31"}, "b": []})),
    Case("mixed_text_and_numbers", "json", lines({"a": 1}, {"a": "x"}, {"a": "2"}, {"a": None}, {"a": "[1]"})),
    Case("mixed_truth_and_numbers", "json", lines({"a": True}, {"a": 1})),
    Case("mixed_in_lists", "json", lines({"a": [1, "x"]}, {"a": ["3", None]})),
    Case("mixed_text_and_lists", "json", lines({"a": "x"}, {"a": ["x", "y"]})),
    Case("truth", "json", lines({"a": True}, {"a": None}, {"a": False})),
    Case("large_numbers", "json", lines({"a": 2**40, "b": 1e300}, {"a": -(2**40), "b": 0.1})),
    Case("nothing_but_null", "json", lines({"a": None, "b": []}, {"a": None, "b": None})),
    Case("unicode", "json", lines({"a": "ünï\u2028codé 😀", "b": "\u0000\t\"'"})),
    Case("list_document", "json", json.dumps([{"a": 1}, {"a": 2}]), suffix=".json"),
    Case("list_of_texts", "json", json.dumps(["p", "q"]), suffix=".json"),
    Case("field", "json", json.dumps({"version": 1, "data": [{"a": 1}, {"a": 2}]}), {"field": "data"}, suffix=".json"),
    Case("blank_lines", "json", '{"a": 1}\n\n{"a": 2}'),
]  # fmt: skip

CSV = [
    Case("kinds", "csv", "i,f,t,s,m\n1,1.5,True,x,1\n-2,2,False,y,\n+3,.5,true,z,3\n"),
    Case("missing", "csv", "a,b,c\nNA,null,x\n,1,NaN\nn/a,2.5,None\n"),
    Case("quoted", "csv", 'a,b\n"x, ""y""","two\nlines"\n"",3\n'),
    Case("numbers_as_text", "csv", "a,b,c\n007,1_000,0x10\n12,2_000,1\n"),
    Case("numbers_at_the_edge", "csv", "a,b\n9223372036854775807,18446744073709551615\n1,2\n"),
    Case("numbers_with_space", "csv", "a,b\n 1, 1.5\n2 ,2.5 \n"),
    Case("exponents", "csv", "a,b,c\n1e3,inf,-inf\n2E-2,1.,Infinity\n"),
    Case("truth_with_missing", "csv", "a,b\nTrue,TRUE\n,false\n"),
    Case("truth_and_text", "csv", "a\nTrue\nyes\n"),
    Case("all_missing", "csv", "a,b\n,1\n,2\n"),
    Case("short_rows", "csv", "a,b,c\n1\n2,x\n"),
    Case("blank_lines", "csv", "a,b\n\n1,2\n\n3,4\n"),
    Case("same_names", "csv", "a,a,,b\n1,2,3,4\n"),
    Case("tabs", "csv", "a\tb\n1\tx y\n2\t\n", {"sep": "\t"}),
    Case("delimiter", "csv", "a;b\n1,5;x\n", {"delimiter": ";"}),
    Case("no_header", "csv", "1,x\n2,y\n", {"header": None}),
    Case("column_names", "csv", "1,x\n2,y\n", {"column_names": ["n", "t"]}),
    Case("column_names_over_header", "csv", "p,q\n1,x\n", {"column_names": ["n", "t"], "header": 0}),
    Case("header_below", "csv", "junk,junk\na,b\n1,2\n", {"header": 1}),
    Case("skipped", "csv", "# made by hand\na,b\n1,2\n", {"skiprows": 1}),
    Case("keep_na", "csv", "a,b\nNA,x\nNone,-\n", {"keep_default_na": False, "na_values": ["-"]}),
    Case("no_na_filter", "csv", "a,b\nNA,\n1,x\n", {"na_filter": False}),
    Case("quoting_none", "csv", 'a,b\n"x,"y\n', {"quoting": 3}),
    Case("initial_space", "csv", 'a, b\n1, "x, y"\n', {"skipinitialspace": True}),
    Case("windows", "csv", "\ufeffa,b\r\n1,x\r\n2,y\r\n"),
    Case("times_stay_text", "csv", "a\n2020-01-31\n2021-01-31\n"),
]  # fmt: skip

TEXT = [
    Case("lines", "text", "one\ntwo\n\nthree"),
    Case("lines_with_ends", "text", "one\ntwo\n", {"keep_linebreaks": True}),
    Case("paragraphs", "text", "one\ntwo\n\nthree\n\n\nfour\n", {"sample_by": "paragraph"}),
    Case("document", "text", "one\ntwo\n", {"sample_by": "document"}),
]

_COLUMNS: dict[str, list[Any]] = {
    "i": [1, None, 3],
    "f": [0.5, None, -1.0],
    "t": ["x", None, "ünï"],
    "l": [["p"], [], None],
    "s": [{"a": 1, "b": ["q"]}, {"a": None, "b": []}, None],
    "y": [0, 2, 1],
    "when": [datetime(2020, 1, 31, 10, 11, 12), None, datetime(1999, 1, 1)],
    "b": [b"\x00\xff", None, b""],
}
COLUMNAR = [
    Case("columns", "parquet", rows=_COLUMNS, classes={"y": ["no", "yes", "maybe"]}),
    Case("some_columns", "parquet", options={"columns": ["t", "i"]}, rows=_COLUMNS),
    Case("columns", "arrow", rows=_COLUMNS, classes={"y": ["no", "yes", "maybe"]}),
]


@dataclass(frozen=True)
class Laid:
    """A folder: names of its files, its card, and the configuration that is asked for."""

    name: str
    files: tuple[str, ...]
    configs: str = ""
    config: str | None = None

    @property
    def card(self) -> str:
        """The text of README.md."""
        return f"---\n{self.configs}---\n" if self.configs else ""


_TWO = """configs:
- config_name: en
  data_files:
  - split: train
    path: en/train*.csv
  - split: test
    path:
    - en/a.csv
    - en/b.csv
- config_name: fr
  default: true
  data_files: fr/**
"""
LAYOUTS = [
    Laid("one_file", ("data.csv",)),
    Laid("names", ("train.csv", "test.csv", "validation.csv")),
    Laid("words", ("my-train-1.csv", "my_dev.csv", "eval 2.csv", "other.csv")),
    Laid("words_within_words", ("strain.csv", "latest.csv", "devil.csv")),
    Laid("folders", ("train/a.csv", "train/b.csv", "testing/a.csv", "x/valid-2/c.csv")),
    Laid("folders_before_names", ("data/test/train.csv", "data/train/test.csv")),
    Laid("shards", ("data/train-00000-of-00002.csv", "data/train-00001-of-00002.csv", "data/extra-00000-of-00001.csv")),
    Laid("shards_elsewhere", ("x/train-00000-of-00001.csv", "x/test-00000-of-00001.csv")),
    Laid("hidden", ("train.csv", ".train.csv", ".git/test.csv", "__pycache__/test.csv", "a/b/train-x.csv")),
    Laid("mixed_kinds", ("train.csv", "train.jsonl", "train2.csv", "notes.txt", "run.py", "LICENSE")),
    Laid("draw", ("a.csv", "b.jsonl")),
    Laid("no_data_names", ("config.json", "dataset_infos.json", "x.csv")),
    Laid("deep", ("a/b/c/d.csv", "e.csv")),
    Laid("default_config", ("en/train.csv", "en/a.csv", "en/b.csv", "fr/x.csv", "fr/deep/y.csv"), _TWO),
    Laid("named_config", ("en/train.csv", "en/train-2.csv", "en/a.csv", "en/b.csv", "fr/x.csv"), _TWO, "en"),
    Laid("one_config", ("x.csv", "y.csv"), "configs:\n- config_name: only\n  data_files: x.csv\n"),
    Laid("a_list", ("x.csv", "y.csv", "z.csv"), "configs:\n- config_name: only\n  data_files: [z.csv, x.csv]\n"),
    Laid("data_dir", ("a/train.csv", "b/train.csv", "b/test.csv"), "configs:\n- config_name: b\n  data_dir: b\n"),
    Laid("classes", ("a1.csv", "b1.csv", "ab1.csv"), 'configs:\n- config_name: c\n  data_files: "[ab]?.csv"\n'),
]  # fmt: skip
CASES = [*JSON, *CSV, *TEXT, *COLUMNAR]
GOLDENS = Path(__file__).with_name("dataset_goldens.json")


def encoded(value: Any) -> Any:
    """A value as JSON holds it, kinds kept apart that JSON does not."""
    if isinstance(value, dict):
        return {key: encoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime | date):
        return {"$time": value.isoformat()}
    if isinstance(value, Decimal):
        return {"$decimal": str(value)}
    return value
