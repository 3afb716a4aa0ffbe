"""Programs that a model wrote: what honest ones can do, and what hostile ones cannot."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from task_files import GENERATION, write_task

from llmasos import Hub
from llmasos.api import EvaluationError, GenerationOutcome, InputError, Response, UsageError
from llmasos_evals.metrics import sandbox
from llmasos_evals.metrics.code import CodeEval, PassAtK, first_fenced, pass_at_k
from llmasos_evals.metrics.sandbox import Execution, Isolation, Limits, run_program
from llmasos_evals.tasks.parsing import parse_task
from llmasos_evals.tasks.task import Task
from llmasos_evals.tasks.taskfile import read_taskfile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")

WALLS: tuple[Isolation, ...] = ("namespaces", "filter")


@pytest.fixture(params=WALLS)
def walls(request: pytest.FixtureRequest) -> Isolation:
    kind: Isolation = request.param
    try:
        sandbox._run("pass", Limits(), kind)
    except EvaluationError as error:
        pytest.skip(f"not here: {error.message}")
    return kind


def run(source: str, walls: Isolation, **limits: Any) -> Execution:
    return sandbox._run(source, Limits(**limits), walls)


# ---- honest programs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "",
        "import math, re, json, itertools, collections, datetime, heapq\nassert math.gcd(4, 6) == 2",
        "import numpy\nassert numpy.arange(3).sum() == 3",
        "def f(x):\n    return x + 'ü'\nassert f('ß') == 'ßü'",
        "import threading\nprint('a' * 100_000)\nassert open('/dev/null').read() == ''",
        "if __name__ == '__main__':\n    raise SystemExit('globals are those of code_eval')",
        "import sys\nassert sys.stdin.read() == ''",
    ],
)
def test_honest_programs_pass(source: str, walls: Isolation) -> None:
    assert run(source, walls) == Execution("passed", "", pytest.approx(0, abs=3), walls)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError: "),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("import os; os._exit(0)", "ended without a result"),
        ("import ctypes; ctypes.string_at(0)", "ended without a result"),
        ("def f(): f()\nf()", "RecursionError: "),
        ("raise ValueError('x' * 5000)", "ValueError: xxx"),
        ("x = '" + "y" * (1 << 20) + "'", "the program is longer than a megabyte"),
        ("\x00", ""),
    ],
)
def test_failures_are_failures(source: str, message: str) -> None:
    ended = run_program(source, Limits(seconds=10))
    assert ended.status == "failed"
    assert ended.message.startswith(message)
    assert len(ended.message) <= 300


def test_files_may_be_written_only_where_there_are_namespaces() -> None:
    try:
        ended = sandbox._run(
            "open('a', 'w').write('x')\nassert open('a').read() == 'x'", Limits(), "namespaces"
        )
    except EvaluationError as error:
        pytest.skip(f"not here: {error.message}")
    assert ended.passed


# ---- hostile programs -----------------------------------------------------------------------------------------------


def processes_with(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


def test_an_infinite_loop_ends_in_time(walls: Isolation) -> None:
    begin = time.monotonic()
    ended = run("while True: pass", walls, seconds=0.5)
    assert ended.status == "timed out"
    assert time.monotonic() - begin < 5


def test_a_sleeper_that_ignores_signals_ends_in_time(walls: Isolation) -> None:
    source = (
        "import signal, time\n"
        "for n in range(1, 65):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "time.sleep(60)"
    )
    assert run(source, walls, seconds=0.3).status == "timed out"


def test_a_fork_bomb_leaves_nothing_behind(walls: Isolation) -> None:
    mark = f"bomb{os.getpid()}{walls}"
    source = (
        "import os, subprocess, sys\n"
        "try: os.setsid()\n"
        "except OSError: pass\n"
        "count = 0\n"
        "while count < 300:\n"
        "    try:\n"
        f"        subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(50) # {mark}'])\n"
        "        count += 1\n"
        "    except OSError:\n"
        "        break\n"
        "assert count < 100, count\n"
        "while True:\n"
        "    try: os.fork()\n"
        "    except OSError: pass\n"
    )
    ended = run(source, walls, seconds=1.5)
    assert not ended.passed
    assert not processes_with(mark)
    if walls == "namespaces":
        assert ended.status == "timed out"  # the limit on processes held, so it came as far as its last loop


def test_a_memory_hog_fails(walls: Isolation) -> None:
    ended = run("x = bytearray(3 << 30)", walls, memory=512 << 20)
    assert ended.status == "failed"
    assert ended.message.startswith("MemoryError")
    assert run("x = bytearray(100 << 20)", walls, memory=512 << 20).passed


def test_a_big_file_fails() -> None:
    ended = run_program("f = open('big', 'wb')\nfor _ in range(40): f.write(bytes(1 << 20))\nf.flush()")
    assert ended.status == "failed"


def test_files_outside_cannot_be_written(walls: Isolation, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    tmp_path.chmod(0o777)
    victim.chmod(0o666)
    source = f"""
