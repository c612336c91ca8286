"""A policy as it travels: its text and those of its bases and fallbacks, as values or as one `.polb` file.

A `.polb` is a zip: the sources, `manifest.json` (format, grammar, main file, params, SHA-256 of every file) and, when
it is signed, `manifest.sig` with the Ed25519 signature of the manifest's bytes. Only texts of the policy language
travel, never Python. Reading trusts nothing: names, sizes and digests are checked before any text is used, and nothing
is ever unpacked to disk. Compiles nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from gfdit.errors import InputError, PolicyError, UsageError
from gfdit.lang import nodes
from gfdit.lang.grammar import grammar_sha
from gfdit.lang.parser import parse
from gfdit.lang.source import Source
from gfdit.policy.library import SUFFIX

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

BUNDLE_SUFFIX = ".polb"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MOST_FILES = 32
MOST_TEXT = 256 << 10  # bytes of one policy
MOST_BYTES = 1 << 20  # of a bundle: packed, and all its texts together
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}\.pol")
_WHEN = (1980, 1, 1, 0, 0, 0)  # of every entry, so that equal sources make equal bytes


class Fault(StrEnum):
    """Why a bundle is refused; the codes go on from those of `gfdit check`."""

    NATIVE = "S801"
    UNSIGNED = "S802"
    SIGNATURE = "S803"
    DAMAGED = "S804"


class BundleError(InputError):
    """A bundle that is not taken. `fault` says why, by code."""

    def __init__(self, fault: Fault, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{fault}: {message}", hint=hint)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Bundle:
    """`sources`: file name -> text; `main`: the one to be put in charge; `params`: its params as text with units.
    `grammar`: which one it was written in (`grammar_sha`), empty when it is this one.

    Raises BundleError (S804) for names and sizes that no bundle may have.
    """

    main: str
    sources: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    grammar: str = ""

    def __post_init__(self) -> None:
        if self.main not in self.sources:
            raise _damaged(f"its main file `{self.main}` is not in it")
        if len(self.sources) > MOST_FILES:
            raise _damaged(f"it has {len(self.sources)} files, at most {MOST_FILES} may be")
        for name, text in self.sources.items():
            if not _FILE.fullmatch(name):
                raise _damaged(f"`{name[:100]}` is no name of a policy file", "such as `slo.pol`, without folders")
            if len(text.encode("utf-8", "surrogatepass")) > MOST_TEXT:
                raise _damaged(f"`{name}` is longer than {MOST_TEXT >> 10} KiB")

    def find(self, name: str) -> str | None:
        """The text of the policy that others call `name`; None when it does not travel along."""
        return self.sources.get(f"{name}{SUFFIX}")


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal["gfdit-bundle/1"]
    grammar: str
    main: str
    params: dict[str, str]
    files: dict[str, str]


def _damaged(message: str, hint: str | None = None) -> BundleError:
    return BundleError(Fault.DAMAGED, f"this bundle is damaged: {message}", hint=hint)


# ---- from files -----------------------------------------------------------------------------------------------------


def gather(path: Path, text: str, params: Mapping[str, str] | None = None) -> Bundle:
    """The policy `text` that came from `path`, with the bases and fallbacks that lie beside it, and theirs.

    What is shipped with gfdit stays behind: the server has its own. Raises PolicyError for a file that is not readable.
    """
    main = f"{path.stem}{SUFFIX}"
    sources, waiting = {main: text}, [text]
    while waiting:
        for name in _named_in(waiting.pop()):
            beside = path.parent / f"{name}{SUFFIX}"
            if beside.name not in sources and beside.is_file():
                sources[beside.name] = read_source(beside)
                waiting.append(sources[beside.name])
    return Bundle(main, sources, dict(params or {}))


def read_bundle(path: Path, key: Ed25519PublicKey | None = None) -> Bundle:
    """A `.polb` file; see `unpack`. Raises UsageError when it cannot be read, BundleError."""
    try:
        return unpack(path.read_bytes(), key)
    except OSError as error:
        raise UsageError(f"cannot read bundle `{path}`: {error.strerror}") from None


def read_source(path: Path) -> str:
    """The text of a policy file. Raises PolicyError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"cannot read policy `{path}`: {error}") from error


def _named_in(text: str) -> list[str]:
    """The policies that a text extends or falls back to."""
    tree = parse(Source(text)).tree
    header = tree.header
    names = [] if header is None or header.extends is None else [header.extends.text]
    return names + [item.policy.text for item in tree.items if isinstance(item, nodes.Fallback)]


# ---- to and from bytes ----------------------------------------------------------------------------------------------


def pack(bundle: Bundle, key: Ed25519PrivateKey | None = None) -> bytes:
    """The `.polb`, signed if there is a key. Equal bundles give equal bytes."""
    manifest = {
        "format": "gfdit-bundle/1",
        "grammar": grammar_sha(),
        "main": bundle.main,
        "params": dict(sorted(bundle.params.items())),
        "files": {name: _sha(text.encode()) for name, text in sorted(bundle.sources.items())},
    }
    entries = {MANIFEST: json.dumps(manifest, indent=1).encode()}
    if key is not None:
        entries[SIGNATURE] = key.sign(entries[MANIFEST])
    entries |= {name: text.encode() for name, text in sorted(bundle.sources.items())}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name, _WHEN)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            file.writestr(info, content)
    return packed.getvalue()


