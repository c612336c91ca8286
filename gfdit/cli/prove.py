"""`gfdit prove`: what holds of policies in every small world and in random larger ones, and where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from gfdit.core.proposal import Policy
    from gfdit.policy.proving.findings import Finding

DEFAULT_BUDGET = "20s"


@dataclass(frozen=True, slots=True)
class Proof:
    """One policy and what was found of it."""

    policy: Policy
    findings: list[Finding]

    @property
    def refuted(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.counterexample is not None]


def prove(
    policies: Annotated[list[str], typer.Argument(metavar="POLICY...", help="Files, folders or shipped names.")],
    property_: Annotated[
        list[str] | None, typer.Option("--property", metavar="NAME", help="Only this property; may be repeated.")
    ] = None,
    budget: Annotated[str, typer.Option(metavar="TIME", help="For each policy, such as 30s or 5min.")] = DEFAULT_BUDGET,
    seed: Annotated[int, typer.Option(min=0, help="Of the random worlds.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="A bar on stderr, on a terminal.")] = True,
) -> None:
    """Try what must hold of a policy: in every small world, then in random ones until the budget is spent.

    A property that does not hold comes with a world in which it does not, as a test block; the exit code is then 1.
    """
    import sys

    from rich.console import Console
    from rich.progress import Progress

    from gfdit.cli.explain import parse_time
    from gfdit.cli.test import policy_names
    from gfdit.sim.proving import TITLES

    seconds = parse_time(budget, "--budget") / 1e9
    wanted = _wanted(property_ or list(TITLES), tuple(TITLES))
    names = policy_names(policies)
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not (progress and terminal.is_terminal)) as bar:
        proofs = [_prove(name, wanted, seconds, seed, bar) for name in names]
    if json_:
        _print_json(proofs, seconds, seed)
    else:
        for proof in proofs:
            _print(proof, Console(file=sys.stdout, highlight=False))
        refuted = sum(len(proof.refuted) for proof in proofs)
        print(
            f"{len(proofs)} {'policy' if len(proofs) == 1 else 'policies'}, seed {seed}: {refuted or 'nothing'} refuted"
        )
    if any(proof.refuted for proof in proofs):
        raise typer.Exit(1)


def _wanted(names: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    from gfdit.lang.diagnostics import did_you_mean

    for name in names:
        if name not in known:
            hint = " ".join([*did_you_mean(name, known), f"properties are {', '.join(known)}"])
            raise UsageError(f"no property `{name}`", hint=hint)
    return tuple(name for name in known if name in names)


def _prove(name: str, wanted: tuple[str, ...], seconds: float, seed: int, bar: Progress) -> Proof:
    from gfdit.policy.store import load_policy
    from gfdit.sim.proving import prove

    loaded = load_policy(name)
    task = bar.add_task(loaded.name, total=1.0)
    findings = prove(
        loaded.afresh, wanted, seconds=seconds, seed=seed, tell=lambda share: bar.update(task, completed=share)
    )
    bar.remove_task(task)
    return Proof(loaded, findings)


# ---- output ----------------------------------------------------------------------------------------------------------


def _print(proof: Proof, console: object) -> None:
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)
    policy = proof.policy
    table = Table(title=f"{policy.name}@{policy.version} ({policy.sha[:7]})", title_justify="left", box=None)
    table.add_column("property", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("in how many worlds, or why not")
    colours = {"proved": "green", "searched": "yellow", "refuted": "bold red", "not applicable": "dim"}
    for finding in proof.findings:
        status = finding.status.value
        table.add_row(finding.name, f"[{colours[status]}]{status}[/]", _said(finding))
    console.print(table)
    for finding in proof.refuted:
        assert finding.counterexample is not None
        print(f"\n# {finding.name} is refuted: {finding.counterexample.text}")
        print(f"# {_about_test(finding)}")
        print(finding.counterexample.test_block())
    print()


def _said(finding: Finding) -> str:
    if finding.reason:
        return finding.reason
    if finding.counterexample is not None:
        return f"{finding.title}: not in the world below"
    counted = [f"{finding.small:,} small ones{' (of more)' * (finding.status.value == 'searched')}"]
    counted += [f"{finding.searched:,} random ones"] if finding.searched else []
    return f"{finding.title}: {', '.join(counted)}"


def _about_test(finding: Finding) -> str:
    match finding.reproduced:
        case True:
            return "this test fails until the policy is changed"
        case False:
            return "this test does not show it: it depends on the ticks before"
        case None:
            return "this policy has no text; the test shows the world"


def _print_json(proofs: list[Proof], seconds: float, seed: int) -> None:
    import json

    policies = [
        {
            "policy": proof.policy.name,
            "version": proof.policy.version,
            "sha": proof.policy.sha,
            "properties": [_json(finding) for finding in proof.findings],
        }
        for proof in proofs
    ]
    print(json.dumps({"seed": seed, "budget_s": seconds, "policies": policies}))


def _json(finding: Finding) -> dict[str, object]:
    found = finding.counterexample
    shown = {"text": found.text, "test": found.test_block(), "reproduced": finding.reproduced} if found else None
    return {
        "name": finding.name,
        "title": finding.title,
        "status": finding.status.value,
        "small_worlds": finding.small,
        "random_worlds": finding.searched,
        "reason": finding.reason,
        "counterexample": shown,
    }
