"""The TextMate grammar of policies, made from the parser's table and the vocabulary:

    python -m gfdit.editor.textmate > grammar/vscode/syntaxes/gfdit-policy.tmLanguage.json

Flat on purpose: every rule is one `match`, so that a line means the same wherever it stands; newlines carry no meaning
in the language, and an item may begin anywhere. Scopes are the customary ones, which every theme colours.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Final

from gfdit.lang.grammar import grammar_path, table
from gfdit.lang.program import AggregateKind
from gfdit.lang.types import TYPE_NAMES, UNITS
from gfdit.policy.reference import read_grammar
from gfdit.policy.vocabulary import schema

SCOPE: Final = "source.gfdit-policy"
RESERVED: Final = ("and", "or", "not", "in", "if", "then", "else", "when", "where", "for", "until", "within")
CONNECTIVES: Final = (*RESERVED, "by", "to", "from", "per", "do", "on", "every")
DECLARES: Final = ("policy", "param", "let", "class", "mode", "state", "pool", "guard")
_COMPARED = r"(?!\s*(?:==|!=|<=|>=|<|>|=|\.|(?:not\s+)?in\s*\{|\())"
"""behind a word that is compared, assigned or called, and so is a name and no keyword"""

Rule = dict[str, object]


def grammar() -> dict[str, object]:
    """The grammar as data."""
    words = schema()
    keywords = {word for word in table().literals if word[0].isalpha()} - {*CONNECTIVES, "true", "false", "gpu"}
    starts = _starts()
    plain = keywords - starts.keys()
    functions = {*words.functions, *(kind.value for kind in AggregateKind)}
    members = {*words.stages, *words.triggers, *words.preferences, *words.events, *words.knobs}
    attributes = {*words.attributes, *words.degrees}
    rules: list[Rule] = [
        _rule("comment.line.number-sign", r"#.*$"),
        _rule("string.quoted.double", r'"[^"\n]*"?'),
        _captured(rf"{_number()}\s*({_any(UNITS)}(?![\w])|%)", "constant.numeric", "keyword.other.unit"),
        _rule("constant.numeric", _number().replace("(", "(?:", 1)),
        _rule("constant.language.boolean", rf"\b{_any(('true', 'false'))}\b"),
        _captured(
            rf"\b({_any(DECLARES)})\s+((?!{_any(CONNECTIVES)}\b)[A-Za-z_]\w*)", "storage.type", "entity.name.type"
        ),
        _captured(rf"(:)\s*({_any(TYPE_NAMES)})\b", "punctuation.separator", "support.type"),
        *(_rule("keyword.control", rf"\b{word}\b(?=\s*{after})") for word, after in starts.items()),
        _rule("keyword.control", r"\bsp\b(?=\s+(?:fixed\b|in\s*\{[\d,\s]*(?:\}\s*gpu\b|$)))"),
        _captured(r"(\})\s*(gpu)\b", "punctuation.section", "keyword.other.unit"),
        _rule("keyword.operator.word", rf"\b{_any(CONNECTIVES)}\b"),
        _rule("support.function", rf"\b{_any(functions)}\b(?=\s*\()"),
        _rule("keyword.control", rf"\b{_any(plain - functions - attributes - members)}\b"),
        _rule("keyword.control", rf"\b{_any(plain & (functions | attributes | members))}\b{_COMPARED}(?=\s+[\w{{\"])"),
        _rule("support.constant", rf"\b{_any(members - attributes)}\b"),
        _rule("variable.language", rf"\b{_any(attributes)}\b"),
        _rule("keyword.operator", r"==|!=|<=|>=|<|>|\.\.|[-+*/=]"),
    ]
    return {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "gfdit policy",
        "scopeName": SCOPE,
        "fileTypes": ["pol"],
        "patterns": rules,
    }


def _starts() -> dict[str, str]:
    """Keywords that begin an item and are always followed by one thing, with that: elsewhere they are names."""
    rules = read_grammar(grammar_path().read_text(encoding="utf-8")).rules
    found = {}
    for item in rules["item"]:
        second = re.match(r'"(\w+)" (?:"([^"]+)"|(STRING))', rules[item][0])
        if second is not None:
            found[second[1]] = '"' if second[3] else re.escape(second[2])
    return found


def _number() -> str:
    return r"(\b[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"


def _any(words: Iterable[str]) -> str:
    """One of the words, longest first."""
    found = sorted(set(words) - {"%"}, key=lambda word: (-len(word), word))
    return f"(?:{'|'.join(found)})"


def _rule(scope: str, pattern: str) -> Rule:
    return {"name": f"{scope}.gfdit-policy", "match": pattern}


def _captured(pattern: str, *scopes: str) -> Rule:
    captures = {str(n): {"name": f"{scope}.gfdit-policy"} for n, scope in enumerate(scopes, 1)}
    return {"match": pattern, "captures": captures}


def text() -> str:
    """The file."""
    return json.dumps(grammar(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
