"""``llmasos eval verify`` on real runs of a tiny model: honest ones are confirmed, altered ones refuted as often as stated,
and a record that was touched is refused."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from verified_run import forge, reseal, right_answer_wins, write_world

from llmasos import Hub
from llmasos.api import canonical_digest
from llmasos.cli.main import run as llmasos
from llmasos_evals.evaluator import select_tasks
from llmasos_evals.records.attestation import Attestation, json_schema
from llmasos_evals.records.comparison import Comparison
from llmasos_evals.records.drawing import detection, draw
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.replay import request_of
from llmasos_evals.records.tolerance import tolerance_of
from llmasos_registry.signatures.keys import generate, keyid

COLOURS, TOTAL = 90, 100
ALTERED = [4, 17, 38, 61, 77]  # 5 of 100


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMASOS_CACHE", str(root / "cache"))
        patch.setenv("LLMASOS_CONFIG", str(root / "config"))
        return write_world(root, colours=COLOURS)


@pytest.fixture
def world(made, tmp_path, monkeypatch):
    """The world with a fresh copy of the run, and nobody's keys."""
    monkeypatch.setenv("LLMASOS_CACHE", str(made / "cache"))
    monkeypatch.setenv("LLMASOS_CONFIG", str(tmp_path / "config"))
    shutil.copytree(made / "run", tmp_path / "run")
    return made


@pytest.fixture(scope="module")
def forged(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forged") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMASOS_CACHE", str(made / "cache"))
        patch.setenv("LLMASOS_CONFIG", str(made / "config"))
        return forge(made, folder, {"colours": ALTERED}, right_answer_wins)


def verify(world, folder, *flags, capsys) -> tuple[int, dict, str]:
    capsys.readouterr()
    code = llmasos(["eval", "verify", str(folder), "--include", str(world / "tasks"), "--json", *flags])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def test_an_honest_record_is_confirmed(world, tmp_path, capsys):
    code, found, err = verify(world, tmp_path / "run", "--sample", "40", capsys=capsys)
    assert code == 0, err
    assert (found["verdict"], found["kind"], found["sample"], found["documents"]) == (
        "confirmed",
        "spot-check",
        40,
        TOTAL,
    )
    assert (found["agreed"], found["refuted"], found["scores_recomputed"]) == (40, [], True)
    assert found["largest_difference"] <= 1e-4
    assert found["seed"]["source"] == "system"
    assert found["drawn"] == draw(
        {"colours": range(90), "story": range(6), "prose": range(4)}, 40, found["seed"]["value"]
    )
    assert found["detection"]["0.05"] == pytest.approx(1 - math.comb(95, 40) / math.comb(100, 40))
    assert "you have no key" in err
    (file,) = (tmp_path / "run").glob("attestation-*.json")
    Attestation.model_validate(json.loads(file.read_text()))


def test_all_of_it_can_be_computed_again(world, tmp_path, capsys):
    code, found, err = verify(world, tmp_path / "run", "--full", capsys=capsys)
    assert code == 0, err
    assert (found["kind"], found["sample"], found["agreed"], found["seed"]) == ("full", TOTAL, TOTAL, None)


def test_a_sample_of_everything_is_all_of_it(world, tmp_path, capsys):
    assert verify(world, tmp_path / "run", "--sample", "5000", capsys=capsys)[1]["kind"] == "full"


def test_two_verifications_draw_different_documents_and_a_seed_the_same(world, tmp_path, capsys):
    draws = [verify(world, tmp_path / "run", "--sample", "8", capsys=capsys)[1]["drawn"] for _ in range(2)]
    assert draws[0] != draws[1]
    seeded = [
        verify(world, tmp_path / "run", "--sample", "8", "--seed", "x", capsys=capsys)[1] for _ in range(2)
    ]
    assert (
        seeded[0]["drawn"]
        == seeded[1]["drawn"]
        == draw({"colours": range(90), "story": range(6), "prose": range(4)}, 8, "x")
    )
    assert seeded[0]["seed"] == {"value": "x", "source": "given"}


def test_the_forgery_is_a_good_one(made, forged):
    """It agrees with itself and claims a better score: only computing it again can tell."""
    honest, false = (
        open_run(folder).record["tasks"][0]["scores"][0]["value"] for folder in (made / "run", forged)
    )
    assert false != honest


