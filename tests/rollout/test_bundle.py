"""Bundles: what they hold, who signed them, and everything that must not come out of one."""

from __future__ import annotations

import io
import json
import random
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from gfdit.cli.app import main
from gfdit.cli.prepare import first_policy
from gfdit.config import Device, RunConfig
from gfdit.errors import UsageError
from gfdit.policy.bundle import (
    MANIFEST,
    MOST_BYTES,
    MOST_FILES,
    MOST_TEXT,
    SIGNATURE,
    Bundle,
    BundleError,
    Fault,
    gather,
    make_keys,
    merged,
    pack,
    private_key,
    public_key,
    unpack,
)
from gfdit.policy.library import folder
from gfdit.policy.store import load_policy
from gfdit.runtime.recipe import recipe_of

from .desk import COST, bundle_of, text_of

BUNDLE = Bundle("a.pol", {"a.pol": text_of("a", more="fallback b"), "b.pol": text_of("b")}, {"age": "30s"})


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `mine` and `other`, two pairs."""
    place = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        private, public = make_keys()
        (place / f"{name}.key").write_bytes(private)
        (place / f"{name}.key").chmod(0o600)
        (place / f"{name}.pub").write_bytes(public)
    return place


def entries(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(contents: list[tuple[str, bytes]]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents:
            file.writestr(name, content)
    return packed.getvalue()


def fault(content: bytes, **key: object) -> BundleError:
    with pytest.raises(BundleError) as caught:
        unpack(content, **key)  # type: ignore[arg-type]
    return caught.value


def test_what_was_packed_comes_out_and_equal_bundles_are_equal_bytes() -> None:
    assert unpack(pack(BUNDLE)) == BUNDLE
    turned = Bundle("a.pol", dict(reversed(BUNDLE.sources.items())), BUNDLE.params)
    assert pack(turned) == pack(BUNDLE)
    manifest = json.loads(entries(pack(BUNDLE))[MANIFEST])
    assert manifest["format"] == "gfdit-bundle/1" and set(manifest["files"]) == set(BUNDLE.sources)


def test_a_signed_bundle_is_taken_with_its_key_and_no_other(keys: Path) -> None:
    mine, other = public_key(keys / "mine.pub"), public_key(keys / "other.pub")
    signed = pack(BUNDLE, private_key(keys / "mine.key"))
    assert unpack(signed, mine) == unpack(signed) == BUNDLE
    assert fault(signed, key=other).fault is Fault.SIGNATURE
    assert fault(pack(BUNDLE), key=mine).fault is Fault.UNSIGNED


@pytest.mark.parametrize("part", ["manifest", "source", "signature", "extra", "missing", "swapped"])
def test_nothing_of_a_signed_bundle_can_be_changed(keys: Path, part: str) -> None:
    found = entries(pack(BUNDLE, private_key(keys / "mine.key")))
    match part:
        case "manifest":
            found[MANIFEST] = found[MANIFEST].replace(b'"main": "a.pol"', b'"main": "b.pol"')
        case "source":
            found["b.pol"] += b"# more\n"
        case "signature":
            found[SIGNATURE] = bytes(64)
        case "extra":
            found["c.pol"] = found["b.pol"]
        case "missing":
            del found["b.pol"]
        case "swapped":
            found["a.pol"], found["b.pol"] = found["b.pol"], found["a.pol"]
    error = fault(zipped(list(found.items())), key=public_key(keys / "mine.pub"))
    assert error.fault is (Fault.SIGNATURE if part in ("manifest", "signature") else Fault.DAMAGED)


@pytest.mark.parametrize(
    "name",
    ["../a.pol", "/etc/a.pol", "a/b.pol", "..\\a.pol", "C:a.pol", ".pol", "a.py", "a.pol/", "a\n.pol", "é.pol",
     "a" * 200 + ".pol"],
)  # fmt: skip
def test_no_other_names_than_those_of_policy_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = [*entries(pack(BUNDLE)).items(), (name, b"x")]
    assert fault(zipped(contents)).fault is Fault.DAMAGED
    with pytest.raises(BundleError):
        Bundle(name, {name: "policy a"})
    assert not list(tmp_path.iterdir())


def test_sizes_are_limited_whatever_the_headers_say() -> None:
    bomb = zipped([(MANIFEST, b" " * (MOST_BYTES + 1))])
    assert len(bomb) < MOST_BYTES // 100
    assert "unpacked" in str(fault(bomb))
    many = zipped([(f"p{number}.pol", b" " * (MOST_BYTES // 4)) for number in range(MOST_FILES)])
    assert "unpacked" in str(fault(many))
    lying = bytearray(bomb)
    at = lying.rindex(b"PK\x01\x02") + 24  # the unpacked size in the central directory
    lying[at : at + 4] = (10).to_bytes(4, "little")
    assert fault(bytes(lying)).fault is Fault.DAMAGED
    assert fault(bytes(MOST_BYTES + 1)).fault is Fault.DAMAGED
    assert "files" in str(fault(zipped([(f"p{number}.pol", b"") for number in range(MOST_FILES + 3)])))
    with pytest.raises(BundleError):
        bundle_of("x" * (MOST_TEXT + 1), "a")
    with pytest.raises(BundleError):
        Bundle("p0.pol", {f"p{number}.pol": "" for number in range(MOST_FILES + 1)})


def test_a_name_may_be_in_it_once_and_encryption_is_not_read() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped([*entries(pack(BUNDLE)).items(), ("a.pol", b"other")])
    assert "twice" in str(fault(twice))
    flagged = bytearray(pack(BUNDLE))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        flagged[flagged.index(mark) + offset] |= 1
    assert fault(bytes(flagged)).fault is Fault.DAMAGED


@pytest.mark.parametrize(
    "change",
    [{"format": "gfdit-bundle/2"}, {"files": []}, {"params": {"a": 1}}, {"more": 1}, {"main": "c.pol"},
     {"grammar": None}],
)  # fmt: skip
def test_the_manifest_is_read_strictly(change: dict[str, object]) -> None:
    found = entries(pack(BUNDLE))
    found[MANIFEST] = json.dumps({**json.loads(found[MANIFEST]), **change}).encode()
    assert fault(zipped(list(found.items()))).fault is Fault.DAMAGED


def test_garbage_gives_an_error_and_never_another_exception() -> None:
    seed = 20_260_101
    pick, good = random.Random(seed), pack(BUNDLE)
    for end in range(0, len(good), 7):
        assert fault(good[:end]).fault is Fault.DAMAGED, end
    for number in range(1500):
        content = bytearray(good) if number % 3 else bytearray(pick.randbytes(pick.randrange(400)))
        for _ in range(pick.randint(1, 6)):
            if content:
                content[pick.randrange(len(content))] = pick.randrange(256)
        try:
            assert unpack(bytes(content)).sources == BUNDLE.sources, (seed, number)
        except BundleError:
            pass  # anything else is a failure


def test_what_lies_beside_comes_along_and_what_is_shipped_stays(tmp_path: Path) -> None:
    main = text_of("a", more="fallback b")
    (tmp_path / "a.pol").write_text(main)
    (tmp_path / "b.pol").write_text('policy b version 1 "b" extends c\nfallback fcfs_static')
    (tmp_path / "c.pol").write_text(text_of("c"))
    (tmp_path / "unrelated.pol").write_text(text_of("unrelated"))
    found = gather(tmp_path / "a.pol", main)
    assert (found.main, sorted(found.sources)) == ("a.pol", ["a.pol", "b.pol", "c.pol"])
    shipped = folder() / "fcfs_static.pol"
    assert sorted(gather(shipped, shipped.read_text("utf-8")).sources) == ["fcfs_static.pol"]


def test_a_run_can_begin_with_a_bundle(keys: Path, tmp_path: Path) -> None:
    text = text_of("a", more="param most: dur = 1s\nguard g: longest_wait(any) < most else alert\nfallback srtf")
    bundle = Bundle("a.pol", {"a.pol": text, "srtf.pol": text_of("srtf", 9)}, {"most": "30s"})
    (tmp_path / "a.polb").write_bytes(pack(bundle))
    asked = RunConfig(str(tmp_path / "a.polb"), {}, device=Device.EMULATED)
    policy, params = first_policy(asked)
    assert params == {"most": "30s"} and policy.program.params[0].value == 30.0
    chain = [policy.name, policy.fallback.name, policy.fallback.version]  # type: ignore[union-attr]
    assert chain == ["a", "srtf", 9]
    again = recipe_of(policy, params, COST, 4).scheduler().policy  # as a journal says it
    assert again.sha == policy.sha
    assert first_policy(replace(asked, params={"most": "5s"}))[0].program.params[0].value == 5.0
    with pytest.raises(BundleError) as caught:
        first_policy(replace(asked, policy_key=keys / "mine.pub"))
    assert caught.value.fault is Fault.UNSIGNED
    with pytest.raises(UsageError, match="is a bundle"):
        load_policy(str(tmp_path / "a.polb"))


NATIVE = """
from gfdit.policy import policy

