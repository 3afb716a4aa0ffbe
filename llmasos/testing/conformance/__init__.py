"""What it means to keep a contract, as checks that say the rule, what was seen, and the fix.

Each module holds the checks of one contract as a tuple named ``CHECKS`` over one kind of subject:

==============  ==========================  =====================================================
module          subject                     checks
==============  ==========================  =====================================================
``plugin``      ``PluginSubject``           manifest, import hygiene, hooks, life cycle
``tokenizer``   ``TokenizerSubject``        round trips, offsets, special tokens, threads
``model``       ``ModelSubject``            likelihoods, caches, batches, positions of a CausalLM
``encoder``     ``EncoderSubject``          batches and heads of an EncoderModel
``backend``     ``OpSubject``               each op against the reference and against plain float64, packed weights
``processor``   ``ProcessorSubject``        one decision a document, purity, independence of shards
==============  ==========================  =====================================================

::

    from llmasos.testing.conformance import assert_conforms
    from llmasos.testing.conformance.tokenizer import CHECKS, TokenizerSubject

    def test_my_tokenizer_keeps_the_contract():
        assert_conforms(CHECKS, TokenizerSubject(MyTokenizer()))
"""

from __future__ import annotations

from llmasos.testing.conformance.check import (
    Check,
    Finding,
    Observation,
    assert_conforms,
    broken,
    check,
    does_not_apply,
    kept,
    report,
    run_checks,
)

__all__ = [
    "Check",
    "Finding",
    "Observation",
    "assert_conforms",
    "broken",
    "check",
    "does_not_apply",
    "kept",
    "report",
    "run_checks",
]
