"use strict";
// The page of a running system. It keeps no state of its own but the pictures of this visit and the edited policy.

const $ = id => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};

// ---- talking to the server ---------------------------------------------------------------------------------------

async function ask(path, body) {
  // a fetch that throws what the server says is wrong; an API key, where one is wanted, is asked for by the browser
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  if (!response.ok) {
    const answer = await response.json().catch(() => null);
    throw new Error(answer?.error?.message || `${path}: ${response.status} ${response.statusText}`);
  }
  return response;
}

async function* events(response) {
  // server-sent events as {event, data}; comments as {comment}
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const one = { event: "message", data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith(":")) one.comment = line.slice(1).trim();
        else if (line.startsWith("event: ")) one.event = line.slice(7);
        else if (line.startsWith("data: ")) one.data += line.slice(6);
      }
      yield one;
    }
  }
}

// ---- how the system is -------------------------------------------------------------------------------------------

const PALETTE = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#b8b8b8"];
const DARK = new Set(["#0072b2", "#009e73", "#d55e00"]);
const ALONE = new Set(["encode", "decode", "finalize"]);
const ROW = 22, LEFT = 34, BOTTOM = 18;

let status = null;      // the newest one
let heard = 0;          // when it came, in this page's milliseconds
let pace = 1;           // seconds of the system's clock per second of ours
let pointed = null;     // the stint under the pointer

const colour = request => PALETTE[Math.max(0, request?.number ?? 0) % PALETTE.length];
const ink = background => (DARK.has(background) ? "#fff" : "#000");
const seconds = value => `${Math.abs(value) >= 100 ? Math.round(value) : Number(value.toFixed(1))} s`;
const percent = share => (share === null ? "–" : `${Math.round(100 * share)} %`);
const span = value => (value >= 7200 ? `${(value / 3600).toFixed(1)} h` : value >= 120 ? `${Number((value / 60).toFixed(1))} min` : seconds(value));

async function watch() {
  for (let wait = 500; ; wait = Math.min(8000, wait * 2)) {
    try {
      for await (const { data } of events(await ask("/gfdit/events"))) {
        if (!data) continue;
        const next = JSON.parse(data), now = performance.now();
        if (status && now > heard) pace = (next.now_s - status.now_s) / ((now - heard) / 1000);
        [status, heard, wait] = [next, now, 500];
        show();
      }
    } catch (problem) {
      $("about").textContent = `the server does not answer (${problem.message})`;
    }
    document.querySelector("header").classList.add("lost");
    await new Promise(done => setTimeout(done, wait));
  }
}

