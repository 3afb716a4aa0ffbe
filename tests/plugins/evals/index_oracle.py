"""What lm-evaluation-harness finds in its own task folder: every name, and the tasks of every group with their overrides.

Run with an interpreter that has it, and the file to write. No task is built: fields are all that is wanted.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import lm_eval.tasks._factory as factory
from lm_eval.tasks._index import Kind, TaskIndex

#: Fields that groups override, and whose values are plain text or numbers.
FIELDS = ("num_fewshot", "description", "output_type", "dataset_name", "test_split")


class Fields:
    """Stands for a task."""

    def __init__(self, config=None):
        self.config = config
        self.task_name = config["task"]


def main(output):
    logging.disable(logging.CRITICAL)
    root = Path(factory.__file__).parent
    read, known = factory.load_yaml, {}

    def unresolved(path, resolve_func=True):
        if path not in known:
            known[path] = read(path, resolve_func=False)
        return {key: Fields if key == "class" else value for key, value in known[path].items()}

    factory.ConfigurableTask, factory.load_yaml = Fields, unresolved
    index = TaskIndex.build([root])

    def leaves(found):
        if isinstance(found, Fields):
            return [[found.config["task"], *(str(found.config.get(name)) for name in FIELDS)]]
        inner = found if isinstance(found, list) else found._children.values()
        return [leaf for item in inner for leaf in leaves(item)]

    groups = {}
    for name, entry in index.items():
        if entry.kind == Kind.GROUP:
            try:
                groups[name] = leaves(factory.TaskFactory().build(entry, registry=dict(index)))
            except (ValueError, TypeError):
                groups[name] = None
    names = {
        name: [
            "TASK" if entry.kind == Kind.PY_TASK else entry.kind.name,
            sorted(entry.tags) if entry.kind == Kind.TAG else [],
        ]
        for name, entry in index.items()
    }
    Path(output).write_text(
        json.dumps({"root": str(root), "names": names, "groups": groups}), encoding="utf-8"
    )


if __name__ == "__main__":
    main(sys.argv[1])
