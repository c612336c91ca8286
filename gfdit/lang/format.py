"""The formatter: one canonical layout for every policy, comments kept, meaning untouched.

`parse(format(p)) == p` and formatting twice changes nothing. One space between words, two for a block, four for a
continued line; one blank line at most, and only where there was one. A block stays on one line if it was, and fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gfdit.errors import PolicyError
from gfdit.lang import nodes
from gfdit.lang.parser import Comment, parse
from gfdit.lang.pieces import Piece, has_parts, pieces
from gfdit.lang.render import Style, render
from gfdit.lang.source import Source, Span

WIDTH = 120
BLOCK = 2
CONTINUED = 4


def format_source(text: str, name: str = "<policy>") -> str:
    """The formatted text of a policy; PolicyError with the findings when its syntax is wrong."""
    source = Source(text, name)
    parsed = parse(source)
    if not parsed.complete:
        raise PolicyError(
            render(parsed.diagnostics, style=Style.SHORT), hint="only a policy that parses can be formatted"
        )
    return format_tree(parsed.tree, source, parsed.comments)


def format_tree(tree: nodes.Policy, source: Source | None = None, comments: Sequence[Comment] = ()) -> str:
    """The text of a tree; without its `source` (for a tree that was built) there are no comments or blank lines."""
    layout = _Layout(source or Source(""), tuple(comments) if source else ())
    lines = list(layout.policy(tree))
    return "\n".join(_Weave(layout.source, lines, list(layout.comments)).run()) + "\n"


@dataclass(slots=True)
class _Line:
    """A line to print; `start` is where its text begins in the source (-1: unknown)."""

    indent: int
    text: str
    start: int
    gap: bool = False
    """keep a blank line that stands before it in the source"""
    force_gap: bool = False
    closes: bool = False


@dataclass(slots=True)
class _Layout:
    """Decides what goes on which line."""

    source: Source
    comments: tuple[Comment, ...]

    def policy(self, tree: nodes.Policy) -> Iterator[_Line]:
        if tree.header:
            yield _Line(0, " ".join(piece.text for piece in pieces(tree.header)), tree.header.span.start, gap=True)
        for index, item in enumerate(tree.items):
            lines = list(self.node(item, 0))
            lines[0].gap = True
            lines[0].force_gap = index == 0 or isinstance(item, nodes.Test)
            yield from lines

    def node(self, node: nodes.Formatted, indent: int) -> Iterator[_Line]:
        """An item or a part of a block, at `indent` spaces."""
        match node:
            case nodes.Class():
                yield from self._block(node, node.fields, indent)
            case nodes.Stage() | nodes.Test():
                yield from self._block(node, node.items, indent)
            case nodes.Admit():
                yield from self._block(node, node.rules, indent)
            case _:
                yield from self._statement(node, indent)

    def _block(self, node: nodes.Formatted, parts: Sequence[nodes.Formatted], indent: int) -> Iterator[_Line]:
        head = " ".join(piece.text for piece in pieces(node))
        if not parts and not self._commented(node.span):
            yield _Line(indent, f"{head} {{}}", node.span.start)
            return
        short = f"{head} {{ {' '.join(_flat(part) for part in parts)} }}"
        if self._on_one_line(node, parts) and indent + len(short) <= WIDTH:
            yield _Line(indent, short, node.span.start)
            return
        yield _Line(indent, f"{head} {{", node.span.start)
        for part in parts:
            lines = list(self.node(part, indent + BLOCK))
            lines[0].gap = True
            yield from lines
        yield _Line(indent, "}", node.span.end - 1 if node.span.known else -1, closes=True)

    def _on_one_line(self, node: nodes.Formatted, parts: Sequence[nodes.Formatted]) -> bool:
        if isinstance(node, (nodes.Admit, nodes.Test)) or self._commented(node.span):
            return False
        if not node.span.known:
            return len(parts) == 1 or isinstance(node, nodes.Class)
        return "\n" not in self.source.slice(node.span)

    def _statement(self, node: nodes.Formatted, indent: int) -> Iterator[_Line]:
        parts = list(pieces(node))
        text = " ".join(piece.text for piece in parts)
        tall = isinstance(node, nodes.SpChoice) or has_parts(node)
        if (tall and self._was_tall(node, parts)) or (len(parts) > 1 and indent + len(text) > WIDTH):
            yield from self._broken(parts, indent, tall)
        else:
            yield _Line(indent, text, node.span.start)

    def _was_tall(self, node: nodes.Formatted, parts: Sequence[Piece]) -> bool:
        """Whether alternatives had lines of their own."""
        return node.span.known and "\n" in self.source.text[node.span.start : parts[-1].start]

    def _broken(self, parts: Sequence[Piece], indent: int, tall: bool) -> Iterator[_Line]:
        """Pieces over several lines: one each if `tall`, else as many as fit."""
        line = _Line(indent, parts[0].text, parts[0].start)
        for piece in parts[1:]:
            if tall or line.indent + len(line.text) + 1 + len(piece.text) > WIDTH:
                yield line
                line = _Line(indent + CONTINUED, piece.text, piece.start)
            else:
                line.text += f" {piece.text}"
        yield line

    def _commented(self, span: Span) -> bool:
        return any(span.start < comment.span.start < span.end for comment in self.comments)


def _flat(node: nodes.Formatted) -> str:
    return " ".join(piece.text for piece in pieces(node))


@dataclass(slots=True)
class _Weave:
    """Puts comments and blank lines back between the lines."""

    source: Source
    lines: list[_Line]
    comments: list[Comment]
    output: list[str] = field(default_factory=list)
    opened: bool = True
    """no blank line may follow: at the top, and after an opening brace"""

    def run(self) -> list[str]:
        before: dict[int, list[Comment]] = {}
        after: dict[int, list[Comment]] = {}
        for comment in self.comments:
            if comment.trailing:
                after.setdefault(self._last_before(comment), []).append(comment)
            else:
                before.setdefault(self._first_after(comment), []).append(comment)
        for index, line in enumerate(self.lines):
            own, trailing = before.get(index, []), after.get(index, [])
            self._comments(own, line.indent + (BLOCK if line.closes else 0), line)
            if (line.gap and self._blank(line.start)) or (line.force_gap and not own):
                self._gap()
            for comment in trailing[:-1]:  # the line had several lines in the source
                self._print(" " * line.indent + comment.text)
            self._print(" " * line.indent + line.text + "".join(f"  {comment.text}" for comment in trailing[-1:]))
            self.opened = line.text.endswith("{")
        self._comments(before.get(len(self.lines), []), 0, None)
        return self.output

    def _last_before(self, comment: Comment) -> int:
        found = [index for index, line in enumerate(self.lines) if 0 <= line.start <= comment.span.start]
        return found[-1] if found else 0

    def _first_after(self, comment: Comment) -> int:
        for index, line in enumerate(self.lines):
            if line.start >= comment.span.start:
                return index
        return len(self.lines)

    def _comments(self, comments: Sequence[Comment], indent: int, line: _Line | None) -> None:
        for index, comment in enumerate(comments):
            forced = index == 0 and line is not None and line.force_gap
            if forced or self._blank(comment.span.start):
                self._gap()
            self._print(" " * indent + comment.text)
            self.opened = False

    def _blank(self, start: int) -> bool:
        """Whether an empty line stands right before `start` in the source."""
        before = self.source.text[:start] if start >= 0 else ""
        return before[len(before.rstrip()) :].count("\n") > 1

    def _gap(self) -> None:
        if self.output and self.output[-1] and not self.opened:
            self._print("")

    def _print(self, text: str) -> None:
        self.output.append(text)