import os
harm = [
    lambda: open({str(victim)!r}, 'w').write('yours'),
    lambda: open({str(victim)!r}, 'r+').write('yours'),
    lambda: os.remove({str(victim)!r}),
    lambda: os.rename({str(victim)!r}, {str(victim) + "2"!r}),
    lambda: os.truncate({str(victim)!r}, 0),
    lambda: os.chmod({str(victim)!r}, 0),
    lambda: open({str(tmp_path / "new")!r}, 'w').write('x'),
    lambda: os.mkdir({str(tmp_path / "folder")!r}),
    lambda: os.symlink('/etc/passwd', {str(tmp_path / "link")!r}),
    lambda: open(os.__file__, 'a').write('#'),
    lambda: open('/usr/lib/x', 'w').write('x'),
]
done = []
for number, act in enumerate(harm):
    try: act()
    except OSError: continue
    done.append(number)
assert not done, done
"""
    ended = run(source, walls)
    assert ended.passed, ended.message
    assert victim.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["victim"]


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_no_network_not_even_loopback(walls: Isolation, listener: int) -> None:
    source = f"""
import socket
for family, address in ((socket.AF_INET, ('127.0.0.1', {listener})), (socket.AF_INET, ('8.8.8.8', 53)),
                        (socket.AF_UNIX, '/run/docker.sock'), (socket.AF_INET6, ('::1', {listener}))):
    try:
        s = socket.socket(family); s.settimeout(1); s.connect(address)
    except OSError:
        continue
    raise AssertionError(f'reached {{address}}')
"""
    ended = run(source, walls, seconds=10)
    assert ended.passed, ended.message


def test_others_cannot_be_killed(walls: Isolation) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        source = f"""
import fcntl, os, resource, signal
for pid in (os.getppid(), {os.getpid()}, {bystander.pid}, -1, 1):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try: os.kill(pid, number)
        except OSError: pass
for act in (lambda: os.killpg(0, signal.SIGTERM) if False else None,
            lambda: resource.prlimit({bystander.pid}, resource.RLIMIT_CPU, (0, 0)),
            lambda: os.setpriority(os.PRIO_PROCESS, {bystander.pid}, 19)):
    try: act()
    except (OSError, ValueError): pass
read, write = os.pipe()
try: fcntl.fcntl(read, fcntl.F_SETOWN, {bystander.pid}); raise SystemExit('owner set')
except OSError: pass
"""
        try:
            ended = run(source, walls)
            assert bystander.poll() is None
        finally:
            bystander.kill()
    if walls == "filter":
        assert ended.passed, ended.message
    else:  # kill(-1) reached at most itself; the pipe's owner is a process of its own world
        assert ended.status in ("passed", "failed")


def test_the_environment_is_empty_and_the_parents_unreadable(
    walls: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = """
