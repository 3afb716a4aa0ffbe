"""Make ``dataset_goldens.json``: the rows that the ``datasets`` library gives for the files of ``dataset_cases.py``.

Run in an environment that has it: ``HF_HUB_OFFLINE=1 python tests/plugins/evals/refresh_dataset_goldens.py``. With two
arguments, a JSON file of cases and a file to write, it reads those cases and notes where the library gives up.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1")

import datasets
from dataset_cases import CASES, GOLDENS, LAYOUTS, Case, encoded

datasets.disable_progress_bars()


def rows_of(case, folder):
    path = Path(folder) / case.file
    if case.rows is None:
        path.write_bytes(case.text.encode())
    else:
        made = datasets.Dataset.from_dict(case.rows)
        for column, names in case.classes.items():
            made = made.cast_column(column, datasets.ClassLabel(names=names))
        if case.format == "parquet":
            made.to_parquet(path)
        else:
            made.save_to_disk(Path(folder) / "saved")
            path.write_bytes(next(Path(folder, "saved").glob("*.arrow")).read_bytes())
    loaded = datasets.load_dataset(
        case.format, data_files=str(path), split="train", cache_dir=f"{folder}/cache", **case.options
    )
    return path, loaded


def golden(case):
    with tempfile.TemporaryDirectory() as folder:
        path, loaded = rows_of(case, folder)
        found = {"columns": loaded.column_names, "rows": encoded(loaded[:])}
        if case.rows is not None:
            found["file"] = base64.b64encode(path.read_bytes()).decode()
        return found


def layout(laid):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "data").resolve()
        for name in laid.files:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text({".jsonl": '{"a": 1}\n', ".json": "{}"}.get(path.suffix, "a\n1\n"))
        if laid.card:
            (root / "README.md").write_text(laid.card)
        builder = datasets.load_dataset_builder(str(root), laid.config, cache_dir=f"{folder}/cache")
        files = {
            str(split): [Path(path).relative_to(root).as_posix() for path in paths]
            for split, paths in builder.config.data_files.items()
        }
        return {"config": builder.config.name, "files": files}


def main():
    found = {f"{case.format}/{case.name}": golden(case) for case in CASES}
    made = {
        "datasets": datasets.__version__,
        "cases": found,
        "layouts": {laid.name: layout(laid) for laid in LAYOUTS},
    }
    text = json.dumps(made, indent=1, ensure_ascii=False)
    GOLDENS.write_text(text + "\n", encoding="utf-8")


def other(cases, output):
    found = []
    for fields in json.loads(cases.read_text(encoding="utf-8")):
        try:
            found.append(golden(Case(**fields)))
        except Exception as error:
            found.append({"error": str(error.__cause__ or error)})
    output.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        other(*map(Path, sys.argv[1:]))
    else:
        main()
