"""Programs made from the grammar, texts made from bytes, shipped policies with some words exchanged: every one gets
diagnostics or runs, none raises an exception.

    python -m tests.support.fuzz --programs 100000 --strings 100000 --mutants 20000 --seed 1

Each case has a seed of its own, which is printed when it fails; `--case SEED` runs that one alone.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lark import Lark
from lark.grammar import NonTerminal, Rule, Terminal

from gfdit.lang import Source, parse
from gfdit.lang.format import format_tree
from gfdit.lang.grammar import grammar_path
from gfdit.lang.render import render
from gfdit.lang.types import TYPE_NAMES, UNITS
from gfdit.policy import library
from gfdit.policy.checking import check_policy
from gfdit.policy.cluster import Cluster
from gfdit.policy.costing import bound
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.vocabulary import schema

SIZES = (4, 8, 16, 32, 64)  # words, after which the shortest productions are taken
DEEPEST = 24  # symbols inside symbols, after which they are too
CLUSTER = Cluster((8,), gpu_mem=80 * 2.0**30, models={"dit": {1: 2.0**30}})


class Grammar:
    """The productions of `grammar/policy.lark`, EBNF written out, and what it takes to end each."""

    def __init__(self) -> None:
        text = grammar_path().read_text("utf-8")
        lark = Lark(text, parser="lalr", lexer="contextual", strict=True, start="policy", maybe_placeholders=True)
        self.rules: dict[str, list[Rule]] = {}
        for rule in sorted(lark.rules, key=str):
            self.rules.setdefault(rule.origin.name, []).append(rule)
        self.literals = {t.name: t.pattern.value for t in lark.terminals if t.pattern.type == "str"}
        self.depth = dict.fromkeys(self.rules, 10**6)
        for _ in self.rules:
            for name, rules in self.rules.items():
                self.depth[name] = min([self.depth[name], *(1 + self.of(rule) for rule in rules)])

    def of(self, rule: Rule) -> int:
        """How deep the shortest text of a production goes."""
        inner = (self.depth[symbol.name] for symbol in rule.expansion if isinstance(symbol, NonTerminal))
        return max(inner, default=0)

    @property
    def productions(self) -> list[Rule]:
        return [rule for rules in self.rules.values() for rule in rules]

    @cache  # noqa: B019 - there is one grammar
    def way(self, goal: str) -> dict[str, tuple[Rule, int]]:
        """How to come from any symbol to the one called `goal`: the production, and which of its symbols goes on."""
        found: dict[str, tuple[Rule, int]] = {}
        reached = {goal}
        while True:
            step = {
                name: (rule, index)
                for name, rules in self.rules.items()
                for rule in rules
                for index, symbol in enumerate(rule.expansion)
                if name not in reached and symbol.name in reached
            }
            if not step:
                return found
            found |= step
            reached |= step.keys()


@cache
def grammar() -> Grammar:
    return Grammar()


def names() -> tuple[str, ...]:
    """Words that mean something somewhere, and some that do not."""
    known = schema()
    words = [*known.attributes, *known.functions, *known.stages, *known.knobs, *known.triggers, *known.preferences]
    words += [
        *known.events,
        *TYPE_NAMES,
        "count",
        "sum",
        "mean",
        "any",
        "builtin",
        "fcfs",
        "aux",
        "ui",
        "bulk",
        "x",
        "y",
    ]
    return tuple(sorted(set(words)))


NAMES = names()
NUMBERS = ("0", "1", "2", "3", "4", "8", "0.5", "12", "1e3", "1e300", "99999999999999999999", "2.5E-2", "00")
STRINGS = ('""', '"ui"', '"denoise"', '"a b"', '"ü"', '"#"', '"{"')


@dataclass(slots=True)
class Maker:
    """One program from one seed, around one production. `used`: the productions in it."""

    pick: random.Random
    words: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    size: int = 0

    def program(self, goal: Rule | None = None) -> str:
        """A program with `goal` in it, any production by default."""
        self.size = self.pick.choice(SIZES)
        self._expand("policy", 0, goal or self.pick.choice(grammar().productions))
        breaks = (" ", " ", " ", " ", "\n", "\n  ", " # c\n", "\t")
        return "".join(word + self.pick.choice(breaks) for word in self.words)

    def _expand(self, name: str, depth: int, goal: Rule | None) -> None:
        """A text of a symbol; with `goal` that production is somewhere in it."""
        onward = -1
        if goal is not None and name == goal.origin.name:
            rule, goal = goal, None
        elif goal is not None:
            rule, onward = grammar().way(goal.origin.name)[name]
        else:
            rules = grammar().rules[name]
            if depth > DEEPEST or len(self.words) > self.size:
                rules = [rule for rule in rules if grammar().of(rule) < grammar().depth[name]]
            rule = self.pick.choice(rules)
        self.used.add(str(rule))
        for index, symbol in enumerate(rule.expansion):
            if isinstance(symbol, Terminal):
                self.words.append(self._word(symbol.name))
            else:
                self._expand(symbol.name, depth + 1, goal if index == onward else None)

    def _word(self, terminal: str) -> str:
        if (literal := grammar().literals.get(terminal)) is not None:
            return literal
        match terminal:
            case "NAME" | "FIELD":
                return self.pick.choice(NAMES)
            case "NUMBER":
                return self.pick.choice(NUMBERS)
            case "UNIT":
                return self.pick.choice(tuple(UNITS))
            case "STRING":
                return self.pick.choice(STRINGS)
            case "COMPARE":
                return self.pick.choice(("==", "!=", "<", "<=", ">", ">="))
            case "SIGN":
                return self.pick.choice("+-")
            case _:
                return self.pick.choice("*/")


@cache
def corpus() -> tuple[bytes, ...]:
    everything = Path(__file__).resolve().parents[1] / "lang" / "everything.pol"
    return tuple(path.read_bytes() for path in (*library.policies_in(library.folder()), everything))


def random_bytes(pick: random.Random) -> bytes:
    """Noise, words of the language without grammar, or a policy that was damaged."""
    match pick.randrange(4):
        case 0:
            return pick.randbytes(pick.randrange(80))
        case 1:
            return b"policy p version 1\n" + pick.randbytes(pick.randrange(60))
        case 2:
            words = (*grammar().literals.values(), *NAMES, *NUMBERS, *STRINGS, *UNITS, "\n", "$", '"', "\x00", "é")
            return " ".join(pick.choices(words, k=pick.randrange(40))).encode()
        case _:
            text = bytearray(pick.choice(corpus()))
            for _ in range(pick.randrange(1, 6)):
                start = pick.randrange(len(text))
                end = min(len(text), start + pick.choice((0, 1, 1, 8, 60)))
                donor = pick.choice(corpus())
                at = pick.randrange(len(donor))
                text[start:end] = pick.choice((b"", pick.randbytes(2), bytes(text[start:end]) * 2, donor[at : at + 40]))
            return bytes(text)


@cache
def tokens() -> tuple[tuple[str, ...], ...]:
    """The words, numbers, strings and symbols of the shipped policies, with what lies between them."""
    pattern = re.compile(r'#[^\n]*|"[^"\n]*"|[A-Za-z_]\w*|[0-9.]+(?:[eE][+-]?\d+)?|\s+|[=!<>]=|\.\.|.')
    return tuple(tuple(pattern.findall(text.decode())) for text in corpus()[:-1])


def mutant(pick: random.Random) -> str:
    """A shipped policy in which some words stand in the place of others of their kind."""
    text = list(pick.choice(tokens()))
    for _ in range(pick.randrange(1, 4)):
        at = pick.randrange(len(text))
        kinds = [str.isspace, str.isidentifier, lambda word: word[0].isdigit(), lambda word: word in "+-*/<>,"]
        kind = next((kind for kind in kinds if kind(text[at])), None)
        if kind is not None:
            donors = [word for word in pick.choice(tokens()) if kind(word)]
            text[at] = pick.choice(donors or ["0"])
    return "".join(text)


# ---- one case -------------------------------------------------------------------------------------------------------


def examine(text: str) -> str:
    """What became of a text: `unread` (syntax), `refused`, `accepted`. Raises whatever goes wrong on the way."""
    source = Source(text, "fuzz.pol")
    parsed = parse(source)
    if parsed.complete:
        formatted = format_tree(parsed.tree, source, parsed.comments)
        again = Source(formatted)
        parsed_again = parse(again)
        assert parsed_again.complete, f"formatting made it unreadable:\n{formatted}"
        assert parsed_again.tree == parsed.tree, "formatting changed the tree"
        assert format_tree(parsed_again.tree, again, parsed_again.comments) == formatted, "formatting is not stable"
        built = format_tree(parsed.tree)
        assert parse(Source(built)).tree == parsed.tree, "a tree without its text does not come back"
    else:
        assert parsed.diagnostics, "neither a tree nor a reason"
    checked = check_policy(source, cluster=CLUSTER)
    for style in ("pretty", "json"):
        render(checked.diagnostics, style=style)
    if checked.program is None:
        assert checked.diagnostics, "refused without a reason"
        return "refused" if parsed.complete else "unread"
    CompiledPolicy(checked.program)
    assert bound(checked.program, 100, 8).seconds > 0
    return "accepted"


def examine_bytes(content: bytes) -> str:
    """The same for the bytes of a file, which `gfdit check` refuses when they are no UTF-8."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        examine(content.decode("latin-1"))
        return "not text"
    return examine(text)