import os
assert not [name for name in os.environ if 'TOKEN' in name], dict(os.environ)
assert 'hf_secret' not in str(os.environ)
assert set(os.environ) <= {'PATH', 'LANG', 'LC_CTYPE', 'HOME', 'PYTHONHASHSEED', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'}
"""
    assert run(source, walls).passed
    if walls == "namespaces":
        assert run("import os\nassert not os.path.exists('/proc/self')", walls).passed
        assert run(
            "import os\nassert not os.path.exists('/home') and not os.path.exists('/root/.ssh')", walls
        ).passed
        assert run("import os\nassert os.getuid() != 0", walls).passed


def test_a_program_cannot_speak_for_the_sandbox(walls: Isolation) -> None:
    for words in ("passed 0", "passed", "refused by me", "started"):
        source = f"import os, sys\nos.write(int(sys.argv[1]), b'{words}\\n')\nos._exit(0)"
        assert run(source, walls).status == "failed"
    flood = "import os, sys\nwhile True: os.write(int(sys.argv[1]), b'x' * 4096)"
    assert run(flood, walls).status == "failed"


def test_the_program_dies_with_the_evaluation(walls: Isolation) -> None:
    host = (
        "from llmasos_evals.metrics import sandbox\n"
        f"sandbox._run('import time; time.sleep(100)', sandbox.Limits(seconds=90), {walls!r})"
    )

    def inside() -> set[int]:
        return {*processes_with("sandbox_child.py"), *processes_with("data = sys.stdin.buffer.read()")}

    def until(reached: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + 20
        while not reached() and time.monotonic() < deadline:
            time.sleep(0.02)
        return reached()

    before = inside()
    with subprocess.Popen([sys.executable, "-c", host]) as process:
        assert until(lambda: bool(set(processes_with("data = sys.stdin.buffer.read()")) - before))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert until(lambda: not inside() - before)


# ---- pass@k -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "right", "k", "expected"),
    [
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
        (10, 3, 1, 0.3),
        (5, 2, 2, 1 - 3 / 10),
        (5, 4, 2, 1.0),
        (200, 0, 100, 0.0),
    ],
)
def test_the_estimator(samples: int, right: int, k: int, expected: float) -> None:
    assert pass_at_k(samples, right, k) == pytest.approx(expected, abs=1e-12)


def permitted(**options: Any) -> PassAtK:
    metric = PassAtK(**options)
    metric.permitted = True
    return metric


def test_pass_at_k_of_a_document() -> None:
    doc = {"prompt": "def add(a, b):\n"}
    answers = ["    return a + b\n", "    return a - b\n", "```python\n    return b + a\n```"]
    outcome = GenerationOutcome(answers, ("assert add(2, 3) == 5",), doc=doc)
    metric = permitted(k=[1, 2, 3], prefix="prompt", fenced=True)
    values = metric.item(outcome)
    assert values == {"pass@1": pytest.approx(2 / 3), "pass@2": 1.0, "pass@3": 1.0}
    part = metric.part("pass@1")
    assert part is not None
    assert part.signature.startswith(
        "pass@1|est:unbiased|timeout:3|memory:1024|prefix:prompt|fenced:yes|agg:mean"
    )
    assert metric.part("pass@7") is None
    with pytest.raises(EvaluationError, match="pass@3 needs as many answers"):
        metric.item(GenerationOutcome(answers[:2], ("pass",), doc=doc))
    with pytest.raises(EvaluationError, match="no field 'prompt'"):
        metric.item(GenerationOutcome(answers, ("pass",)))


def test_without_permission_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was not allowed") as caught:
        PassAtK().item(GenerationOutcome("pass", ("pass",)))
    assert "--allow-code-execution" in str(caught.value.hint)
    with pytest.raises(UsageError, match="code_eval runs programs"):
        CodeEval(permitted=False).compute(references=["pass"], predictions=[["pass"]])


@pytest.mark.parametrize("options", [{"k": 0}, {"k": []}, {"k": ["a"]}, {"timeout": 0}, {"memory": 1}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="pass_at_k"):
        PassAtK(**options)


def test_pass_at_k_in_a_task_file(tmp_path: Path) -> None:
    fields = {
        **GENERATION,
        "doc_to_target": "assert double({{right}}) == 2",
        "repeats": 2,
        "filter_list": [{"name": "both", "filter": [{"function": "take_first_k", "k": 2}]}],
        "metric_list": [{"metric": "pass_at_k", "k": [1, 2], "fenced": True}],
    }
    path = write_task(tmp_path, **fields)
    config = parse_task(read_taskfile(path), path)
    with pytest.raises(UsageError, match="task sums: metric pass_at_k runs programs"):
        Task(config, Hub())
    task = Task(config, Hub(), allow_code_execution=True)
    (planned,) = task.plan(limit=1, num_fewshot=None, seed=1, compat="native")
    texts = ["```\ndef double(x): return 2 * x\n```", "def double(x): return x"]
    answers = [
        Response(request.key, text=text) for request, text in zip(planned.requests, texts, strict=True)
    ]
    items = task.items(planned, answers)
    assert items == {("pass@1", "both"): 0.5, ("pass@2", "both"): 1.0}
    scores = task.aggregate({key: [value] for key, value in items.items()}, bootstrap=0)
    assert [(score.metric, score.value) for score in scores] == [("pass@1", 0.5), ("pass@2", 1.0)]
    assert all("est:unbiased" in score.signature for score in scores)


def test_code_eval_answers_as_hugging_faces_does() -> None:
    values, results = CodeEval(permitted=True).compute(
        references=["assert add(2, 3)==5", "assert mul(2, 3)==6"],
        predictions=[
            ["def add(a,b): return a*b", "def add(a, b): return a+b"],
            ["def mul(a, b): return a*b", "while True: pass"],
        ],
        k=[1, 2, 10],
        timeout=1.0,
    )
    assert values == {"pass@1": 0.5, "pass@2": 1.0}
    assert results[0][0] == (
        0,
        {"task_id": 0, "passed": False, "result": "failed: AssertionError: ", "completion_id": 0},
    )
    assert results[1][1][1]["result"] == "timed out"


def test_fences() -> None:
    assert first_fenced("so:\n```python\nx = 1\n```\nand ```y```") == "x = 1\n"
    assert first_fenced("```\nx = 1") == "x = 1"
    assert first_fenced("x = 1") == "x = 1"
