// Filters, sorts and opens the rows of the ledger page. The tables stand in the page already, and the
// values behind them in one JSON; texts go into the page as text, never as HTML.
"use strict";

const data = JSON.parse(document.getElementById("ledger-data").textContent);
const claims = new Map(data.claims.map((claim) => [claim.claim, claim]));
const rows = [...document.querySelectorAll("tr.claim")].map((tr) => ({ tr, claim: claims.get(tr.id) }));
const rowOf = new Map(rows.map((row) => [row.claim.claim, row]));
const form = document.getElementById("filter");
const report = document.querySelector("[role=status]");

/** An element with attributes and children; children that are strings become text. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// the scheme of colours: the book's, and a switch of the same kind

const SCHEMES = ["auto", "light", "dark"];
const themeButton = document.querySelector(".theme");

function setScheme(scheme) {
  document.documentElement.dataset.theme = scheme;
  themeButton.textContent = `Colours: ${scheme}`;
}

function storedScheme() {
  try {
    const mode = localStorage.getItem("mode");
    return SCHEMES.includes(mode) ? mode : "auto";
  } catch {
    return "auto"; // no storage for this file
  }
}

themeButton.hidden = false;
setScheme(storedScheme());
themeButton.addEventListener("click", () => {
  const now = document.documentElement.dataset.theme;
  const next = SCHEMES[(SCHEMES.indexOf(now) + 1) % SCHEMES.length];
  setScheme(next);
  try {
    localStorage.setItem("mode", next);
    localStorage.setItem("theme", next);
  } catch {
    // the choice then lasts as long as the page
  }
});

// filters, kept in the address

const FIELDS = ["paper", "verdict", "tier", "kind"];

function readAddress() {
  const hash = decodeURIComponent(location.hash.slice(1));
  const row = rowOf.get(hash);
  const wanted = new URLSearchParams(row ? "" : hash);
  for (const name of [...FIELDS, "q", "view"]) {
    form.elements[name].value = wanted.get(name) ?? "";
    if (form.elements[name].value !== (wanted.get(name) ?? "")) form.elements[name].value = "";
  }
  apply();
  if (row) {
    openRow(row);
    row.tr.scrollIntoView({ block: "start" });
    row.button.focus({ preventScroll: true });
  }
}

function writeAddress() {
  const wanted = new URLSearchParams();
  for (const name of [...FIELDS, "q", "view"]) {
    if (form.elements[name].value) wanted.set(name, form.elements[name].value);
  }
  history.replaceState(null, "", `#${wanted}`);
}

const texts = new Map(
  rows.map(({ claim }) => [claim, [
    claim.claim, claim.statement, claim.where, claim.why, claim.verdict, claim.unit, claim.rule,
    claim.experiment, claim.data, data.papers[claim.paper].title,
  ].join("\n").toLowerCase()]),
);

function apply() {
  const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = FIELDS.map((name) => [name, form.elements[name].value]).filter(([, value]) => value);
  const counts = new Map();
  for (const row of rows) {
    const { claim, tr } = row;
    const shown = wanted.every(([name, value]) => claim[name] === value)
      && words.every((word) => texts.get(claim).includes(word));
    tr.hidden = !shown;
    if (row.chain) row.chain.hidden = !shown;
    if (shown) {
      const of = counts.get(claim.kind) ?? new Map();
      counts.set(claim.kind, of.set(claim.verdict, (of.get(claim.verdict) ?? 0) + 1));
    }
  }
  const matrices = form.elements.view.value === "matrices";
  const paper = form.elements.paper.value;
  const asked = form.elements.kind.value;
  for (const section of document.querySelectorAll("section[data-kind]")) {
    const empty = ![...section.querySelectorAll("tr.claim")].some((tr) => !tr.hidden);
    section.hidden = matrices || empty;
  }
  document.getElementById("matrices").hidden = !matrices;
  for (const matrix of document.querySelectorAll("[data-matrix]")) {
    const { paper: of, matrix: kind } = matrix.dataset;
    matrix.hidden = Boolean((paper && of !== paper) || (asked && kind !== asked));
  }
  const total = rows.filter((row) => !row.tr.hidden).length;
  const parts = [...counts].map(([who, of]) => {
    const words = [...of].sort((a, b) => b[1] - a[1]).map(([verdict, count]) => `${count} ${verdict}`);
    return `${data.groups[who]}: ${words.join(", ")}`;
  });
  report.textContent = matrices
    ? "Matrices: choose a paper, or who asked. Each verdict leads to its row."
    : `${total} of ${rows.length} shown${parts.length ? ` (${parts.join("; ")})` : ""}.`;
}

form.hidden = false;
form.addEventListener("input", () => { writeAddress(); apply(); });
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(() => { writeAddress(); apply(); }));
window.addEventListener("hashchange", readAddress);

// sorting

const ORDERS = {
  claim: (claim) => claim.claim,
  ours: (claim) => claim.ours,
  printed: (claim) => (claim.printed === null ? null : Number(claim.printed)),
  n: (claim) => claim.n,
  verdict: (claim) => data.words.indexOf(claim.verdict),
  tier: (claim) => claim.tier,
};

function sort(table, name, ascending) {
  const key = ORDERS[name];
  const of = rows.filter((row) => table.contains(row.tr));
  of.sort((a, b) => {
    const [x, y] = [key(a.claim), key(b.claim)];
    if (x === null || y === null) return (x === null) - (y === null); // what has no value comes last
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return ascending ? order : -order;
  });
  table.tBodies[0].append(...of.flatMap((row) => (row.chain ? [row.tr, row.chain] : [row.tr])));
}

for (const head of document.querySelectorAll("th[data-sort]")) {
  const button = make("button", { type: "button" }, head.textContent);
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    const table = head.closest("table");
    for (const other of table.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    sort(table, head.dataset.sort, ascending);
  });
}

// rows that open

function openRow(row) {
  if (row.chain) return;
  const id = `chain-${row.claim.claim}`;
  const cell = make("td", { colspan: "6", role: "cell" });
  row.chain = make("tr", { class: "chain", role: "row", id }, cell);
  row.tr.after(row.chain);
  row.button.setAttribute("aria-expanded", "true");
  row.button.setAttribute("aria-controls", id);
  cell.append(chain(row.claim, cell.clientWidth));
}

function closeRow(row) {
  row.chain?.remove();
  delete row.chain;
  row.button.setAttribute("aria-expanded", "false");
  row.button.removeAttribute("aria-controls");
}

function toggle(row) {
  if (row.chain) closeRow(row);
  else openRow(row);
}

for (const row of rows) {
  const link = row.tr.querySelector("a.open");
  row.button = make("button", { type: "button", "aria-expanded": "false" }, ...link.childNodes);
  link.replaceWith(row.button);
  row.button.addEventListener("click", () => toggle(row));
  row.tr.addEventListener("click", (event) => {
    if (!event.target.closest("a, button") && !getSelection().toString()) toggle(row);
  });
}

document.addEventListener("keydown", (event) => {
  const field = event.target.closest("input, select");
  if (event.key === "/" && !field) {
    event.preventDefault();
    form.elements.q.focus();
  } else if (event.key === "Escape") {
    const tr = event.target.closest("tr");
    const row = rows.find((each) => each.tr === tr || (each.chain && each.chain === tr));
    if (row?.chain) {
      closeRow(row);
      row.button.focus();
    }
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !field) {
    const buttons = [...document.querySelectorAll("tr.claim:not([hidden]) th button")];
    const at = buttons.indexOf(event.target);
    const next = buttons[at + (event.key === "ArrowDown" ? 1 : -1)];
    if (at >= 0 && next) {
      event.preventDefault();
      next.focus();
    }
  }
});

// the chain of a claim

function chain(claim, width) {
  const paper = data.papers[claim.paper];
  const experiment = data.experiments[claim.experiment] ?? { profiles: [] };
  const list = make("dl");
  const add = (term, ...parts) => {
    const lines = parts.filter(Boolean).map((part) => make("div", {}, part));
    if (lines.length) list.append(make("dt", {}, term), make("dd", {}, ...lines));
  };
  add(...printLine(claim), claim.spread, claim.unit && `unit: ${claim.unit}`,
    `${paper.title}. ${paper.source}`);
  add("rule", claim.rule, commitLine(claim.commit),
    claim.revised && `revised after the run: ${claim.revised}`);
  const profile = experiment.profile ?? experiment.profiles.join(" or ");
  add("experiment",
    experiment.title && `${claim.experiment}: ${experiment.title}`,
    experiment.notebook && `notebooks/${experiment.notebook}, profile ${profile}`);
  add("values", ...charts(claim, Math.min(720, Math.max(260, width - (width > 600 ? 170 : 20)))));
  const corrected = () => `corrected for all tests of ${claim.group}: ${claim.holm.toPrecision(2)}`;
  add("interval", intervalLine(claim),
    claim.p !== null && `p = ${claim.p.toPrecision(2)}; ${corrected()}`,
    claim.two_way_text && `over tasks, too: ${claim.two_way_text}`);
  add(claim.asked_by === "paper" ? "verdict" : "answer",
    make("span", {}, make("b", {}, claim.verdict), `: ${claim.why}`),
    claim.stand_in && `stand-in: ${claim.stand_in}`);
  if (experiment.runs) add("provenance", ...provenance(claim, experiment));
  if (claim.command) add("repeat it", make("code", { class: "command" }, claim.command));
  return list;
}

function printLine(claim) {
  if (claim.asked_by === "us") return ["question", claim.where];
  const known = data.known[claim.known];
  const number = claim.printed === null ? known : `${claim.printed_text} (${known})`;
  return ["print", `${claim.where}: ${number}`];
}

function commitLine(of) {
  if (of === null) return `no commit known: ${data.no_history ?? "the history does not have the claim"}`;
  return of.hash ? `as it is since ${of.day}, commit ${of.hash}` : "not committed yet";
}

function intervalLine(claim) {
  if (claim.ours === null) return "";
  const text = claim.low === null ? `${claim.ours_text}, no interval` : claim.interval_text;
  return `${text}, n = ${claim.n}`;
}

function provenance(claim, experiment) {
  const current = "current: of the version that the code has now, and its tunings are unchanged";
  const days = experiment.days.join(" to ");
  return [
    ...experiment.data.map((of) => `data: ${of.name}, ${of.sha256 ? `sha256 ${of.sha256}` : "made here"}`),
    `${experiment.runs} runs on ${days}, ${experiment.minutes} minutes: ${experiment.machines.join("; ")}`,
    experiment.versions.join("; "),
    experiment.commits.length && `made at commit ${experiment.commits.join("; ")}`,
    `${experiment.file}, content sha256 ${experiment.content_sha256}`,
    claim.stale?.length ? `not current: ${claim.stale.join("; ")}` : current,
  ];
}

// values as dots: every value, the interval, zero for differences, and the paper's number

function charts(claim, width) {
  if (!claim.series.length) return [];
  const spans = claim.series.map((one) => range(claim, one));
  const sizes = spans.map(([low, high]) => high - low);
  const together = Math.min(...sizes) * 8 > Math.max(...sizes); // else the short ones could not be read
  const shared = [Math.min(...spans.map((s) => s[0])), Math.max(...spans.map((s) => s[1]))];
  return claim.series.map((one, i) => chart(claim, one, together ? shared : spans[i], width));
}

/** The printed number, where it is one of what the only series shows. */
function paperNumber(claim) {
  const alone = claim.series.length === 1 && claim.ours !== null;
  return claim.printed !== null && alone ? Number(claim.printed) : null;
}