function show() {
  document.querySelector("header").classList.remove("lost");
  const { policy, workers, queue, attainment } = status;
  $("about").textContent = `${status.model} on ${workers.alive.length} of ${workers.expected} ${status.device} ranks, up ${span(status.up_s)}${status.accepting ? "" : ", draining"}`;
  const tiles = [
    ["policy", `${policy.name}${policy.fallback ? " (fallback)" : ""}`],
    ["waiting", queue.waiting], ["paused", queue.paused], ["running", queue.running],
    ["on time, 1 · 5 · 15 min · ever", attainment.map(one => percent(one.share)).join(" · ")],
  ];
  $("tiles").replaceChildren(...tiles.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
  $("policy-about").textContent = `${policy.name} ${policy.sha.slice(0, 7)}`;
  if (policy.sha !== policyShown) showPolicy();
  showRequests();
}

function showRequests() {
  const rows = status.requests.slice(0, 200).map(request => {
    const chip = make("span", { className: "chip", textContent: request.letter });
    if (request.letter) Object.assign(chip.style, { background: colour(request), color: ink(colour(request)) });
    const state = request.state + (request.wait_reason ? `: ${request.wait_reason.replaceAll("_", " ")}` : "");
    const slack = request.slack_s === null ? "–" : seconds(request.slack_s);
    const cells = [
      chip, request.id, request.class_name, `${request.width}x${request.height}${request.frames > 1 ? "x" + request.frames : ""}`,
      `${request.steps_done}/${request.steps_total}`, request.degree || "–", slack, state,
    ];
    const row = make("tr", {}, ...cells.map(cell => make("td", {}, cell)));
    if (request.slack_s !== null && request.slack_s < 0) row.cells[6].className = "late";
    return row;
  });
  const nothing = make("tr", {}, make("td", { colSpan: 8, className: "empty", textContent: "no requests now" }));
  $("requests").replaceChildren(...(rows.length ? rows : [nothing]));
  const { outcomes } = status.totals;
  const ended = Object.entries(outcomes).filter(([, n]) => n).map(([what, n]) => `${n} ${what}`).join(", ");
  $("requests-about").textContent = `${status.requests.length} live${ended ? "; " + ended : ""}`;
}

// ---- the rank x time strip ---------------------------------------------------------------------------------------

function drawStrip() {
  requestAnimationFrame(drawStrip);
  if (!status?.recent || document.hidden) return;
  const canvas = $("strip"), ranks = status.workers.expected, row = Math.max(3, Math.min(ROW, 700 / ranks));
  const width = canvas.clientWidth, height = ranks * row + BOTTOM, ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const look = getComputedStyle(document.body), soft = look.getPropertyValue("--soft"), line = look.getPropertyValue("--line");
  const window_s = status.recent.window_s, now = status.now_s + pace * Math.min(3, (performance.now() - heard) / 1000);
  const x = at => LEFT + (width - LEFT) * (1 - (now - at) / window_s);
  pen.font = "11px ui-monospace, DejaVu Sans Mono, monospace";
  pen.textBaseline = "middle";
  pen.strokeStyle = line;
  pen.fillStyle = soft;
  for (let rank = 0; rank < ranks; rank++) {
    if (row >= 12) pen.fillText(String(rank).padStart(3), 4, rank * row + row / 2);
    pen.fillRect(LEFT, rank * row + row - 1, width - LEFT, 0.25);
  }
  for (const part of [0, 0.25, 0.5, 0.75]) pen.fillText(`-${span(window_s * (1 - part))}`, LEFT + (width - LEFT) * part, height - 8);
  drawStints(pen, x, row, now);
  for (const { rank, from_s, until_s } of status.recent.outages) {
    const begin = Math.max(LEFT, x(from_s)), end = Math.min(width, x(until_s ?? now));
    pen.fillStyle = "#c8102e55";
    if (end > begin) pen.fillRect(begin, rank * row, end - begin, row - 1);
  }
  $("strip-about").textContent = `the last ${span(window_s)}; a colour is a request, a number its degree`;
}

function drawStints(pen, x, row, now) {
  const known = new Map([...status.recent.ended, ...status.requests].map(request => [request.id, request]));
  for (const stint of status.recent.stints) {
    const request = known.get(stint.request);
    if (!request) continue;
    const begin = Math.max(LEFT, x(stint.start_s)), end = x(stint.end_s ?? now), paint = colour(request);
    if (end <= begin) continue;
    for (const rank of stint.ranks) {
      pen.globalAlpha = ALONE.has(stint.stage) ? 0.45 : pointed && pointed.request !== stint.request ? 0.5 : 1;
      pen.fillStyle = paint;
      pen.fillRect(begin, rank * row, Math.max(1, end - begin - 0.5), row - 1);
      pen.globalAlpha = 1;
      const label = `${request.letter}${stint.ranks.length}`;
      if (row >= 12 && end - begin > 7 * label.length + 4 && !ALONE.has(stint.stage)) {
        pen.fillStyle = ink(paint);
        pen.fillText(label, begin + 3, rank * row + row / 2);
      }
    }
  }
}

$("strip").addEventListener("mousemove", ({ offsetX, offsetY }) => {
  if (!status?.recent) return;
  const canvas = $("strip"), row = (canvas.clientHeight - BOTTOM) / status.workers.expected;
  const at = status.now_s - status.recent.window_s * (1 - (offsetX - LEFT) / (canvas.clientWidth - LEFT));
  const rank = Math.floor(offsetY / row);
  pointed = status.recent.stints.findLast(one => one.ranks.includes(rank) && one.start_s <= at && at <= (one.end_s ?? Infinity)) ?? null;
  $("strip-hint").textContent = pointed
    ? `${pointed.request}: ${pointed.stage}${pointed.stage === "denoise" ? ` from step ${pointed.first_step}` : ""} on ranks ${pointed.ranks.join(", ")} for ${seconds((pointed.end_s ?? status.now_s) - pointed.start_s)}`
    : "";
});
$("strip").addEventListener("mouseleave", () => { pointed = null; $("strip-hint").textContent = ""; });

// ---- pictures ----------------------------------------------------------------------------------------------------

$("form").addEventListener("submit", async event => {
  event.preventDefault();
  const body = { prompt: $("prompt").value.trim(), size: $("size").value.trim() || "auto", class: $("class").value.trim() || "standard", stream: true };
  if ($("steps").value) body.num_inference_steps = Number($("steps").value);
  if ($("budget").value) body.deadline_ms = 1000 * Number($("budget").value);
  $("form-problem").hidden = true;
  const bar = make("progress"), note = make("div", { textContent: "waiting" });
  const frame = make("div", { className: "frame" }, make("div", {}, bar, note));
  const caption = make("figcaption", {}, make("b", { textContent: body.prompt, title: body.prompt }));
  const figure = make("figure", {}, frame, caption);
  $("gallery").prepend(figure);
  while ($("gallery").children.length > 24) $("gallery").lastChild.remove();
  try {
    for await (const { event: kind, data, comment } of events(await ask("/v1/images/generations", body))) {
      const step = comment?.match(/^step (\d+)\/(\d+)/);
      if (step) {
        [bar.value, bar.max] = [Number(step[1]), Number(step[2])];
        note.textContent = `step ${step[1]} of ${step[2]}`;
      }
      if (kind === "error") throw new Error(JSON.parse(data).error.message);
      if (data && kind === "image_generation.completed") showPicture(figure, frame, caption, JSON.parse(data), body);
    }
  } catch (problem) {
    figure.classList.add("failed");
    frame.replaceChildren(problem.message);
    $("form-problem").textContent = problem.message;
    $("form-problem").hidden = false;
  }
});

function showPicture(figure, frame, caption, answer, body) {
  const { gfdit } = answer, ran = gfdit.run_ms / 1000, waited = gfdit.queue_ms / 1000;
  const degrees = gfdit.degrees.map(([step, degree]) => `${degree} from step ${step}`).join(", ");
  const late = gfdit.deadline_met ? "on time" : "late";
  figure.classList.add("done");
  const about = `${seconds(ran)}${waited >= 0.05 ? ` after ${seconds(waited)}` : ""}, ${late}; ranks: ${degrees}; seed ${gfdit.seed}`;
  caption.append(about);
  if (answer.b64_json && isPng(answer.b64_json)) frame.replaceChildren(make("img", { src: `data:image/png;base64,${answer.b64_json}`, alt: body.prompt }));
  else frame.replaceChildren("done; emulated ranks make no pictures");
}

const isPng = b64 => b64.startsWith("iVBORw0KGgo");

// ---- the policy --------------------------------------------------------------------------------------------------

let policyShown = "", policyText = "", checking = 0;

async function showPolicy() {
  policyShown = status.policy.sha;
  const { text } = await (await ask("/gfdit/policy")).json();
  const untouched = $("policy").value === policyText;
  policyText = text;
  if (untouched) setPolicy(text);
}

function setPolicy(text) {
  $("policy").value = text;
  check();
}

async function check() {
  const turn = ++checking, text = $("policy").value;
  const { diagnostics, ok } = await (await ask("/gfdit/policy/check", { text })).json();
  if (turn !== checking) return; // something was typed since
  $("simulate").disabled = !ok;
  const items = diagnostics.map(one => {
    const item = make("li", { className: one.severity }, make("b", { textContent: `${one.line}:${one.column} ${one.code}` }), one.message, ...one.help.map(help => make("i", { textContent: help })));
    item.addEventListener("click", () => select(text, one));
    return item;
  });
  $("diagnostics").replaceChildren(...(items.length ? items : [make("li", { className: "ok", textContent: "ok" })]));
  mark(text, diagnostics);
}

const offset = (text, line, column) => text.split("\n").slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0) + column - 1;

