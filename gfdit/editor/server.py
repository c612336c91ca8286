"""The language server: the protocol in front of the functions of this package, over standard input and output.

Documents are sent whole on every change: a policy is small, and its lines are then ours to count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lsprotocol import types as lsp
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path

from gfdit import __version__
from gfdit.editor import changing, navigation
from gfdit.editor.analysis import Analysis
from gfdit.editor.completion import Sort, completions
from gfdit.editor.hover import hover
from gfdit.editor.pages import error_page
from gfdit.editor.positions import Positions, Units
from gfdit.errors import PolicyError
from gfdit.lang.diagnostics import Diagnostic, Severity
from gfdit.lang.mend import Edit
from gfdit.lang.source import Span
from gfdit.policy.cluster import Cluster

_SEVERITY: Final = {
    Severity.ERROR: lsp.DiagnosticSeverity.Error,
    Severity.WARNING: lsp.DiagnosticSeverity.Warning,
    Severity.INFO: lsp.DiagnosticSeverity.Information,
}
_COMPLETION: Final = {
    Sort.KEYWORD: lsp.CompletionItemKind.Keyword,
    Sort.NAME: lsp.CompletionItemKind.Property,
    Sort.FUNCTION: lsp.CompletionItemKind.Function,
    Sort.DECLARED: lsp.CompletionItemKind.Variable,
    Sort.POLICY: lsp.CompletionItemKind.File,
    Sort.UNIT: lsp.CompletionItemKind.Unit,
}
_SYMBOL: Final = {
    navigation.Symbols.POLICY: lsp.SymbolKind.Module,
    navigation.Symbols.VALUE: lsp.SymbolKind.Variable,
    navigation.Symbols.CLASS: lsp.SymbolKind.Class,
    navigation.Symbols.CLAUSE: lsp.SymbolKind.Property,
    navigation.Symbols.TEST: lsp.SymbolKind.Method,
}
_FIX_ALL: Final = f"{lsp.CodeActionKind.SourceFixAll.value}.gfdit"


class _Open:
    """A document as it is now: its reading, and its lines in the client's units."""

    def __init__(self, server: PolicyServer, uri: str, text: str) -> None:
        path = to_fs_path(uri) if uri.startswith("file:") else None
        self.uri = uri
        file = Path(path) if path else Path.cwd() / "untitled.pol"
        self.reading = Analysis(text, file, server.gpus, server.cluster)
        self.units = server.units
        self.positions = Positions(text, self.units)

    def offset(self, at: lsp.Position) -> int:
        return self.positions.offset(at.line, at.character)

    def range(self, span: Span) -> lsp.Range:
        return _range(self.positions, span)

    def edit(self, edit: Edit) -> lsp.TextEdit:
        return lsp.TextEdit(self.range(Span(edit.start, edit.end)), edit.text)


class PolicyServer(LanguageServer):
    """See the module. `gpus`, `cluster`: what policies are checked for, when known."""

    def __init__(self, gpus: int | None = None, cluster: Cluster | None = None) -> None:
        super().__init__("gfdit", __version__, text_document_sync_kind=lsp.TextDocumentSyncKind.Full)
        self.gpus = gpus
        self.cluster = cluster
        self._open: dict[str, _Open] = {}

    @property
    def units(self) -> Units:
        """What the client counts columns in."""
        return Units(self.workspace.position_encoding or "utf-16")

    def document(self, uri: str) -> _Open:
        """The present state of a document."""
        text = self.workspace.get_text_document(uri).source
        known = self._open.get(uri)
        if known is None or known.reading.text != text:
            known = self._open[uri] = _Open(self, uri, text)
        return known

    def publish(self, uri: str, version: int | None) -> None:
        """Send the findings of a document."""
        document = self.document(uri)
        found = [_diagnostic(document, item) for item in document.reading.diagnostics]
        self.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri, found, version))

    def saved(self) -> None:
        """Read everything again: a file on the disk has changed, and others may extend or test it."""
        for uri in list(self._open):
            self._open.pop(uri)
            self.publish(uri, self.workspace.get_text_document(uri).version)

    def close(self, uri: str) -> None:
        """Forget a document and take its findings back."""
        self._open.pop(uri, None)
        self.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(uri, []))


