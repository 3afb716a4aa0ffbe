"""Known defects of other harnesses in prompts, encoding and scoring: what the right answer is here.

One test a defect, named after it; the docstring has the thread. ``docs/explanation/lm-eval-differences.md`` is the list, and
``tests/parity/test_peer_oracle.py`` shows lm-evaluation-harness's own values for those that can be shown. Defects of caches,
records and statistics: ``test_peer_defects_runs.py``.
"""

from __future__ import annotations

import json
import math
import socket
from collections import Counter

import pytest
import torch
from flow_suite import run_suite, samples, write_suite
from scripted_model import BOS, ByteTokenizer, ScriptedHub, ScriptedModel
from task_files import QUESTIONS, load, plans, write_task

import llmasos
from llmasos.api import InputError, MissingDependency, PackedBatch, Request
from llmasos.testing.checkpoints import write_checkpoint
from llmasos_evals.scoring.encoding import PairEncoder
from llmasos_evals.tasks import templates

SHOTS = {
    "output_type": "loglikelihood",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{options[right]}}",
    "num_fewshot": 3,
}


def prompts(task, **plan) -> list[str]:
    return [planned.requests[0].context for planned in plans(task, **plan)]


# ---- few-shot examples ------------------------------------------------------------------------------------------------


def test_fewshot_examples_do_not_depend_on_the_number_of_gpus(tmp_path):
    """lm-eval #1719 (winogrande 72.7 to 75.3 over 1 to 8 GPUs), #1751: each rank has a random stream of its own."""
    task = load(write_task(tmp_path, **SHOTS))
    whole = prompts(task)
    ranks = [list(range(rank, len(whole), 3)) for rank in range(3)]
    for rank in ranks:  # what a third of the machines would be given
        planned = task.plan(limit=None, num_fewshot=None, seed=1234, compat="native", documents=rank)
        assert [one.requests[0].context for one in planned] == [whole[index] for index in rank]


def test_fewshot_examples_do_not_depend_on_limit_or_selection(tmp_path):
    """lm-eval #1044, and `--samples`, which shifts the stream of examples for every later document."""
    task = load(write_task(tmp_path, **SHOTS))
    assert prompts(task, limit=5) == prompts(task)[:5]
    for compat in ("native", "lm-eval"):
        picked = task.plan(limit=None, num_fewshot=None, seed=1234, compat=compat, documents=[7, 2])
        assert [one.requests[0].context for one in picked] == [
            prompts(task, compat=compat)[i] for i in (2, 7)
        ]


def test_the_evaluated_document_is_not_among_its_own_examples(tmp_path):
    """lm-eval #4145: on tasks with a test split only, the answer could be read off the prompt."""
    task = load(write_task(tmp_path, **SHOTS))
    for planned, prompt in zip(plans(task), prompts(task), strict=True):
        assert prompt.count(planned.doc["question"]) == 1
    # The harness's own draw, which `--compat lm-eval` repeats, does leak.
    leaks = [
        prompt.count(doc["question"]) > 1
        for doc, prompt in zip(QUESTIONS, prompts(task, compat="lm-eval"), strict=True)
    ]
    assert any(leaks)


def test_a_row_equal_to_the_evaluated_document_is_no_example(tmp_path):
    """lm-eval #4145, the same leak through duplicates: questions that are in the data twice."""
    rows = [*QUESTIONS[:6], *QUESTIONS[:6]]
    task = load(write_task(tmp_path, rows=rows, **SHOTS))
    for planned, prompt in zip(plans(task), prompts(task), strict=True):
        assert prompt.count(planned.doc["question"]) == 1


def test_fewshot_indices_are_used(tmp_path):
    """lm-eval 0.4.13 accepts `fewshot_indices` and never looks at it."""
    task = load(
        write_task(
            tmp_path, **SHOTS, fewshot_config={"fewshot_indices": [15, 16, 17, 18], "sampler": "first_n"}
        )
    )
    (first,) = prompts(task, limit=1)
    assert [n for n in range(20) if f"What is {n + 1} + {n + 1}?" in first] == [0, 15, 16, 17]


def test_the_seed_decides_the_examples_of_a_task_file_too(tmp_path):
    """lm-eval #1591, #1906: the seed was set only when `--num_fewshot` was given."""
    task = load(write_task(tmp_path, **SHOTS))
    assert prompts(task, seed=1) == prompts(task, seed=1)
    assert prompts(task, seed=1) != prompts(task, seed=2)


