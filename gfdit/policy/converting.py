"""A policy's text as the Python form that traces back to an equal program. Comments do not survive.

Each item becomes the word of `decorators.py` that builds it; an item that has none, or whose exact shape Python would
lose, is quoted with `pol(...)`. The other way needs no module: a traced policy has its text. May not run anything.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gfdit.errors import PolicyError
from gfdit.lang import nodes
from gfdit.lang.format import format_tree
from gfdit.lang.parser import parse
from gfdit.lang.render import Style, render
from gfdit.lang.source import Source
from gfdit.policy import __all__ as exported
from gfdit.policy import tracing
from gfdit.policy.decorators import unplaced
from gfdit.policy.vocabulary import schema

WIDTH = 100
_UNITS = {unit.name: word for word, unit in vars(tracing).items() if isinstance(unit, tracing.Unit)}
_WORDS = {word for word, value in vars(tracing).items() if isinstance(value, tracing.Symbol) and word in exported}


class _NoWord(Exception):
    """This item has no word in the Python form."""


def to_python(text: str, name: str = "<policy>") -> str:
    """The Python file of a policy. Raises PolicyError when the text's syntax is wrong."""
    source = Source(text, name)
    parsed = parse(source)
    if not parsed.complete or parsed.tree.header is None:
        raise PolicyError(render(parsed.diagnostics, style=Style.SHORT), hint="only a policy that parses converts")
    return _Module(unplaced(parsed.tree)).text()


