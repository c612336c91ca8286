"""Rules that can never match, conditions that are always the same, divisors that can be zero, states and gaps."""

from __future__ import annotations

import pytest

from gfdit.lang import Source, check, render
from gfdit.policy.vocabulary import schema

STAGES = "stage encode, denoise, decode { sp fixed 1 gpu }\n"
REST = "order by deadline, arrival\n" + STAGES
CLASSES = 'class ui when tag == "ui" { rank 0 }\nclass batch otherwise { rank 1 }\n'


def findings(text: str, gpus: int | None = None) -> list[str]:
    checked = check(Source('policy p version 1 "t"\n' + text, "p"), schema(), gpus=gpus)
    assert checked.ok, render(checked.diagnostics)
    return [item.removeprefix("p:") for item in render(checked.diagnostics, style="short").splitlines()]


def admit(*rules: str) -> str:
    return CLASSES + "admit {\n" + "\n".join(rules) + "\n}\n" + REST


@pytest.mark.parametrize(
    "rules",
    [
        ("reject when load > 2", "defer when load > 3"),
        ("reject when load > 2", "defer when load >= 2.5 and class == batch"),
        ("accept when load <= 2", "reject when load > 2", "defer when class == batch"),
        ("reject when class != ui", "defer when class == batch and load > 1"),
        ("reject when class == ui", "accept when class in {ui, batch} and load > 1", "defer when class == ui"),
        ("reject when now + remaining(sp_best) > deadline", "defer when now + remaining(sp_best) > deadline + 2 * slo"),
        ("accept when load < 1 or class == ui", "reject when class == ui"),
        ("accept when load < 1 or class == ui", "reject when load < 50%"),
        ("reject when not (load < 2)", "defer when load > 4"),
        ("reject when tokens > 100 tok and load > 1", "defer when load > 2 and tokens > 200 tok"),
        ("reject when age * 2 > 4s", "defer when age > 2s"),
    ],
)
def test_a_rule_that_an_earlier_one_implies(rules: tuple[str, ...]) -> None:
    """Its condition cannot hold where none of those before it has matched."""
    last = f"{4 + len(rules) + 0}:1: warning[L502]: rule can never match"
    assert [line[: len(last)] for line in findings(admit(*rules))] == [last]


@pytest.mark.parametrize(
    "rules",
    [
        ("reject when load > 3", "defer when load > 2"),
        ("reject when load > 2 and class == batch", "defer when load > 3"),
        ("reject when load > 2", "degrade when load > 1 to steps = steps * 70%", "accept"),
        ("reject when remaining(sp_best) > 3s", "degrade to steps = 4 step", "reject when remaining(sp_best) > 3s"),
        ("reject when load >= 2", "defer when load > 1 or class == batch"),
        ("reject when queued(batch) >= 500", "reject when queued(ui) >= 600"),
        ("reject when class == batch and queued(batch) >= 500", "reject when class == ui and queued(batch) >= 600"),
        ("accept when load < 1 or class == ui", "reject when load < 2"),
        ("reject when now + remaining(sp_best) > deadline + slo", "defer when now + remaining(sp_best) > deadline"),
    ],
)
def test_rules_that_may_match_are_left_alone(rules: tuple[str, ...]) -> None:
    assert findings(admit(*rules)) == []


def test_classes_and_alternatives_too() -> None:
    classes = (
        'class a when tag in {"x", "y"} { rank 0 }\nclass b when tag == "y" { rank 1 }\nclass c otherwise { rank 2 }\n'
    )
    assert [line.split(":")[0] for line in findings(classes + REST)] == ["3"]
    chain = "sp in {1, 2} gpu smallest where finish(sp) <= deadline else {} where finish(sp) <= deadline - 1s else wait"
    text = (
        "order by deadline, arrival\nstage encode, denoise, decode { "
        + chain.replace("{} where", "largest where")
        + " }"
    )
    (line,) = findings(text)
    assert "L502]: alternative can never match: wherever it holds" in line
    assert findings(text.replace("deadline - 1s", "deadline + 1s")) == []


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("age >= 0s", "L503]: condition is always true (`age` is never below 0s)"),
        ("age < 0s", "L503]: condition is always false (`age` is never below 0s)"),
        ("load > 1 and load > 0", "L503]: condition is always true here: what stands before it decides it"),
        ("load > 2 and load < 1", "L503]: condition is always false"),
        ('tag == "a" and tag == "b"', "L503]: condition is always false"),
        ("miss <= 100% or load > 2", "L503]: condition is always true"),
        ("2 > 1", "L503]: condition is always the same (leave it out)"),
        ("age < age", "L503]: both sides are the same"),
        ("waiting and not waiting", "L503]: condition is always false"),
        ("arrival <= now", "L503]: condition is always true"),
        ("load > 1 or load <= 1", "L503]: condition is always true"),
        ("waiting or not waiting", "L503]: condition is always true"),
        ("(if load > 1 then 1 else 2) > 0", "L503]: condition is always true"),
    ],
)
def test_a_condition_that_is_always_the_same(condition: str, wanted: str) -> None:
    found = findings(admit(f"reject when {condition}"))
    assert any(wanted in line for line in found), found


