"""The reference page of the policy language, made from the grammar and the vocabulary:

    python -m gfdit.policy.reference > docs/reference/policy-language.md

The grammar gives each clause its syntax and section, the vocabulary every name; CLAUSES adds what a clause means, and a
clause without an entry is a KeyError. May not check or run anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from gfdit.lang.grammar import grammar_path
from gfdit.lang.program import AggregateKind
from gfdit.lang.schema import Arg, Attribute, Event, Function, Level, Place, Schema
from gfdit.lang.types import TYPE_NAMES, UNITS, dim_text
from gfdit.policy.vocabulary import schema

EXPRESSIONS = "expressions, loosest first"
KEPT = frozenset({"key", "take"})  # rules that keep their name although they are short
INLINE_MOST = 45  # characters of a rule that is written out where it is used
WIDTH = 100

CLAUSES: Mapping[str, str] = {
    "header": """First in the file. The version is a whole number of your own; the string says what the policy is for.
`extends` takes over the clauses of another policy, one beside it or a shipped one. A param, `let`, class, mode, state,
pool or guard replaces the one of its name, a stage clause that of its stage, every other kind of clause all of its
kind; tests are not inherited. Own names come before inherited ones: an own `let` cannot use a `let` of the base.""",
    "param": """A constant that `--set NAME=VALUE` may change without editing the file. `within` is its legal range.
