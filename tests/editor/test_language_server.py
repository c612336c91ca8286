"""The language server as an editor meets it: a process on pipes, spoken to by a client of the protocol."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcException
from pygls.lsp.client import LanguageClient

from gfdit.editor.server import make_server
from gfdit.lang.format import format_source

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
GOOD = """policy mine version 1 "Mine"

param worth: ratio = 110% within 100% .. 300%
class ui when tag == "ui" { slo 8s rank 0 }
class rest otherwise { rank 1 }

order by deadline, arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise {
  sp in {1, 2, 4} gpu smallest where finish(sp) <= deadline else minimizing finish(sp)
  grow by order where gain(next) > worth
}
preempt for ui from rest by arrival desc do pause
aging every 60s raise 1
fallback fcfs
"""


class Editor:
    """A client with what it was told, and waiting for it."""

    def __init__(self) -> None:
        self.client = LanguageClient("tests", "1")
        self.told: asyncio.Queue[lsp.PublishDiagnosticsParams] = asyncio.Queue()
        self.version = 0

        @self.client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def published(given: lsp.PublishDiagnosticsParams) -> None:
            self.told.put_nowait(given)

    async def start(self, folder: Path) -> lsp.InitializeResult:
        watch = "import sys; from gfdit.cli.app import main; code = main(['lsp']); " + (
            "heavy = {'torch', 'diffusers', 'transformers', 'zmq', 'numpy', 'scipy'} & set(sys.modules); "
            "sys.exit(9 if heavy else code)"
        )
        await self.client.start_io(sys.executable, "-c", watch, cwd=folder)
        found = await self.client.initialize_async(
            lsp.InitializeParams(capabilities=lsp.ClientCapabilities(), root_uri=folder.as_uri())
        )
        self.client.initialized(lsp.InitializedParams())
        return found

    async def opened(self, path: Path, text: str) -> list[lsp.Diagnostic]:
        item = lsp.TextDocumentItem(path.as_uri(), "gfdit-policy", 0, text)
        self.client.text_document_did_open(lsp.DidOpenTextDocumentParams(item))
        return await self.findings(path, 0)

    async def changed(self, path: Path, text: str) -> list[lsp.Diagnostic]:
        self.version += 1
        self.client.text_document_did_change(
            lsp.DidChangeTextDocumentParams(
                lsp.VersionedTextDocumentIdentifier(self.version, path.as_uri()),
                [lsp.TextDocumentContentChangeWholeDocument(text)],
            )
        )
        return await self.findings(path, self.version)

    async def findings(self, path: Path, version: int) -> list[lsp.Diagnostic]:
        while True:
            told = await self.told.get()
            if told.uri == path.as_uri() and told.version == version:
                return list(told.diagnostics)

    async def stop(self) -> int:
        """Shut down and exit as the protocol says; the exit code of the process."""
        process = self.client._server
        assert process is not None
        await self.client.shutdown_async(None)
        self.client.exit(None)
        code = await process.wait()
        await self.client.stop()
        return code


def at(text: str, word: str, after: int = 0) -> lsp.Position:
    """The position of a word (all characters here are one UTF-16 unit)."""
    offset = text.index(word) + after
    return lsp.Position(text.count("\n", 0, offset), offset - (text.rfind("\n", 0, offset) + 1))


def spoken(script: Callable[[Editor], Awaitable[None]], folder: Path) -> None:
    """Run a conversation with a server process, which must end well and load nothing heavy."""

    async def run() -> None:
        editor = Editor()
        await editor.start(folder)
        await script(editor)
        assert await editor.stop() == 0, "9 stands for a heavy import"

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))


def test_a_whole_conversation(tmp_path: Path) -> None:
    path = tmp_path / "mine.pol"
    document = lsp.TextDocumentIdentifier(path.as_uri())

    async def script(editor: Editor) -> None:
        client = editor.client
        assert [
            item for item in await editor.opened(path, GOOD) if item.severity != lsp.DiagnosticSeverity.Information
        ] == []

        broken = GOOD.replace("smallest where", "smalest where").replace("order by deadline", "order by deadlin")
        found = await editor.changed(path, broken)
        by_code = {item.code: item for item in found}
        assert {"P001", "N101"} <= set(by_code)
        assert by_code["N101"].range.start == at(broken, "deadlin,")
        page = by_code["N101"].code_description
        assert page is not None and page.href.startswith("file:") and page.href.endswith("N101.md")

        actions = await client.text_document_code_action_async(
            lsp.CodeActionParams(document, by_code["P001"].range, lsp.CodeActionContext([by_code["P001"]]))
        )
        assert actions is not None
        (fix,) = [action for action in actions if isinstance(action, lsp.CodeAction) and "smallest" in action.title]
        assert fix.edit is not None and fix.edit.changes is not None
        (edit,) = fix.edit.changes[path.as_uri()]
        assert edit.new_text == "smallest" and edit.range.start == at(broken, "smalest")

        await editor.changed(path, GOOD)
        hover = await client.text_document_hover_async(lsp.HoverParams(document, at(GOOD, "worth\n", 2)))
        assert hover is not None and isinstance(hover.contents, lsp.MarkupContent)
        assert "param worth: ratio = 110%" in hover.contents.value and "1.1" in hover.contents.value

        where = await client.text_document_definition_async(lsp.DefinitionParams(document, at(GOOD, "worth\n", 2)))
        assert isinstance(where, lsp.Location) and where.range.start == at(GOOD, "worth: ratio")
        base = await client.text_document_definition_async(lsp.DefinitionParams(document, at(GOOD, "fcfs\n", 1)))
        assert isinstance(base, lsp.Location) and base.uri.endswith("/policies/fcfs.pol")

        renamed = await client.text_document_rename_async(
            lsp.RenameParams(document, at(GOOD, "worth\n", 2), new_name="gains")
        )
        assert renamed is not None and renamed.changes is not None
        assert [edit.range.start for edit in renamed.changes[path.as_uri()]] == [
            at(GOOD, "worth: ratio"),
            at(GOOD, "worth\n"),
        ]
        with pytest.raises(JsonRpcException, match="already"):
            await client.text_document_rename_async(
                lsp.RenameParams(document, at(GOOD, "worth\n", 2), new_name="deadline")
            )

        half = GOOD + "guard g: longest_wait("
        await editor.changed(path, half)
        end = lsp.Position(half.count("\n"), len(half) - half.rfind("\n") - 1)
        offered = await client.text_document_completion_async(lsp.CompletionParams(document, end))
        assert isinstance(offered, lsp.CompletionList)
        assert [item.label for item in offered.items] == ["ui", "rest", "any"]

        ugly = GOOD.replace("order by deadline, arrival", "order   by deadline,arrival")
        await editor.changed(path, ugly)
        edits = await client.text_document_formatting_async(
            lsp.DocumentFormattingParams(document, lsp.FormattingOptions(2, True))
        )
        assert edits is not None and len(edits) == 1
        assert edits[0].new_text == "order by deadline, arrival\n" and format_source(ugly) == GOOD

        outline = await client.text_document_document_symbol_async(lsp.DocumentSymbolParams(document))
        assert outline is not None
        names = [symbol.name for symbol in outline]
        assert names[:3] == ["mine", "worth", "ui"] and "stage denoise" in names

    spoken(script, tmp_path)


def test_a_base_on_the_disk_is_read_again_when_it_is_saved(tmp_path: Path) -> None:
    base, top = tmp_path / "base.pol", tmp_path / "top.pol"
    base.write_text(GOOD.replace("policy mine", "policy base"), encoding="utf-8")
    text = 'policy top version 1 "Top" extends base\nguard g: longest_wait(any) < 9s else alert\n'

    async def script(editor: Editor) -> None:
        assert not [item for item in await editor.opened(top, text) if item.severity == lsp.DiagnosticSeverity.Error]
        base.write_text('policy base version 1 "Base"\n', encoding="utf-8")
        editor.client.text_document_did_save(lsp.DidSaveTextDocumentParams(lsp.TextDocumentIdentifier(base.as_uri())))
        found = await editor.findings(top, 0)
        assert "A603" in {item.code for item in found}
        base.write_text(GOOD.replace("policy mine", "policy base"), encoding="utf-8")  # by somebody else
        event = lsp.FileEvent(base.as_uri(), lsp.FileChangeType.Changed)
        editor.client.workspace_did_change_watched_files(lsp.DidChangeWatchedFilesParams([event]))
        assert "A603" not in {item.code for item in await editor.findings(top, 0)}
        editor.client.text_document_did_close(lsp.DidCloseTextDocumentParams(lsp.TextDocumentIdentifier(top.as_uri())))
        told = await editor.told.get()
        assert told.uri == top.as_uri() and list(told.diagnostics) == []

    spoken(script, tmp_path)


def test_the_server_says_what_it_can_do() -> None:
    features = make_server().protocol.fm.features
    for wanted in (
        lsp.TEXT_DOCUMENT_HOVER,
        lsp.TEXT_DOCUMENT_COMPLETION,
        lsp.TEXT_DOCUMENT_DEFINITION,
        lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL,
        lsp.TEXT_DOCUMENT_FORMATTING,
        lsp.TEXT_DOCUMENT_CODE_ACTION,
        lsp.TEXT_DOCUMENT_REFERENCES,
        lsp.TEXT_DOCUMENT_RENAME,
    ):
        assert wanted in features


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_columns_are_counted_as_the_client_asks(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.pol"
    text = 'policy p version 1 "🚀é" order by dedline, arrival\nstage encode, denoise, decode { sp fixed 1 gpu }\n'
    start = text.index("dedline")
    column = {"utf-8": len(text[:start].encode()), "utf-16": start + 1, "utf-32": start}[encoding]

    async def run() -> None:
        editor = Editor()
        await editor.client.start_io(sys.executable, "-m", "gfdit", "lsp")
        kind = lsp.PositionEncodingKind(encoding)
        general = lsp.GeneralClientCapabilities(position_encodings=[kind])
        found = await editor.client.initialize_async(
            lsp.InitializeParams(capabilities=lsp.ClientCapabilities(general=general))
        )
        assert found.capabilities.position_encoding == kind
        editor.client.initialized(lsp.InitializedParams())
        (wrong,) = [item for item in await editor.opened(path, text) if item.code == "N101"]
        assert wrong.range.start == lsp.Position(0, column)
        assert wrong.range.end == lsp.Position(0, column + len("dedline"))
        assert await editor.stop() == 0

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))