def test_an_altered_record_is_refuted_when_the_draw_meets_an_altered_document(
    world, forged, tmp_path, capsys
):
    outcomes = set()
    for seed in ("0", "1", "2", "3", "4", "5"):
        folder = tmp_path / f"forged-{seed}"
        shutil.copytree(forged, folder)
        code, found, err = verify(world, folder, "--sample", "14", "--seed", seed, capsys=capsys)
        assert found, err  # nothing but computing again finds it
        met = sorted(set(found["drawn"]["colours"]) & set(ALTERED))
        assert [entry["index"] for entry in found["refuted"]] == met
        assert code == (1 if met else 0)
        assert found["verdict"] == ("refuted" if met else "confirmed")
        outcomes.add(code)
    assert outcomes == {0, 1}


def test_it_is_refuted_with_the_probability_that_is_stated(made, forged):
    """Hundreds of draws over the same stored and recomputed documents: the honest run is what computing again gives."""
    honest, false = open_run(made / "run"), open_run(forged)
    stored = {(name, s["index"]): s for name in false.tasks for s in false.samples(name)}
    again = {(name, s["index"]): s for name in honest.tasks for s in honest.samples(name)}
    documents = {name: list(false.offsets(name).indices) for name in false.tasks}

    def refuted(seed: str) -> bool:
        comparison = Comparison(tolerance_of("float32"), lambda *_: None, {})
        for name, indices in draw(documents, 30, seed).items():
            for index in indices:
                comparison.add(name, stored[name, index], again[name, index])
        return bool(comparison.refuted)

    draws = 500
    found = sum(refuted(f"seed {n}") for n in range(draws))
    stated = detection(TOTAL, 30, 0.05)
    assert stated == pytest.approx(1 - math.comb(95, 30) / math.comb(100, 30))
    assert abs(found / draws - stated) < 4 * math.sqrt(stated * (1 - stated) / draws)


def test_a_refutation_is_shown_whoever_found_it(world, forged, tmp_path, capsys):
    folder = tmp_path / "forged"
    shutil.copytree(forged, folder)
    code = llmasos(["eval", "verify", str(folder), "--include", str(world / "tasks"), "--full", "--no-sign"])
    out, _ = capsys.readouterr()
    assert code == 1
    assert "refuted: all 100 documents computed again, 95 agreed, 5 did not" in out
    assert "colours, document 4: request" in out


def more_likely(sample):
    sample["responses"][0]["logprob"] += 0.5


def other_text(sample):
    sample["responses"][0]["text"] = "forged"


def other_text_and_tokens(sample):
    """Tokens that say the text, one a byte."""
    sample["responses"][0].update(text="forged", output=list(b"forged"))


def shorter(sample):
    """The beginning of the very text: each token is what the model would say, but it would have said more."""
    sample["responses"][0].update(text="", output=[])


def shorter_text_only(sample):
    sample["responses"][0]["text"] = ""


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("prose", more_likely),
        ("story", other_text),
        ("story", other_text_and_tokens),
        ("story", shorter),
        ("story", shorter_text_only),
    ],
)
def test_texts_and_running_text_are_refuted_too(world, tmp_path, capsys, task, change):
    folder = forge(world, tmp_path / "forged", {task: [2]}, change)
    code, found, err = verify(world, folder, "--full", capsys=capsys)
    assert code == 1, err
    assert [(entry["task"], entry["index"]) for entry in found["refuted"]] == [(task, 2)]


def test_a_greedy_flag_is_refuted(world, tmp_path, capsys):
    def change(sample):
        sample["responses"][1]["is_greedy"] = not sample["responses"][1]["is_greedy"]

    folder = forge(world, tmp_path / "forged", {"colours": [3]}, change)
    code, found, _ = verify(world, folder, "--full", capsys=capsys)
    assert code == 1
    assert "is_greedy" in found["refuted"][0]["what"]


def test_the_tokens_of_a_text_are_kept(made):
    """Without them an honest text that rounding sent another way could not be told from a forged one."""
    for sample in open_run(made / "run").samples("story"):
        (answer,) = sample["responses"]
        assert len(answer["output"]) == answer["tokens"] > 0


# ---- what is refused ------------------------------------------------------------------------------------------------


