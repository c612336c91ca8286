"""`extends`: a policy that changes another. Both become one text, so that everything after it sees an ordinary policy.

The policy's own text stays where it is, line for line; below it come the clauses of the base that it does not replace.
A param, `let`, class, mode, state, pool or guard replaces the one of its name, a stage clause that of its stage, every
other kind of clause all of its kind. Tests are not inherited. Reads no file: the caller finds the base.
"""

from __future__ import annotations

from collections.abc import Callable

from gfdit.lang import nodes
from gfdit.lang.parser import Parsed, parse
from gfdit.lang.source import Source

Find = Callable[[str], str | None]
"""The text of a policy by its name; None when there is none."""

_NAMED = (nodes.Param, nodes.Let, nodes.Class, nodes.Mode, nodes.State, nodes.Pool, nodes.Guard)


def expand(text: str, find: Find, above: tuple[str, ...] = ()) -> str:
    """`text` with what it inherits. A base that is not found, does not parse or goes round in a circle is left as it
    is, for the checker to report. `above`: names of the policies that extend this one."""
    if "extends" not in text:
        return text
    parsed = parse(Source(text))
    header = parsed.tree.header
    if header is None or header.extends is None:
        return text
    name = header.extends.text
    found = None if name in (*above, header.name.text) else find(name)
    if found is None:
        return text
    whole = expand(found, find, (*above, header.name.text))
    base = parse(Source(whole))
    if not base.complete or base.tree.header is None or base.tree.header.extends is not None:
        return text
    start, end = text.rindex("extends", 0, header.extends.span.start), header.extends.span.end
    own = text[:start] + " " * (end - start) + text[end:]
    return "\n".join([own, f"# from {name}", *_inherited(parsed, base, whole)]) + "\n"


def _inherited(own: Parsed, base: Parsed, text: str) -> list[str]:
    """The clauses of the base that stand."""
    named = {(type(item), item.name.text) for item in own.tree.items if isinstance(item, _NAMED)}
    kinds = {type(item) for item in own.tree.items if not isinstance(item, (*_NAMED, nodes.Stage))}
    stages = {name.text for item in own.tree.items if isinstance(item, nodes.Stage) for name in item.names}
    kept: list[str] = []
    for item in base.tree.items:
        written = text[item.span.start : item.span.end]
        if isinstance(item, nodes.Stage):
            left = [name.text for name in item.names if name.text not in stages]
            if left:
                kept.append(f"stage {', '.join(left)}{text[item.names[-1].span.end : item.span.end]}")
        elif isinstance(item, _NAMED):
            if (type(item), item.name.text) not in named:
                kept.append(written)
        elif type(item) not in kinds and not isinstance(item, nodes.Test):
            kept.append(written)
    return kept