def _range(positions: Positions, span: Span) -> lsp.Range:
    start, end = positions.at(span.start), positions.at(span.end)
    return lsp.Range(lsp.Position(*start), lsp.Position(*end))


def _diagnostic(document: _Open, item: Diagnostic) -> lsp.Diagnostic:
    page = error_page(item.code)
    uri = None if page is None else from_fs_path(str(page))
    label = f" ({item.label})" if item.label else ""
    return lsp.Diagnostic(
        range=document.range(item.span),
        message="\n".join([item.message + label, *(f"help: {line}" for line in item.help)]),
        severity=_SEVERITY[item.severity],
        code=item.code,
        code_description=None if uri is None else lsp.CodeDescription(uri),
        source="gfdit",
        tags=[lsp.DiagnosticTag.Unnecessary] if item.code in ("L502", "L508") else None,
    )


def make_server(gpus: int | None = None, cluster: Cluster | None = None) -> PolicyServer:
    """A server with everything that it answers; `start_io` serves one client until it says `exit`."""
    server = PolicyServer(gpus, cluster)
    _follow(server)
    _answer(server)
    _name(server)
    _change(server)
    return server


def _follow(server: PolicyServer) -> None:
    """Documents come, change and go."""

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    def opened(_: PolicyServer, given: lsp.DidOpenTextDocumentParams) -> None:
        server.publish(given.text_document.uri, given.text_document.version)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    def changed(_: PolicyServer, given: lsp.DidChangeTextDocumentParams) -> None:
        server.publish(given.text_document.uri, given.text_document.version)

    @server.feature(lsp.TEXT_DOCUMENT_DID_SAVE)
    def saved(_: PolicyServer, given: lsp.DidSaveTextDocumentParams) -> None:
        server.saved()

    @server.feature(lsp.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def moved(_: PolicyServer, given: lsp.DidChangeWatchedFilesParams) -> None:
        server.saved()

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def closed(_: PolicyServer, given: lsp.DidCloseTextDocumentParams) -> None:
        server.close(given.text_document.uri)


def _answer(server: PolicyServer) -> None:
    """What is asked about a place."""

    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    def hovered(_: PolicyServer, given: lsp.HoverParams) -> lsp.Hover | None:
        document = server.document(given.text_document.uri)
        found = hover(document.reading, document.offset(given.position))
        if found is None:
            return None
        return lsp.Hover(lsp.MarkupContent(lsp.MarkupKind.Markdown, found.text), document.range(found.span))

    @server.feature(lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(trigger_characters=["(", ",", " ", "{", "."]))
    def completed(_: PolicyServer, given: lsp.CompletionParams) -> lsp.CompletionList:
        document = server.document(given.text_document.uri)
        items = [
            lsp.CompletionItem(
                label=offer.label,
                kind=_COMPLETION[offer.sort],
                detail=offer.detail or None,
                documentation=lsp.MarkupContent(lsp.MarkupKind.Markdown, offer.doc) if offer.doc else None,
                sort_text=f"{number:03}",
                text_edit=lsp.TextEdit(document.range(offer.span), offer.label),
            )
            for number, offer in enumerate(completions(document.reading, document.offset(given.position)))
        ]
        return lsp.CompletionList(is_incomplete=False, items=items)

    @server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
    def defined(_: PolicyServer, given: lsp.DefinitionParams) -> lsp.Location | None:
        document = server.document(given.text_document.uri)
        found = navigation.definition(document.reading, document.offset(given.position))
        if found is None:
            return None
        own = found.path == document.reading.path
        uri = document.uri if own else from_fs_path(str(found.path.resolve()))
        return None if uri is None else lsp.Location(uri, _range(Positions(found.text, document.units), found.span))

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def outlined(_: PolicyServer, given: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
        document = server.document(given.text_document.uri)
        return [_symbol(document, entry) for entry in navigation.outline(document.reading)]


def _name(server: PolicyServer) -> None:
    """All places of one name."""

    @server.feature(lsp.TEXT_DOCUMENT_REFERENCES)
    def referred(_: PolicyServer, given: lsp.ReferenceParams) -> list[lsp.Location]:
        document = server.document(given.text_document.uri)
        spans = navigation.references(document.reading, document.offset(given.position))
        kept = spans if given.context.include_declaration else spans[1:]
        return [lsp.Location(document.uri, document.range(span)) for span in kept]

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT)
    def highlighted(_: PolicyServer, given: lsp.DocumentHighlightParams) -> list[lsp.DocumentHighlight]:
        document = server.document(given.text_document.uri)
        spans = navigation.references(document.reading, document.offset(given.position))
        return [lsp.DocumentHighlight(document.range(span)) for span in spans]

    @server.feature(lsp.TEXT_DOCUMENT_RENAME)
    def renamed(_: PolicyServer, given: lsp.RenameParams) -> lsp.WorkspaceEdit:
        document = server.document(given.text_document.uri)
        try:
            edits = navigation.renamed(document.reading, document.offset(given.position), given.new_name)
        except PolicyError as error:
            raise JsonRpcInvalidParams(error.message) from None
        return lsp.WorkspaceEdit(changes={document.uri: [document.edit(edit) for edit in edits]})


def _symbol(document: _Open, entry: navigation.Entry) -> lsp.DocumentSymbol:
    return lsp.DocumentSymbol(
        name=entry.name or "(unnamed)",
        detail=entry.detail,
        kind=_SYMBOL[entry.sort],
        range=document.range(entry.span),
        selection_range=document.range(entry.name_span),
        children=[_symbol(document, part) for part in entry.parts],
    )


def _change(server: PolicyServer) -> None:
    """What the client may do to the text."""

    @server.feature(lsp.TEXT_DOCUMENT_FORMATTING)
    def formatted(_: PolicyServer, given: lsp.DocumentFormattingParams) -> list[lsp.TextEdit]:
        document = server.document(given.text_document.uri)
        edit = changing.formatted(document.reading)
        return [] if edit is None else [document.edit(edit)]

    kinds = [lsp.CodeActionKind.QuickFix, _FIX_ALL]

    @server.feature(lsp.TEXT_DOCUMENT_CODE_ACTION, lsp.CodeActionOptions(code_action_kinds=kinds))
    def actions(_: PolicyServer, given: lsp.CodeActionParams) -> list[lsp.CodeAction]:
        document = server.document(given.text_document.uri)
        wanted = given.context.only
        found = changing.fixes(document.reading, document.offset(given.range.start), document.offset(given.range.end))
        actions = [
            lsp.CodeAction(
                title=fix.title,
                kind=lsp.CodeActionKind.QuickFix,
                diagnostics=[_diagnostic(document, fix.finding)],
                is_preferred=len(found) == 1,
                edit=lsp.WorkspaceEdit(changes={document.uri: [document.edit(fix.edit)]}),
            )
            for fix in found
        ]
        everything = changing.fix_all(document.reading)
        if everything is not None:
            edit = lsp.WorkspaceEdit(changes={document.uri: [document.edit(everything)]})
            actions.append(lsp.CodeAction(title="Apply every safe lint fix", kind=_FIX_ALL, edit=edit))
        return [action for action in actions if wanted is None or _wanted(action.kind, wanted)]


def _wanted(kind: lsp.CodeActionKind | str | None, wanted: list[lsp.CodeActionKind | str] | object) -> bool:
    """Kinds are dotted: who asks for `source` gets `source.fixAll.gfdit`."""
    assert isinstance(wanted, list | tuple)
    own = kind.value if isinstance(kind, lsp.CodeActionKind) else str(kind)
    asked = [one.value if isinstance(one, lsp.CodeActionKind) else str(one) for one in wanted]
    return any(own == one or own.startswith(f"{one}.") for one in asked)