Types are listed under [Units and types](#units-and-types).""",
    "let": "A name for an expression, usable below it wherever the expression could stand.",
    "class": """A class of service. Rules are tried in the order of the text when a request arrives; the first that
holds wins. Conditions may read only what is fixed on arrival. Fields: `slo` (budget of a request that brings
none), `rank` (lower goes first; the position in the file when missing), `weight` (1 when missing), `miss`
(tolerated ratio of late requests), `preemptible` (may be made late by `preempt`). A request that no rule matches
ranks behind all classes. A policy without classes keeps the class that the client named.""",
    "mode": """A named condition with hysteresis, usable wherever a condition may stand: on once the first condition
has held for its time without a break, off once the second has; off at first. Modes move when the policy plans, once
an instant; a condition reads modes above it as they are now, and everything else as it was.""",
    "state": """A number carried from plan to plan: the first value, then `next` every period (on every plan without
one), kept `within` its range. `NAME[class]` is one number for each class: in its `next`, `rank`, `weight`, `miss` and
its own name are those of the class, and aggregates run over the requests of that class; elsewhere it is the value of
the request's class.""",
    "pool": """Divides the cluster: a number of GPUs, or the rest, which one pool must take. Fixed pools take the
highest ranks in the order of the text. Every pool keeps one GPU as long as there are as many GPUs as pools; a
smaller cluster is not divided. With pools every stage clause must say which it runs `on`.""",
    "resize": """Moves the border between a pool and the rest, once the condition has held for its time without a break
and `cooldown` has passed since the pool last changed. Nobody is interrupted: tasks end where they run.""",
    "admit": """Judges each new request. Rules are tried in order; the first `accept`, `reject` or `defer` that
holds ends it, and no rule at all accepts. `degrade` makes a parameter cheaper (never dearer, see [Knobs](#knobs))
and goes on, so that later rules judge the degraded request. `because` answers the client. A deferred request is
judged again about four times a second.""",
    "order": """Who comes first. Keys are compared one after the other, smaller first unless `desc`; `false` comes
before `true`. Ties end in `arrival`, then the request id.""",
    "triage": """Keeps the largest set of requests that can still be on time. Walks all admitted requests with a
deadline in `by` order and adds up the GPU-seconds that each still needs at its cheapest degree that is on time;
where the sum passes margin x GPUs x (deadline - now), the request with the most (or least) `shed` key so far is
set aside. One that no degree brings home in time is set aside too. `then last` serves them from what is left: the
most aged first, then the least work. `then reject` answers those that have not begun at once. Missing parts mean
`margin 100%` and `shed most gpu_time`.""",
    "aging": """Lowers `tier` by `raise` for every full `every` that a request has waited, down to `until tier` (0
when missing).""",
    "stage": """How many GPUs a stage gets. `encode`, `denoise` and `decode` need a clause; the others follow one
of them (see [Stages](#stages)). Encode, decode and finalize run on one GPU whatever the clause says.

- `sp fixed`: that many; the widest degree below it when the cluster or model does not offer it.
- `sp in {..} gpu`: alternatives are tried in order over the degrees that still fit. `smallest` and `largest` take
  an end of what passes `where`; `minimizing` and `maximizing` take the best value, the narrower of equals; `wait`
  takes none. When no alternative finds a degree, the request waits. Degrees that the cluster does not offer are
  left out; when none is left, the nearest offered one stands in.
- `grow by order`: after everybody is placed, surplus goes to the placed in plan order, one pass. The pair test
  `where` sees `sp` and every wider `next`, so that a degree which is slower can be skipped. `max` caps one
  request. `grow by KEY` hands it out step by step instead: always the step to a wider degree with the smallest key,
  such as `gain(next) desc`.
- `hold until done`, `hold for t`: keep a group that was formed, and place it before everyone else.
- `sticky r`: keep the present degree unless another one shortens the rest of the request by the ratio r.
- `on`: the pool whose GPUs it may use. `spill to POOL when c`: while c holds, whoever found no place in its own pool
  takes its turn in that one.
- `lanes n`: at most n requests at once in the stages of this clause.
- `prefer`: which GPUs (see [Preferences](#preferences)); `last_gpus, same_node` when missing.
- `reserve for t`: when the preferred degree does not fit, hold what is free for this request until it does or t
  has passed. A request that has a group goes on with what fits meanwhile.""",
    "preempt": """Frees GPUs for a request that found no place. For each such request of the `for` classes (`any`:
all) whose `when` holds, in plan order: victims of the `from` classes that pass `where` are taken in `by` order,
newest first of equals, until the winner would fit. When all together do not make room, none is taken. The first
action is tried on all victims, then the next: `shrink to n` leaves a victim at most n GPUs; `pause` none; `demote`
its narrowest degree, and puts it behind everybody in the order for as long as the winner lives. `migrate` frees no
GPUs: it is for a winner that has enough of them, but not as one aligned block (2, 4 or 8 neighbours, as a group
should have). Of the blocks whose other GPUs belong to victims alone it takes the one with the fewest to move; the
victims go on beside it with as many GPUs as before, and the winner waits for the block (`migrating`) at most as
long as for ranks. A victim placed in this plan gives way at once; one in the middle of a step does so at its next
step boundary, and what it frees is kept for the winner meanwhile. A victim that would be late because of it is left
alone unless its class is `preemptible` or it is late anyway. `limit n per t`: n victims at once, then one more
every t / n. `protect t` shields groups younger than t. Nobody is preempted for a request that triage set aside.""",
    "batch": """Which requests would share their tasks: those of one model, at the same stage and step, for which
every `by` is equal and `where` holds. In plan order the first opens a batch, the next join it until `max`; then
another one begins. A batch is served where its first member stands, its other members right behind. With `window t`
a batch that is not full, and of which nobody has begun, waits for more until its first member has been there for t,
but never longer than a member can wait and still be on time at its fastest degree. Requests in the middle of a
step, those that triage set aside and those that a reaction holds back are in no batch.

What is carried out today: order, window and the record of who belongs together. Each member still runs its own
tasks on GPUs of its own; one task for a whole batch is left to a later version.""",
    "react": """What happens when something happens: once for each event (see [Events](#events)), seen when the
policy is evaluated. Without `when` it is about every admitted request, for an event of single requests about those
it happened to; `when` picks among them, as they are then. `alert` says so on the console and in the journal. `raise
n` lowers their tier by n, not below the tier that `aging` stops at (0 without it); until they end, or `for t`.
`shrink to n for t` gives them at most n GPUs (the narrowest degree there is when all are wider), `pause for t`
none, from their next step boundary on. Both need a time, so that nothing is held back for ever; a newer reaction to
the same request replaces the older one of its kind (`shrink` and `pause` are one kind). What should hold all the
time that a mode is on belongs into the clauses: `sp fixed if busy then ...`.""",
    "allocate": """`greedy` (the default) places every request that fits, in order, also behind one that does not.
`backfill n` places at most n behind the first that does not fit. `knapsack maximizing x` picks the degrees, out of
those that some alternative of the stage admits, with the largest sum of `x` over the first four requests for every
free GPU in plan order; exactly, of equals the earlier request and the narrower degree. In `x`, `sp == 0 gpu` stands
for not running now: `finish` is then never, `gain` 0. A stage of one GPU counts with the best value its request may
still come to. What is left goes by `greedy`; so a value can only say who goes first, not that a GPU stays idle.
`rollout horizon n beam m minimizing x` looks ahead. It takes the first n requests in plan order one after the other
and gives each a degree that some alternative of its stage admits; it begins when so many GPUs are free, now or
later, as the running ones end. After each request the m plans with the smallest sum of `x` are kept; in `x`,
`finish(sp)` and `slack(sp)` count from when the request would begin. What begins now in the best plan is placed;
what that leaves free goes by `greedy`. Horizon and beam are bounded so that a tick stays below 5 ms.""",
    "tick": """When the policy is evaluated. Without this clause: after every event. `on` names the occasions,
`every t` adds a period while requests are live; a period alone is the only occasion. On other events whoever is between
two tasks goes on with the GPUs it has.""",
    "guard": """A condition on the whole system that should always hold. When it breaks, the console and the journal
say so; with `else fallback` the fallback policy takes over for good.""",
    "fallback": """The policy that takes over, for good, after n strikes within a minute: an error in this one, or
a tick that took longer than the limit (measured in live runs only). On an error whoever has GPUs goes on with them
for that tick. Missing parts mean `builtin.fcfs`, 3 errors, no time limit. The named policy is looked for beside
the file, then among the shipped ones.""",
    "test": """A small world and what the plan must be in it. `cluster` is 8 GPUs when missing, the cost model a
built-in one with degrees 1, 2 and 4. `at t` moves the clock with the last plan in force; another
`cluster` loses or joins workers. `expect` reads fields of requests, such as `a.sp`, and `free`; for tests alone there
are `why`, `batch_leader`, `batch_size` and `cache` of a request, and `alerts`. Tests are checked with the file;
`gfdit test mine.pol` runs them.""",
}

