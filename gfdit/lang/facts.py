"""What is known at one place of a policy because of the conditions that were met on the way there.

`x <= 5s` known, `x < 8s` follows; so do `x + y > y` from `x > 0s`, `tag != "ui"` from `tag == "web"`. Comparisons are
kept as a linear form of terms and the interval it lies in, choices among names as sets. Reasons over defined values
only (a NaN is nobody's intention) and not over rounding: good for a warning, no proof. `Ranges` knows the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf, isfinite

from gfdit.lang import intervals, nodes
from gfdit.lang.intervals import ANYTHING, FALSE, TRUE, Interval, Ranges
from gfdit.lang.units import base_value

MOST = 64  # comparisons that are kept: each is tried on each question
WORK = 2_000  # questions about one policy, lets opened again and again included; after that nothing more follows

Linear = dict[nodes.Expr | None, float]
"""Terms with their coefficients; None is the constant."""

NEAR = 1e-12  # what is above zero is at least this
_HOLDS = {
    "<": Interval(-inf, -NEAR),
    "<=": Interval(-inf, 0.0),
    ">": Interval(NEAR, inf),
    ">=": Interval(0.0, inf),
    "==": Interval(0.0, 0.0),
}
OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


@dataclass(slots=True)
class Words:
    """The names that an attribute may still have: some of `only` (None: any), none of `never`."""

    only: frozenset[str] | None = None
    never: frozenset[str] = frozenset()

    def narrowed(self, words: frozenset[str], inside: bool) -> Words:
        if not inside:
            return Words(None if self.only is None else self.only - words, self.never | words)
        return Words((words if self.only is None else self.only & words) - self.never, self.never)

    def answer(self, words: frozenset[str]) -> bool | None:
        """Whether it is one of `words`; None when it may or may not."""
        if self.only is not None and self.only <= words:
            return True
        left = words - self.never if self.only is None else words & self.only
        return None if left else False


@dataclass(slots=True)
class Background:
    """What holds everywhere in a policy. `lets`: conditions that names stand for; `word`: the name that an expression
    is, as a member of an enumeration or a string; None when it is neither. `work`: how much may still be asked."""

    ranges: Ranges
    lets: dict[str, nodes.Expr]
    word: Callable[[nodes.Expr], str | None]
    work: int = WORK


@dataclass(slots=True)
class Facts:
    """Facts of one place; those of none to begin with."""

    background: Background
    forms: list[tuple[Linear, Interval]] = field(default_factory=list)
    words: dict[nodes.Expr, Words] = field(default_factory=dict)
    truths: dict[nodes.Expr, bool] = field(default_factory=dict)

    def copy(self) -> Facts:
        return Facts(self.background, list(self.forms), dict(self.words), dict(self.truths))

    @property
    def ranges(self) -> Ranges:
        return self.background.ranges

    # ---- asking -----------------------------------------------------------------------------------------------------

    def interval(self, node: nodes.Expr) -> Interval:
        """Between which values an expression lies here."""
        return self.ranges.of(node, self.narrow)

    def narrow(self, node: nodes.Expr, found: Interval) -> Interval:
        """`found`, and what the comparisons add to it."""
        if not self.forms or isinstance(node, (nodes.Number, nodes.Text, nodes.Truth)) or self.background.work <= 0:
            return found
        self.background.work -= 1
        return self._of_form(linear(node), found)

    def truth(self, node: nodes.Expr) -> bool | None:
        """Whether a condition holds here; None when it may or may not."""
        if (known := self.truths.get(node)) is not None:
            return known
        if self.background.work <= 0:
            return None
        self.background.work -= 1
        match node:
            case nodes.Truth():
                return node.value
            case nodes.Name() if node.name in self.background.lets:
                return self.truth(self.background.lets[node.name])
            case nodes.Unary(op="not"):
                inner = self.truth(node.operand)
                return None if inner is None else not inner
            case nodes.BoolOp():
                return self._of_parts(node)
            case nodes.Compare() | nodes.Member():
                return self._of_comparison(node)
        return None

    def settled(self, node: nodes.Expr) -> bool | None:
        """Like `truth`, and what follows from the parts of a condition together."""
        known = self.truth(node)
        if known is not None or self.background.work <= 0:
            return known
        can_be = [self.possible(node, value) for value in (False, True)]
        return None if all(can_be) else can_be[True]

    def possible(self, node: nodes.Expr, value: bool) -> bool:
        """Whether a condition can come to `value` here."""
        if self.background.work <= 0:
            return True
        here = self.copy()
        return here.assume(node, value) and here.consistent()

    def _of_parts(self, node: nodes.BoolOp) -> bool | None:
        decisive = node.op == "or"
        answers = [self.truth(operand) for operand in node.operands]
        if decisive in answers:
            return decisive
        return None if None in answers else not decisive

    def _of_comparison(self, node: nodes.Compare | nodes.Member) -> bool | None:
        if (choice := self._choice(node)) is not None:
            subject, words, inside = choice
            answer = self.words.get(subject, Words()).answer(words)
            return None if answer is None else answer == inside
        found = self.interval(node)
        if found in (TRUE, FALSE):
            return found == TRUE
        if isinstance(node, nodes.Member):
            return None
        form = linear(node.left)
        _add(form, linear(node.right), -1.0)
        difference = self._of_form(form, ANYTHING)._replace(undefined=False)
        found = intervals.compared(node.op, difference, intervals.at(0.0))
        return found == TRUE if found in (TRUE, FALSE) else None

    def _of_form(self, form: Linear, found: Interval) -> Interval:
        """The interval of a linear form: of its terms, and of each comparison plus what it differs from that."""
        if not _finite(form):
            return found
        found = intervals.common(found, self._sum(form)) or found
        for known, interval in self.forms:
            shared = next((term for term in form if term is not None and known.get(term)), None)
            if shared is None:
                continue
            scale = form[shared] / known[shared]
            rest = dict(form)
            _add(rest, known, -scale)
            rest.pop(shared, None)  # gone but for rounding
            if not (isfinite(scale) and _finite(rest)):
                continue
            value = intervals.add(intervals.multiply(intervals.at(scale), interval), self._sum(rest))
            found = intervals.common(found, value._replace(undefined=found.undefined)) or found
        return found

    def _sum(self, form: Linear) -> Interval:
        total = intervals.at(form.get(None, 0.0))
        for term, factor in form.items():
            if term is not None and factor:
                total = intervals.add(total, intervals.multiply(intervals.at(factor), self.ranges.of(term)))
        return total

    # ---- learning ---------------------------------------------------------------------------------------------------

    def assume(self, node: nodes.Expr, value: bool) -> bool:
        """Adds that a condition came to `value`; False when it cannot have."""
        if self.truth(node) is (not value):
            return False
        self.truths[node] = value
        match node:
            case nodes.Name() if node.name in self.background.lets and self.background.work > 0:
                return self.assume(self.background.lets[node.name], value)
            case nodes.Unary(op="not"):
                return self.assume(node.operand, not value)
            case nodes.BoolOp() if (node.op == "and") == value:
                return all(self.assume(operand, value) for operand in node.operands)
            case nodes.BoolOp():
                return self._assume_one(node.operands, value)
            case nodes.Compare() | nodes.Member():
                return self._assume_comparison(node, value)
        return True

    def consistent(self) -> bool:
        """False when a condition that came to one value has parts that, by now, give it the other."""
        for node, value in self.truths.items():
            if isinstance(node, nodes.BoolOp) and self._of_parts(node) is (not value):
                return False
        return True

    def _assume_one(self, operands: Iterable[nodes.Expr], value: bool) -> bool:
        """At least one of them came to `value`: if only one can have, it has."""
        tried = [(operand, self.copy()) for operand in operands]
        possible = [(operand, facts) for operand, facts in tried if facts.assume(operand, value)]
        if len(possible) == 1:
            facts = possible[0][1]
            self.forms, self.words, self.truths = facts.forms, facts.words, facts.truths
            return True
        choices = [choice for operand, _ in possible if (choice := self._choice(operand)) is not None]
        if len(choices) == len(possible) and len({subject for subject, _, _ in choices}) == 1:
            self._assume_choices(choices, value)
        return bool(possible)

    def _assume_choices(self, choices: list[tuple[nodes.Expr, frozenset[str], bool]], value: bool) -> None:
        """The subject of all of them is among the words of one."""
        if all(inside == value for _, _, inside in choices):
            subject = choices[0][0]
            words = frozenset[str]().union(*(words for _, words, _ in choices))
            self.words[subject] = self.words.get(subject, Words()).narrowed(words, True)

    def _assume_comparison(self, node: nodes.Compare | nodes.Member, value: bool) -> bool:
        if (choice := self._choice(node)) is not None:
            subject, words, inside = choice
            left = self.words.get(subject, Words()).narrowed(words, inside == value)
            self.words[subject] = left
            return left.only is None or bool(left.only)
        if isinstance(node, nodes.Member):
            return True
        form = linear(node.left)
        _add(form, linear(node.right), -1.0)
        op = node.op if value else OPPOSITE[node.op]
        if op == "!=":  # an end of the interval falls away
            found = self._of_form(form, ANYTHING)
            op = ">" if found.low == 0.0 else "<" if found.high == 0.0 else op
        if op in _HOLDS and len(self.forms) < MOST and _finite(form):
            self.forms.append((form, _HOLDS[op]))
        return True

    def _choice(self, node: nodes.Expr) -> tuple[nodes.Expr, frozenset[str], bool] | None:
        """(subject, words, inside): a comparison of an attribute with names; None when it is none."""
        match node:
            case nodes.Member() if all(self.background.word(item) is not None for item in node.items):
                words = frozenset(word for item in node.items if (word := self.background.word(item)) is not None)
                return node.value, words, not node.negated
            case nodes.Compare(op="==" | "!="):
                for subject, other in ((node.left, node.right), (node.right, node.left)):
                    if (word := self.background.word(other)) is not None and self.background.word(subject) is None:
                        return subject, frozenset((word,)), node.op == "=="
        return None


def linear(node: nodes.Expr) -> Linear:
    """A number as a sum of terms; what is neither a sum nor a multiple is a term itself."""
    form: Linear = {}
    _collect(node, 1.0, form)
    return form


def _collect(node: nodes.Expr, factor: float, form: Linear) -> None:
    match node:
        case nodes.Number():
            form[None] = form.get(None, 0.0) + factor * base_value(node)
        case nodes.Unary(op="-"):
            _collect(node.operand, -factor, form)
        case nodes.Binary(op="+" | "-"):
            _collect(node.left, factor, form)
            _collect(node.right, factor if node.op == "+" else -factor, form)
        case (
            nodes.Binary(op="*", left=nodes.Number() as number, right=other)
            | nodes.Binary(op="*", left=other, right=nodes.Number() as number)
        ):
            _collect(other, factor * base_value(number), form)
        case nodes.Binary(op="/", right=nodes.Number() as number) if base_value(number):
            _collect(node.left, factor / base_value(number), form)
        case _:
            form[node] = form.get(node, 0.0) + factor


def _finite(form: Linear) -> bool:
    """Whether nothing was too large on the way."""
    return all(isfinite(factor) for factor in form.values())


def _add(form: Linear, other: Linear, scale: float) -> None:
    for term, factor in other.items():
        form[term] = form.get(term, 0.0) + scale * factor
        if not form[term]:
            del form[term]
