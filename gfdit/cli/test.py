"""`gfdit test`: the tests of policies, what they expected and what they got, and which clauses they have tried."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.cli.findings import known_format
from gfdit.errors import UsageError

if TYPE_CHECKING:
    from gfdit.policy.coverage import Covered
    from gfdit.policy.suite import Suite
    from gfdit.policy.testing import Decided, Failure, TestResult


@dataclass(frozen=True, slots=True)
class Tested:
    """One policy, the results of its tests, and how far they reach."""

    suite: Suite
    results: tuple[TestResult, ...]
    clauses: tuple[Covered, ...]

    @property
    def failed(self) -> int:
        return sum(not result.passed for result in self.results)

    @property
    def evaluated(self) -> int:
        return sum(clause.evaluated for clause in self.clauses)

    @property
    def outcomes(self) -> tuple[int, int]:
        """Outcomes that were seen, and that there are."""
        seen = sum((clause.true > 0) + bool(clause.false) for clause in self.clauses)
        return seen, sum(1 if clause.false is None else 2 for clause in self.clauses)

    @property
    def percent(self) -> float:
        return 100.0 * self.evaluated / len(self.clauses) if self.clauses else 100.0


def test(
    policies: Annotated[list[str], typer.Argument(metavar="POLICY...", help="Files, folders or shipped names.")],
    format_: Annotated[str, typer.Option("--format", help="pretty, short, json, github or junit.")] = "pretty",
    json_: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    min_coverage: Annotated[
        float, typer.Option(min=0, max=100, help="Exit 1 when fewer percent of all clauses were tried.")
    ] = 0.0,
) -> None:
    """Run the tests of policies: their `test` blocks, and those in NAME_test.pol beside NAME.pol."""
    style = known_format("json" if json_ else format_)
    tested = [_run(name) for name in policy_names(policies)]
    percent = _percent(tested)
    match style:
        case "json":
            _print_json(tested, percent)
        case "junit":
            print(_junit(tested))
        case "github":
            _print_github(tested, percent)
        case _:
            _print_text(tested, style == "pretty")
            if percent < min_coverage:
                print(f"{percent:.0f} % of all clauses were tried, expected {min_coverage:g} %")
    if percent < min_coverage or any(one.failed for one in tested):
        raise typer.Exit(1)


def _percent(tested: list[Tested]) -> float:
    """How many of the clauses of all policies were tried."""
    clauses = sum(len(one.clauses) for one in tested)
    return 100.0 * sum(one.evaluated for one in tested) / clauses if clauses else 100.0


def policy_names(policies: list[str]) -> list[str]:
    """A folder stands for the policies in it."""
    from gfdit.policy.library import policies_in

    names: list[str] = []
    for name in policies:
        if not Path(name).is_dir():
            names.append(name)
        elif inside := policies_in(Path(name)):
            names += map(str, inside)
        else:
            raise UsageError(f"no policies in folder `{name}`", hint="policy files end in .pol")
    return names


def _run(name: str) -> Tested:
    from gfdit.policy.coverage import Coverage
    from gfdit.policy.suite import load_suite
    from gfdit.policy.testing import run_tests

    suite = load_suite(name)
    coverage = Coverage(suite.policy.program)
    results = run_tests(suite.policy, coverage=coverage)
    return Tested(suite, results, coverage.clauses())


# ---- text -----------------------------------------------------------------------------------------------------------


def _print_text(tested: list[Tested], pretty: bool) -> None:
    for one in tested:
        if pretty:
            _print_policy(one)
            continue
        for result in one.results:
            for failure in result.failures:
                file, line = one.suite.place(failure.line)
                print(f"{file}:{line}: {result.title}: expected {failure.text}; found {_found(failure)}")
    tests, failed = sum(len(one.results) for one in tested), sum(one.failed for one in tested)
    print(
        f"{_counted(tests, 'test')} of {_counted(len(tested), 'policy', 'policies')}: {failed or 'none'} failed, "
        f"{_percent(tested):.0f} % of all clauses tried"
    )


def _print_github(tested: list[Tested], percent: float) -> None:
    """An annotation for each failure, and one that says how far the tests reach."""
    from gfdit.lang.render import annotation

    for one in tested:
        for result in one.results:
            for failure in result.failures:
                file, line = one.suite.place(failure.line)
                text = f"expected {failure.text}; found {_found(failure)}"
                decided = "".join(f"\n{item.request}: {_why(item)}" for item in failure.decided)
                print(annotation("error", file, line, result.title, text + decided))
    failed, tests = sum(one.failed for one in tested), sum(len(one.results) for one in tested)
    print(f"::notice title=gfdit test::{tests} tests, {failed} failed, {percent:.0f} %25 of all clauses tried")


def _print_policy(one: Tested) -> None:
    print(one.suite.file)
    wide = max((len(result.title) for result in one.results), default=0)
    for result in one.results:
        file, line = one.suite.place(result.line)
        where = f"line {line}" if file == one.suite.file else f"{file}:{line}"
        print(f"  {'ok  ' if result.passed else 'FAIL'}  {result.title:<{wide}}  {where}")
        for failure in result.failures:
            _print_failure(one, failure)
    seen, outcomes = one.outcomes
    print(
        f"  {one.evaluated} of {_counted(len(one.clauses), 'clause')} tried ({one.percent:.0f} %), "
        f"{seen} of {outcomes} outcomes seen"
    )
    gaps = [clause for clause in one.clauses if clause.gap]
    wide = max((len(clause.id) for clause in gaps), default=0)
    for clause in gaps:
        print(f"    line {clause.line:<3}  {clause.gap:<15}  {clause.id:<{wide}}  {_short(clause.text)}")
    print()


def _print_failure(one: Tested, failure: Failure) -> None:
    """What was expected, then each value that was read beside the clause that decided it."""
    _, line = one.suite.place(failure.line)
    print(f"        expected  {failure.text}  (line {line})")
    decided = {item.request: item for item in failure.decided}
    wide = max((len(f"{name} = {value}") for name, value in failure.values), default=0)
    for name, value in dict(failure.values).items():
        item = decided.get(name.partition(".")[0])
        print(f"        actual    {f'{name} = {value}':<{wide}}  {'' if item is None else _why(item)}".rstrip())


def _why(item: Decided) -> str:
    from gfdit.core.proposal import Because

    if item.because is None:
        return "goes on as it was" if item.degree else "no clause decided"
    if not isinstance(item.because, Because):
        return f"waits: {item.because}"
    values = ", ".join(f"{name} = {value}" for name, value in item.because.values)
    return f"{item.because.clause}, line {item.because.line}" + (f": {values}" if values else "")


def _found(failure: Failure) -> str:
    return ", ".join(f"{name} = {value}" for name, value in failure.values) or "false"


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _counted(count: int, noun: str, many: str = "") -> str:
    return f"{count} {noun if count == 1 else many or noun + 's'}"


# ---- for machines ---------------------------------------------------------------------------------------------------


def _print_json(tested: list[Tested], percent: float) -> None:
    import json

    passed = not any(one.failed for one in tested)
    print(
        json.dumps(
            {"passed": passed, "coverage_percent": round(percent, 1), "policies": [_as_json(one) for one in tested]}
        )
    )


def _as_json(one: Tested) -> dict[str, object]:
    seen, outcomes = one.outcomes
    return {
        "policy": one.suite.policy.name,
        "file": one.suite.file,
        "tests": [_result_as_json(one, result) for result in one.results],
        "coverage": {
            "clauses": len(one.clauses),
            "evaluated": one.evaluated,
            "percent": round(one.percent, 1),
            "outcomes": outcomes,
            "outcomes_seen": seen,
            "gaps": [
                {"clause": clause.id, "line": clause.line, "text": clause.text, "gap": str(clause.gap)}
                for clause in one.clauses
                if clause.gap
            ],
        },
    }


def _result_as_json(one: Tested, result: TestResult) -> dict[str, object]:
    file, line = one.suite.place(result.line)
    return {
        "title": result.title,
        "file": file,
        "line": line,
        "passed": result.passed,
        "expectations": result.expectations,
        "failures": [
            {
                "line": one.suite.place(failure.line)[1],
                "expected": failure.text,
                "actual": dict(failure.values),
                "decided": {item.request: {"sp": item.degree, "by": _why(item)} for item in failure.decided},
            }
            for failure in result.failures
        ],
    }


def _junit(tested: list[Tested]) -> str:
    from xml.etree import ElementTree as Xml

    root = Xml.Element("testsuites")
    for one in tested:
        suite = Xml.SubElement(root, "testsuite", name=one.suite.file, tests=str(len(one.results)))
        suite.set("failures", str(one.failed))
        for result in one.results:
            file, line = one.suite.place(result.line)
            case = Xml.SubElement(suite, "testcase", name=result.title, classname=one.suite.policy.name, file=file)
            case.set("line", str(line))
            for failure in result.failures:
                lines = [_why(item) for item in failure.decided]
                node = Xml.SubElement(case, "failure", message=f"expected {failure.text}; found {_found(failure)}")
                node.text = "\n".join(
                    f"{item.request}: {why}" for item, why in zip(failure.decided, lines, strict=True)
                )
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True)