@dataclass(slots=True)
class _Module:
    """One policy on its way to a module; `used` collects what must be imported."""

    tree: nodes.Policy
    used: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    declared: set[str] = field(default_factory=set)
    pair: bool = False  # inside a function that has `nxt`

    def text(self) -> str:
        header = self.tree.header
        assert header is not None
        if header.extends is not None:
            raise PolicyError(
                f"policy `{header.name.text}` extends `{header.extends.text}`, which the Python form cannot say",
                hint="write the clauses out",
            )
        last = next((item for item in self.tree.items if isinstance(item, nodes.Fallback)), None)
        arguments = self._header(header, last)
        if arguments is None:
            last, arguments = None, self._header(header, None) or []
        body: list[str] = []
        for item in self.tree.items:
            lines = [] if item is last else self._item(item)
            if body and lines and lines[0] and body[-1].startswith("        "):
                body.append("")  # behind a function
            body += lines
        imports = f"from gfdit.policy import {', '.join(sorted(self.used))}"
        if len(imports) > WIDTH:
            imports = "from gfdit.policy import (\n" + "".join(f"    {word},\n" for word in sorted(self.used)) + ")"
        lines = [imports, "", "", _broken("@", "policy", arguments, 0), f"class {_camel(header.name.text)}:", *body]
        return "\n".join(lines) + "\n"

    def _header(self, header: nodes.Header, last: nodes.Fallback | None) -> list[str] | None:
        """Arguments of `@policy`; None when the fallback's shape is not one of its."""
        self.used.add("policy")
        found = [f"version={header.version.text}"]
        if re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", _camel(header.name.text)).lower() != header.name.text:
            found.append(f"name={header.name.text!r}")
        if header.title is not None:
            found.append(f"title={_quoted(header.title.value)}")
        if last is None:
            return found
        if not (isinstance(last.errors, nodes.Number) and last.errors.text.isdigit() and not last.errors.unit):
            return None
        found += [f"fallback={_quoted(last.policy.text)}", f"errors={last.errors.text}"]
        try:
            return found + ([] if last.tick is None else [f"tick_limit={self._top(last.tick)}"])
        except _NoWord:
            return None

    def _item(self, item: nodes.Item) -> list[str]:
        before = set(self.used)
        try:
            return self._worded(item)
        except _NoWord:
            self.used = before
            return [f"    {self._name(type(item).__name__.lower())} = {self._pol(item)}"]

    def _pol(self, item: nodes.Item) -> str:
        text = format_tree(nodes.Policy(None, (item,))).strip()
        lines = "\n".join(f"        {line}" for line in text.splitlines())
        quotes = '"""'
        raw = "r" if "\\" in text else ""
        if quotes in text:
            return f"{self._word('pol')}({text!r})"
        return f"{self._word('pol')}(\n        {raw}{quotes}\n{lines}\n        {quotes}\n    )"

    def _worded(self, item: nodes.Item) -> list[str]:
        match item:
            case nodes.Param():
                return self._param(item)
            case nodes.Let():
                return self._declared(item.name.text, "let", [_quoted(item.name.text), self._top(item.value)])
            case nodes.Class():
                return self._class(item)
            case nodes.Admit():
                rules = [self._rule(rule) for rule in item.rules]
                return self._assigned("intake", "admit", rules)
            case nodes.Order():
                return self._assigned("order", "order_by", [self._key(key) for key in item.keys])
            case nodes.Triage():
                return self._triage(item)
            case nodes.Aging():
                arguments = [f"every={self._top(item.every)}", f"raise_by={self._top(item.amount)}"]
                arguments += self._given("until_tier", item.until)
                return self._assigned("older", "aging", arguments)
            case nodes.Stage():
                return self._stage(item)
            case nodes.Preempt():
                return self._preempt(item)
            case nodes.Allocate(kind="greedy"):
                return self._assigned("allocate", "greedy", [])
            case nodes.Allocate(kind="backfill", depth=nodes.Number(text=depth, unit="")) if depth.isdigit():
                return self._assigned("allocate", "backfill", [depth])
            case nodes.Tick():
                arguments = self._given("every", item.every)
                arguments += [f"on={_names(item.on)}"] if item.on else []
                return self._assigned("ticks", "tick", arguments)
            case nodes.Guard():
                arguments = [_quoted(item.name.text), self._top(item.condition), _quoted(item.action)]
                return self._assigned(item.name.text, "guard", arguments)
            case _:
                raise _NoWord

    # ---- items ------------------------------------------------------------------------------------------------------

    def _param(self, item: nodes.Param) -> list[str]:
        arguments = [_quoted(item.name.text), _quoted(item.type.text), self._top(item.default)]
        if item.within is not None:
            arguments.append(f"within=({self._top(item.within.low)}, {self._top(item.within.high)})")
        return self._declared(item.name.text, "param", arguments)

    def _class(self, item: nodes.Class) -> list[str]:
        arguments = [_quoted(item.name.text), *([] if item.when is None else [self._top(item.when)])]
        for entry in item.fields:
            if entry.value is None and entry.name.text != "preemptible":
                raise _NoWord
            arguments.append(f"{entry.name.text}={'True' if entry.value is None else self._top(entry.value)}")
        return self._assigned(item.name.text, "service_class", arguments)

    def _rule(self, rule: nodes.AdmitRule) -> str:
        if rule.verdict == "degrade":
            arguments = [f"{change.name.text}={self._top(change.value)}" for change in rule.changes]
            return self._call("degrade", [*self._given("when", rule.when), *arguments])
        because = [] if rule.because is None else [f"because={_quoted(rule.because.value)}"]
        if because and rule.verdict == "accept":
            raise _NoWord
        return self._call(rule.verdict, [*self._given("when", rule.when), *because])

    def _triage(self, item: nodes.Triage) -> list[str]:
        if item.shed == "least" or (item.then == "reject" and item.because is None):
            raise _NoWord
        arguments = [self._key(item.by), *self._given("margin", item.margin), *self._given("shed_most", item.shed_key)]
        arguments += [] if item.because is None else [f"reject={_quoted(item.because.value)}"]
        return self._assigned("lost", "triage", arguments)

    def _stage(self, item: nodes.Stage) -> list[str]:
        kinds = [type(part) for part in item.items]
        degree = item.items[0] if item.items else None
        if item.pool is not None or len(set(kinds)) != len(kinds):
            raise _NoWord
        names = [_quoted(ident.text) for ident in item.names]
        own_name = "_".join(ident.text for ident in item.names)
        options = self._options(item.items[1:])
        growing = next((part for part in item.items if isinstance(part, nodes.Grow)), None)
        match degree:
            case nodes.SpFixed():
                lines = self._assigned(own_name, "stages", [*names, f"sp={self._top(degree.value)}", *options])
            case nodes.SpChoice():
                if any(count.unit or not count.text.isdigit() for count in degree.degrees):
                    raise _NoWord
                counts = "".join(f"{count.text}, " for count in degree.degrees)
                counts = f"({counts[:-1] if len(degree.degrees) == 1 else counts[:-2]}) * {self._word('gpu')}"
                links = " | ".join(self._link(link) for link in degree.alternatives)
                lines = ["", _broken("    @", self._word("stage"), [*names, f"degrees={counts}", *options], 4)]
                lines += [f"    def {self._name(own_name)}(r, sp):", f"        return {_chain(links)}"]
            case _:
                raise _NoWord
        return lines + ([] if growing is None else self._grow(item.names[0].text, growing))

    def _options(self, parts: Iterable[nodes.StageItem]) -> list[str]:
        found: list[str] = []
        for part in parts:
            match part:
                case nodes.Hold(duration=None):
                    found.append('hold="done"')
                case nodes.Hold(duration=duration):
                    found += self._given("hold", duration)
                case nodes.Sticky(amount=amount):
                    found += self._given("sticky", amount)
                case nodes.Prefer(names=names):
                    found.append(f"prefer={_names(names)}")
                case nodes.Reserve(duration=duration):
                    found += self._given("reserve", duration)
                case nodes.Grow():
                    pass  # has a function of its own
                case _:
                    raise _NoWord
        return found

    def _link(self, link: nodes.Alternative) -> str:
        if link.kind == "wait":
            if link.where is not None:
                raise _NoWord
            return self._word("wait")
        value = "sp" if link.key is None else self._top(link.key, row=True)
        return self._call("choose", [f"{link.kind}={value}", *self._given("where", link.where, row=True)])

    def _grow(self, stage: str, item: nodes.Grow) -> list[str]:
        if item.keys or item.where is None:
            raise _NoWord
        most = self._given("most", item.most)
        call = self._call("grow", [_quoted(stage), *most])
        self.pair = True
        condition = self._top(item.where, row=True)
        self.pair = False
        name = self._name(f"{stage}_wider")
        return ["", f"    @{call}", f"    def {name}(r, sp, nxt):", f"        return {condition}"]

    def _preempt(self, item: nodes.Preempt) -> list[str]:
        arguments = [_names(item.winners), _names(item.victims)]
        arguments += [*self._given("when", item.when), *self._given("where", item.where)]
        if item.by:
            keys = ", ".join(self._key(key) for key in item.by)
            arguments.append(f"by=({keys},)" if len(item.by) == 1 else f"by=({keys})")
        match [(take.action, take.to) for take in item.takes]:
            case [("shrink", to), ("pause", None)] if to is not None:
                arguments.append(f"shrink_to={self._top(to)}")
            case [("shrink", to)] if to is not None:
                arguments += [f"shrink_to={self._top(to)}", "pause=False"]
            case [("pause", None)]:
                pass
            case _:
                raise _NoWord
        match item.limit, item.per:
            case None, None:
                pass
            case nodes.Number(text=count, unit=""), per if per is not None and count.isdigit():
                arguments.append(f"limit=({count}, {self._top(per)})")
            case _:
                raise _NoWord
        return self._assigned("preempting", "preempt", [*arguments, *self._given("protect", item.protect)])

    # ---- expressions ------------------------------------------------------------------------------------------------

    def _key(self, key: nodes.Key) -> str:
        """`-x` is `x desc`, so that a key which begins with a minus of its own has no word."""
        if isinstance(key.value, nodes.Unary) and key.value.op == "-":
            raise _NoWord
        if key.direction != "desc":
            return self._top(key.value)
        if isinstance(key.value, nodes.Number | nodes.Text | nodes.Truth):
            raise _NoWord
        return f"-{self._part(key.value)}"

    def _given(self, name: str, value: nodes.Expr | None, row: bool = False) -> list[str]:
        return [] if value is None else [f"{name}={self._top(value, row)}"]

    def _top(self, node: nodes.Expr, row: bool = False) -> str:
        """An expression where nothing binds it; `row`: inside a function of a request."""
        match node:
            case nodes.Number() | nodes.Text() | nodes.Truth():
                return self._plain(node)
            case nodes.Name(name=name):
                return self._named(name, row)
            case nodes.Unary(op=op, operand=operand):
                if op == "-" and isinstance(operand, nodes.Number) and float(operand.text):  # Python has no -0
                    return f"-{self._top(operand)}"
                return f"{'~' if op == 'not' else '-'}{self._part(operand, row)}"
            case nodes.Binary(op=op) | nodes.Compare(op=op):
                return f"{self._part(node.left, row)} {op} {self._part(node.right, row, right=True)}"
            case nodes.Member(value=value, items=items, negated=negated):
                inside = ", ".join(self._top(item, row) for item in items)
                return f"{self._part(value, row)}.{'not_in' if negated else 'isin'}({inside})"
            case nodes.BoolOp(op=op, operands=operands):
                first = operands[0]
                if isinstance(first, nodes.BoolOp) and first.op == op:
                    raise _NoWord  # Python would join the two
                parts = [self._part(one, row, right=index > 0) for index, one in enumerate(operands)]
                return (" & " if op == "and" else " | ").join(parts)
            case nodes.If(condition=condition, then=then, other=other):
                return self._call("where", [self._top(part, row) for part in (condition, then, other)])
            case nodes.Call():
                return self._function(node, row)
            case _:
                raise _NoWord

    def _plain(self, node: nodes.Number | nodes.Text | nodes.Truth) -> str:
        if not isinstance(node, nodes.Number):
            return _quoted(node.value) if isinstance(node, nodes.Text) else str(node.value)
        if not node.unit:
            return node.text
        if node.unit not in _UNITS:
            raise _NoWord
        return f"{node.text} * {self._word(_UNITS[node.unit])}"

    def _part(self, node: nodes.Expr, row: bool = False, right: bool = False) -> str:
        """An operand. A plain one on the left is a `const`, or Python would swap the sides or compute."""
        if isinstance(node, nodes.Number) and node.unit:
            return f"({self._top(node)})"
        if _is_plain(node):
            text = self._top(node)
            if right:
                return f"({text})" if isinstance(node, nodes.Unary) else text
            return f"{self._word('const')}({text})"
        text = self._top(node, row)
        return text if isinstance(node, nodes.Name | nodes.Call | nodes.Member | nodes.If) else f"({text})"

    def _function(self, node: nodes.Call, row: bool) -> str:
        name = node.function.text
        if name == "count" and not node.args and node.where is not None:
            return f"{self._word('count')}(where={self._top(node.where, row)})"
        arguments = [self._top(arg, row) for arg in node.args]
        if row and node.where is None and not keyword.iskeyword(name):
            return f"r.{name}({', '.join(arguments)})"
        return self._call("call", [_quoted(name), *arguments, *self._given("where", node.where, row)])

    def _named(self, name: str, row: bool) -> str:
        if row and (name == "sp" or (name == "next" and self.pair)):
            return "sp" if name == "sp" else "nxt"
        if row and name in schema().attributes and not keyword.iskeyword(name):
            return f"r.{name}"
        if name in self.declared and not row:
            return name
        if name in _WORDS:
            return self._word(name)
        return f"{self._word('name')}({_quoted(name)})"

    # ---- words and names --------------------------------------------------------------------------------------------

    def _word(self, word: str) -> str:
        self.used.add(word)
        return word

    def _call(self, word: str, arguments: Sequence[str]) -> str:
        return f"{self._word(word)}({', '.join(arguments)})"

    def _assigned(self, wanted: str, word: str, arguments: Sequence[str]) -> list[str]:
        return [_broken(f"    {self._name(wanted)} = ", self._word(word), arguments, 4)]

    def _declared(self, name: str, word: str, arguments: Sequence[str]) -> list[str]:
        """A `param` or `let`, which the rest of the class body may use by its variable."""
        lines = self._assigned(name, word, arguments)
        if name in self.taken:
            self.declared.add(name)
        return lines

    def _name(self, wanted: str) -> str:
        """A name for the class body: none of Python's, none that is imported, none given before."""
        plain = name = re.sub(r"\W", "_", wanted)
        number = 1
        while keyword.iskeyword(name) or name in exported or name in self.taken:
            number += 1
            name = f"{plain}_{number}"
        self.taken.add(name)
        return name


def _is_plain(node: nodes.Expr) -> bool:
    """Whether Python would compute with it by itself."""
    match node:
        case nodes.Number(unit=unit):
            return not unit
        case nodes.Text() | nodes.Truth():
            return True
        case nodes.Unary(op="-", operand=operand):
            return isinstance(operand, nodes.Number) and not operand.unit and float(operand.text) != 0
        case _:
            return False


def _broken(lead: str, word: str, arguments: Sequence[str], indent: int) -> str:
    """`lead word(arguments)`, one argument a line when that is longer than a line."""
    line = f"{lead}{word}({', '.join(arguments)})"
    if len(line) <= WIDTH:
        return line
    inner = "".join(f"{' ' * (indent + 4)}{argument},\n" for argument in arguments)
    return f"{lead}{word}(\n{inner}{' ' * indent})"


def _chain(links: str) -> str:
    if len(links) <= WIDTH - 16:
        return links
    inner = links.replace(" | choose(", "\n            | choose(")
    return f"(\n            {inner}\n        )"


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) or "Policy"


def _names(idents: Sequence[nodes.Ident]) -> str:
    words = ", ".join(_quoted(ident.text) for ident in idents)
    return f"({words},)" if len(idents) == 1 else f"({words})"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
