"""Inputs, made by fixed seeds, on which metrics are compared with the packages that define them.

Imports nothing of LLMasOS: ``refresh_metric_goldens.py`` runs it in an environment with scikit-learn, seqeval and lm-eval.
"""

from __future__ import annotations

import random
from typing import Any

LABELS = ["red", "green", "blue", "grey"]
KINDS = ["PER", "LOC", "ORG"]

SENTENCES = [
    "The cat sat on the mat.",
    "Why did it rain, again?",
    "Dr. Smith went to Washington at 5 p.m. on Monday.",
    "NASA and ESA launched two probes!",
    "It costs 3.5 dollars in the U.S. market.",
    'She said "no" and left.',
    "I think so.",
    "My answer is yes.",
    "Any other questions?",
    "cats, dogs and birds",
    "WE ARE ALL HERE TODAY AND WE WILL STAY UNTIL THE END",
    "this is written without any capital letters and it goes on for a while",
    "El gato duerme en la casa de mi abuela todos los días.",
    "Der Hund läuft schnell durch den großen Wald nach Hause.",
    "Le chien mange du pain dans la cuisine avec les enfants.",
    "Это предложение написано на русском языке для проверки.",
]
BLOCKS = [
    "* first point\n* second point\n- third point",
    "<<A title>>",
    "<< >>",
    "Section 1\nsome text\nSection 2\nmore text",
    "SECTION 1 a SECTION 2 b",
    "***",
    "******",
    "a [name] lives at [address] in [city]",
    "*bold* and **very bold** and ** **",
    "P.S. do not forget",
    "P.P.S. nor this",
    "P. S. spaced",
    '{"a": [1, 2, 3]}',
    '```json\n{"a": 1}\n```',
    '"quoted altogether"',
    "",
    "12345 !!",
]
PROMPT = "Write a letter. Repeat the request first"


def pairs(seed: int, size: int, labels: list[Any]) -> list[list[Any]]:
    """(right, given) labels, about two thirds equal."""
    draw = random.Random(seed)
    right = [draw.choice(labels) for _ in range(size)]
    return [[label, label if draw.random() < 0.6 else draw.choice(labels)] for label in right]


def label_sets(seed: int, size: int) -> list[list[list[str]]]:
    """(right, given) sets of labels, some of them empty."""
    draw = random.Random(seed)
    return [[sorted(draw.sample(LABELS, draw.randint(0, 3))) for _ in range(2)] for _ in range(size)]


def tags(seed: int, size: int, scheme: str) -> list[list[list[str]]]:
    """(right, given) tag sequences of one length; the given ones break the scheme now and then."""
    draw = random.Random(seed)
    prefixes = "BI" if scheme == "IOB2" else "BIES"

    def lawful(length: int) -> list[str]:
        found: list[str] = []
        while len(found) < length:
            kind, span = draw.choice(KINDS), draw.randint(1, 3)
            if draw.random() < 0.5:
                found.append("O")
            elif scheme == "IOB2":
                found += [f"B-{kind}", *[f"I-{kind}"] * (span - 1)]
            else:
                found += (
                    [f"S-{kind}"] if span == 1 else [f"B-{kind}", *[f"I-{kind}"] * (span - 2), f"E-{kind}"]
                )
        return found[:length]

    out = []
    for _ in range(size):
        length = draw.randint(1, 12)
        right = lawful(length)
        given = [
            tag
            if draw.random() < 0.7
            else draw.choice(["O", f"{draw.choice(prefixes)}-{draw.choice(KINDS)}"])
            for tag in right
        ]
        out.append([right, given])
    return out


def responses(seed: int, size: int) -> list[str]:
    """Answers of every shape that IFEval's checks look at."""
    draw = random.Random(seed)
    out = [*SENTENCES, *BLOCKS, PROMPT + " and so on", "", "   "]
    while len(out) < size:
        parts = draw.choices(SENTENCES + BLOCKS, k=draw.randint(1, 6))
        text = parts[0]
        for part in parts[1:]:
            text += draw.choice(["\n", "\n\n", " ", "\n\n***\n\n", " *** "]) + part
        if draw.random() < 0.15:
            text = draw.choice(
                [text.upper(), text.lower(), f'"{text}"', f"Sure!\n{text}\nBye", text.replace(",", "")]
            )
        out.append(text)
    return out[:size]


#: Instruction -> arguments to try.
INSTRUCTIONS: dict[str, list[dict[str, Any]]] = {
    "keywords:existence": [{"keywords": ["cat", "MAT"]}, {"keywords": ["text"]}],
    "keywords:frequency": [
        {"keyword": "point", "frequency": 2, "relation": "at least"},
        {"keyword": " a ", "frequency": 3, "relation": "less than"},
    ],
    "keywords:forbidden_words": [{"forbidden_words": ["dog", "cat"]}],
    "keywords:letter_frequency": [
        {"letter": "e", "let_frequency": 10, "let_relation": "less than"},
        {"letter": "S", "let_frequency": 4, "let_relation": "at least"},
    ],
    "language:response_language": [{"language": "es"}, {"language": "de"}, {"language": "ru"}],
    "length_constraints:number_sentences": [
        {"num_sentences": 3, "relation": "at least"},
        {"num_sentences": 2, "relation": "less than"},
    ],
    "length_constraints:number_paragraphs": [{"num_paragraphs": 2}, {"num_paragraphs": 3}],
    "length_constraints:number_words": [
        {"num_words": 15, "relation": "at least"},
        {"num_words": 8, "relation": "less than"},
    ],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "NASA"},
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "the"},
        {"num_paragraphs": 3, "nth_paragraph": 1, "first_word": "quoted"},
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": 3}],
    "detectable_content:postscript": [
        {"postscript_marker": "P.S."},
        {"postscript_marker": "P.P.S"},
        {"postscript_marker": "Sure"},
    ],
    "detectable_format:number_bullet_lists": [{"num_bullets": 3}, {"num_bullets": 6}],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": 1}, {"num_highlights": 3}],
    "detectable_format:multiple_sections": [
        {"section_spliter": "Section", "num_sections": 2},
        {"section_spliter": "SECTION ", "num_sections": 1},
    ],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": PROMPT}],
    "startend:end_checker": [{"end_phrase": "Any other questions?"}, {"end_phrase": " until the end "}],
    "startend:quotation": [{}],
    "change_case:capital_word_frequency": [
        {"capital_frequency": 2, "capital_relation": "at least"},
        {"capital_frequency": 1, "capital_relation": "less than"},
    ],
    "change_case:english_capital": [{}],
    "change_case:english_lowercase": [{}],
    "punctuation:no_comma": [{}],
}
