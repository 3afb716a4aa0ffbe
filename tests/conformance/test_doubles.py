"""The reference doubles keep the contracts they stand for."""

from __future__ import annotations

import pytest

from llmasos.testing.conformance import Check, model, tokenizer
from llmasos.testing.doubles import ByteTokenizer, ScriptedModel


@pytest.mark.parametrize("check", tokenizer.CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_byte_tokenizer(check: Check[tokenizer.TokenizerSubject], adds_bos: bool) -> None:
    subject = tokenizer.TokenizerSubject(
        ByteTokenizer(adds_bos=adds_bos), reopen=lambda: ByteTokenizer(adds_bos=adds_bos)
    )
    finding = check.run(subject)
    expected = "kept"
    assert finding.outcome == expected, str(finding)


@pytest.mark.parametrize("check", model.CHECKS, ids=lambda check: check.name)
def test_scripted_model(check: Check[model.ModelSubject]) -> None:
    finding = check.run(model.ModelSubject(ScriptedModel(40, max_length=64), parameters=1))
    assert finding.outcome == "kept", str(finding)


def test_script_decides_the_next_token() -> None:
    from llmasos.testing.conformance.sequences import hidden_alone

    double = ScriptedModel(30, lambda tokens, positions: sum(tokens) + 1, confidence=0.9)
    hidden = hidden_alone(double, [1, 2, 3])
    _, best = double.token_logprobs(hidden, hidden.new_zeros(3).long())
    assert best.tolist() == [2, 4, 7]
    logprobs, _ = double.token_logprobs(hidden, best)
    assert logprobs.exp().tolist() == pytest.approx([0.9] * 3, abs=1e-6)
