"""`gfdit check`, `gfdit fmt` and the lookup of shipped policies."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gfdit.cli.app import main
from gfdit.errors import UsageError
from gfdit.policy import library
from gfdit.policy.cluster import Cluster, load_cluster

GOOD = 'policy mine version 1 "t"\n\norder by arrival\nstage encode, denoise, decode { sp fixed 1 gpu }\n'
BAD = GOOD.replace("arrival", "arival")


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def test_check_says_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "mine.pol", GOOD)
    assert main(["check", path]) == 0
    assert capsys.readouterr().out == f"{path}: ok\n"
    assert main(["check", path, "slo.pol", "fcfs"]) == 0
    assert capsys.readouterr().out == "3 policies: ok\n"


def test_check_shows_findings_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "mine.pol", BAD)
    assert main(["check", path]) == 1
    out = capsys.readouterr().out
    assert "error[N101]: unknown name `arival`" in out
    assert out.endswith(f"{path}: 1 error, 1 info\n")
    assert main(["check", "--format", "json", str(tmp_path)]) == 1
    assert [item["code"] for item in json.loads(capsys.readouterr().out)] == ["L501", "N101"]


def test_check_takes_params_and_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "slo", "--set", "age_step=30s", "--format", "short"]) == 0
    assert main(["check", "slo", "--set", "age_step=1h"]) == 1
    assert main(["check", "slo", "--set", "age_step"]) == 2
    assert main(["check", "slo", "--gpus", "2"]) == 0
    assert main(["check", "slo", "--gpus", "2", "--strict"]) == 1
    assert "degree 8 never fits in 2 gpu" in capsys.readouterr().out


def test_check_knows_neighbours_as_fallbacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "mine.pol", GOOD + "fallback other after 3 errors\n")
    assert main(["check", path]) == 1
    write(tmp_path, "other.pol", GOOD)
    assert main(["check", path]) == 0


def test_bad_usage_is_2_and_bad_files_are_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "slow.pol"]) == 2
    assert "did you mean `slo`?" in capsys.readouterr().err
    assert main(["check", "--format", "xml", "slo"]) == 2
    assert main(["check", str(tmp_path)]) == 2
    binary = tmp_path / "b.pol"
    binary.write_bytes(b"policy \xff")
    assert main(["check", str(binary)]) == 1
    assert "not UTF-8 text (byte 7)" in capsys.readouterr().err


def test_fmt_writes_shows_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "mine.pol", GOOD.replace(" by ", "   by "))
    assert main(["fmt", "--check", path]) == 1
    assert capsys.readouterr().out == f"would reformat {path}\n"
    assert main(["fmt", "--diff", path]) == 1
    assert "+order by arrival\n" in capsys.readouterr().out
    assert main(["fmt", path]) == 0
    assert Path(path).read_text("utf-8") == GOOD
    assert main(["fmt", "--check", str(tmp_path)]) == 0
    assert main(["fmt", write(tmp_path, "bad.pol", "policy order")]) == 1
    assert main(["fmt", "nowhere.pol"]) == 2


def test_fmt_takes_files_of_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '# first\ntest "one" {\n  cluster 2 gpu\n}\n'
    path = write(tmp_path, "mine_test.pol", text.replace("cluster 2", "cluster   2"))
    assert main(["fmt", str(tmp_path)]) == 0
    assert Path(path).read_text("utf-8") == text
    write(tmp_path, "mine_test.pol", text.replace("cluster 2", "cluser 2"))
    assert main(["fmt", path]) == 1
    assert f"{path}:3:3: error[P001]: unexpected `cluser`" in capsys.readouterr().err


def test_a_file_of_tests_belongs_to_its_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "mine.pol", GOOD)
    assert main(["check", write(tmp_path, "mine_test.pol", 'test "t" { cluster 1 gpu }')]) == 2
    assert "holds the tests of `mine.pol`" in capsys.readouterr().err


CLUSTER = """\
nodes = [8, 4]
gpu_mem = "24 GiB"
requests = 500

