"""Turns the set of terminals a parser could take into words for a person: grouped, and at most five."""

from __future__ import annotations

from gfdit.lang.grammar import END, Table

LIMIT = 5

_EXPRESSION = frozenset({"NAME", "NUMBER", "STRING", "LPAR", "IF", "TRUE", "FALSE", "NOT", "SIGN"})
_OPERATOR = frozenset({"COMPARE", "SIGN", "FACTOR", "AND", "OR", "IN", "NOT"})
_NAMED = {"NAME": "a name", "NUMBER": "a number", "STRING": "a string", "UNIT": "a unit", "FIELD": "a field"}


def describe(accepted: set[str], table: Table) -> str:
    """Such as "`when`, `{` or an operator"."""
    rest = set(accepted)
    groups: list[str] = []
    items = {table.literals[word] for word in table.words["item"]}
    if {"NAME", "NUMBER", "LPAR"} <= rest:
        groups.append("an expression")
        rest -= _EXPRESSION
    elif "FACTOR" in rest:
        groups.append("an operator")
        rest -= _OPERATOR
    rest -= {"UNIT", "LPAR", "DOT"} if "an operator" in groups else set()
    if len(rest & items) > LIMIT:
        groups.append("the next item")
        rest -= items
    if END in rest:
        rest.discard(END)
        groups.append("the end") if not groups and not rest else None
    text_of = {name: text for text, name in table.literals.items()}
    named = [_NAMED[name] for name in _NAMED if name in rest]
    quoted = sorted(f"`{text_of[name]}`" for name in rest if name in text_of)
    words = (named + quoted)[: LIMIT - len(groups)] + groups
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"
