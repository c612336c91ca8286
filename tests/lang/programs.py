"""Hypothesis strategies for syntax trees: anything the grammar allows, sense or nonsense."""

from __future__ import annotations

from hypothesis import strategies as st

from gfdit.lang import nodes as n
from gfdit.lang.types import UNITS

NAMES = ["sp", "next", "age", "deadline", "batch", "stage", "class", "tier", "max", "x1", "_y", "tick", "test"]

idents = st.sampled_from(NAMES).map(n.Ident)
strings = st.text(st.characters(exclude_characters='"\n\r', exclude_categories=["Cs", "Cc"]), max_size=8).map(n.Text)
digits = st.sampled_from(["0", "1", "2", "16", "0.5", "1e3", "2.5E-2"])
numbers = st.builds(n.Number, digits, st.sampled_from(["", *UNITS]))
plain = st.builds(n.Number, digits)
maybe = st.none()


def some(items: st.SearchStrategy, least: int = 1, most: int = 3) -> st.SearchStrategy:
    return st.lists(items, min_size=least, max_size=most).map(tuple)


def option(items: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | items


atoms = st.one_of(
    numbers,
    strings,
    st.booleans().map(n.Truth),
    st.sampled_from(NAMES).map(n.Name),
    st.builds(n.Field, idents, idents),
)


def _flat_bool(op: str, operands: tuple[n.Expr, ...]) -> n.Expr:
    return n.BoolOp(op, operands)


def _larger(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.builds(n.Unary, st.sampled_from(["-", "not"]), inner),
        st.builds(n.Binary, st.sampled_from("+-*/"), inner, inner),
        st.builds(n.Compare, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), inner, inner),
        st.builds(n.Member, inner, some(inner), st.booleans()),
        st.builds(_flat_bool, st.sampled_from(["and", "or"]), some(inner, 2)),
        st.builds(n.If, inner, inner, inner),
        st.builds(n.Call, idents, some(inner, 0), option(inner)),
    )


exprs = st.recursive(atoms, _larger, max_leaves=8)
keys = some(st.builds(n.Key, exprs, st.sampled_from(["", "asc", "desc"])))
ranges = st.builds(n.Range, exprs, exprs)
sets = st.builds(n.Set, idents, exprs)

fields = st.builds(n.ClassField, idents, exprs) | st.just(n.ClassField(n.Ident("preemptible")))
rules = st.one_of(
    st.builds(n.AdmitRule, st.just("accept"), option(exprs)),
    st.builds(n.AdmitRule, st.sampled_from(["reject", "defer"]), option(exprs), option(strings)),
    st.builds(n.AdmitRule, st.just("degrade"), option(exprs), st.none(), some(sets)),
)
links = st.one_of(
    st.builds(n.Alternative, st.sampled_from(["smallest", "largest"]), st.none(), option(exprs)),
    st.builds(n.Alternative, st.sampled_from(["minimizing", "maximizing"]), exprs, option(exprs)),
    st.just(n.Alternative("wait")),
)
stage_items = st.one_of(
    st.builds(n.SpFixed, exprs),
    st.builds(n.SpChoice, some(plain), some(links)),
    st.builds(n.Grow, st.just(()) | keys, option(exprs), option(exprs)),
    st.builds(n.Hold, option(exprs)),
    st.builds(n.Sticky, exprs),
    st.builds(n.Prefer, some(idents)),
    st.builds(n.Reserve, exprs),
    st.builds(n.Lanes, exprs),
    st.builds(n.Spill, idents, exprs),
)
takes = st.builds(n.Take, st.sampled_from(["shrink", "pause", "demote", "migrate"]), option(exprs))


@st.composite
def preempts(draw: st.DrawFn) -> n.Preempt:
    limit = draw(option(exprs))
    per = draw(exprs) if limit is not None else None
    by = draw(st.just(()) | keys)
    return n.Preempt(
        draw(some(idents)),
        draw(option(exprs)),
        draw(some(idents)),
        draw(option(exprs)),
        by,
        draw(some(takes)),
        limit,
        per,
        draw(option(exprs)),
    )


@st.composite
def triages(draw: st.DrawFn) -> n.Triage:
    shed = draw(st.sampled_from(["", "most", "least"]))
    then = draw(st.sampled_from(["last", "reject"]))
    return n.Triage(
        draw(keys)[0],
        draw(option(exprs)),
        shed,
        draw(exprs) if shed else None,
        then,
        draw(option(strings)) if then == "reject" else None,
    )


allocates = st.one_of(
    st.just(n.Allocate("greedy")),
    st.builds(lambda depth: n.Allocate("backfill", depth), exprs),
    st.builds(lambda goal, key: n.Allocate("knapsack", goal=goal, key=key), st.sampled_from(["minimizing"]), exprs),
    st.builds(
        lambda h, b, key: n.Allocate("rollout", horizon=h, beam=b, goal="maximizing", key=key), exprs, exprs, exprs
    ),
)
test_items = st.one_of(
    st.builds(n.Cluster, exprs),
    st.builds(n.Request, idents, some(sets, 0)),
    st.builds(n.At, exprs),
    st.builds(n.Expect, exprs),
)
dotted = idents | st.just(n.Ident("builtin.fcfs"))


@st.composite
def fallbacks(draw: st.DrawFn) -> n.Fallback:
    errors = draw(option(exprs))
    return n.Fallback(draw(dotted), errors, draw(option(exprs)) if errors is not None else None)


reactions = st.one_of(
    st.builds(lambda text: n.Reaction("alert", text=text), option(strings)),
    st.builds(
        lambda action, amount, time: n.Reaction(action, amount, time),
        st.sampled_from(["raise", "shrink"]),
        exprs,
        option(exprs),
    ),
    st.builds(lambda time: n.Reaction("pause", None, time), option(exprs)),
)
items = st.one_of(
    st.builds(n.Param, idents, idents, exprs, option(ranges)),
    st.builds(n.Let, idents, exprs),
    st.builds(n.Class, idents, option(exprs), some(fields, 0)),
    st.builds(n.Mode, idents, exprs, option(exprs), exprs, option(exprs)),
    st.builds(n.State, idents, option(idents), idents, exprs, option(ranges), exprs, option(exprs)),
    st.builds(n.Pool, idents, option(exprs)),
    st.builds(n.Resize, idents, exprs, exprs, option(exprs), ranges, option(exprs)),
    st.builds(n.Admit, some(rules, 0)),
    st.builds(n.Order, keys),
    triages(),
    st.builds(n.Aging, exprs, exprs, option(exprs)),
    st.builds(n.Stage, some(idents), option(idents), some(stage_items, 0)),
    preempts(),
    st.builds(n.Batch, some(exprs), exprs, option(exprs), option(exprs)),
    allocates,
    st.builds(n.Tick, option(exprs), st.just(()) | some(idents)),
    st.builds(n.React, idents, option(exprs), reactions),
    st.builds(n.Guard, idents, exprs, st.sampled_from(["alert", "fallback"])),
    fallbacks(),
    st.builds(n.Test, strings, some(test_items, 0)),
)
headers = st.builds(n.Header, idents, plain, option(strings), option(idents))
policies = st.builds(n.Policy, headers, some(items, 0, 5))