def unpack(content: bytes, key: Ed25519PublicKey | None = None) -> Bundle:
    """A `.polb` as values. With a key it must carry that key's signature; without one any signature is ignored.

    Raises BundleError.
    """
    entries = _entries(content)
    if MANIFEST not in entries:
        raise _damaged(f"it has no `{MANIFEST}`")
    if key is not None:
        _verify(entries[MANIFEST], entries.get(SIGNATURE), key)
    try:
        manifest = _Manifest.model_validate_json(entries[MANIFEST])
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(f"`{MANIFEST}`: field `{'.'.join(map(str, first['loc']))}`: {first['msg']}") from None
    grammar = "" if manifest.grammar == grammar_sha() else manifest.grammar
    return Bundle(manifest.main, _sources(manifest, entries), manifest.params, grammar)


def _entries(content: bytes) -> dict[str, bytes]:
    """What is in the zip, by name, read within the limits whatever its headers say."""
    if len(content) > MOST_BYTES:
        raise _damaged(f"it is longer than {MOST_BYTES >> 10} KiB")
    left, found = MOST_BYTES, dict[str, bytes]()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            if len(file.infolist()) > MOST_FILES + 2:
                raise _damaged(f"it has more than {MOST_FILES} files")
            for info in file.infolist():
                if info.filename in found:
                    raise _damaged(f"`{info.filename}` is in it twice")
                if info.filename not in (MANIFEST, SIGNATURE) and not _FILE.fullmatch(info.filename):
                    raise _damaged(f"`{info.filename[:100]}` has no place in it")
                with file.open(info) as entry:
                    found[info.filename] = entry.read(left + 1)
                left -= len(found[info.filename])
                if left < 0:
                    raise _damaged(f"unpacked it is longer than {MOST_BYTES >> 10} KiB")
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, ValueError, EOFError, OSError) as error:
        raise _damaged(f"it is no zip that can be read ({error})") from None
    return found


def _sources(manifest: _Manifest, entries: Mapping[str, bytes]) -> dict[str, str]:
    """The texts, after their digests."""
    present = set(entries) - {MANIFEST, SIGNATURE}
    if present != set(manifest.files):
        name = min(present ^ set(manifest.files))
        raise _damaged(f"`{name[:100]}` is {'not listed' if name in present else 'listed, but not in it'}")
    for name, digest in manifest.files.items():
        if _sha(entries[name]) != digest:
            raise _damaged(f"`{name}` is not the file that `{MANIFEST}` lists: its SHA-256 differs")
    try:
        return {name: entries[name].decode("utf-8") for name in manifest.files}
    except UnicodeDecodeError as error:
        raise _damaged(f"a policy is not UTF-8 text (byte {error.start})") from None


def _verify(manifest: bytes, signature: bytes | None, key: Ed25519PublicKey) -> None:
    from cryptography.exceptions import InvalidSignature

    if signature is None:
        hint = "`gfdit policy build ... --sign FILE.key -o x.polb`, then push that"
        raise BundleError(Fault.UNSIGNED, "only signed bundles are taken here, and this one is not signed", hint=hint)
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        hint = "sign it with the key whose public half the server was started with"
        raise BundleError(Fault.SIGNATURE, "the signature of this bundle is not by the key that is trusted here",
                          hint=hint) from None  # fmt: skip


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- keys -----------------------------------------------------------------------------------------------------------


def make_keys() -> tuple[bytes, bytes]:
    """A new private and public key as PEM."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return private, key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)


def private_key(path: Path) -> Ed25519PrivateKey:
    """Raises UsageError for a file that is not an Ed25519 private key, or that others may read."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read_key(path)
    if path.stat().st_mode & 0o077:
        raise UsageError(f"others may read the private key `{path}`", hint=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:
        raise _no_key(path, "private", error) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private", None)
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """Raises UsageError for a file that is not an Ed25519 public key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read_key(path))
    except ValueError as error:
        raise _no_key(path, "public", error) from None
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public", None)
    return key


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read key `{path}`: {error.strerror}") from None


def _no_key(path: Path, kind: str, error: Exception | None) -> UsageError:
    said = "" if error is None else f" ({error})"
    hint = "`gfdit policy keygen NAME` makes NAME.key and NAME.pub"
    return UsageError(f"`{path}` is no Ed25519 {kind} key{said}", hint=hint)


def merged(bundles: Sequence[Bundle], main: str, params: Mapping[str, str]) -> Bundle:
    """One bundle of several; two different texts of one name are an error. Raises UsageError."""
    sources: dict[str, str] = {}
    for bundle in bundles:
        for name, text in bundle.sources.items():
            if sources.setdefault(name, text) != text:
                raise UsageError(f"two different policies are called `{name}`")
    return Bundle(main, sources, dict(params))
