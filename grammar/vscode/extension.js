// Starts `gfdit lsp` and lets the editor talk to it. Everything else happens in the server.
"use strict";

const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;
let watcher;

async function start() {
  const [command, ...args] = vscode.workspace.getConfiguration("gfdit").get("command", ["gfdit", "lsp"]);
  client = new LanguageClient("gfdit", "gfdit policies", { command, args }, {
    documentSelector: [{ scheme: "file", language: "gfdit-policy" }, { scheme: "untitled", language: "gfdit-policy" }],
    synchronize: { fileEvents: watcher }, // a policy may extend another one that changes
  });
  try {
    await client.start();
  } catch (error) {
    client = undefined;
    vscode.window.showErrorMessage(
      `gfdit: cannot start \`${[command, ...args].join(" ")}\` (${error.message}); see the setting gfdit.command`
    );
  }
}

async function stop() {
  const running = client;
  client = undefined;
  await running?.stop();
}

exports.activate = async (context) => {
  watcher = vscode.workspace.createFileSystemWatcher("**/*.pol");
  context.subscriptions.push(
    watcher,
    vscode.workspace.onDidChangeConfiguration(async (change) => {
      if (change.affectsConfiguration("gfdit.command")) {
        await stop();
        await start();
      }
    })
  );
  await start();
};

exports.deactivate = stop;