def test_drawing_examples_does_not_change_the_pool(tmp_path):
    """lighteval #1307, #1308: the pool was shuffled in place, so the second seed drew from another one."""
    task = load(write_task(tmp_path, **SHOTS))
    first = prompts(task, seed=1)
    for seed in (2, 3):
        prompts(task, seed=seed)
    assert prompts(task, seed=1) == first


def test_a_task_without_shots_can_be_given_some(tmp_path):
    """lm-eval: `num_fewshot: 0` in a task file cannot be overridden; the option is ignored with a line in the log."""
    task = load(write_task(tmp_path, **{**SHOTS, "num_fewshot": 0}))
    assert prompts(task, shots=2)[0].count("What is") == 3
    assert prompts(task, shots=2, compat="lm-eval")[0].count("What is") == 1


# ---- from text to tokens ----------------------------------------------------------------------------------------------


class Merging(ByteTokenizer):
    """Joins ``ab`` into one token, wherever it stands."""

    MERGED = 300

    def encode(self, text, **options):
        ids = super().encode(text, **options)
        out: list[int] = []
        for token in ids:
            if token == ord("b") and out and out[-1] == ord("a"):
                out[-1] = self.MERGED
            else:
                out.append(token)
        return out


def pair(context: str, continuation: str, tokenizer=None, length: int = 100):
    request = Request("loglikelihood", ("t", 0, 0), context, continuation)
    return PairEncoder(tokenizer or ByteTokenizer(), length).pairs([request])[0]


def test_a_continuation_that_merges_into_its_context_does_not_stop_the_run(tmp_path):
    """lm-eval #1297, #3336, fix in #4055: AssertionError after hours, because nothing was left of the continuation."""
    row = pair("xa", "b", Merging())
    assert row.targets == 0
    task = write_task(
        tmp_path,
        rows=[{"question": "xa", "options": ["b", "c"], "right": 1}],
        output_type="multiple_choice",
        test_split="test",
        doc_to_text="question",
        doc_to_choice="options",
        doc_to_target="right",
        target_delimiter="",
    )
    hub = ScriptedHub(tmp_path / "cache", model=WideModel(), tokenizer=Merging())
    record = hub.evaluate("scripted", [str(task)], bootstrap=0, output=tmp_path / "out").record
    assert record["tasks"][0]["counts"]["empty_continuations"] == 1


class WideModel(ScriptedModel):
    """The scripted model with room for one more token."""

    def logits(self, hidden):
        table = super().logits(hidden)
        return torch.cat([table, table[:, : Merging.MERGED + 1 - table.shape[1]]], dim=1)


def test_the_border_of_a_pair_is_where_the_tokens_part():
    """lm-eval #1053: tokens that span the border belong to neither side; the split is the harness's, by count."""
    row = pair("xa", "bc", Merging())
    assert row.ids[: len(row.ids) - row.targets] == (ord("x"), Merging.MERGED)
    assert row.ids[-row.targets :] == (ord("c"),)


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation():
    """lm-eval #1053: words are tokenised with the space in front of them."""
    assert pair("to be ", "or").targets == 3
    assert pair("to be", " or") == pair("to be ", "or")


@pytest.mark.parametrize("text", ["<s>hello", "hello"])
def test_there_is_exactly_one_bos(text):
    """ukrainian-llm-leaderboard #5, retaining-by-doing #5 (about 6 points of MMLU): templates write a BOS, tokenizers add one."""
    ids = PairEncoder(ByteTokenizer(adds_bos=True), 100).text(text)
    assert ids.count(BOS) == 1
    assert ids[0] == BOS


def test_a_model_without_bos_is_given_none_and_the_record_says_so(tmp_path):
    """lm-eval #2676 (arc_easy 0.264 or 0.852), PR #1465 (Gemma without BOS: perplexity 5.9e9): the decision must be seen."""
    task = str(write_task(tmp_path, **{**SHOTS, "num_fewshot": 0}))
    for adds in (False, True):
        hub = ScriptedHub(tmp_path / f"cache{adds}", tokenizer=ByteTokenizer(adds_bos=adds))
        record = hub.evaluate("scripted", [task], bootstrap=0, output=tmp_path / f"out{adds}").record
        assert record["tokenizer"]["adds_bos"] is adds
        assert record["tokenizer"]["prefix_token"] == BOS
        assert record["tokenizer"]["chat_template_applied"] is False


