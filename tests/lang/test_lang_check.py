"""Names, types, units and clauses: what is refused, in which words; and the program that comes out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from programs import policies

from gfdit.lang import Checked, Source, check, format_tree, nodes, render
from gfdit.lang import program as ir
from gfdit.lang.schema import Level
from gfdit.lang.types import DUR, GPUS, NUM
from gfdit.policy import library
from gfdit.policy.vocabulary import schema

STAGES = "stage encode, denoise, decode { sp fixed 1 gpu }\n"
REST = "order by arrival\n" + STAGES


def run(text: str, **options: object) -> Checked:
    return check(Source('policy p version 1 "t"\n' + text, "p"), schema(), **options)  # type: ignore[arg-type]


def findings(text: str, **options: object) -> list[str]:
    return [line.removeprefix("p:") for line in render(run(text, **options).diagnostics, style="short").splitlines()]


def program(text: str, **options: object) -> ir.Program:
    checked = run(text, **options)
    assert checked.program is not None, render(checked.diagnostics)
    return checked.program


def expression(text: str) -> ir.Expr:
    return program(f"let x = {text}\norder by x, arrival\n" + STAGES).let("x").value


def choose(condition: str) -> str:
    return (
        "order by arrival\nstage encode, decode { sp fixed 1 gpu }\n"
        f"stage denoise {{ sp in {{1, 2}} gpu smallest where {condition} else largest }}"
    )


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("remaining(sp) <= deadline", "U204]: cannot compare duration with instant"),
        ("deadline >= remaining(sp)", "U204]: cannot compare instant with duration"),
        ("steps_left > 3", "U202]: cannot compare step count with number (write `3 step`)"),
        ("0 == sp", "U202]: cannot compare number with gpu count (write `0 gpu`)"),
        ("age > tokens", "U202]: cannot compare duration with token count"),
        ("finish(sp) + 3 < deadline", "U204]: cannot add number to instant (write `3s`)"),
        ("finish(sp) + deadline < now", "U204]: cannot add instant to instant"),
        ("age - deadline < 3s", "U204]: cannot subtract instant from duration"),
        ("deadline * 2 > now", "U204]: cannot multiply instant by number"),
        ("age + sp > 3s", "U201]: cannot add gpu count to duration"),
        ("max(age, 3) > 3s", "U203]: `max` cannot mix duration and number (write `3s`)"),
        ("(if late then age else steps_left) > 3s", "U203]: branches differ: duration and step count"),
        ("age", "T302]: a condition takes a condition, found a duration"),
        ("not age", "T302]: a condition takes a condition, found a duration"),
        ("late and age", "T302]: `and` takes a condition, found a duration"),
        ("tag < tag", "T302]: string values have no order (use `==` or `!=`)"),
        ("stage == denois", "N103]: unknown stage `denois` (did you mean `denoise`?)"),
        ("class == gold", 'N103]: unknown class `gold` (write it as a string: `"gold"`)'),
        ("model == tag", "T302]: cannot compare model with string"),
        ("finish(3) < deadline", "U205]: `finish` takes a degree"),
        ("finish(age) < deadline", "U205]: `finish` takes a degree"),
        ("finish(sp, sp) < deadline", "T301]: `finish` takes 1 argument, found 2"),
        ("finish < deadline", "N101]: `finish` is a function"),
        ("finish(next) < deadline", "N105]: `next` means nothing in a choice of degree"),
        ("deadlin < now", "N101]: unknown name `deadlin` (did you mean `deadline`?)"),
        ("finsh(sp) < now", "N102]: unknown function `finsh` (did you mean `finish`?)"),
        ("count(age) > 2", "T301]: `count` over requests takes no value, found 1"),
        ("mean(late) > 2", "T302]: `mean` takes a number, found condition (use `count(where late)`)"),
        ("mean(sp) > 2 gpu", "N105]: `sp` means nothing in an aggregate"),
        ("age / 0 > 3s", "V401]: division by zero"),
        ("a.sp > 1 gpu", "N105]: `a.sp`: requests have names in tests only"),
        ("1e308 * 1e308 > 2", "V404]: value is too large"),
        ("age in {3s, 4}", "U202]: cannot compare duration with number (write `4s`)"),
    ],
)
def test_a_wrong_condition(condition: str, wanted: str) -> None:
    assert any(wanted in line for line in findings(choose(condition))), findings(choose(condition))


@pytest.mark.parametrize(
    "condition",
    [
        "finish(sp) <= deadline",
        "deadline - now > 3s and now - arrival < 1min",
        "remaining(sp) * sp / gpus < slo",
        "tokens * steps_left / (1 tok * 1 step) > 1000",
        'model == "qwen-image" and stage in {denoise, prepare} and tag not in {"a", "b"}',
        "count(where waiting and age > 3s) < 5 and max(age where late) < mean(slo)",
        "step_time(4 gpu) < step_time(sp_best) or gain(sp) > 110%",
        "clamp(weight, 0, 1) == abs(-1) and min(age, waited, slo) > 0s",
        'class == "S"',
        "pixels > 1 Mpx",
    ],
)
def test_a_right_condition(condition: str) -> None:
    assert findings(choose(condition)) == []


def test_the_likely_intended_comparison_is_named() -> None:
    helps = [run(choose(f"{text}")).diagnostics[0].help for text in ("remaining(sp) < deadline", "deadline > age * 2")]
    assert helps == [
        ("compare `finish(sp) < deadline`, or use `slack(sp)`",),
        ("compare `deadline > now + age * 2`",),
    ]


def test_constants_are_folded_and_in_base_units() -> None:
    assert expression("2 * 1.5min + 10s") == ir.Const(190.0, DUR, ir.Span(0, 0))
    value = expression("115%")
    assert isinstance(value, ir.Const)
    assert value.value == 1.15
    assert expression("if 1 < 2 then 4 gpu else 8 gpu") == ir.Const(4.0, GPUS, ir.Span(0, 0))


def test_expressions_carry_type_and_level() -> None:
    value = expression("age * 2 + max(slo where waiting)")
    assert isinstance(value, ir.Binary)
    assert (value.type, value.level) == (DUR, Level.REQUEST)
    assert isinstance(value.right, ir.Aggregate)
    assert (value.right.kind, value.right.level) == (ir.AggregateKind.MAX, Level.TICK)
    stage = program(choose("finish(sp) < deadline")).stage("denoise")
    assert isinstance(stage.degree, ir.ChosenDegree)
    where = stage.degree.alternatives[0].where
    assert isinstance(where, ir.Compare)
    assert where.level is Level.DEGREE


CLAUSES = """
param lift: dur = 45s within 5s .. 10min
let soon = slack(sp_best) < 2s
class ui when tag == "ui" { slo 8s weight 10 miss 1% }
class batch otherwise { rank 5 preemptible }
admit {
  degrade when soon to steps = max(steps * 70%, 12 step)
  reject when class == batch and queued(batch) >= 500 because "full"
}
order by tier, deadline desc
triage by deadline margin 90% then reject because "too late"
aging every lift raise 1 until tier 2
stage encode, decode { sp fixed 1 gpu }
stage denoise {
  sp in {1, 2, 4} gpu smallest where finish(sp) <= deadline else minimizing finish(sp) else wait
  grow by order where gain(next) > 110% max 4 gpu
  hold for 2s sticky 5% prefer pack reserve for 300ms
}
preempt for ui when soon from batch where sp > 1 gpu by age desc
  do shrink to 1 gpu else pause limit 4 per 10s protect 5s