TICK = (
    "New requests are classified (`class`) and judged (`admit`).",
    "`react` looks for events since the latest plan.",
    "`triage` sets aside who cannot be on time.",
    "`order` sorts everybody who is not in the middle of a step; the demoted come behind them, those set aside last."
    " `batch` puts alike requests together and holds them back for its window.",
    "`hold` keeps its groups; then GPUs are handed out in order (`stage`, `allocate`, `reserve`).",
    "`preempt` takes GPUs back for whoever found no place.",
    "`grow` gives the surplus to the placed.",
    "The scheduler checks the plan, picks the GPUs (`prefer`) and sends the tasks. Whoever was between two steps and"
    " is not in the plan pauses.",
)

# ---- the grammar as text --------------------------------------------------------------------------------------------

_SECTION = re.compile(r"// -- (.+)")
_RULE = re.compile(r"[!?]?([a-z_]+):(.*)")
_TOKEN = re.compile(r'"([^"]+)"|([A-Za-z_]+)|(\S)')


@dataclass(frozen=True, slots=True)
class Grammar:
    """`sections`: title to the rules below it, in order; `rules`: name to its alternatives, as in the grammar."""

    sections: Mapping[str, Sequence[str]]
    rules: Mapping[str, Sequence[str]]

    @property
    def items(self) -> tuple[str, ...]:
        return tuple(self.rules["item"])


def read_grammar(text: str) -> Grammar:
    """Rules and section comments of a lark grammar; terminals are left out."""
    sections: dict[str, list[str]] = {"": []}
    rules: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        if section := _SECTION.match(line):
            title = section[1]
            sections[title] = []
        elif rule := _RULE.match(line):
            sections[title].append(rule[1])
            rules[rule[1]] = _alternatives(rule[2])
        elif line.startswith(" ") and sections[title]:
            rules[sections[title][-1]] += _alternatives(line)
    return Grammar(sections, rules)


def _alternatives(body: str) -> list[str]:
    """Split at the bars outside of quotes and brackets; without aliases."""
    masked = re.sub(r'"[^"]*"', lambda found: "q" * len(found[0]), body)
    cuts = [at for at, char in enumerate(masked) if char == "|" and _depth(masked[:at]) == 0]
    edges = zip([0, *(at + 1 for at in cuts)], [*cuts, len(body)], strict=True)
    parts = [re.sub(r"\s*->\s*\w+\s*$", "", body[start:end]).strip() for start, end in edges]
    return [part for part in parts if part]


def _depth(text: str) -> int:
    return sum(text.count(char) for char in "([") - sum(text.count(char) for char in ")]")