def test_a_prompt_that_is_too_long_is_counted(tmp_path):
    """lm-eval warns once a request, thousands of lines; lighteval cuts texts for perplexity in silence."""
    task = str(write_task(tmp_path, **SHOTS))
    hub = ScriptedHub(tmp_path / "cache", model=ScriptedModel(max_length=24))
    counts = hub.evaluate("scripted", [task], bootstrap=0, output=tmp_path / "out").record["tasks"][0][
        "counts"
    ]
    assert counts["truncated_requests"] == len(QUESTIONS)
    assert counts["truncated_tokens"] > 24 * len(QUESTIONS)


def test_every_token_of_a_long_text_is_scored(tmp_path):
    """lighteval cuts a text to the model's length on the left before it computes its perplexity."""
    page = "It was a dark and stormy night. " * 20
    task = write_task(
        tmp_path,
        rows=[{"page": page}],
        output_type="loglikelihood_rolling",
        test_split="test",
        doc_to_target="page",
    )
    hub = ScriptedHub(tmp_path / "cache", model=ScriptedModel(max_length=32))
    counts = hub.evaluate("scripted", [str(task)], bootstrap=0, output=tmp_path / "out").record["tasks"][0][
        "counts"
    ]
    assert counts["tokens"] == len(page)
    assert counts["truncated_tokens"] == 0


# ---- scores -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return write_suite(folder, documents=6)


def answers(tiny, output, names=("colours", "again", "last_word"), **settings):
    """(nats, greedy) of every request of the suite."""
    run_suite(tiny, output, names, **settings)
    return {
        (task, index, number): (response["logprob"], response["is_greedy"])
        for (task, index), line in samples(output).items()
        for number, response in enumerate(line["responses"])
    }


def test_equal_texts_split_in_two_places_have_two_scores(tmp_path):
    """lm-eval, residue of #2984 and #2987: its cache of one-token continuations takes the longer one's logits for both."""
    rows = [{"a": "the red", "b": " apple tree"}, {"a": "the red apple", "b": " tree"}]
    task = write_task(
        tmp_path,
        rows=rows,
        output_type="loglikelihood",
        test_split="test",
        doc_to_text="a",
        doc_to_target="{{b}}",
    )
    write_checkpoint(tmp_path / "model", "llama", max_position_embeddings=64)
    hub = llmasos.Hub(cache_dir=tmp_path / "cache", config_dir=tmp_path / "cache", offline=True)
    loaded = hub.load_model(str(tmp_path / "model"))
    made = {}
    for engine in ("tree", "reference"):
        hub.evaluate(
            str(tmp_path / "model"), [str(task)], bootstrap=0, output=tmp_path / engine, engine=engine
        )
        made[engine] = [
            line["responses"][0]["logprob"] for _, line in sorted(samples(tmp_path / engine).items())
        ]
    for number, row in enumerate(rows):
        ids = torch.tensor(loaded.tokenizer.encode(row["a"] + row["b"]))
        count = len(ids) - len(loaded.tokenizer.encode(row["a"]))
        batch = PackedBatch(ids[:-1], torch.arange(len(ids) - 1), (0, len(ids) - 1))
        with torch.inference_mode():
            table = loaded.model.logits(loaded.model.hidden(batch)).double().log_softmax(-1)
        alone = float(table.gather(1, ids[1:, None])[-count:].sum())
        assert made["tree"][number] == pytest.approx(alone, abs=1e-4)
        assert made["reference"][number] == pytest.approx(alone, abs=1e-4)
    assert abs(made["tree"][0] - made["tree"][1]) > 1e-3


def test_the_batch_size_changes_no_number(tiny, tmp_path):
    """lm-eval #335, #704, #879 (0.3215, 0.3183, 0.3023 for batches of 1, 5, 32), #1645, #2077; opencompass #1097."""
    first = answers(tiny, tmp_path / "a", token_budget=40, batch_size=1)
    assert answers(tiny, tmp_path / "b", token_budget=5000, batch_size=9) == first
    # Without the promise of equal bits, batches still differ by rounding only.
    loose = answers(tiny, tmp_path / "c", token_budget=64, batch_invariant=False)
    assert max(abs(loose[key][0] - first[key][0]) for key in first) < 1e-4
    assert all(loose[key][1] == first[key][1] for key in first)