allocate backfill 3
tick every 20ms on arrival
guard g: longest_wait(any) < 20min else fallback
fallback fcfs after 2 errors or tick > 5ms
"""


def test_every_clause_arrives_in_the_program() -> None:
    p = program(CLAUSES)
    assert (p.name, p.version, p.title, len(p.sha)) == ("p", 1, "t", 64)
    assert [(c.name, c.rank, c.weight, c.slo, c.miss, c.preemptible) for c in p.classes] == [
        ("ui", 0, 10.0, 8.0, 0.01, False),
        ("batch", 5, 1.0, None, None, True),
    ]
    assert [(rule.verdict.value, rule.because) for rule in p.admit] == [("degrade", ""), ("reject", "full")]
    assert [(change.knob, change.value.type.describe()) for change in p.admit[0].changes] == [("steps", "step count")]
    assert [(getattr(key.value, "name", ""), key.descending) for key in p.order.keys] == [
        ("tier", False),
        ("deadline", True),
        ("arrival", False),
    ]
    assert p.triage is not None
    assert (p.triage.margin, p.triage.reject_because, p.triage.shed_most) == (0.9, "too late", True)
    assert isinstance(p.triage.shed, ir.Name)
    assert p.triage.shed.name == "gpu_time"
    assert p.aging is not None
    assert (p.aging.every, p.aging.raise_by, p.aging.until) == (45.0, 1.0, 2.0)
    (preempt,) = p.preempts
    assert (preempt.winners, preempt.victims, preempt.limit, preempt.per, preempt.protect) == (
        ("ui",),
        ("batch",),
        4,
        10.0,
        5.0,
    )
    assert preempt.takes == (ir.Take(ir.Action.SHRINK, 1), ir.Take(ir.Action.PAUSE, None))
    assert (p.allocate.kind, p.allocate.depth) == (ir.AllocateKind.BACKFILL, 3)
    assert (p.tick.every, p.tick.on) == (0.02, ("arrival",))
    assert [(g.name, g.action) for g in p.guards] == [("g", ir.GuardAction.FALLBACK)]
    assert (p.fallback.policy, p.fallback.errors, p.fallback.tick) == ("fcfs", 2, 0.005)
    assert {"slack", "tier", "queued", "next"} <= p.uses


def test_a_stage_has_its_parts_and_others_follow_it() -> None:
    p = program(CLAUSES)
    denoise = p.stage("denoise")
    assert isinstance(denoise.degree, ir.ChosenDegree)
    assert denoise.degree.degrees == (1, 2, 4)
    assert [link.pick.value for link in denoise.degree.alternatives] == ["smallest", "minimizing", "wait"]
    assert denoise.grow is not None
    assert denoise.grow.where is not None
    assert denoise.grow.where.level is Level.PAIR
    assert denoise.hold is not None
    assert (denoise.hold.seconds, denoise.sticky, denoise.prefer, denoise.reserve) == (2.0, 0.05, ("pack",), 0.3)
    assert [(s.stage, s.follows) for s in p.stages] == [
        ("encode", ""),
        ("prepare", "denoise"),
        ("timesteps", "denoise"),
        ("denoise", ""),
        ("decode", ""),
        ("finalize", "decode"),
    ]
    assert p.stage("prepare").degree == denoise.degree
    assert denoise.degree.alternatives[1].clause.id == "stage.denoise.sp.2"


def test_params_are_replaced_by_text_or_number() -> None:
    by_text, by_number = (program(CLAUSES, params={"lift": value}) for value in ("1.5min", 90))
    assert by_text.aging is not None
    assert by_text.aging.every == 90.0
    assert by_text == by_number
    assert by_text.sha == by_number.sha != program(CLAUSES).sha
    (param,) = by_text.params
    assert (param.value, param.default, param.low, param.high, param.type) == (90.0, 45.0, 5.0, 600.0, DUR)


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({"lft": "1s"}, "N101]: policy has no param `lft` (did you mean `lift`?)"),
        ({"lift": "1s"}, "V404]: `lift=1s` is outside the range of the param"),
        ({"lift": "3 gpu"}, "U205]: param `lift` takes a duration, found a gpu count"),
        ({"lift": "age"}, "N105]: `age` means nothing in a constant"),
        ({"lift": "1s order by age"}, "T302]: param `lift` takes duration"),
        ({"lift": True}, "T302]: param `lift` takes duration"),
        ({"lift": float("nan")}, "T302]: param `lift` takes duration"),
    ],
)
def test_a_wrong_param(params: dict[str, object], wanted: str) -> None:
    lines = findings(CLAUSES, params=params)
    assert any(wanted in line for line in lines), lines


def test_a_text_param_with_a_zero_or_false_value_counts() -> None:
    text = "param yes: bool = true\nparam n: num = 3\nlet x = if yes then n else 1\norder by x, arrival\n" + STAGES
    p = program(text, params={"yes": "false", "n": 0})
    assert [param.value for param in p.params] == [False, 0.0]
    assert p.let("x").value == ir.Const(1.0, NUM, ir.Span(0, 0))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("order by sp, arrival\norder by age\n" + STAGES, "N106]: `order` is given twice (the first is in line 2)"),
        ("param age: dur = 1s\n" + REST, "N106]: `age` is a built-in name"),
        ("param a: dur = 1s\nlet a = 1\n" + REST, "N106]: name `a` is declared twice"),
        ("param a: dur = age\n" + REST, "N105]: `age` means nothing in a constant"),
        ("let b = c\nlet c = 1\n" + REST, "N101]: unknown name `c`"),
        ("let a = sp\n" + REST, "N105]: `sp` means nothing in a `let`"),
        ("class a when age > 3s { rank 1 }\n" + REST, "N105]: `age` means nothing in a class rule"),
        ("class a otherwise { rank 1.5 }\n" + REST, "V404]: a rank is a whole number"),
        ("class a otherwise { slo 0s }\n" + REST, "V404]: `slo` must be above zero"),
        ("guard g: age < 3s else alert\n" + REST, "N105]: `age` means nothing in a condition on the whole system"),
        ("guard g: slack(4 gpu) < 3s else alert\n" + REST, "N105]: `slack` varies by request"),
        ("let l = age\nguard g: l < 3s else alert\n" + REST, "N105]: `l` varies by request"),
        ("guard g: queued(ui) < 3 else alert\n" + REST, "N103]: unknown class `ui`"),
        ("admit { degrade to stps = 3 step }\n" + REST, "N104]: unknown knob `stps` (did you mean `steps`?)"),
        ("admit { degrade to steps = 3 }\n" + REST, "U205]: knob `steps` takes a step count, found a number"),
        ("preempt for ui from any do pause\n" + REST, "N103]: unknown class `ui`"),
        ("preempt for any from any do shrink\n" + REST, "T301]: `shrink` needs a degree"),
        ("preempt for any from any do pause limit 1.5 per 1s\n" + REST, "V404]: `limit` takes a whole number"),
        ("preempt for any from any do migrate to 1 gpu\n" + REST, "T301]: `migrate` takes no `to`"),
        (
            "mode busy when age > 3s until late\n" + REST,
            "N105]: `age` means nothing in a condition on the whole system",
        ),
        ("mode busy when load > 1 for 3 until load < 1\n" + REST, "U205]: `for` takes a duration, found a number"),
        ("mode rush when rush until load < 1\n" + REST, "N101]: unknown name `rush`"),
        ("mode gpus when load > 1 until load < 1\n" + REST, "N106]: `gpus` is a built-in name"),
        ("mode busy when load > 1 until load <= 2\n" + REST, "L507]: mode `busy` has no gap"),
        ("mode idle when load < 1 until load > 1\n" + REST, "L507]: mode `idle` has no gap"),
        ("mode busy when load > 120% until load < 90%\n" + REST, "L508]: mode `busy` is never used"),
        ("state x: num = 0 next x + 1s\n" + REST, "U201]: cannot add duration to number"),
        ("state x: num = 0 next 1s\n" + REST, "U205]: state `x` takes a number, found a duration"),
        ("state x: bool = true next true\n" + REST, "T303]: unknown type `bool`"),
        ("state x: num = 9 within 0 .. 1 next x\n" + REST, "V404]: `9` is outside `0 .. 1`"),
        ("state x: num = 0 next age / 1s\n" + REST, "N105]: `age` means nothing in a condition on the whole system"),
        ("state x[class]: num = 0 next x\n" + REST, "N105]: this policy has no classes"),
        (
            "class a otherwise { rank 0 }\nstate x[model]: num = 0 next x\n" + REST,
            "N105]: a state has one value for each",
        ),
        ("class a otherwise { rank 0 }\nstate x[class]: num = 0 next age / 1s\n" + REST, "N105]: `age` means nothing"),
        (
            "class a otherwise { rank 0 }\nstate x[class]: num = 0 next slack(4 gpu) / 1s\n" + REST,
            "N105]: `slack` varies by request, which means nothing in the next value of a state",
        ),
        (
            "class a otherwise { rank 0 }\nstate x[class]: num = 0 next x\nguard g: x < 3 else alert\n" + REST,
            "N105]: `x` varies by request",
        ),
        ("let a = ewma(age, 20%)\n" + REST, "N105]: `ewma` takes a number of the whole system"),
        ("let a = ewma(load, 0%)\n" + REST, "V404]: the weight of `ewma` is a ratio above 0%"),
        ("let a = ewma(load, 2s)\n" + REST, "U205]: the weight of `ewma` takes a number"),
        ("allocate knapsack maximizing late\n" + REST, "T302]: a knapsack adds numbers up, found condition"),
        ("allocate knapsack maximizing weight\n" + REST, "L503]: the value is the same for every degree"),
        (
            "allocate knapsack maximizing gain(next)\n" + REST,
            "N105]: `next` means nothing in the value of an allocation",
        ),
        ("pool aux = 2 gpu\n" + REST, "A604]: no pool takes the rest of the cluster"),
        ("pool a = rest\npool b = rest\n" + REST, "A604]: a second pool of the rest"),
        ("pool a = 1500ms\npool b = rest\n" + REST, "U205]: the size of a pool takes a gpu count"),
        ("pool a = rest\n" + REST, "A603]: stage says no pool"),
        (
            "pool a = rest\norder by arrival\nstage encode, denoise, decode on b { sp fixed 1 gpu }",
            "N103]: unknown pool `b` (pools are `a`)",
        ),
        ("order by arrival\nstage encode on b { sp fixed 1 gpu }", "N103]: unknown pool `b` (declare it"),
        ("order by arrival\nstage encode { sp fixed 1 gpu lanes 0 }", "V404]: `lanes` takes a whole number"),
        (
            "pool a = rest\norder by arrival\nstage encode on a { sp fixed 1 gpu spill to a when load > 1 }",
            "N105]: a stage cannot spill to its own pool",
        ),
        ("guard g: free(gpus) > 0 gpu else alert\n" + REST, "N103]: unknown pool `gpus`"),
        (
            "pool a = rest\nresize a by 1 gpu when load > 1 within 1 gpu .. 2 gpu\n" + REST,
            "N105]: pool `a` is the rest of the cluster",
        ),
        (
            "pool a = rest\npool b = 2 gpu\nresize b by 1 gpu when load > 1 within 3 gpu .. 1 gpu\n" + REST,
            "A604]: the bounds of `resize` cross",
        ),
        (
            "pool a = rest\npool b = 9 gpu\nresize b by 1 gpu when load > 1 within 1 gpu .. 6 gpu\n" + REST,
            "A604]: pool `b` begins with 9 gpu, outside these bounds",
        ),
        (
            "pool a = rest\npool b = 2 gpu\nresize b by 0 gpu when load > 1 within 1 gpu .. 6 gpu\n" + REST,
            "V404]: `by` takes a whole number of GPUs, not 0",
        ),
        ("tick on moon\n" + REST, "N104]: unknown trigger `moon`"),
        ("fallback p after 3 errors\n" + REST, "N103]: a policy cannot fall back to itself"),
        ("aging every 0s raise 1\n" + REST, "V404]: `aging every` must be above zero"),
        ("aging every age raise 1\n" + REST, "N105]: `age` means nothing in a constant"),
        ("order by arrival\nstage denoise { hold until done }", "A603]: stage says no degree"),
        ("order by arrival\nstage denoise { sp fixed 1 gpu grow by order }", "N105]: `grow` has no degrees"),
        ("order by arrival\nstage denoise { sp fixed 0 gpu }", "V404]: a degree is a whole number of GPUs"),
        ("order by arrival\nstage denoise { sp in {0, 1} gpu smallest }", "V404]: a degree is a whole number of GPUs"),
        ("order by arrival\nstage denoise { sp fixed 1 gpu sp fixed 2 gpu }", "N106]: `sp` is given twice"),
        ('test "t" { expect b.sp == 1 gpu }\n' + REST, "N101]: unknown request `b`"),
        ('test "t" { request a { deadlin = 3s } }\n' + REST, "N104]: unknown field `deadlin` (did you mean"),
        ('test "t" { request a { stage = "denoi" } }\n' + REST, "N103]: unknown stage `denoi`"),
        ("order by deadline\n" + STAGES, "L501]: order is not total"),
        ("admit { accept reject }\n" + REST, "L502]: rule can never match"),
        (
            "order by arrival\nstage denoise { sp in {1} gpu smallest else largest }",
            "L502]: alternative can never match",
        ),
        ("order by arrival\nstage denoise { sp in {1} gpu minimizing age }", "L503]: `minimizing` compares the same"),
        ("let a = age < age\norder by a, arrival\n" + STAGES, ""),
        ("admit { reject when age < age }\n" + REST, "L503]: both sides are the same"),
    ],
)
def test_a_wrong_clause(text: str, wanted: str) -> None:
    assert any(wanted in line for line in findings(text)) or not wanted, findings(text)


def test_a_policy_without_order_or_stages_says_what_to_write() -> None:
    assert findings("fallback builtin.fcfs after 3 errors") == [
        "1:1: error[A603]: no clause for stage `encode`, `denoise` and `decode` "
        "(such as `stage encode, denoise, decode { sp fixed 1 gpu }`)",
        "1:1: info[L501]: no `order`: requests go by `arrival` (write `order by arrival`)",
    ]


def test_one_mistake_gives_one_finding() -> None:
    """A value that is wrong poisons what is built on it, silently."""
    text = "let a = deadlin\nlet b = a + 3s\norder by b < a, max(a, b), -a\n" + STAGES
    assert [line.split("]")[0] for line in findings(text)] == ["2:9: error[N101", "4:1: info[L501"]
    lost = "param a: dur 30s\nlet b = a + 3s\norder by a, b, arrival\n" + STAGES
    assert [line.split("]")[0] for line in findings(lost)] == ["2:14: error[P001"]


FIVE = """policy five version 1 "Five planted mistakes"
order by deadlin, arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise {
\tsp in {1, 2, 4} gpu smalest where finish(sp) <= deadline
\tsticky 10s
}
preempt for any when remaining(sp_best) > deadline from any do pause
guard g: count(where waitng) < 3 else alert
"""


def test_a_file_with_five_mistakes_shows_all_five() -> None:
    source = Source(FIVE, "five.pol")
    found = check(source, schema()).diagnostics
    assert [(item.code, source.slice(item.span)) for item in found] == [
        ("N101", "deadlin"),
        ("P001", "smalest"),
        ("U205", "10s"),
        ("U204", "remaining(sp_best) > deadline"),
        ("N101", "waitng"),
    ]
    text = render(found)
    assert text.count("-->") == 5
    assert text.splitlines()[7:13] == [
        "error[P001]: unexpected `smalest`",
        " --> five.pol:5:22",
        "  |",
        "5 |     sp in {1, 2, 4} gpu smalest where finish(sp) <= deadline",
        "  |                         ^^^^^^^",
        "  = help: did you mean `smallest`?",
    ]


def test_the_size_of_the_cluster_is_checked_when_known() -> None:
    text = "order by arrival\nstage encode, decode { sp fixed 1 gpu }\nstage denoise { sp in {1, 16} gpu smallest }"
    assert [line.split("]")[0] for line in findings(text, gpus=8)] == ["4:27: warning[A602"]
    fixed = "order by arrival\nstage encode, decode, denoise { sp fixed if late then 16 gpu else 1 gpu }"
    assert [line.split("]")[0] for line in findings(fixed, gpus=8)] == ["3:55: error[A601"]
    assert findings(text) == findings(fixed) == []


@pytest.mark.parametrize("name", library.names())
def test_shipped_policies_are_clean(name: str) -> None:
    path = library.shipped_policy(name)
    checked = check(Source(path.read_text("utf-8"), path.name), schema(), policies=library.fallback_names(path))
    assert checked.diagnostics == ()
    assert checked.program is not None
    assert checked.program.name == name
    assert checked.program.tests


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    for text in ("(" * 3000 + "1" + ")" * 3000, "1" + " + 1" * 3000, "not " * 3000 + "late"):
        checked = run(f"let a = {text}\norder by a, arrival\n" + STAGES)
        assert checked.program is None or text.startswith("(")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies)
def test_any_tree_is_judged_without_a_crash(tree: nodes.Policy) -> None:
    checked = check(Source(format_tree(tree)), schema(), gpus=4)
    assert (checked.program is None) == any(item.is_error for item in checked.diagnostics)


def test_checking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gfdit.lang import check, Source; from gfdit.policy.vocabulary import schema; "
        "check(Source('policy p version 1'), schema()); "
        "print([m for m in ('torch', 'numpy', 'rich', 'lark', 'zmq', 'pydantic', 'diffusers') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
