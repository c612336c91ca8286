"""The LALR table of `grammar/policy.lark`, and the command that makes it.

Building the table takes lark half a second, so it is built once and kept beside this module as JSON; running a parser
on it needs no lark at all. `python -m gfdit.lang.grammar` writes the table again, a test compares it with the grammar.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

if TYPE_CHECKING:
    from lark import Lark
    from lark.grammar import Rule as LarkRule
    from lark.parsers.lalr_analysis import Action

T = TypeVar("T")

TABLE_FILE = "table.json"
END = "$END"


class TableData(TypedDict):
    """The JSON form. An action is a state to shift to (>= 0) or a rule to reduce by (-1 - rule)."""

    grammar_sha: str
    literals: dict[str, str]
    patterns: list[list[str]]
    lexicon: str
    rules: list[tuple[str, str, int, list[int], bool]]
    states: list[dict[str, int]]
    start: int
    end: int
    words: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A production: pop `size` values, keep those in `keep` (-1: an omitted option), hand them to `action`.

    `action` is empty for the helpers of repetitions, whose values are spliced into the parent. `unwrap`: a single
    value passes through as it is.
    """

    origin: str
    action: str
    size: int
    keep: tuple[int, ...]
    unwrap: bool


@dataclass(frozen=True, slots=True)
class Table:
    """The parser's tables. `words` maps item, rule, stage_item, test_item to the keywords that can start them."""

    literals: dict[str, str]
    patterns: tuple[tuple[str, re.Pattern[str]], ...]
    lexicon: re.Pattern[str]
    rules: tuple[Rule, ...]
    states: list[dict[str, int]]
    start: int
    end: int
    words: dict[str, frozenset[str]]

    def terminals(self, text: str) -> list[str]:
        """Every terminal that `text` can be, keywords and symbols before patterns."""
        found = [self.literals[text]] if text in self.literals else []
        return found + [name for name, pattern in self.patterns if pattern.fullmatch(text)]


@cache
def table() -> Table:
    """The shipped table."""
    data: TableData = json.loads(resources.files(__package__).joinpath(TABLE_FILE).read_text("utf-8"))
    return Table(
        literals=data["literals"],
        patterns=tuple((name, re.compile(pattern)) for name, pattern in data["patterns"]),
        lexicon=re.compile(data["lexicon"]),
        rules=tuple(Rule(o, action, size, tuple(keep), unwrap) for o, action, size, keep, unwrap in data["rules"]),
        states=data["states"],
        start=data["start"],
        end=data["end"],
        words={name: frozenset(words) for name, words in data["words"].items()},
    )


@cache
def grammar_sha() -> str:
    """SHA-256 of the grammar that the shipped table was made from."""
    data: TableData = json.loads(resources.files(__package__).joinpath(TABLE_FILE).read_text("utf-8"))
    return data["grammar_sha"]


# -- generation: needs lark, never runs when a policy is checked ------------------------------------------------------


def grammar_path() -> Path:
    """`grammar/policy.lark`: shipped inside the package, or in the repository that the package lies in."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_data" / "grammar", package.parent / "grammar"):
        if (folder / "policy.lark").is_file():
            return folder / "policy.lark"
    raise FileNotFoundError("grammar/policy.lark is neither in the package nor in a repository around it")


def build(grammar: str) -> TableData:
    """The table of `grammar`, which lark must accept with strict=True."""
    from lark import Lark

    lark = Lark(grammar, parser="lalr", lexer="contextual", strict=True, start="policy", maybe_placeholders=True)
    literals, patterns = _terminals(lark)
    rules = sorted(lark.rules, key=str)
    number = {rule: index for index, rule in enumerate(rules)}
    parse_table = lark.parser.parser._parse_table
    order = _reachable(parse_table.states, parse_table.start_states["policy"])
    states: list[dict[str, int]] = []
    for state in order:
        row = {}
        for symbol, (action, argument) in parse_table.states[state].items():
            row[symbol] = order[argument] if action.name == "Shift" else -1 - number[argument]
        states.append(dict(sorted(row.items())))
    return TableData(
        grammar_sha=hashlib.sha256(grammar.encode()).hexdigest(),
        literals=literals,
        patterns=[[name, pattern] for name, pattern in patterns],
        lexicon=_lexicon(lark, literals),
        rules=[_rule(rule) for rule in rules],
        states=states,
        start=order[parse_table.start_states["policy"]],
        end=order[parse_table.end_states["policy"]],
        words={name: _first_words(name, rules, literals) for name in ("item", "rule", "stage_item", "test_item")},
    )


def _reachable(states: Mapping[T, Mapping[str, tuple[Action, T]]], start: T) -> dict[T, int]:
    """Numbers for states, breadth first by symbol: lark's own numbers depend on the hash seed."""
    order = {start: 0}
    queue = [start]
    for state in queue:
        for _, (action, target) in sorted(states[state].items(), key=lambda entry: entry[0]):
            if action.name == "Shift" and target not in order:
                order[target] = len(order)
                queue.append(target)
    return order


