"""Classify and admit: new requests only. The first class rule that holds wins; then the first accept, reject or defer.

`degrade` lowers a parameter and goes on, so that later rules judge the degraded request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gfdit.core.proposal import Because, Fate, Verdict
from gfdit.core.view import F8, I8
from gfdit.lang import program
from gfdit.lang.schema import Level
from gfdit.policy.columns import Array, Fn, Frame, Tick
from gfdit.policy.compile import Compiler
from gfdit.policy.explain import Compared, Condition, quoting

_FATES = {
    program.Verdict.ACCEPT: Fate.ADMIT,
    program.Verdict.REJECT: Fate.REJECT,
    program.Verdict.DEFER: Fate.DEFER,
}


@dataclass(frozen=True, slots=True)
class CompiledRule:
    verdict: program.Verdict
    when: Condition | None
    changes: tuple[tuple[str, Fn], ...]
    message: str
    line: int


@dataclass(frozen=True, slots=True)
class _Ending:
    fate: Fate
    message: str
    because: Because


class Admission:
    """The `class` and `admit` clauses of one program."""

    def __init__(self, rules: tuple[program.AdmitRule, ...], compiler: Compiler) -> None:
        self._rules = tuple(
            CompiledRule(
                rule.verdict,
                None if rule.when is None else Condition(compiler, rule.when, Level.REQUEST),
                tuple((change.knob, compiler.expr(change.value, Level.REQUEST)) for change in rule.changes),
                rule.because,
                rule.clause.line,
            )
            for rule in rules
        )

    def judge(self, tick: Tick, rows: I8) -> list[Verdict]:
        """One verdict a row, in order."""
        classes = tick.classes
        plain = Frame(tick, rows)
        index = classes.classify(plain)
        preset = _presets(plain, index)
        knobs: dict[str, F8] = {"steps": plain.column("steps_total"), "cache": plain.column("cache")}
        degraded = np.zeros(len(rows), dtype=bool)
        endings: list[_Ending | None] = [None] * len(rows)
        for rule in self._rules:
            frame = Frame(tick, rows, dict(preset))
            truth, compared = (True, []) if rule.when is None else rule.when.evaluate(frame)
            hit = np.broadcast_to(truth, rows.shape) & np.array([ending is None for ending in endings])
            if rule.verdict is program.Verdict.DEGRADE:
                for knob, value in rule.changes:
                    knobs[knob] = np.where(hit, _CHEAPER[knob](value(frame), knobs[knob]), knobs[knob])
                degraded |= hit
                preset |= _with_steps(plain, knobs["steps"]) | {"cache": knobs["cache"]}
                continue
            for k in np.flatnonzero(hit).tolist():
                endings[k] = _ending(rule, compared, k)
        return [
            self._verdict(
                tick,
                int(row),
                int(index[k]),
                endings[k],
                steps=int(knobs["steps"][k]) if degraded[k] else None,
                cache=float(knobs["cache"][k]) or None,
            )
            for k, row in enumerate(rows.tolist())
        ]

    @staticmethod
    def _verdict(
        tick: Tick, row: int, class_index: int, ending: _Ending | None, *, steps: int | None, cache: float | None
    ) -> Verdict:
        view, classes = tick.view, tick.classes
        matched = class_index < len(classes.rules)
        rule = classes.rules[class_index] if matched else None
        return Verdict(
            row=row,
            fate=Fate.ADMIT if ending is None else ending.fate,
            class_name=view.names["class"][view.class_code[row]] if rule is None else rule.name,
            slo_s=None if rule is None else rule.slo,
            steps=steps,
            cache=cache,
            preemptible=None if rule is None else rule.preemptible,
            message="" if ending is None else ending.message,
            because=None if ending is None else ending.because,
        )


def _presets(frame: Frame, index: I8) -> dict[str, Array]:
    """What a class changes of a request: its budget, where the request brings none."""
    view, rows = frame.view, frame.rows
    own = np.isfinite(view.slo_s[rows])
    slo = np.where(own, view.slo_s[rows], frame.tick.classes.slo[index])
    deadline = np.where(own, frame.column("deadline"), frame.column("arrival") + slo)
    return {"class": index, "slo": slo, "deadline": deadline}


def _with_steps(plain: Frame, steps: F8) -> dict[str, Array]:
    """The columns and tables of the requests if they had `steps` steps."""
    fewer = (plain.column("steps_total") - steps)[:, None]
    step = np.where(np.isfinite(plain.column("#step")), plain.column("#step"), 0.0)
    return {
        "steps": steps,
        "steps_total": steps,
        "#remaining": plain.column("#remaining") - fewer * step,
        "#gpu": plain.column("#gpu") - fewer * step * plain.tick.degrees,
    }


_CHEAPER: dict[str, Callable[[F8, F8], F8]] = {
    "steps": lambda wanted, present: np.clip(np.rint(wanted), 1, present),
    "cache": lambda wanted, present: np.clip(wanted, present, 1.0),
}
"""Knob -> (wanted, present) -> the new value: never dearer than the present one."""


def _ending(rule: CompiledRule, compared: Compared, k: int) -> _Ending:
    because = quoting(f"admit, {rule.verdict.value}", rule.line, compared, (k,))
    return _Ending(_FATES[rule.verdict], rule.message, because)