def touched(folder, *keys, value):
    """Change one field of the record and make the digest fit again."""
    record = json.loads((folder / "record.json").read_text())
    place = record
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value(place[keys[-1]]) if callable(value) else value
    return reseal(folder, record)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("plugins", 0, "version"), "9.9.9", "the record has 9.9.9"),
        (("plugins", 0, "digest"), "0" * 64, "has other code here"),
        (("plugins", 0, "id"), "llmasos-nobody", "llmasos-nobody"),
        (("tasks", 0, "data_digest"), "0" * 64, "task colours: data_digest"),
        (("tasks", 0, "digest"), "0" * 64, "task colours: digest"),
        (("tasks", 0, "version"), "7", "task colours: version"),
        (("tasks", 0, "scores", 0, "value"), 0.99, "value of acc (none) is"),
        (("tasks", 0, "scores", 0, "stderr"), 0.0001, "stderr of acc (none) is"),
        (("tasks", 0, "scores", 0, "signature"), "acc|v:9", "signature of acc (none) is"),
        (("tasks", 0, "counts", "requests"), 1, "counts of the samples"),
        (("tasks", 0, "samples_digest"), "0" * 64, "samples_digest of the samples"),
        (("tasks", 0, "prompt_digest"), "0" * 64, "prompt_digest of the samples"),
        (("groups", 0, "scores", 0, "value"), 0.99, "group everything"),
        (("tokenizer", "digest"), "0" * 64, "tokenizer.digest"),
        (("model", "digest"), "0" * 64, "model.digest"),
        (("model", "files"), lambda files: dict.fromkeys(files, "0" * 64), "model.digest"),
        (("model", "dtype"), "bfloat16", "model.dtype"),
        (("scorer", "plan"), {"unit": "other"}, "scorer.plan_digest"),
        (("settings", "num_fewshot"), 1, "the prompt of its request 0"),
    ],
)
def test_a_record_that_was_touched_is_refused(world, tmp_path, capsys, keys, value, said):
    touched(tmp_path / "run", *keys, value=value)
    code, found, err = verify(world, tmp_path / "run", "--sample", "4", capsys=capsys)
    assert (code, found) == (2, {}), err
    assert said in err
    assert not list((tmp_path / "run").glob("attestation-*"))


def test_a_record_whose_data_digest_is_over_an_unused_pool_holds(world, tmp_path, capsys):
    """The first records were written so."""
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    with Hub() as hub:
        selection = select_tasks(request_of(record, include=(world / "tasks",)), hub)
    (task,) = (task for task in selection.tasks if task.name == "colours")
    assert record["tasks"][0]["data_digest"] == task.data_digest(0)
    record["tasks"][0]["data_digest"] = task.data_digest(1)
    record["tasks"][0]["data"]["fewshot_split"] = "test"
    reseal(tmp_path / "run", record)
    code, found, err = verify(world, tmp_path / "run", "--sample", "2", "--no-attestation", capsys=capsys)
    assert (code, found["verdict"]) == (0, "confirmed"), err


def test_a_digest_that_does_not_fit_is_refused(world, tmp_path, capsys):
    path = tmp_path / "run" / "record.json"
    path.write_text(path.read_text().replace('"seed": 1234', '"seed": 1235'))
    code, _, err = verify(world, tmp_path / "run", capsys=capsys)
    assert code == 2
    assert "digest is" in err
    assert "hint: nothing was computed: ask whoever gave you the record" in err


@pytest.mark.parametrize("what", ["line", "missing", "extra", "lost"])
def test_samples_that_were_touched_are_refused(world, tmp_path, capsys, what):
    path = tmp_path / "run" / "samples_colours.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if what == "line":
        lines[5] = lines[5].replace('"is_greedy":false', '"is_greedy":true', 1)
    elif what == "missing":
        del lines[5]
    elif what == "extra":
        lines.append(lines[0].replace('"index":0', '"index":900'))
    path.write_text("".join(lines))
    if what == "lost":
        path.unlink()
    code, _, err = verify(world, tmp_path / "run", capsys=capsys)
    assert code == 2
    assert "task colours" in err


