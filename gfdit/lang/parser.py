"""Text to syntax tree: an LALR(1) driver over the shipped table, with recovery at the next item.

The lexer is contextual: a word becomes whatever the present state can take, keywords before units before names. After
an error the parser drops what it was reading, skips to the next keyword that starts an item (or the closing brace of
the block) and goes on, so that one file shows all its mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from gfdit.lang import build, nodes
from gfdit.lang.build import Token
from gfdit.lang.diagnostics import Diagnostic, nearest
from gfdit.lang.expected import describe
from gfdit.lang.frozen import changed
from gfdit.lang.grammar import END, Table, table
from gfdit.lang.source import Source, Span

MAX_ERRORS = 50


@dataclass(frozen=True, slots=True)
class Comment:
    """A `#` comment; `trailing` when something else stands before it on its line."""

    text: str
    span: Span
    trailing: bool


@dataclass(frozen=True, slots=True)
class Parsed:
    """`complete` is False after a syntax error: then `tree` lacks the items that could not be read.

    `lost` holds names that a dropped item may have declared, so that their uses are not called unknown.
    """

    tree: nodes.Policy
    diagnostics: tuple[Diagnostic, ...]
    comments: tuple[Comment, ...]
    lost: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        return not self.diagnostics


def parse(source: Source) -> Parsed:
    """Reads a whole policy. Never raises on bad text: what is wrong is in `diagnostics`."""
    tokens, comments = tokenize(source)
    machine = _Machine(source, tokens, table())
    tree = machine.run()
    return Parsed(tree, tuple(machine.diagnostics), comments, frozenset(machine.lost))


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Where a text breaks off. `accepted`: the terminals that may follow. `stack`: the symbols of the grammar that are
    not finished there, outermost first, each with its token or node."""

    accepted: frozenset[str]
    stack: tuple[tuple[str, object], ...]


def unfinished(source: Source) -> Unfinished:
    """What the parser is in the middle of at the end of a text: for completion. Never raises on bad text."""
    tokens, _ = tokenize(source)
    return _Machine(source, tokens, table()).at_end()


@cache
def _entered_by() -> dict[int, str]:
    """The symbol that leads into each state of the parser."""
    return {state: symbol for row in table().states for symbol, state in row.items() if state >= 0}


def tokenize(source: Source) -> tuple[list[Token], tuple[Comment, ...]]:
    """All tokens with an empty one at the end, and the comments. A character that starts no token is one by itself."""
    lexicon, text = table().lexicon, source.text
    tokens: list[Token] = []
    comments: list[Comment] = []
    position, fresh, line_start = 0, True, 0
    while position < len(text):
        match = lexicon.match(text, position)
        end = match.end() if match else position + 1
        span = Span(position, end)
        if match and match.group("skip") is not None:
            newline = text.rfind("\n", position, end)
            if newline >= 0:
                fresh, line_start = True, newline + 1
        elif match and match.group("note") is not None:
            comments.append(Comment(text[position:end].rstrip(), span, not fresh))
        else:
            tokens.append(Token(text[position:end], span, fresh, position == line_start))
            fresh = False
        position = end
    end = tokens[-1].span.end if tokens else 0
    tokens.append(Token("", Span(end, end), fresh, False))
    return tokens, tuple(comments)