@policy(version=1, title="code", fallback="fcfs")
class Own:
    @policy.native
    def plan(columns, free, deadline):
        return {name: 1 for name in columns.ids[:free]}
"""


def test_python_travels_as_text_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "srtf", "--to", "python", "--out", "traced.py"]) == 0
    assert main(["policy", "build", "traced.py", "-o", "traced.polb"]) == 0
    bundle = unpack((tmp_path / "traced.polb").read_bytes())
    assert bundle.main == "traced.pol" and bundle.sources["traced.pol"].lstrip().startswith("policy srtf")
    (tmp_path / "own.py").write_text(NATIVE)
    capsys.readouterr()
    for words in (["build", "own.py", "-o", "own.polb"], ["push", "own.py", "--url", "http://127.0.0.1:9"]):
        assert main(["policy", *words]) == 1
        assert "S801" in capsys.readouterr().err
    assert not (tmp_path / "own.polb").exists()


def test_bundles_merge_unless_a_name_means_two_things() -> None:
    other = bundle_of(text_of("c"))
    assert set(merged([BUNDLE, other], "a.pol", {}).sources) == {"a.pol", "b.pol", "c.pol"}
    with pytest.raises(UsageError, match="two different"):
        merged([BUNDLE, bundle_of(text_of("b", version=2))], "a.pol", {})


def test_keys_are_ed25519_and_private_ones_are_private(keys: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE((keys / "mine.key").stat().st_mode) == 0o600
    for read, file in ((private_key, "mine.pub"), (public_key, "mine.key"), (public_key, "absent")):
        copy = tmp_path / file
        if (keys / file).exists():
            copy.write_bytes((keys / file).read_bytes())
            copy.chmod(0o600)
        with pytest.raises(UsageError, match="key"):
            read(copy)
    shared = tmp_path / "shared.key"
    shared.write_bytes((keys / "mine.key").read_bytes())
    shared.chmod(0o644)
    with pytest.raises(UsageError, match="others may read"):
        private_key(shared)