def test_the_else_of_an_if_is_known_too() -> None:
    text = "order by if load > 2 then 1 else if load > 3 then 2 else 3, arrival\n" + STAGES
    (line,) = findings(text)
    assert "2:37: warning[L503]: condition is always false here" in line
    assert findings(text.replace("load > 3", "load > 1")) == []


def test_sp_is_never_0_where_a_degree_is_chosen_and_may_be_elsewhere() -> None:
    fixed = (
        "order by deadline, arrival\nstage encode, denoise, decode { sp fixed if sp == 0 gpu then 1 gpu else 2 gpu }\n"
    )
    assert findings(fixed) == []
    chosen = fixed.replace(
        "sp fixed if sp == 0 gpu then 1 gpu else 2 gpu", "sp in {1, 2} gpu smallest where sp > 0 gpu"
    )
    assert ["L503]: condition is always true" in line for line in findings(chosen)] == [True]
    value = "allocate knapsack maximizing if sp == 0 gpu then 0 else 1 gpu / sp\n"
    assert findings(value + REST) == []
    assert ["V402" in line for line in findings("order by 1 gpu / sp, arrival\n" + STAGES)] == [True]


def test_lets_params_and_modes_are_seen_through() -> None:
    text = "param most: num = 3 within 1 .. 5\nlet crowded = load > most\n"
    assert findings(text + "order by if crowded and load > 0.5 then 0 else 1, arrival\n" + STAGES) == [
        "4:25: warning[L503]: condition is always true here: what stands before it decides it"
    ]
    assert findings(text + "order by if crowded and load > 4 then 0 else 1, arrival\n" + STAGES) == []
    mode = "mode busy when load > 2 until load < 1\n"
    assert findings(mode + "order by if busy and load > 0.5 then 0 else 1, arrival\n" + STAGES) == []


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (
            "age / steps_left",
            "V402]: divisor `steps_left` can be zero (write `max(steps_left, 1 step)`, or test it first)",
        ),
        ("age / share", "V402]: divisor `share` can be zero (give it a range without 0, with `within`)"),
        ("age / free", "V402]: divisor `free` can be zero (write `max(free, 1 gpu)`, or test it first)"),
        ("alone / waited", "V402]: divisor `waited` can be zero (write `max(waited, 1ms)`, or test it first)"),
        ("age / (load - 1)", "V402]: divisor `load - 1` can be zero (test it first"),
        (
            "age / count(where late)",
            "V402]: divisor `count(where late)` can be zero (write `max(count(where late), 1)`",
        ),
        ("if load > 1 then age / free else age / 1 gpu", "V402]: divisor `free` can be zero"),
    ],
)
def test_a_divisor_that_can_be_zero(value: str, wanted: str) -> None:
    text = f"param share: num = 1 within 0 .. 2\nlet x = {value}\norder by x, share, arrival\n"
    found = findings(text + STAGES)
    assert any(wanted in line for line in found), found


@pytest.mark.parametrize(
    "value",
    [
        "age / alone",
        "age / max(steps_left, 1 step)",
        "1 step / (step_time(sp_best) * sp_best)",
        "if free > 0 gpu then age / free else age / 1 gpu",
        "if free == 0 gpu then age / 1 gpu else age / free",
        "if load > 1 and age / load > 2s then 1 else 2",
        "mean(age / (1s + waited) where waiting)",
        "max(lateness, 0s) / slo",
    ],
)
def test_a_divisor_that_cannot(value: str) -> None:
    assert [line for line in findings(f"let x = {value}\norder by x, arrival\n{STAGES}") if "L50" not in line] == []