def test_a_shared_beginning_changes_no_score(tiny, tmp_path):
    """NVIDIA Model-Optimizer #1577: scores of a context that was found in the prefix cache were silently missing."""
    tree = answers(tiny, tmp_path / "tree")
    whole = answers(tiny, tmp_path / "rows", engine="reference", batch_invariant=False)
    assert tree.keys() == whole.keys()
    assert max(abs(tree[key][0] - whole[key][0]) for key in tree) < 1e-4


def test_what_choices_share_is_computed_once(tiny, tmp_path):
    """lm-eval #1351 (forward passes in multiple choice), #1105, #2418: the question was computed once for each choice."""
    run_suite(tiny, tmp_path / "out", ("colours", "again"), batch_invariant=False)
    execution = json.loads((tmp_path / "out" / "record.json").read_text())["execution"]
    tokenizer = llmasos.Hub(cache_dir=tiny / "cache", config_dir=tiny / "cache").load_tokenizer(
        str(tiny / "model")
    )
    separately = sum(
        len(tokenizer.encode(line["prompts"][request["prompt"]] + request["continuation"])) - 1
        for line in samples(tmp_path / "out").values()
        for request in line["requests"]
    )
    assert execution["ideal_tokens"] <= execution["tokens_computed"] < 1.1 * execution["ideal_tokens"]
    assert execution["tokens_computed"] < separately / 3


def test_logits_are_computed_where_something_is_scored_only(tiny, tmp_path):
    """mlx-lm #1609; vLLM #5907 and #10325, lm-eval #2698 and #2800: out of memory for logits that nobody reads."""
    run_suite(tiny, tmp_path / "out", ("colours",), batch_invariant=False)
    execution = json.loads((tmp_path / "out" / "record.json").read_text())["execution"]
    scored = sum(one["tokens"] for line in samples(tmp_path / "out").values() for one in line["responses"])
    assert execution["logit_rows"] == execution["ideal_logit_rows"] <= scored
    assert execution["logit_rows"] < execution["tokens_computed"] / 4


def test_no_more_than_a_block_of_logits_exists_at_a_time(monkeypatch):
    """lm-eval #2698, #2800: logits of [batch, length, vocabulary], then a second tensor of that size for the softmax."""
    from llmasos_transformer import ops

    sizes: list[int] = []
    monkeypatch.setattr(ops.F, "linear", watched(ops.F.linear, sizes))
    rows, vocabulary, width = 3000, 20_000, 8
    draw = torch.Generator().manual_seed(1)
    x, weight = torch.randn(rows, width, generator=draw), torch.randn(vocabulary, width, generator=draw)
    targets = torch.randint(vocabulary, (rows,), generator=draw)
    logprob, best = ops.token_logprobs(x, weight, None, targets)
    expected = (x @ weight.T).log_softmax(-1)
    assert torch.allclose(logprob, expected.gather(1, targets[:, None])[:, 0], atol=1e-4)
    assert torch.equal(best, expected.argmax(-1))
    assert sizes
    assert max(sizes) * 20 < rows * vocabulary


def watched(function, sizes):
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        sizes.append(result.numel())
        return result

    return call


def test_log_softmax_is_exact_whatever_the_dtype_of_the_model():
    """lm-eval PR #2921, genlm-backend #66 (0.126 nats): a softmax in bfloat16 has 8 bits; PyTorch's in float32 adds 9e-6 a token."""
    from llmasos_transformer import ops

    draw = torch.Generator().manual_seed(3)
    for dtype, allowed in ((torch.float32, 2e-6), (torch.bfloat16, 2e-6)):
        x = torch.randn(64, 32, generator=draw).to(dtype)
        weight = torch.randn(49_152, 32, generator=draw).to(dtype)
        targets = torch.randint(49_152, (64,), generator=draw)
        logits = torch.nn.functional.linear(x, weight)
        exact = logits.double().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        logprob, _ = ops.token_logprobs(x, weight, None, targets)
        ours = (logprob.double() - exact).abs()
        theirs = (logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].double() - exact).abs()
        assert ours.mean() < theirs.mean()
        assert ours.max() < allowed * exact.abs().max()
        if dtype == torch.bfloat16:
            assert theirs.max() > 0.01