class Syntax:
    """Rules as people read them: words bare, values in capitals, `<rule>` for what is explained below."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._plain = frozenset(grammar.sections[EXPRESSIONS])

    def block(self, name: str) -> list[str]:
        """The rule and every rule that it leaves to be explained."""
        lines = wrap(self.text(self._grammar.rules[name][0]), WIDTH, subsequent_indent="    ")
        told = {name}
        queue = [rule for line in lines for rule in re.findall(r"<(\w+)>", line)]
        for rule in queue:
            if rule not in told:
                told.add(rule)
                shown = [self.text(alternative) for alternative in self._grammar.rules[rule]]
                queue += [found for line in shown for found in re.findall(r"<(\w+)>", line)]
                lines += ["", f"<{rule}> = {shown[0]}", *(f"{'|':>{len(rule) + 4}} {line}" for line in shown[1:])]
        return lines

    def text(self, alternative: str) -> str:
        """One alternative on one line."""
        words = [self._word(*found) for found in _TOKEN.findall(alternative)]
        line = "".join(_spaced(words)).replace(" [.", "[.")
        return re.sub(r"\[\(([^()\[\]]*)\)\]", r"[\1]", line).strip()  # no brackets inside brackets

    def _word(self, literal: str, name: str, symbol: str) -> str:
        if literal:
            return f"'{literal}'" if literal in "[]()|*" else literal
        if not name:
            return symbol
        if name.isupper():
            return name
        if name in self._plain:
            return "EXPR"
        return self._rule(name)

    def _rule(self, name: str) -> str:
        if name in KEPT:
            return f"<{name}>"
        shown = [self.text(alternative) for alternative in self._grammar.rules[name]]
        joined = shown[0] if len(shown) == 1 else f"({' | '.join(shown)})"
        return joined if len(joined) <= INLINE_MOST else f"<{name}>"


def _spaced(words: Iterable[str]) -> Iterator[str]:
    """Words with blanks between them, none inside brackets or before a repetition."""
    before = ""
    for word in words:
        tight = not before or before in "([" or word in ")]*?+,:" or (word == "." or before == ".")
        yield word if tight else f" {word}"
        before = word


# ---- the page -------------------------------------------------------------------------------------------------------


def page() -> str:
    """The whole page."""
    grammar = read_grammar(grammar_path().read_text(encoding="utf-8"))
    words = schema()
    parts = [
        _INTRODUCTION,
        _clauses(grammar),
        "## One tick\n\n" + "\n".join(f"{n}. {text}" for n, text in enumerate(TICK, 1)),
        _expressions(grammar),
        _units(),
        _names(words),
        _functions(words),
        _listed(
            "Stages", {s.name: s.doc + (f"; follows `{s.follows}`" if s.follows else "") for s in words.stages.values()}
        ),
        _listed("Knobs", {knob.name: knob.doc for knob in words.knobs.values()}, _KNOBS),
        _listed("Triggers", words.triggers, "What `tick on` may name."),
        _listed("Events", {item.name: _event(item) for item in words.events.values()}, _EVENTS),
        _listed("Preferences", words.preferences, _PREFERENCES),
    ]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """# The policy language

This page is made by `python -m gfdit.policy.reference` from `grammar/policy.lark` and
`gfdit/policy/vocabulary.py`; change those. To learn the language, begin with [how to write a
policy](../how-to/write-a-policy.md); what `gfdit check` says is explained under [error codes](errors/index.md).

A policy is a header and clauses in any order. Newlines mean nothing, `#` begins a comment. In the syntax below
words stand for themselves, `[ ]` is optional, `( )*` repeats, `|` chooses, `<name>` is explained in the same
block, and NAME, NUMBER, STRING and EXPR are values."""

_KNOBS = """What `degrade` may change, towards less work only."""

_EVENTS = "What `react` may name, beside the modes of the policy: a mode is an event when it turns on."

_PREFERENCES = """What `prefer` may name. With none of them a group stays inside one node where it can, and takes
the aligned block whose neighbours are busiest, so that wide blocks stay whole: `same_node` and `pack` say the same
in words."""


def _clauses(grammar: Grammar) -> str:
    syntax = Syntax(grammar)
    parts = ["## Clauses"]
    for title, rules in grammar.sections.items():
        shown = [rule for rule in rules if rule == "header" or rule in grammar.items]
        if shown and title:
            parts.append(f"### {title[0].upper()}{title[1:]}")
        for rule in shown:
            heading = "policy" if rule == "header" else rule
            parts.append(f"#### `{heading}`\n\n```text\n" + "\n".join(syntax.block(rule)) + "\n```")
            parts.append(CLAUSES[rule])
    return "\n\n".join(parts)


def _expressions(grammar: Grammar) -> str:
    lines = []
    for name in grammar.sections[EXPRESSIONS]:
        raw = [re.sub(r'"([^"]+)"', r"'\1'", alternative) for alternative in grammar.rules[name]]
        lines += [f"{name} = {raw[0]}", *(f"{'|':>{len(name) + 2}} {line}" for line in raw[1:])]
    text = """Loosest first. `if` is an expression; both branches have one type. Both sides of a comparison, a sum,
