"""How a record stands: self-reported, spot-checked, fully re-run, refuted; and how it is shown."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from record_samples import a_sample, edit, write_run
from test_record import a_record

import llmasos
from llmasos.cli.output import Output
from llmasos_evals.records.attestation import sealed, write_attestation
from llmasos_evals.records.presentation import rows, show_record, shown
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.signing import write_signature
from llmasos_evals.records.standing import standing_of
from llmasos_registry.signatures.keys import generate


@pytest.fixture
def hub(tmp_path):
    with llmasos.Hub(cache_dir=tmp_path / "cache", config_dir=tmp_path / "config", offline=True) as made:
        yield made


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", [a_sample(0), a_sample(1)])


@pytest.fixture
def verifier(tmp_path):
    path = tmp_path / "verifier.pem"
    generate(path)
    return path


def attest(hub, folder, key=None, *, sign=True, **changes):
    run = open_run(folder)
    made = sealed(
        {
            "record": run.record["digest"],
            "samples_digest": run.record["samples_digest"],
            "verdict": "confirmed",
            "kind": "spot-check",
            "documents": 2,
            "sample": 1,
            "seed": {"value": "00", "source": "system"},
            "drawn": {"t": [1]},
            "agreed": 1,
            "undecided": 0,
            "refuted": [],
            "tolerance": {"dtype": "float32", "nats": 1e-3, "gap": 1e-3},
            "largest_difference": 0.0,
            "scores_recomputed": True,
            "detection": {"0.05": 0.5},
            "differences": [],
            "engine": "reference",
            "plugins": [],
            "environment": {},
            "when": "2026-02-03T00:00:00+00:00",
            **changes,
        }
    )
    return write_attestation(hub, folder, made, sign=sign, key=key)[0]


def state(hub, folder) -> str:
    return standing_of(open_run(folder), hub).state


def test_nobody_looked(hub, folder):
    assert state(hub, folder) == "self-reported"


def test_spot_checked_by_somebody_else(hub, folder, verifier):
    attest(hub, folder, verifier)
    assert state(hub, folder) == "spot-checked"
    words = standing_of(open_run(folder), hub).in_words()
    assert "confirmed by somebody unknown here (sha256:" in words
    assert "on 2026-02-03: 1 of 2 documents computed again, 1 agreed" in words


def test_fully_re_run(hub, folder, verifier):
    attest(hub, folder, verifier)
    attest(hub, folder, verifier, kind="full", sample=2, agreed=2, seed=None, drawn={})
    assert state(hub, folder) == "fully re-run"


def test_an_unsigned_confirmation_counts_for_nothing_but_is_shown(hub, folder):
    attest(hub, folder, sign=False)
    standing = standing_of(open_run(folder), hub)
    assert (standing.state, len(standing.findings)) == ("self-reported", 1)


def test_who_made_a_record_cannot_vouch_for_it(hub, folder, verifier):
    run = open_run(folder)
    write_signature(hub, run.path, run.record, verifier)
    attest(hub, folder, verifier)
    assert state(hub, folder) == "self-reported"


def test_a_refutation_counts_whoever_signed_it(hub, folder, verifier):
    attest(hub, folder, verifier)
    refuted = [{"task": "t", "index": 1, "what": "request 0: the log-likelihood is -1.0, not -1.5"}]
    attest(hub, folder, sign=False, verdict="refuted", agreed=0, refuted=refuted)
    assert state(hub, folder) == "refuted"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_text("{"), "does not count"),
        (lambda path: path.write_text('{"schema": "x"}'), "its schema is"),
        (lambda path: edit(path, "agreed", value=2), "does not count: the signature is for another document"),
        (lambda path: edit(path, "record", value="0" * 64), "is about another record"),
        (lambda path: edit(path, "verdict", value="refuted"), "contradicts itself"),
        (lambda path: edit(path, "kind", value="full"), "contradicts itself"),
        (lambda path: path.with_suffix(".sig").write_text("{}"), "does not count"),
    ],
)
def test_attestations_that_do_not_hold_are_named_and_left_out(hub, folder, verifier, damage, said):
    damage(attest(hub, folder, verifier))
    standing = standing_of(open_run(folder), hub)
    assert standing.state == "self-reported"
    assert said in standing.remarks[0]


def test_a_record_that_was_touched_is_altered(hub, folder):
    edit(folder / "record.json", "settings", "seed", value=99)
    standing = standing_of(open_run(folder), hub)
    assert "its digest does not fit" in standing.remarks[0]
    assert standing.state == "altered"
    assert standing.as_json()["state"] == "altered"


def test_touching_a_record_does_not_make_its_signer_somebody_else(hub, folder, verifier, capsys):
    """The publisher's own attestation counts for nothing; a broken signature must not change that."""
    run = open_run(folder)
    write_signature(hub, run.path, run.record, verifier)
    attest(hub, folder, verifier)
    assert standing_of(run, hub).state == "self-reported"
    assert "the record's own signer made it" in standing_of(run, hub).in_words()
    edit(folder / "record.json", "timings", "documents_computed", value=7)
    standing = standing_of(open_run(folder), hub)
    assert standing.state == "altered"
    assert "no attestation counts" in standing.in_words()
    assert not show_record(SimpleNamespace(hub=hub, output=Output()), folder)
    assert "state     altered" in capsys.readouterr().out


def test_a_signature_that_does_not_hold_is_remarked_upon(hub, folder, verifier):
    run = open_run(folder)
    write_signature(hub, run.path, run.record, verifier)
    edit(folder / "record.json", "timings", "documents_computed", value=7)
    standing = standing_of(open_run(folder), hub)
    assert standing.signed is None
    assert "its signature does not hold" in standing.remarks[0]


def test_the_table_and_the_state_are_shown(hub, folder, capsys):
    output = Output()
    show_record(SimpleNamespace(hub=hub, output=output), folder)
    out = capsys.readouterr().out
    assert "state     self-reported, not signed" in out
    assert "95 % interval" in out
    output.mode = "json"
    show_record(SimpleNamespace(hub=hub, output=output), folder)
    found = json.loads(capsys.readouterr().out)
    assert found["record"]["schema"] == "llmasos-record/2"
    assert found["verification"]["state"] == "self-reported"


def test_groups_of_a_stranger_that_contain_themselves_end(tmp_path):
    record = a_record()
    record["groups"][0]["members"] = ["g", "t", "nobody"]
    record["groups"].append({**record["groups"][0], "name": "h", "members": ["g"]})
    assert [row[0] for row in rows(record)] == ["g", "- g", "- - t"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (123456.789, "123457"), ("NaN", "NaN"), (None, "None"), (3, "3.0000")],
)
def test_numbers_are_short(value, text):
    assert shown(value) == text