function range(claim, one) {
  const ends = [...one.values, ...(one.interval ?? []), ...(claim.difference ? [0] : [])];
  let [low, high] = [Math.min(...ends), Math.max(...ends)];
  const paper = paperNumber(claim);
  if (paper !== null) {
    const [from, to] = [Math.min(low, paper - claim.margin), Math.max(high, paper + claim.margin)];
    if (to - from < 6 * (high - low)) [low, high] = [from, to]; // farther away: an arrow says where
  }
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

function chart(claim, one, [low, high], width) {
  const ns = "http://www.w3.org/2000/svg";
  const pad = 8;
  const x = (value) => pad + ((value - low) / (high - low)) * (width - 2 * pad);
  const show = (value) => format(value, claim.decimals, claim.difference);
  const put = (parent, tag, attributes, text) => {
    const node = document.createElementNS(ns, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text) node.textContent = text;
    parent?.append(node);
    return node;
  };
  const spread = one.interval ? `, 95 % interval ${one.interval.map(show).join(" to ")}` : "";
  const words = `${one.name}: ${one.values.length} values, mean ${show(one.mean)}${spread}`;
  const size = { width, height: 84, viewBox: `0 0 ${width} 84` };
  const svg = put(null, "svg", { class: "dots", role: "img", "aria-label": words, ...size });
  const short = `${one.name}: mean ${show(one.mean)}`;
  put(svg, "text", { x: pad, y: 12 }, words.length * 6.2 < width ? words : short);

  put(svg, "line", { class: "axis", x1: pad, x2: width - pad, y1: 64, y2: 64 });
  const [step, found] = ticks(low, high, width);
  const places = Math.max(0, -Math.floor(Math.log10(step)));
  for (const tick of found) {
    const anchor = x(tick) < 24 ? "start" : x(tick) > width - 24 ? "end" : "middle";
    put(svg, "line", { class: "axis", x1: x(tick), x2: x(tick), y1: 64, y2: 68 });
    put(svg, "text", { x: x(tick), y: 80, "text-anchor": anchor }, format(tick, places, claim.difference));
  }
  if (claim.difference && low <= 0 && high >= 0) {
    put(svg, "line", { class: "zero", x1: x(0), x2: x(0), y1: 18, y2: 64 });
  }
  one.values.forEach((value, i) => {
    const dot = put(svg, "circle", { class: "dot", cx: x(value), cy: 26 + 5 * (i % 3), r: 4 });
    put(dot, "title", {}, `repeat ${i + 1}: ${value}`);
  });
  if (one.interval) {
    const [x1, x2] = one.interval.map(x);
    put(svg, "line", { class: "interval", x1, x2, y1: 48, y2: 48 });
  }
  put(svg, "circle", { class: "mean", cx: x(one.mean), cy: 48, r: 6 });

  const paper = paperNumber(claim);
  const text = `paper ${claim.printed_text}`;
  if (paper === null) return svg;
  if (paper > high) {
    put(svg, "text", { x: width - pad, y: 60, "text-anchor": "end" }, `${text} →`);
  } else if (paper < low) {
    put(svg, "text", { x: pad, y: 60 }, `← ${text}`);
  } else {
    const [x1, x2] = [Math.max(low, paper - claim.margin), Math.min(high, paper + claim.margin)].map(x);
    if (claim.margin) put(svg, "line", { class: "margin", x1, x2, y1: 58, y2: 58 });
    const mark = put(svg, "path", { class: "printed", d: `M${x(paper)} 52l6 6l-6 6l-6 -6z` });
    put(mark, "title", {}, text);
  }
  return svg;
}

function ticks(low, high, width) {
  const raw = (high - low) / Math.max(2, width / 110);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) found.push(i * step);
  return [step, found];
}

/** As `mtlbook.ledger.numbers.number` writes numbers. */
function format(value, decimals, signed) {
  const text = value.toFixed(decimals);
  const zero = !/[1-9]/.test(text);
  return (zero ? text.replace("-", "") : signed && value > 0 ? `+${text}` : text).replace("-", "−");
}

readAddress();
// the browser goes to the address's row by itself, too, and takes the focus away
addEventListener("load", () => setTimeout(readAddress));