def _terminals(lark: Lark) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Literal text to terminal name, and the pattern terminals by falling priority."""
    literals, patterns = {}, []
    for terminal in sorted(lark.terminals, key=lambda t: (-t.priority, t.name)):
        if terminal.name in lark.ignore_tokens:
            continue
        if terminal.pattern.type == "str":
            literals[terminal.pattern.value] = terminal.name
        else:
            patterns.append((terminal.name, terminal.pattern.value))
    return dict(sorted(literals.items())), patterns


def _lexicon(lark: Lark, literals: dict[str, str]) -> str:
    """One pattern for all tokens: group `skip` is what the grammar ignores, `note` its comments."""
    by_name = {terminal.name: terminal.pattern.value for terminal in lark.terminals}
    symbols = sorted((text for text in literals if not text[0].isalpha()), key=lambda text: (-len(text), text))
    kinds = ["STRING", "NUMBER", "FIELD", "UNIT", "COMPARE", "SIGN", "FACTOR"]
    token = "|".join([f"(?:{by_name[kind]})" for kind in kinds] + [re.escape(text) for text in symbols])
    return f"(?P<skip>{by_name['SPACE']})|(?P<note>{by_name['COMMENT']})|(?P<token>{token})"


def _rule(rule: LarkRule) -> tuple[str, str, int, list[int], bool]:
    origin = rule.origin.name
    gaps = [0] * (len(rule.expansion) + 1)
    if rule.options.empty_indices:
        marks = "".join(str(int(mark)) for mark in rule.options.empty_indices)
        gaps = [len(ones) for ones in marks.split("0")]
    keep: list[int] = []
    for index, symbol in enumerate(rule.expansion):
        keep += [-1] * gaps[index]
        if rule.options.keep_all_tokens or not (symbol.is_term and symbol.filter_out):
            keep.append(index)
    keep += [-1] * gaps[-1]
    helper = origin.startswith("_")
    action = "" if helper else (rule.alias or origin)
    return origin, action, len(rule.expansion), keep, bool(rule.options.expand1 and not rule.alias)


def _first_words(start: str, rules: list[LarkRule], literals: dict[str, str]) -> list[str]:
    """Keywords that can start `start`."""
    text_of = {name: text for text, name in literals.items()}
    seen, queue, words = {start}, [start], set()
    while queue:
        origin = queue.pop()
        for rule in rules:
            if rule.origin.name != origin or not rule.expansion:
                continue
            first = rule.expansion[0]
            if first.is_term:
                words.add(text_of[first.name])
            elif first.name not in seen:
                seen.add(first.name)
                queue.append(first.name)
    return sorted(words)


def main() -> int:
    """Write the table beside this module."""
    data = build(grammar_path().read_text("utf-8"))
    target = Path(__file__).resolve().parent / TABLE_FILE
    target.write_text(json.dumps(data, separators=(",", ":")) + "\n", "utf-8")
    sys.stdout.write(f"{target.name}: {len(data['rules'])} productions, {len(data['states'])} states\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