@dataclass(slots=True)
class _Machine:
    """State and value stacks of one run."""

    source: Source
    tokens: list[Token]
    table: Table
    states: list[int] = field(default_factory=list)
    values: list[object] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    doubt: tuple[int, list[int], list[object], list[Span]] | None = None
    """the stacks before the latest keyword that started a line and was read as a name"""

    def run(self) -> nodes.Policy:
        self.states = [self.table.start]
        index: int | None = 0
        while index is not None and index < len(self.tokens):
            index = self._step(index)
        return self._partial() if index is None else build.as_policy(self.values[-1])

    def at_end(self) -> Unfinished:
        """Reads everything but the end."""
        self.states = [self.table.start]
        index: int | None = 0
        while index is not None and index < len(self.tokens) - 1:
            index = self._step(index)
        row = self.table.states[self.states[-1]]
        taken = {name for name in row if name.isupper() or name == END}
        accepted = frozenset(name for name in taken if self._takes(self.states, name))
        symbols = _entered_by()
        return Unfinished(accepted, tuple((symbols[s], v) for s, v in zip(self.states[1:], self.values, strict=True)))

    def _step(self, index: int) -> int | None:
        """Reads one token; the one to go on with, None when the rest cannot be read."""
        token = self.tokens[index]
        terminal = self._terminal(token)
        if terminal is None:
            index = self._rewind(index)
            if self._report(index):
                return index
            return self._recover(index) if len(self.diagnostics) < MAX_ERRORS else None
        if token.fresh and terminal == "NAME" and token.text in self.table.words["item"]:
            self.doubt = (index, list(self.states), list(self.values), list(self.spans))
        while not self._advance(token, terminal):  # what can be shifted after some reductions stays so through them
            pass
        return index + 1

    def _terminal(self, token: Token) -> str | None:
        """What `token` is in the present state, or None when the state cannot take it."""
        row = self.table.states[self.states[-1]]
        candidates = self.table.terminals(token.text) if token.text else [END]
        return next((name for name in candidates if name in row and self._takes(self.states, name)), None)

    def _advance(self, token: Token, terminal: str) -> bool:
        """One action; True when it consumed the token."""
        action = self.table.states[self.states[-1]].get(terminal)
        if action is None or (terminal == END and self.states[-1] == self.table.end):
            return True
        if action >= 0:
            self.states.append(action)
            self.values.append(token)
            self.spans.append(token.span)
            return True
        self._reduce(-1 - action)
        return terminal == END and self.states[-1] == self.table.end

    def _reduce(self, number: int) -> None:
        rule = self.table.rules[number]
        base = len(self.values) - rule.size
        values, spans = self.values[base:], self.spans[base:]
        del self.values[base:], self.spans[base:], self.states[len(self.states) - rule.size :]
        known = [span for span in spans if span.known]
        span = Span(known[0].start, known[-1].end) if known else Span(-1, -1)
        kept: list[object] = []
        for index in rule.keep:
            value = values[index] if index >= 0 else None
            kept.extend(value) if isinstance(value, list) else kept.append(value)
        result: object = kept
        if rule.action:
            result = kept[0] if rule.unwrap and len(kept) == 1 else build.node(rule.action, kept, span)
        self.states.append(self.table.states[self.states[-1]][rule.origin])
        self.values.append(result)
        self.spans.append(span)

    def _takes(self, states: list[int], terminal: str) -> bool:
        """Whether `terminal` can be shifted after some reductions; LALR alone may promise too much."""
        stack = list(states)
        while True:
            action = self.table.states[stack[-1]].get(terminal)
            if action is None:
                return False
            if action >= 0:
                return True
            rule = self.table.rules[-1 - action]
            if rule.size:
                del stack[len(stack) - rule.size :]
            stack.append(self.table.states[stack[-1]][rule.origin])
            if terminal == END and stack[-1] == self.table.end:
                return True

    # -- errors

    def _rewind(self, index: int) -> int:
        """Takes back a keyword just read as a name: after `order by a,` the `stage` of the next line is no key."""
        if self.doubt and self.doubt[0] in (index - 1, index - 2):
            index, self.states, self.values, self.spans = self.doubt
        self.doubt = None
        return index

    def _report(self, index: int) -> bool:
        """Reports the token; True if it was a misspelt keyword, which is then put right so that reading goes on."""
        token = self.tokens[index]
        row = self.table.states[self.states[-1]]
        taken = {name for name in row if name.isupper() or name == END}
        accepted = {name for name in taken if self._takes(self.states, name)}
        expected = describe(accepted, self.table)
        near = self._near(token, accepted)
        helps = (f"did you mean `{near}`?",) if near else ()
        kinds = self.table.terminals(token.text)
        if "NAME" in accepted and "FIELD" in kinds and "NAME" not in kinds:
            helps = (f"`{token.text}` is a word of the language and cannot be a name",)
        if not token.text:
            self._add("P002", "unexpected end of the policy", token.span, expected, self._unclosed() or helps)
        elif token.text[0] == '"' and len(token.text) < 2:
            text = "string is not closed on its line"
            self._add("P002", text, token.span, "", ('close it with `"`; strings do not span lines',))
        elif not self.table.terminals(token.text):
            self._add("P002", f"unexpected character `{token.text}`", token.span, expected, helps)
        else:
            self._add("P001", f"unexpected `{token.text}`", token.span, expected if not near else "", helps)
            if near and len(self.diagnostics) < MAX_ERRORS:
                self.tokens[index] = changed(token, text=near)
                return True
        return False

    def _add(self, code: str, message: str, span: Span, expected: str, helps: tuple[str, ...]) -> None:
        label = f"expected {expected}" if expected else ""
        self.diagnostics.append(Diagnostic(code, message, span, self.source, label, helps))

    def _near(self, token: Token, accepted: set[str]) -> str | None:
        words = {text for text, name in self.table.literals.items() if name in accepted and text[0].isalpha()}
        return nearest(token.text, words) if token.text not in self.table.literals else None

    def _unclosed(self) -> tuple[str, ...]:
        opened: list[Token] = []
        for token in self.tokens:
            if token.text == "{":
                opened.append(token)
            elif token.text == "}" and opened:
                opened.pop()
        if not opened:
            return ()
        line, _ = self.source.position(opened[-1].span.start)
        return (f"the `{{` in line {line} is never closed",)

    def _recover(self, start: int) -> int | None:
        """Drops what is unfinished and returns the index of the token to go on with; None at the end of the text."""
        words = self.table.words
        inner = words["rule"] | words["stage_item"] | words["test_item"]
        depth = 0
        for index in range(start, len(self.tokens)):
            token = self.tokens[index]
            leads = token.fresh or self.tokens[index - 1].text == "}"
            if token.text == "{":
                depth += 1
            elif token.text == "}" and depth:
                depth -= 1
            elif token.text in words["item"] and (token.first or (leads and not depth)):
                if self._resume(token.text) or self._after_header(token.text):
                    return self._forget(start, index)
            elif (token.text == "}" or (token.text in inner and leads)) and not depth and self._resume(token.text):
                return self._forget(start, index)
            elif index > start and token.fresh:
                self._misspelt(token, words["item"] if token.first else inner)
        return None

    def _misspelt(self, token: Token, words: frozenset[str]) -> None:
        """Reports a line inside dropped text that starts with nearly a keyword."""
        near = nearest(token.text, words, 0.75)
        if near and near != token.text:
            self._add("P001", f"unexpected `{token.text}`", token.span, "", (f"did you mean `{near}`?",))

    def _resume(self, word: str) -> bool:
        """Unwinds to the topmost state that takes the keyword or symbol `word`."""
        terminal = self.table.literals[word]
        for top in range(len(self.states), 0, -1):
            if self._takes(self.states[:top], terminal):
                del self.states[top:], self.values[top - 1 :], self.spans[top - 1 :]
                return True
        return False

    def _after_header(self, word: str) -> bool:
        """Goes on as if a header had been read; for files whose first line is wrong."""
        state = self.table.states[self.table.start]["header"]
        if self.table.literals[word] not in self.table.states[state]:
            return False
        self.states, self.values, self.spans = [self.table.start, state], [None], [Span(-1, -1)]
        return True

    def _forget(self, start: int, resume: int) -> int:
        """Remembers names near the dropped text that a declaration may have meant."""
        first = start
        while first > 0 and not self.tokens[first].fresh:
            first -= 1
        for before, token in zip(self.tokens[first:resume], self.tokens[first + 1 : resume], strict=False):
            if before.text in ("param", "let", "class", "mode", "state", "pool"):
                self.lost.add(token.text)
        return resume

    def _partial(self) -> nodes.Policy:
        """The tree of what was read before the text ended in an error."""
        header = next((value for value in self.values if isinstance(value, nodes.Header)), None)
        items: list[object] = []
        for value in self.values:
            items.extend(value) if isinstance(value, list) else items.append(value)
        return build.partial_policy(header, items)
