"""Loading: names, paths, params, fallbacks, hashes, and the tests that policies bring with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfdit.errors import PolicyError, UsageError
from gfdit.policy import library
from gfdit.policy.builtin import BUILTIN_NAME
from gfdit.policy.store import compile_text, load_policy
from gfdit.policy.testing import run_tests
from tests.policy.texts import CHEAPEST, SINGLE

REST = f"order by arrival\n{SINGLE}\n{CHEAPEST}\n"


@pytest.mark.parametrize("name", library.names())
def test_a_shipped_policy_loads_and_passes_its_own_tests(name: str) -> None:
    policy = load_policy(name)
    assert policy.name == name and policy.program.tests
    for result in run_tests(policy):
        assert result.passed, f"{result.title}: {'; '.join(map(str, result.failures))}"


@pytest.mark.parametrize("name", library.names())
def test_every_chain_of_fallbacks_ends_with_the_builtin(name: str) -> None:
    chain = [load_policy(name)]
    while (fallback := chain[-1].fallback) is not None:
        chain.append(fallback)  # type: ignore[arg-type]
    assert chain[-1].name == "builtin_fcfs"
    assert len({policy.name for policy in chain}) == len(chain)


def test_names_paths_and_suffixes() -> None:
    path = library.shipped_policy("srtf")
    same = {load_policy(name).sha for name in ("srtf", "srtf.pol", str(path))}
    assert len(same) == 1
    assert load_policy(BUILTIN_NAME).fallback is None
    with pytest.raises(UsageError, match="no policy `srft`") as error:
        load_policy("srft")
    assert error.value.hint is not None and "srtf" in error.value.hint


def test_params_change_the_program_and_the_hash() -> None:
    plain, narrow = load_policy("fcfs_static"), load_policy("fcfs_static", {"group": "2 gpu"})
    assert plain.sha != narrow.sha
    assert [param.value for param in narrow.program.params] == [2.0]
    assert load_policy("fcfs_static", {"group": "4 gpu"}).sha == plain.sha
    with pytest.raises(PolicyError, match="outside the range"):
        load_policy("fcfs_static", {"group": "100 gpu"})
    with pytest.raises(PolicyError, match="no param `grup`"):
        load_policy("fcfs_static", {"grup": "2 gpu"})


def test_findings_are_rendered_with_carets() -> None:
    with pytest.raises(PolicyError) as error:
        compile_text("policy p version 1\norder by arrivl\n" + REST.split("\n", 1)[1], "mine.pol")
    assert "mine.pol:2:10" in error.value.message and "^^^^^^" in error.value.message


def test_limits_and_period_come_from_the_text() -> None:
    policy = compile_text(
        "policy p version 3\ntick every 20ms\n" + REST + f"fallback {BUILTIN_NAME} after 5 errors or tick > 2ms"
    )
    assert (policy.limits.errors, policy.limits.tick_s, policy.tick_every_s, policy.version) == (5, 0.002, 0.02, 3)


def test_fallbacks_are_found_beside_the_policy_and_circles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.pol").write_text(f"policy one version 1\n{REST}fallback two", encoding="utf-8")
    (tmp_path / "two.pol").write_text(f"policy two version 1\n{REST}fallback {BUILTIN_NAME}", encoding="utf-8")
    policy = load_policy(str(tmp_path / "one.pol"))
    assert policy.fallback is not None and policy.fallback.name == "two"
    (tmp_path / "two.pol").write_text(f"policy two version 1\n{REST}fallback one", encoding="utf-8")
    with pytest.raises(PolicyError, match="one -> two -> one"):
        load_policy(str(tmp_path / "one.pol"))


TESTED = """policy p version 1
class ui when tag == "ui" { slo 5s rank 0 weight 2 }
class batch otherwise { rank 1 weight 1 }
admit { reject when tokens > 100000 tok because "too large" accept }
order by tier, arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise { sp in {1, 2} gpu smallest where finish(sp) <= deadline else smallest }
aging every 60s raise 1 until tier 0
"""


def failures(body: str) -> list[str]:
    (result,) = run_tests(compile_text(TESTED + 'test "t" {\n' + body + "\n}"))
    return [str(failure) for failure in result.failures]


@pytest.mark.parametrize(
    "body",
    [
        'request a { tag = "ui", stage = denoise, steps_left = 10 step } expect a.sp == 2 gpu and a.class == ui',
        'request a { tag = "ui", slo = 60s, stage = denoise } expect a.sp == 1 gpu and a.deadline == now + 60s',
        "cluster 1 gpu request a { tokens = 200000 tok } expect a.sp == 0 gpu",
        "cluster 1 gpu request a { age = 3s } request b { } expect a.running and b.waiting and free == 0 gpu",
        "cluster 2 gpu request a { sp = 2 gpu, running = true } request b { stage = denoise } expect b.sp == 0 gpu",
        "request a { arrival = now - 2s, steps_total = 30 step, steps_done = 10 step } expect a.steps_left == 20 step",
    ],
)
def test_inline_tests_that_hold(body: str) -> None:
    assert failures(body) == []


def test_time_passes_in_inline_tests() -> None:
    body = """cluster 1 gpu
      request slow { age = 1s, stage = denoise, steps_left = 100 step }
      request later { stage = denoise }
      expect slow.sp == 1 gpu
      at 5s
      request ui { tag = "ui", stage = denoise, steps_left = 4 step }
      expect slow.steps_left == 92 step and later.waited == 5s and ui.sp == 1 gpu and slow.sp == 0 gpu
      at 60s
      expect later.tier == 0 and slow.waited >= 55s"""
    assert failures(body) == []


def test_a_failed_expectation_tells_what_it_read() -> None:
    (found,) = failures("cluster 1 gpu request a { stage = denoise } expect a.sp == 2 gpu")
    assert found == "line 10: expected a.sp == 2 gpu; found a.sp = 1"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("request a { tier = 1 }", "cannot set `tier`"),
        ("request a { tokens = 200000 tok } expect a.tokens > 1 tok", "was not admitted"),
        ("request a { } at 5s at 3s", "goes back"),
    ],
)
def test_worlds_that_cannot_be(body: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        failures(body)
