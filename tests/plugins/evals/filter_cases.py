"""Answers and filter steps on which ours are compared with those of lm-evaluation-harness 0.4.13 (``filter_goldens.json``).

Imported by the tests and, in an environment with that harness, by ``refresh_filter_goldens.py``.
"""

from __future__ import annotations

from typing import Any

DOC = {"choices": ["Guilty", "Guilty of Romance", "the Year 2000!", "None, of these"]}
ANSWERS = [
    "The answer is (B).",
    "I would say Guilty of Romance, because...",
    "guilty of romance",
    "Answer: C",
    "Answer:   D and not A",
    "the year 2000",
    "none of these",
    "",
    "Nothing fits",
    "  (a) first (b) second #### 1,234 #### -5.5 ",
    "#### 7",
    "Person: Ada Lovelace, none\nLocation: London$$date: 1843",
    "PER: ada $$ LOC: kenya, Uganda $$ ORG: none",
    "organization: the people: a company",
    "[('The', 'DET'), ('cat', 'NOUN')] and ('sat', 'VERB')",
    "{'not': 'tags'}",
    "YES",
]
#: Name -> (step, options). A step gets all answers of one request at once.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "regex": ("regex", {}),
    "regex_last": ("regex", {"regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "group_select": -1}),
    "regex_fallback": ("regex", {"regex_pattern": r"(\([A-Z]\))", "fallback": "nothing"}),
    "choice": ("multi_choice_regex", {"regex_pattern": r"(\([A-Z]\))"}),
    "choice_loose": (
        "multi_choice_regex",
        {
            "regex_pattern": r"(\([A-Z]\))",
            "ignore_case": True,
            "ignore_punctuation": True,
            "regexes_to_ignore": ["Year "],
        },
    ),
    "choice_last": (
        "multi_choice_regex",
        {"regex_pattern": r"(\([A-Z]\))", "group_select": -1, "fallback": "?"},
    ),
    "format_span": ("format_span", {}),
    "regex_pos": ("regex_pos", {}),
    "lowercase": ("lowercase", {}),
    "uppercase": ("uppercase", {}),
    "remove_whitespace": ("remove_whitespace", {}),
    "map": ("map", {"mapping_dict": {"YES": 1, "#### 7": "seven"}, "default_value": 0}),
    "take_first": ("take_first", {}),
    "take_first_k": ("take_first_k", {"k": 3}),
    "majority_vote": ("majority_vote", {}),
}