# ---- host work --------------------------------------------------------------------------------------------------------


def test_a_template_is_compiled_once(tmp_path, monkeypatch):
    """lm-eval compiles every Jinja template for every document: 730 instead of 7.5 microseconds."""
    compiled: Counter[str] = Counter()
    environment = templates._environment()
    original = environment.compile_metered

    def counting(source, *args, **kwargs):
        compiled[source] += 1
        return original(source, *args, **kwargs)

    monkeypatch.setattr(environment, "compile_metered", counting)
    templates.compiled.cache_clear()
    assert len(prompts(load(write_task(tmp_path, **SHOTS)))) == 20
    assert compiled["{{question}}"] == 1
    assert set(compiled.values()) == {1}


def test_a_context_is_tokenised_once():
    """lm-eval encodes each context twice for every choice, one text at a time: 18 instead of 2 ms a document."""

    class Counting(ByteTokenizer):
        def __init__(self):
            super().__init__()
            self.seen: Counter[str] = Counter()

        def encode_batch(self, texts, **options):
            self.seen.update(texts)
            return super().encode_batch(texts, **options)

    tokenizer = Counting()
    requests = [
        Request("loglikelihood", ("t", doc, number), f"Question {doc % 5}", f" answer {number}")
        for doc in range(10)
        for number in range(4)
    ]
    assert len(PairEncoder(tokenizer, 100).pairs(requests)) == 40
    assert set(tokenizer.seen.values()) == {1}
    assert len(tokenizer.seen) == 5 + 5 * 4


# ---- data and metrics -------------------------------------------------------------------------------------------------


def test_local_data_needs_no_network(tmp_path, monkeypatch):
    """lm-eval #1403, #1659, #1666, #1723, #1877, #2120, #3147: the question asked most often."""

    def refused(*_, **__):
        raise AssertionError("a socket was opened")

    task = str(write_task(tmp_path, **{**SHOTS, "num_fewshot": 2}))
    hub = ScriptedHub(tmp_path / "cache")
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert (
        hub.evaluate("scripted", [task], bootstrap=0, output=tmp_path / "out").record["tasks"][0]["documents"]
        == 20
    )


def test_a_missing_metric_library_is_no_score_of_zero(tmp_path, monkeypatch):
    """lm-eval: without rouge_score, cnn_dailymail_abisee reports 0.0 and says nothing."""
    import importlib.util

    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "rouge_score" else original(name, *a)
    )
    path = write_task(
        tmp_path,
        output_type="generate_until",
        test_split="test",
        doc_to_text="question",
        doc_to_target="{{options[0]}}",
        metric_list=[{"metric": "rougeL"}],
    )
    with pytest.raises(MissingDependency, match="rouge-score"):
        load(path)


def test_labels_that_name_no_choice_are_counted(tmp_path):
    """lm-eval logs a line a document and scores 0; nobody sees that the labels of a data set are off by one."""
    rows = [{**row, "right": 7} for row in QUESTIONS[:4]]
    task = write_task(
        tmp_path,
        rows=rows,
        output_type="multiple_choice",
        test_split="test",
        doc_to_text="question",
        doc_to_choice="options",
        doc_to_target="right",
    )
    record = (
        ScriptedHub(tmp_path / "cache")
        .evaluate("scripted", [str(task)], bootstrap=0, output=tmp_path / "out")
        .record
    )
    assert record["tasks"][0]["counts"]["observed"]["labels_out_of_range"] == 4


def test_a_misspelt_field_is_an_error(tmp_path):
    """lm-eval: unknown fields of a task file raise TypeError without the name of the file, or are passed over in includes."""
    path = write_task(tmp_path, **SHOTS)
    path.write_text(path.read_text().replace("doc_to_target", "doc_to_tarhet"))
    with pytest.raises(InputError, match=r"sums\.yaml.*doc_to_tarhet"):
        load(path)


def test_perplexity_does_not_overflow(tmp_path):
    """lm-eval: exp of a large mean raises OverflowError after the whole run."""
    from llmasos_evals.statistics.aggregations import Perplexity

    assert Perplexity().value([-1e6, -1e6]) == math.inf
