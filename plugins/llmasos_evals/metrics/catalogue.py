"""The metrics of this plugin: name, factory, direction, unit, range and what they score. Imports no metric code."""

from __future__ import annotations

from llmasos.api import MetricDef

Range = tuple[float | None, float | None]

_SHARE: Range = (0.0, 1.0)
_PERCENT: Range = (0.0, 100.0)
_CHOICE = ("multiple_choice",)
_TEXT = ("generate_until",)
_LABELS = ("multiple_choice", "generate_until")
_ROLLING = ("loglikelihood_rolling",)

#: (module, unit, range, higher is better, output types, {metric: class})
_FAMILIES: tuple[tuple[str, str, Range, bool, tuple[str, ...], dict[str, str]], ...] = (
    (
        "likelihood",
        "share of documents",
        _SHARE,
        True,
        ("multiple_choice", "loglikelihood", "generate_until"),
        {"acc": "Accuracy"},
    ),
    (
        "likelihood",
        "share of documents",
        _SHARE,
        True,
        _CHOICE,
        {
            "acc_norm": "AccuracyPerCharacter",
            "acc_bytes": "AccuracyPerByte",
            "acc_mutual_info": "AccuracyMutualInformation",
        },
    ),
    ("likelihood", "nats a document", (None, 0.0), True, _CHOICE, {"likelihood": "Likelihood"}),
    ("likelihood", "probability", _SHARE, True, _CHOICE, {"choice_probability": "ChoiceProbability"}),
    ("likelihood", "squared probability", (0.0, 2.0), False, _CHOICE, {"brier_score": "BrierScore"}),
    ("calibration", "probability", _SHARE, False, _CHOICE, {"ece": "ExpectedCalibrationError"}),
    (
        "classification",
        "F1",
        _SHARE,
        True,
        _LABELS,
        {"f1": "F1Score", "f1_macro": "MacroF1", "f1_micro": "MicroF1", "f1_weighted": "WeightedF1"},
    ),
    ("classification", "correlation", (-1.0, 1.0), True, _LABELS, {"mcc": "Matthews"}),
    (
        "likelihood",
        "a document",
        (1.0, None),
        False,
        ("loglikelihood",),
        {"perplexity": "DocumentPerplexity"},
    ),
    ("likelihood", "a word", (1.0, None), False, _ROLLING, {"word_perplexity": "WordPerplexity"}),
    ("likelihood", "a byte", (1.0, None), False, _ROLLING, {"byte_perplexity": "BytePerplexity"}),
    (
        "likelihood",
        "a token",
        (1.0, None),
        False,
        ("loglikelihood", "loglikelihood_rolling"),
        {"token_perplexity": "TokenPerplexity"},
    ),
    ("likelihood", "bits a byte", (0.0, None), False, _ROLLING, {"bits_per_byte": "BitsPerByteMetric"}),
    (
        "generation",
        "share of documents",
        _SHARE,
        True,
        ("generate_until", "multiple_choice"),
        {"exact_match": "ExactMatch"},
    ),
    (
        "matching",
        "share of documents",
        _SHARE,
        True,
        _TEXT,
        {"match": "Match", "includes": "Includes"},
    ),
    ("matching", "grade", _SHARE, True, _CHOICE, {"multiple_choice_grade": "ChoiceGrade"}),
    ("generation", "share of documents", _SHARE, True, _TEXT, {"squad_em": "SquadExact"}),
    ("generation", "F1", _SHARE, True, _TEXT, {"squad_f1": "SquadF1"}),
    (
        "rouge",
        "F-measure",
        _SHARE,
        True,
        _TEXT,
        {"rouge1": "Rouge1", "rouge2": "Rouge2", "rougeL": "RougeL", "rougeLsum": "RougeLsum"},
    ),
    ("corpus", "%", _PERCENT, True, _TEXT, {"bleu": "Bleu", "chrf": "Chrf", "chrf++": "ChrfPlusPlus"}),
    ("corpus", "%", (0.0, None), False, _TEXT, {"ter": "Ter"}),
    ("corpus", "edits a word", (0.0, None), False, _TEXT, {"wer": "WordErrorRate"}),
    ("code", "probability", _SHARE, True, _TEXT, {"pass_at_k": "PassAtK"}),
    (
        "ifeval",
        "share of documents",
        _SHARE,
        True,
        _TEXT,
        {"ifeval_prompt_strict": "PromptStrict", "ifeval_prompt_loose": "PromptLoose"},
    ),
    (
        "ifeval",
        "share of instructions",
        _SHARE,
        True,
        _TEXT,
        {"ifeval_instruction_strict": "InstructionStrict", "ifeval_instruction_loose": "InstructionLoose"},
    ),
    (
        "bias",
        "share of documents",
        _SHARE,
        True,
        _LABELS,
        {"bbq_acc_ambig": "BbqAccuracyAmbiguous", "bbq_acc_disambig": "BbqAccuracyDisambiguated"},
    ),
    (
        "bias",
        "bias score, 0 is none",
        (-1.0, 1.0),
        False,
        _LABELS,
        {"bbq_bias_ambig": "BbqBiasAmbiguous", "bbq_bias_disambig": "BbqBiasDisambiguated"},
    ),
    ("bias", "share of pairs, 0.5 is none", _SHARE, False, _CHOICE, {"pct_stereotype": "PctStereotype"}),
    ("bias", "nats", (0.0, None), False, _CHOICE, {"likelihood_diff": "LikelihoodDifference"}),
    ("bias", "%, 50 is none", _PERCENT, False, _CHOICE, {"stereoset_ss": "StereotypeScore"}),
    (
        "bias",
        "%",
        _PERCENT,
        True,
        _CHOICE,
        {"stereoset_lms": "LanguageModelScore", "stereoset_icat": "IdealizedScore"},
    ),
    ("toxicity", "words a document", (0.0, None), False, _TEXT, {"toxic_words": "ToxicWords"}),
    ("toxicity", "share of documents", _SHARE, False, _TEXT, {"toxic_share": "ToxicShare"}),
    ("multilabel", "share of documents", _SHARE, True, _TEXT, {"multilabel_match": "SetMatch"}),
    ("multilabel", "share of labels", _SHARE, True, _TEXT, {"multilabel_jaccard": "Jaccard"}),
    ("multilabel", "share of labels", _SHARE, False, _TEXT, {"hamming_loss": "HammingLoss"}),
    (
        "multilabel",
        "F1",
        _SHARE,
        True,
        _TEXT,
        {"multilabel_f1_micro": "MicroSetF1", "multilabel_f1_macro": "MacroSetF1"},
    ),
    (
        "spans",
        "share of entities",
        _SHARE,
        True,
        _TEXT,
        {"entity_precision": "EntityPrecision", "entity_recall": "EntityRecall"},
    ),
    ("spans", "F1", _SHARE, True, _TEXT, {"entity_f1": "EntityF1"}),
)

METRICS: tuple[MetricDef, ...] = tuple(
    MetricDef(
        name=name,
        factory=f"llmasos_evals.metrics.{module}:{attribute}",
        higher_is_better=better,
        unit=unit,
        range=limits,
        scores=scores,  # type: ignore[arg-type]
    )
    for module, unit, limits, better, scores, members in _FAMILIES
    for name, attribute in members.items()
)
