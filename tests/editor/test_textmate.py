"""The TextMate grammar colours what the parser reads, and the extension's files fit together.

The grammar is flat, so that what a TextMate engine does with it is short: at each place the rule that matches first,
of equals the first rule.
"""

from __future__ import annotations

import json
from pathlib import Path

import onigurumacffi
import pytest

from gfdit.editor import textmate
from gfdit.lang.grammar import table
from gfdit.lang.parser import tokenize, unfinished
from gfdit.lang.source import Source

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "grammar" / "vscode"
GRAMMAR = FOLDER / "syntaxes" / "gfdit-policy.tmLanguage.json"
MOST_WORDS = 100  # of one policy: the parser is asked about each
SHIPPED = sorted((ROOT / "policies").glob("*.pol"))
EVERYTHING = ROOT / "tests" / "lang" / "everything.pol"
RULES = [(onigurumacffi.compile(rule["match"]), rule) for rule in json.loads(GRAMMAR.read_text("utf-8"))["patterns"]]


def scopes(text: str) -> list[str]:
    """The scope of every character of a text, "" for none."""
    found: list[str] = []
    for line in text.splitlines(keepends=True):
        colours, at = [""] * len(line), 0
        while at < len(line):
            matches = [(match, rule) for regex, rule in RULES if (match := regex.search(line, at)) is not None]
            if not matches:
                break
            match, rule = min(matches, key=lambda one: one[0].start())
            parts = {number: capture["name"] for number, capture in rule.get("captures", {}).items()}
            for number, name in [("0", rule.get("name", "")), *parts.items()]:
                for place in range(*match.span(int(number))):
                    colours[place] = name.removesuffix(".gfdit-policy")
            assert match.end() > match.start(), rule
            at = match.end()
        found += colours
    return found


def test_it_is_made_from_the_present_grammar_and_vocabulary() -> None:
    assert GRAMMAR.read_text("utf-8") == textmate.text(), "run: make docs"


@pytest.mark.parametrize("path", [*SHIPPED, EVERYTHING], ids=lambda path: path.stem)
def test_comments_strings_numbers_and_units(path: Path) -> None:
    text = path.read_text("utf-8")
    colours = scopes(text)
    tokens, comments = tokenize(Source(text))
    for note in comments:
        assert set(colours[note.span.start : note.span.end]) == {"comment.line.number-sign"}
    number = False
    for token in tokens:
        kinds = table().terminals(token.text)
        found = set(colours[token.span.start : token.span.end])
        if "STRING" in kinds:
            assert found == {"string.quoted.double"}, token
        elif "NUMBER" in kinds:
            assert found == {"constant.numeric"}, token
        elif number and "UNIT" in kinds:
            assert found == {"keyword.other.unit"}, token
        number = "NUMBER" in kinds


@pytest.mark.parametrize("path", [EVERYTHING, *(ROOT / "policies" / f"{name}.pol" for name in ("slo", "stage_aware"))])
def test_words_have_the_role_that_the_parser_gives_them(path: Path) -> None:
    """Keywords are keywords; names are not, but for the declared and the few that look like the start of an item."""
    text = path.read_text("utf-8")
    colours = scopes(text)
    wrong = []
    tokens, _ = tokenize(Source(text))
    looked_at = tokens[:: max(1, len(tokens) // MOST_WORDS)]
    for token in looked_at:
        if not token.text or not (token.text[0].isalpha() or token.text[0] == "_"):
            continue
        accepted = unfinished(Source(text[: token.span.start])).accepted
        literal = table().literals.get(token.text)
        colour = colours[token.span.start]
        is_word = colour.startswith(("keyword", "storage", "constant.language"))
        keyword = literal is not None and literal in accepted
        unit = "UNIT" in accepted and "UNIT" in table().terminals(token.text)
        if (keyword or unit) != is_word:
            wrong.append((token.text, colour, text[max(0, token.span.start - 20) : token.span.end + 20]))
    assert len(looked_at) > MOST_WORDS / 2 and not wrong


def test_the_extension_fits_together() -> None:
    package = json.loads((FOLDER / "package.json").read_text("utf-8"))
    contributes = package["contributes"]
    (language,) = contributes["languages"]
    (shown,) = contributes["grammars"]
    assert language["id"] == shown["language"] and language["extensions"] == [".pol"]
    assert shown["scopeName"] == textmate.SCOPE and (FOLDER / shown["path"]).resolve() == GRAMMAR
    assert (FOLDER / language["configuration"]).is_file() and (FOLDER / package["main"]).is_file()
    brackets = json.loads((FOLDER / language["configuration"]).read_text("utf-8"))
    assert brackets["comments"] == {"lineComment": "#"}
    client = (FOLDER / package["main"]).read_text("utf-8")
    (setting,) = contributes["configuration"]["properties"]
    assert setting == "gfdit.command" and 'get("command"' in client
    assert contributes["configuration"]["properties"][setting]["default"] == ["gfdit", "lsp"]
    assert "vscode-languageclient" in package["dependencies"]
    assert not (FOLDER / "node_modules").is_dir() or "node_modules" in (ROOT / ".gitignore").read_text("utf-8")