@dataclass(slots=True)
class Tally:
    """What became of all cases, the productions of those that parsed, and the seeds of those that failed."""

    outcomes: Counter[str] = field(default_factory=Counter)
    used: set[str] = field(default_factory=set)
    failed: list[int] = field(default_factory=list)

    def program(self, seed: int) -> None:
        maker = Maker(random.Random(seed))
        outcome = self._run(seed, lambda: examine(maker.program()))
        if outcome in ("refused", "accepted"):
            self.used |= maker.used

    def string(self, seed: int) -> None:
        self._run(seed, lambda: examine_bytes(random_bytes(random.Random(seed))))

    def mutant(self, seed: int) -> None:
        self._run(seed, lambda: examine(mutant(random.Random(seed))))

    def _run(self, seed: int, case: Callable[[], str]) -> str:
        try:
            outcome = case()
        except Exception:
            self.failed.append(seed)
            print(f"seed {seed} failed:", file=sys.stderr)
            traceback.print_exc()
            outcome = "failed"
        self.outcomes[outcome] += 1
        return outcome


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the policy language.")
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--strings", type=int, default=1000)
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="run this seed alone, and show its program")
    given = parser.parse_args(arguments)
    if given.case is not None:
        print(Maker(random.Random(given.case)).program())
        print(random_bytes(random.Random(given.case)))
        print(mutant(random.Random(given.case)))
        given.programs = given.strings = given.mutants = 1
    first = given.seed * 10**9 if given.case is None else given.case
    failed = 0
    for what, count in (("program", given.programs), ("string", given.strings), ("mutant", given.mutants)):
        tally, begin = Tally(), time.process_time()
        for seed in range(first, first + count):
            getattr(tally, what)(seed)
        shown = ", ".join(f"{number} {outcome}" for outcome, number in sorted(tally.outcomes.items()))
        print(f"{count} {what}s: {shown}; {time.process_time() - begin:.0f} s of CPU")
        if what == "program":
            every = {str(rule) for rule in grammar().productions}
            print(f"{len(every & tally.used)} of {len(every)} productions")
        failed += len(tally.failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