function select(text, one) {
  $("policy").focus();
  $("policy").setSelectionRange(offset(text, one.line, one.column), offset(text, one.end_line, one.end_column));
}

function mark(text, diagnostics) {
  const parts = [];
  let at = 0;
  for (const one of [...diagnostics].sort((a, b) => a.line - b.line || a.column - b.column)) {
    const begin = offset(text, one.line, one.column), end = Math.max(begin + 1, offset(text, one.end_line, one.end_column));
    if (begin < at) continue;
    parts.push(text.slice(at, begin), make("mark", { className: one.severity, textContent: text.slice(begin, end) || " " }));
    at = end;
  }
  $("marks").replaceChildren(...parts, text.slice(at));
}

let pause = 0;
$("policy").addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(check, 250);
});
$("policy").addEventListener("scroll", () => { [$("marks").scrollTop, $("marks").scrollLeft] = [$("policy").scrollTop, $("policy").scrollLeft]; });
$("reset").addEventListener("click", () => setPolicy(policyText));

$("simulate").addEventListener("click", async () => {
  $("simulate").disabled = true;
  $("simulate-state").textContent = "simulating";
  $("what-if").hidden = true;
  try {
    showWhatIf(await (await ask("/gfdit/policy/simulate", { text: $("policy").value })).json());
    $("simulate-state").textContent = "";
  } catch (problem) {
    $("simulate-state").textContent = problem.message;
  }
  $("simulate").disabled = false;
});

const FIGURES = [
  ["attainment", "on time", percent, 1], ["mean_latency_s", "mean latency", seconds, -1], ["p95_latency_s", "95 % within", seconds, -1],
  ["makespan_s", "all done after", seconds, -1], ["completed", "completed", String, 1], ["rejected", "rejected", String, -1], ["preemptions", "preemptions", String, 0], ["resizes", "resizes", String, 0],
];

function showWhatIf({ requests, seconds: length, tried, present }) {
  const cell = (value, format) => (value === null || value === undefined ? "–" : format(value));
  const rows = FIGURES.map(([field, name, format, better]) => {
    const row = make("tr", {}, make("td", { textContent: name }), make("td", { textContent: cell(present[field], format) }), make("td", { textContent: cell(tried[field], format) }));
    const gain = better * (tried[field] - present[field]);
    if (Math.abs(gain) > 1e-9) row.lastChild.className = gain > 0 ? "better" : "worse";
    return row;
  });
  const head = make("tr", {}, make("th", { textContent: `${requests} requests over ${span(length)}` }), make("th", { textContent: `${present.policy} (in charge)` }), make("th", { textContent: `${tried.policy} (here)` }));
  $("what-if").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  $("what-if").hidden = false;
}

watch();
drawStrip();