`max` and `min` have one unit. An instant minus an instant is a duration; an instant plus or minus a duration is an
instant; nothing else is done with instants. A class, stage or model is compared with `==`, `!=` and `in`."""
    return f"## Expressions\n\n{text}\n\n```text\n" + "\n".join(lines) + "\n```"


def _units() -> str:
    units = [f"| `{unit}` | {_factor(factor, dim_text(dim))} |" for unit, (factor, dim) in UNITS.items()]
    types = [f"| `{name}` | {kind.describe()} |" for name, kind in TYPE_NAMES.items()]
    head = ["## Units and types", "", "| unit | is |", "|---|---|", *units]
    return "\n".join([*head, "", "Types of `param`:", "", "| type | is |", "|---|---|", *types])


def _factor(factor: float, base: str) -> str:
    return base if factor == 1 else f"{factor:.10g}" + ("" if base == "number" else f" {base}")


def _names(words: Schema) -> str:
    groups: dict[tuple[str, frozenset[Place]], list[Attribute]] = {}
    for item in (*words.attributes.values(), *words.degrees.values()):
        groups.setdefault((_scope(item), item.places or frozenset(Place)), []).append(item)
    parts = ["## Names"]
    for (title, places), items in groups.items():
        where = ", ".join(place.value for place in Place if place in places)
        rows = [f"| `{item.name}` | {item.type.describe()} | {_cell(item.doc)} |" for item in items]
        parts.append(f"### {title}\n\nRead in {where}.\n\n| name | type | meaning |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _scope(item: Attribute) -> str:
    if item.fixed:
        return "Of a request, fixed on arrival"
    match item.level:
        case Level.TICK | Level.CONST:
            return "Of the whole system"
        case Level.DEGREE | Level.PAIR:
            return f"Of a degree under test: `{item.name}`"
        case Level.REQUEST if item.name in ("sp", "gpu_time"):
            return f"Of a request: `{item.name}`"
        case Level.REQUEST:
            return "Of a request"


_ARGUMENT = {
    Arg.DEGREE: "k",
    Arg.CLASS: "class",
    Arg.POOL: "pool",
    Arg.SAME: "x",
    Arg.NUMBER: "x",
    Arg.WHOLE: "x",
    Arg.WEIGHT: "weight",
}


def _functions(words: Schema) -> str:
    rows = [f"| `{signature(item)}` | {result(item)} | {_cell(item.doc)} |" for item in words.functions.values()]
    kinds = ", ".join(f"`{kind.value}`" for kind in AggregateKind)
    text = f"""`k` is {Arg.DEGREE.value}; `class` is {Arg.CLASS.value}.

{chr(10).join(["| function | type | meaning |", "|---|---|---|", *rows])}

Over requests: {kinds}, as `count([where c])` and `sum(x [where c])`. They run over every admitted request, once
a tick, and may not read `sp` under test. They may stand anywhere but in constants and class rules."""
    return f"## Functions\n\n{text}"


def signature(function: Function) -> str:
    """A function as it is called: `finish(k)`."""
    names = [_ARGUMENT[arg] for arg in function.args]
    if len(set(names)) < len(names):
        names = [f"{name}{n}" for n, name in enumerate(names, 1)]
    return f"{function.name}({', '.join(names)}{', ...' if function.variadic else ''})"


def result(function: Function) -> str:
    """What a function gives, in words."""
    return "that of its arguments" if function.result is None else function.result.describe()


def _event(item: Event) -> str:
    return item.doc + ("; of single requests" if item.of_request else "")


def _listed(title: str, entries: Mapping[str, str], text: str = "") -> str:
    rows = "\n".join(f"| `{name}` | {_cell(doc)} |" for name, doc in entries.items())
    note = f"{text}\n\n" if text else ""
    return f"## {title}\n\n{note}| name | meaning |\n|---|---|\n{rows}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