[models.large]
1 = "40 GiB"
2 = "30 GiB"
8 = "9 GiB"
"""


def test_check_against_a_cluster_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = write(tmp_path, "cluster.toml", CLUSTER)
    narrow = GOOD.replace("sp fixed 1 gpu", "sp in {1, 2, 16} gpu smallest")
    path = write(tmp_path, "mine.pol", narrow + "fallback builtin.fcfs after 3 errors or tick > 10us\n")
    assert main(["check", path, "--cluster", cluster, "--json"]) == 1
    found = {item["code"]: item for item in json.loads(capsys.readouterr().out)}
    assert set(found) == {"A602", "A605", "C701"}
    assert found["A605"]["help"] == ["it fits at degree 8"]
    assert "above its limit of 10 us, with 500 requests on 12 gpu" in found["C701"]["message"]
    assert len(found["C701"]["help"]) == 3
    assert main(["check", "edf_best_fit", "--cluster", cluster]) == 0
    assert main(["cost", "edf_best_fit", "--cluster", cluster, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["requests"], result["gpus"]) == (500, 12)
    assert main(["check", "fcfs", "--cluster", cluster, "--gpus", "8"]) == 2
    as_json = tmp_path / "cluster.json"
    as_json.write_text('{"gpus": 12, "gpus_per_node": 8, "gpu_mem": 25769803776}', "utf-8")
    assert load_cluster(as_json) == Cluster((8, 4), gpu_mem=24 * 2.0**30)


def test_a_cluster_file_may_name_a_cost_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    denoise = {"1": {"quadratic_s": [0, 0, 1], "quadratic_bytes": [0, 1e6, 9e9]}}
    denoise["2"] = {"quadratic_s": [0, 0, 1], "points_bytes": [[1000, 5e9], [2000, 8e9]]}
    stages = {"denoise": {"x": "tokens", "per": "step", "degrees": denoise}}
    cost = {"format": "gfdit-cost/1", "name": "made", "models": {"m": {"stages": stages}}}
    write(tmp_path, "made.cost.json", json.dumps(cost | {"gpu_memory_bytes": 8e9}))
    cluster = write(tmp_path, "c.toml", 'gpus = 4\ncost = "made.cost.json"\n')
    assert main(["check", write(tmp_path, "one.pol", GOOD), "--cluster", cluster]) == 1
    assert "model `m` needs 8.38 GiB on each GPU, which has 7.45 GiB" in capsys.readouterr().out
    assert main(["check", write(tmp_path, "two.pol", GOOD.replace("fixed 1", "fixed 2")), "--cluster", cluster]) == 0
    more = write(tmp_path, "d.toml", 'gpus = 4\ncost = "made.cost.json"\ngpu_mem = "9 GiB"\n')
    assert main(["check", str(tmp_path / "one.pol"), "--cluster", more]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus = 0", "`gpus` is 0, expected a whole number, 1 or more"),
        ("gpu = 8", "unknown field `gpu`"),
        ("", "says neither `gpus` nor `nodes`"),
        ("gpus = 8\nnodes = [8]", "and no `gpus` beside it"),
        ("nodes = [70000]", "at most 65536"),
        ('gpus = 8\ngpu_mem = "80 GB"', "`gpu_mem` is '80 GB', expected memory above zero, such as `80 GiB`"),
        ("gpus = 8\nmodels = 3", "`models` is 3"),
        ("gpus = 8\n[models.a]\nx = 3", "`models.a` is 'x', expected a degree"),
        ("gpus = 8\n[models]\na = 3", "`models.a` is 3"),
        ("gpus = 8\n[constants]\ncall_s = 1", "expected what `gfdit cost --calibrate` prints"),
        ("gpus = ", "cannot read cluster"),
        ("gpus = 8\ncost = 3", "`cost` is 3, expected the name or file of a cost model"),
    ],
)
def test_a_wrong_cluster_file_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert main(["check", "fcfs", "--cluster", write(tmp_path, "c.toml", text)]) == 1
    assert message in capsys.readouterr().err


def test_every_format_of_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = write(tmp_path, "good.pol", GOOD), write(tmp_path, "bad.pol", BAD)
    assert main(["check", good, bad, "--format", "junit"]) == 1
    whole, broken = ElementTree.fromstring(capsys.readouterr().out)
    assert whole.attrib == {"name": good, "tests": "1", "failures": "0"}
    assert broken.attrib == {"name": bad, "tests": "2", "failures": "1"}
    failure = next(case for case in broken if case.find("failure") is not None)
    assert (failure.get("file"), failure.get("line"), failure.get("name")) == (bad, "3", "N101 line 3")
    assert main(["lint", bad, "--format", "github"]) == 1
    assert f"::error file={bad},line=3,col=10,title=N101::unknown name `arival`" in capsys.readouterr().out
    assert main(["check", bad, "--format", "short"]) == 1
    assert f"{bad}:3:10: error[N101]" in capsys.readouterr().out


def test_color_is_for_terminals_that_want_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "bad.pol", BAD)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for value, colored in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", value)
        assert main(["check", path]) == 1
        assert ("\x1b[" in capsys.readouterr().out) is colored


def test_an_existing_file_goes_before_a_shipped_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = library.shipped_policy("slo.pol")
    assert shipped == library.shipped_policy("slo") == library.find_policy("slo")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "slo.pol", GOOD)
    assert library.find_policy("slo.pol") == Path("slo.pol")
    assert library.find_policy("slo") == shipped
    with pytest.raises(UsageError, match=r"did you mean `edf_best_fit`\?"):
        library.find_policy("edf_bestfit.pol")
    with pytest.raises(UsageError, match=r"no policy file `sub/slo\.pol`"):
        library.find_policy("sub/slo.pol")


def test_the_package_data_goes_before_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gfdit"
    (package / "_data" / "policies").mkdir(parents=True)
    write(package / "_data" / "policies", "mine.pol", GOOD)
    monkeypatch.setattr(library, "__file__", str(package / "policy" / "library.py"))
    assert library.names() == ("mine",)