def test_signatures_are_demanded_and_checked(world, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    code, _, err = verify(world, folder, "--signed-by", "you", capsys=capsys)
    assert code == 2
    assert "there is none" in err
    public = generate(tmp_path / "config" / "keys" / "publisher.pem").public_key()
    assert llmasos(["eval", "sign", str(folder), "--quiet"]) == 0
    for who in ("you", keyid(public)):
        assert (
            verify(world, folder, "--signed-by", who, "--sample", "2", "--no-attestation", capsys=capsys)[0]
            == 0
        )
    code, _, err = verify(world, folder, "--signed-by", "alice", capsys=capsys)
    assert code == 2
    assert "one by alice is demanded" in err
    # The record is changed consistently, the signature stays what it was.
    touched(folder, "timings", "started", value="2020-01-01T00:00:00+00:00")
    code, _, err = verify(world, folder, capsys=capsys)
    assert code == 2
    assert "changed after it was signed" in err or "another document" in err


def test_a_signature_that_was_touched_is_refused(world, tmp_path, capsys):
    folder = tmp_path / "run"
    generate(tmp_path / "config" / "keys" / "publisher.pem")
    assert llmasos(["eval", "sign", str(folder), "--quiet"]) == 0
    path = folder / "record.sig"
    envelope = json.loads(path.read_text())
    signature = envelope["signatures"][0]["sig"]
    envelope["signatures"][0]["sig"] = (
        signature[:20] + ("A" if signature[20] != "A" else "B") + signature[21:]
    )
    path.write_text(json.dumps(envelope))
    code, _, err = verify(world, folder, capsys=capsys)
    assert code == 2
    assert "signature" in err


def test_other_weights_here_are_refused(world, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(world / "model", model)
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, _, err = verify(world, tmp_path / "run", "--model", str(model), capsys=capsys)
    assert code == 2
    assert "model file model.safetensors is another one" in err


def test_the_same_weights_elsewhere_will_do(world, tmp_path, capsys):
    shutil.copytree(world / "model", tmp_path / "model")
    assert (
        verify(world, tmp_path / "run", "--model", str(tmp_path / "model"), "--sample", "3", capsys=capsys)[0]
        == 0
    )


def test_other_data_here_are_refused(world, tmp_path, capsys):
    tasks = tmp_path / "tasks"
    shutil.copytree(world / "tasks", tasks)
    path = tasks / "colours.jsonl"
    path.write_text(path.read_text().replace("Question 7:", "Question 8:"))
    code = llmasos(["eval", "verify", str(tmp_path / "run"), "--include", str(tasks)])
    err = capsys.readouterr().err
    assert code == 2
    assert "task colours: data_digest" in err


def test_another_lock_can_be_accepted_and_is_attested(world, tmp_path, capsys):
    folder = touched(tmp_path / "run", "plugins", 0, "version", value="9.9.9")
    code, _, err = verify(world, folder, "--sample", "3", capsys=capsys)
    assert (code, "hint: install those plugins, or go on with your own: --accept-lock" in err) == (2, True)
    code, found, err = verify(world, folder, "--accept-lock", "--sample", "3", capsys=capsys)
    assert code == 0, err
    assert any("9.9.9" in line for line in found["differences"])


@pytest.mark.parametrize("schema", ["llmasos-record/1", "llmasos-record/9", "other"])
def test_another_schema_is_refused(world, tmp_path, capsys, schema):
    path = tmp_path / "run" / "record.json"
    path.write_text(path.read_text().replace("llmasos-record/2", schema))
    assert verify(world, tmp_path / "run", capsys=capsys)[0] == 2


# ---- attestations ---------------------------------------------------------------------------------------------------


def test_the_published_schema_is_that_of_the_code():
    from importlib import resources

    shipped = json.loads(
        resources.files("llmasos_evals.records").joinpath("attestation.schema.json").read_text()
    )
    assert shipped == json_schema(), (
        "python -m llmasos_evals.records.attestation > plugins/llmasos_evals/records/attestation.schema.json"
    )


def test_an_attestation_is_signed_with_the_key_of_the_verifier(world, tmp_path, capsys):
    named = tmp_path / "verifier.pem"
    public = generate(named).public_key()
    code, found, err = verify(world, tmp_path / "run", "--sample", "3", "--key", str(named), capsys=capsys)
    assert code == 0, err
    assert found["keyid"] == keyid(public)
    (file,) = (tmp_path / "run").glob("attestation-*.json")
    assert file.with_suffix(".sig").exists()
    assert file.name == f"attestation-{canonical_digest(json.loads(file.read_text()))[:16]}.json"
