"""A policy's text as the Python form that traces back to an equal program.

Each item becomes the word of `decorators.py` that builds it; tests, and an item whose exact shape Python would lose,
are quoted with `pol(...)`. Comments go along as comments of Python, and inside what is quoted as they are; a trace does
not see them. The other way needs no module: a traced policy has its text. May not run anything.
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
from gfdit.lang.parser import Comment, Parsed, parse
from gfdit.lang.render import Style, render
from gfdit.lang.source import Source, Span
from gfdit.policy import __all__ as exported
from gfdit.policy import tracing
from gfdit.policy.decorators import snake, unplaced
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
    return _Module(unplaced(parsed.tree), parsed, source).text()


@dataclass(slots=True)
class _Module:
    """One policy on its way to a module; `used` collects what must be imported."""

    tree: nodes.Policy
    parsed: Parsed
    source: Source
    used: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    declared: set[str] = field(default_factory=set)
    pair: bool = False  # inside a function that has `nxt`

    def text(self) -> str:
        header = self.tree.header
        assert header is not None
        last = next((item for item in self.tree.items if isinstance(item, nodes.Fallback)), None)
        if last is not None and not all(isinstance(item, nodes.Test) for item in self._after(last)):
            last = None  # the trace would move it
        arguments = self._header(header, last)
        if arguments is None:
            last, arguments = None, self._header(header, None) or []
        body = self._body(last)
        top = [note.text for note in self._notes().get(-1, ())]
        imports = f"from gfdit.policy import {', '.join(sorted(self.used))}"
        if len(imports) > WIDTH:
            imports = "from gfdit.policy import (\n" + "".join(f"    {word},\n" for word in sorted(self.used)) + ")"
        head = [*top, imports, "", "", _broken("@", "policy", arguments, 0), f"class {_camel(header.name.text)}:"]
        return "\n".join([*head, *body]) + "\n"

    def _after(self, item: nodes.Item) -> tuple[nodes.Item, ...]:
        at = next(index for index, other in enumerate(self.tree.items) if other is item)
        return self.tree.items[at + 1 :]

    def _body(self, last: nodes.Fallback | None) -> list[str]:
        """The lines of the class; `last` is said in its decorator."""
        notes = self._notes()
        body: list[str] = []
        for index, (item, placed) in enumerate(zip(self.tree.items, self.parsed.tree.items, strict=True)):
            lines = [] if item is last else self._item(item, placed)
            quoted = bool(lines) and "pol(" in lines[0]
            said = [note for note in notes.get(index, ()) if not (quoted and _inside(note, placed.span))]
            if body and lines and lines[0] and body[-1].startswith("        "):
                body.append("")  # behind a function
            if lines and not lines[0]:
                body.append(lines.pop(0))  # before a function, and before what is said of it
            body += [f"    {note.text}" for note in said] + lines
        body += [f"    {note.text}" for note in notes.get(len(self.tree.items), ())]
        empty = all(not line.strip() or line.startswith("    #") for line in body)
        return [*body, "    pass"] if empty else body

    def _notes(self) -> dict[int, list[Comment]]:
        """Comments by the item that they are about: the one that stands before it on its line, or the next one (-1:
        the header)."""
        header = self.parsed.tree.header
        assert header is not None
        spans = [header.span, *(item.span for item in self.parsed.tree.items)]
        found: dict[int, list[Comment]] = {}
        for note in self.parsed.comments:
            if note.trailing:
                at = max((n for n, span in enumerate(spans) if span.start <= note.span.start), default=0)
            else:
                at = next((n for n, span in enumerate(spans) if span.end > note.span.start), len(spans))
            found.setdefault(at - 1, []).append(note)
        return found

    def _header(self, header: nodes.Header, last: nodes.Fallback | None) -> list[str] | None:
        """Arguments of `@policy`; None when the fallback's shape is not one of its."""
        self.used.add("policy")
        found = [f"version={header.version.text}"]
        if snake(_camel(header.name.text)) != header.name.text:
            found.append(f"name={header.name.text!r}")
        if header.title is not None:
            found.append(f"title={_quoted(header.title.value)}")
        if header.extends is not None:
            found.append(f"extends={_quoted(header.extends.text)}")
        if last is None:
            return found
        found.append(f"fallback={_quoted(last.policy.text)}")
        match last.errors:
            case nodes.Number(text="3", unit=""):
                pass  # as when nothing is said
            case nodes.Number(text=count, unit="") if count.isdigit():
                found.append(f"errors={count}")
            case None:
                found.append("errors=None")
            case _:
                return None
        try:
            return found + ([] if last.tick is None else [f"tick_limit={self._top(last.tick)}"])
        except _NoWord:
            return None

    def _item(self, item: nodes.Item, placed: nodes.Item) -> list[str]:
        before = set(self.used), set(self.taken), set(self.declared)
        try:
            return self._worded(item)
        except _NoWord:
            self.used, self.taken, self.declared = before
            return [f"    {self._name(type(item).__name__.lower())} = {self._pol(placed)}"]

    def _pol(self, item: nodes.Item) -> str:
        """The item in the language, with the comments inside it."""
        notes = [note for note in self.parsed.comments if _inside(note, item.span)]
        text = format_tree(nodes.Policy(None, (item,)), self.source, notes).strip()
        lines = "\n".join(f"        {line}".rstrip() for line in text.splitlines())
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
            case nodes.Mode() | nodes.State():
                return self._carried(item)
            case nodes.Allocate():
                return self._allocate(item)
            case _:
                return self._system(item)

    # ---- items ------------------------------------------------------------------------------------------------------

    def _system(self, item: nodes.Item) -> list[str]:
        match item:
            case nodes.Pool():
                count = [] if item.count is None else [self._top(item.count)]
                return self._assigned(item.name.text, "pool", [_quoted(item.name.text), *count])
            case nodes.Resize():
                arguments = [_quoted(item.pool.text), self._top(item.by), self._top(item.when)]
                arguments += [self._range(item.within), *self._given("when_for", item.when_for)]
                arguments += self._given("cooldown", item.cooldown)
                return self._assigned(f"resize_{item.pool.text}", "resize", arguments)
            case nodes.Batch():
                arguments = [*map(self._top, item.by), f"most={self._top(item.most)}"]
                arguments += [*self._given("window", item.window), *self._given("where", item.where)]
                return self._assigned("batching", "batch", arguments)
            case nodes.React():
                arguments = [_quoted(item.event.text), self._doing(item.do), *self._given("when", item.when)]
                return self._assigned(f"on_{item.event.text}", "react", arguments)
            case nodes.Tick():
                arguments = self._given("every", item.every)
                arguments += [f"on={_names(item.on)}"] if item.on else []
                return self._assigned("ticks", "tick", arguments)
            case nodes.Guard():
                arguments = [_quoted(item.name.text), self._top(item.condition), _quoted(item.action)]
                return self._assigned(item.name.text, "guard", arguments)
            case _:
                raise _NoWord

    def _param(self, item: nodes.Param) -> list[str]:
        arguments = [_quoted(item.name.text), _quoted(item.type.text), self._top(item.default)]
        if item.within is not None:
            arguments.append(f"within={self._range(item.within)}")
        return self._declared(item.name.text, "param", arguments)

    def _range(self, limits: nodes.Range) -> str:
        return f"({self._top(limits.low)}, {self._top(limits.high)})"

    def _carried(self, item: nodes.Mode | nodes.State) -> list[str]:
        own = _quoted(item.name.text)
        if isinstance(item, nodes.Mode):
            arguments = [own, self._top(item.when), self._top(item.until)]
            arguments += [*self._given("when_for", item.when_for), *self._given("until_for", item.until_for)]
            return self._declared(item.name.text, "mode", arguments)
        arguments = [own, _quoted(item.type.text), self._top(item.start), self._top(item.next)]
        arguments += [] if item.within is None else [f"within={self._range(item.within)}"]
        arguments += self._given("every", item.every)
        arguments += [] if item.index is None else [f"per={_quoted(item.index.text)}"]
        return self._declared(item.name.text, "state", arguments)

    def _allocate(self, item: nodes.Allocate) -> list[str]:
        match item:
            case nodes.Allocate(kind="greedy"):
                return self._assigned("allocate", "greedy", [])
            case nodes.Allocate(kind="backfill", depth=depth) if depth is not None:
                return self._assigned("allocate", "backfill", [self._top(depth)])
            case nodes.Allocate(kind="knapsack", goal=goal, key=key) if key is not None:
                call = self._call("allocate_knapsack", [] if goal == "maximizing" else [_quoted(goal)])
            case nodes.Allocate(kind="rollout", horizon=ahead, beam=beam, goal=goal, key=key) if key is not None:
                if ahead is None or beam is None:
                    raise _NoWord
                more = [] if goal == "minimizing" else [_quoted(goal)]
                call = self._call("allocate_rollout", [self._top(ahead), self._top(beam), *more])
            case _:
                raise _NoWord
        return ["", f"    @{call}", f"    def {self._name('value')}(r, sp):", *_returned(self._top(key, row=True))]

    def _doing(self, do: nodes.Reaction) -> str:
        match do:
            case nodes.Reaction(action="alert", amount=None, duration=None):
                return self._call("alert", [] if do.text is None else [_quoted(do.text.value)])
            case nodes.Reaction(action="raise", amount=amount, text=None) if amount is not None:
                return self._call("raise_tier", [self._top(amount), *self._given("lasting", do.duration)])
            case nodes.Reaction(action="shrink", amount=amount, text=None) if amount is not None:
                return self._call("shrink", [self._top(amount), *self._given("lasting", do.duration)])
            case nodes.Reaction(action="pause", amount=None, text=None):
                return self._call("pause", self._given("lasting", do.duration))
            case _:
                raise _NoWord

    def _class(self, item: nodes.Class) -> list[str]:
        arguments = [_quoted(item.name.text), *([] if item.when is None else [self._top(item.when)])]
        _check_arguments([entry.name.text for entry in item.fields], {"name", "when"})
        for at, entry in enumerate(item.fields, 1):
            is_flag = entry.name.text == "preemptible"
            if is_flag != (entry.value is None) or (is_flag and at < len(item.fields)):
                raise _NoWord  # the trace puts the flag last
            arguments.append(f"{entry.name.text}={'True' if entry.value is None else self._top(entry.value)}")
        return self._assigned(item.name.text, "service_class", arguments)

    def _rule(self, rule: nodes.AdmitRule) -> str:
        if rule.verdict == "degrade":
            _check_arguments([change.name.text for change in rule.changes], {"when"})
            arguments = [f"{change.name.text}={self._top(change.value)}" for change in rule.changes]
            return _broken("", self._word("degrade"), [*self._given("when", rule.when), *arguments], 8)
        because = [] if rule.because is None else [f"because={_quoted(rule.because.value)}"]
        if because and rule.verdict == "accept":
            raise _NoWord
        return _broken("", self._word(rule.verdict), [*self._given("when", rule.when), *because], 8)

    def _triage(self, item: nodes.Triage) -> list[str]:
        if item.because is not None and not item.because.value:
            raise _NoWord
        arguments = [self._key(item.by), *self._given("margin", item.margin)]
        arguments += self._given(f"shed_{item.shed}", item.shed_key)
        if item.then == "reject":
            arguments.append(f"reject={_quoted('' if item.because is None else item.because.value)}")
        return self._assigned("lost", "triage", arguments)

    def _stage(self, item: nodes.Stage) -> list[str]:
        kinds = [type(part) for part in item.items]
        degree = item.items[0] if item.items else None
        grows = [at for at, part in enumerate(item.items) if isinstance(part, nodes.Grow)]
        if len(set(kinds)) != len(kinds) or grows not in ([], [1]):
            raise _NoWord  # given twice, or not where the trace would put it
        names = [_quoted(ident.text) for ident in item.names]
        own_name = "_".join(ident.text for ident in item.names)
        options = [] if item.pool is None else [f"on={_quoted(item.pool.text)}"]
        options += self._options(item.items[1:])
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
                lines += [f"    def {self._name(own_name)}(r, sp):", *_returned(_chain(links))]
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
                case nodes.Lanes(count=count):
                    found += self._given("lanes", count)
                case nodes.Spill(pool=pool, when=when):
                    found.append(f"spill=({_quoted(pool.text)}, {self._top(when)})")
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
        call = self._call("grow", [_quoted(stage), *self._given("most", item.most)])
        self.pair = True
        if item.keys or item.where is None:
            keys = [self._key(key, row=True) for key in item.keys]
            said = self._call("surplus", [*keys, *self._given("where", item.where, row=True)])
        else:
            said = self._top(item.where, row=True)
        self.pair = False
        return ["", f"    @{call}", f"    def {self._name(f'{stage}_wider')}(r, sp, nxt):", *_returned(said)]

    def _preempt(self, item: nodes.Preempt) -> list[str]:
        takes = [self._take(take) for take in item.takes]
        do = takes[0] if len(takes) == 1 else f"({', '.join(takes)})"
        arguments = [_names(item.winners), _names(item.victims), do]
        arguments += [*self._given("when", item.when), *self._given("where", item.where)]
        if item.by:
            keys = ", ".join(self._key(key) for key in item.by)
            arguments.append(f"by=({keys},)" if len(item.by) == 1 else f"by=({keys})")
        match item.limit, item.per:
            case None, None:
                pass
            case limit, per if limit is not None and per is not None:
                arguments.append(f"limit=({self._top(limit)}, {self._top(per)})")
            case _:
                raise _NoWord
        return self._assigned("preempting", "preempt", [*arguments, *self._given("protect", item.protect)])

    def _take(self, take: nodes.Take) -> str:
        match take:
            case nodes.Take(action="shrink", to=to) if to is not None:
                return self._call("shrink", [self._top(to)])
            case nodes.Take(action="pause" | "migrate", to=None):
                return self._call(take.action, [])
            case nodes.Take(action="demote", to=to):
                return self._call("demote", [] if to is None else [self._top(to)])
            case _:
                raise _NoWord

    # ---- expressions ------------------------------------------------------------------------------------------------

    def _key(self, key: nodes.Key, row: bool = False) -> str:
        """`-x` is `x desc`, so that a key which begins with a minus of its own has no word."""
        if isinstance(key.value, nodes.Unary) and key.value.op == "-":
            raise _NoWord
        if key.direction != "desc":
            return self._top(key.value, row)
        if isinstance(key.value, nodes.Number | nodes.Text | nodes.Truth):
            raise _NoWord
        return f"-{self._part(key.value, row)}"

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
        if row and (name in schema().attributes or name in self.declared) and not keyword.iskeyword(name):
            return f"r.{name}"  # a function sees no variable of the class around it
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
    if len(line) + (0 if lead else indent) < WIDTH:
        return line
    inner = "".join(f"{' ' * (indent + 4)}{argument},\n" for argument in arguments)
    return f"{lead}{word}(\n{inner}{' ' * indent})"


def _chain(links: str) -> str:
    if len(links) <= WIDTH - 16:
        return links
    inner = links.replace(" | choose(", "\n            | choose(")
    return f"(\n            {inner}\n        )"


def _returned(text: str) -> list[str]:
    """A function's body; a value that is longer than a line stands in brackets."""
    if len(text) <= WIDTH - 15 or "\n" in text:
        return [f"        return {text}"]
    return ["        return (", f"            {text}", "        )"]


def _check_arguments(names: Sequence[str], taken: set[str]) -> None:
    """Whether names may be keywords of one call that has others of its own; else there is no word."""
    if len(set(names)) < len(names) or taken & set(names) or any(map(keyword.iskeyword, names)):
        raise _NoWord


def _inside(note: Comment, span: Span) -> bool:
    return span.start < note.span.start < span.end


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) or "Policy"


def _names(idents: Sequence[nodes.Ident]) -> str:
    words = ", ".join(_quoted(ident.text) for ident in idents)
    return f"({words},)" if len(idents) == 1 else f"({words})"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