@pytest.mark.parametrize(
    ("recurrence", "wanted"),
    [
        ("x + 1", "V403]: state `x` can only rise: it ends at the upper end of its range"),
        ("x - load", "V403]: state `x` can only fall: it ends at the lower end of its range"),
        ("load * 2", "V403]: state `x` can leave `0 .. 80`: it is clamped"),
        ("x * 2", "V403]: state `x` can leave `0 .. 80`: it is clamped"),
        ("clamp(load, 0, 80)", ""),
        ("50% * x + 40 * min(load, 1)", ""),
        ("x + 4 * (ewma(mean(max(lateness, 0s) / alone), 20%) - 5%)", ""),  # both ways: held by its range
        ("x + 0", ""),
    ],
)
def test_a_state_that_leaves_its_range(recurrence: str, wanted: str) -> None:
    text = f"state x: num = 0 within 0 .. 80 next {recurrence} every 1s\norder by if x > 3 then 0 else 1, arrival\n"
    found = findings(text + STAGES)
    assert [wanted in line for line in found] == ([True] if wanted else [])
    assert findings(text.replace(" within 0 .. 80", "") + STAGES) == []


POOLS = "pool a = 2 gpu\npool b = rest\norder by arrival\nstage encode, decode on a {{ sp fixed 1 gpu }}\n{}"
USED = "guard g: free(b) < 9 gpu or free(a) < 9 gpu else alert\n"
DENOISE = "stage denoise on b { sp fixed 1 gpu }\n"


@pytest.mark.parametrize(
    ("up", "down", "found"),
    [
        ("load > 1", "load < 1", True),
        ("load > 1", "load < 2", True),
        ("load > 2", "load < 1", False),
        ("backlog(a) > 3s", "busy(a) < 40%", False),  # other values: nothing can be said
        ("load > 1 and busy(a) > 50%", "load < 2", True),
        ("load > 1 and busy(a) > 50%", "load < 2 and busy(a) < 40%", False),
        ("not (load < 1)", "1 >= load", True),
    ],
)
def test_resizes_without_a_gap(up: str, down: str, found: bool) -> None:
    both = f"resize a by 1 gpu when {up} within 1 gpu .. 6 gpu\nresize a by -1 gpu when {down} within 1 gpu .. 6 gpu\n"
    lines = findings(POOLS.format(DENOISE + both))
    assert [("L507]: pool `a` is told to grow and to shrink" in line) for line in lines] == ([True] if found else [])


@pytest.mark.parametrize(
    ("on", "off", "found"),
    [
        ("load > 1 and queued(any) > 3", "load < 2", True),
        ("1 < load", "load < 1", True),
        ("load > 1 or queued(any) > 3", "load < 2", False),
        ("load > 1", "queued(any) == 0", False),
        ("free == 0 gpu", "free >= 0 gpu", True),
    ],
)
def test_modes_without_a_gap(on: str, off: str, found: bool) -> None:
    text = f"mode busy when {on} until {off}\norder by if busy then 0 else 1, arrival\n"
    assert any("L507" in line for line in findings(text + STAGES)) is found


@pytest.mark.parametrize(
    ("stage", "gpus", "wanted"),
    [
        ("stage denoise on a { sp in {1, 2, 4} gpu smallest }", None, "A602]: degree 4 never fits in the pool"),
        ("stage denoise on b { sp in {1, 2, 4, 8} gpu smallest }", 8, "A602]: degree 8 never fits in the pool"),
        ("stage denoise on b { sp in {1, 2, 4} gpu smallest }", 8, ""),
        ("stage denoise on a { sp in {1, 2, 4} gpu smallest spill to b when load > 1 }", 8, ""),
        ("stage denoise on b { sp in {1, 2, 8} gpu smallest }", None, ""),
    ],
)
def test_degrees_and_pools(stage: str, gpus: int | None, wanted: str) -> None:
    found = findings(USED + POOLS.format(stage), gpus)
    assert [wanted in line for line in found] == ([True] if wanted else [])


def test_an_allocation_larger_than_its_pool_is_an_error() -> None:
    for degrees in ("sp fixed 4 gpu", "sp in {4, 8} gpu smallest"):
        text = USED + POOLS.format(f"stage denoise on a {{ {degrees} }}")
        checked = check(Source('policy p version 1 "t"\n' + text), schema())
        assert [item.code for item in checked.diagnostics] == ["A601"]
    resized = text + "\nresize a by 1 gpu when load > 1 within 1 gpu .. 4 gpu"
    assert [item.code for item in check(Source('policy p version 1 "t"\n' + resized), schema()).diagnostics] == ["A602"]


def test_lets_that_open_into_lets_cost_little() -> None:
    """Each opens twice into the one before: nobody may follow them all."""
    lets = "let a0 = load > 1\n" + "".join(f"let a{n} = a{n - 1} and not a{n - 1}\n" for n in range(1, 300))
    checked = check(
        Source(f'policy p version 1 "t"\n{lets}order by if a299 then 0 else 1, arrival\n{STAGES}'), schema()
    )
    assert checked.ok
