// Filters, sorts and opens the rows of the ledger page. The tables stand in the page already, and the
// values behind them in one JSON; texts go into the page as text, never as HTML.
"use strict";

const data = JSON.parse(document.getElementById("ledger-data").textContent);
const claims = new Map(data.claims.map((claim) => [claim.claim, claim]));
const rows = [...document.querySelectorAll("tr.claim")].map((tr) => ({ tr, claim: claims.get(tr.id) }));
const rowOf = new Map(rows.map((row) => [row.claim.claim, row]));
const form = document.getElementById("filter");
const status = document.querySelector("[role=status]");

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
    open(row);
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
    claim.claim, claim.statement, claim.where, claim.why, claim.verdict, claim.unit, claim.rule, claim.experiment,
    claim.data, data.papers[claim.paper].title,
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
    matrix.hidden = Boolean((paper && matrix.dataset.paper !== paper) || (asked && matrix.dataset.matrix !== asked));
  }
  const total = rows.filter((row) => !row.tr.hidden).length;
  const parts = [...counts].map(([who, of]) => {
    const words = [...of].sort((a, b) => b[1] - a[1]).map(([verdict, count]) => `${count} ${verdict}`);
    return `${data.groups[who]}: ${words.join(", ")}`;
  });
  status.textContent = matrices
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

function open(row) {
  if (row.chain) return;
  const id = `chain-${row.claim.claim}`;
  const cell = make("td", { colspan: "6", role: "cell" });
  row.chain = make("tr", { class: "chain", role: "row", id }, cell);
  row.tr.after(row.chain);
  row.button.setAttribute("aria-expanded", "true");
  row.button.setAttribute("aria-controls", id);
  cell.append(chain(row.claim, cell.clientWidth));
}

function close(row) {
  row.chain?.remove();
  delete row.chain;
  row.button.setAttribute("aria-expanded", "false");
  row.button.removeAttribute("aria-controls");
}

function toggle(row) {
  if (row.chain) close(row);
  else open(row);
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
      close(row);
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
    const lines = parts.filter(Boolean);
    if (lines.length) list.append(make("dt", {}, term), make("dd", {}, ...lines.map((part) => make("div", {}, part))));
  };
  const known = data.known[claim.known ?? "us"];
  add(claim.asked_by === "paper" ? "print" : "question",
    claim.asked_by === "paper" ? `${claim.where}: ${claim.printed === null ? known : `${claim.printed_text} (${known})`}` : claim.where,
    claim.spread, claim.unit && `unit: ${claim.unit}`, `${paper.title}. ${paper.source}`);
  const commit = claim.commit === null ? `no commit known: ${data.no_history}`
    : claim.commit.hash ? `as it is since ${claim.commit.day}, commit ${claim.commit.hash}` : "not committed yet";
  add("rule", claim.rule, commit, claim.revised && `revised after the run: ${claim.revised}`);
  add("experiment", experiment.title && `${claim.experiment}: ${experiment.title}`,
    experiment.notebook && `notebooks/${experiment.notebook}, profile ${experiment.profile ?? experiment.profiles.join(" or ")}`);
  const wide = Math.min(720, Math.max(260, width - (width > 600 ? 170 : 20)));
  add("values", ...charts(claim, wide));
  add("interval", claim.low === null ? claim.ours !== null && `${claim.ours_text}, no interval: n = ${claim.n}`
    : `${claim.interval_text}, n = ${claim.n}`,
    claim.p !== null && `p = ${claim.p.toPrecision(2)}; corrected for all tests of ${claim.group}: ${claim.holm.toPrecision(2)}`,
    claim.two_way_text && `over tasks, too: ${claim.two_way_text}`);
  add(claim.asked_by === "paper" ? "verdict" : "answer", make("span", {}, make("b", {}, claim.verdict), `: ${claim.why}`),
    claim.stand_in && `stand-in: ${claim.stand_in}`);
  if (experiment.runs) {
    add("provenance",
      ...experiment.data.map((of) => `data: ${of.name}, ${of.sha256 ? `sha256 ${of.sha256}` : "made by the notebook"}`),
      `${experiment.runs} runs on ${experiment.days.join(" to ")}, ${experiment.minutes} minutes: ${experiment.machines.join("; ")}`,
      experiment.versions.join("; "),
      experiment.commits.length && `made at commit ${experiment.commits.join(", ")}`,
      `${experiment.file}, content sha256 ${experiment.content_sha256}`,
      claim.stale?.length ? `not current: ${claim.stale.join("; ")}` : "current: of the version that the code has now, and its tunings are unchanged");
  }
  if (claim.command) add("repeat it", make("code", { class: "command" }, claim.command));
  return list;
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

function paperNumber(claim, one) {
  return claim.printed !== null && claim.series.length === 1 && claim.ours !== null ? Number(claim.printed) : null;
}

function range(claim, one) {
  const ends = [...one.values, ...(one.interval ?? []), ...(claim.difference ? [0] : [])];
  let [low, high] = [Math.min(...ends), Math.max(...ends)];
  const paper = paperNumber(claim, one);
  if (paper !== null) {
    const [from, to] = [Math.min(low, paper - claim.margin), Math.max(high, paper + claim.margin)];
    if (to - from < 6 * (high - low)) [low, high] = [from, to]; // farther away: an arrow says where
  }
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

function chart(claim, one, [low, high], width) {
  const pad = 8;
  const x = (value) => pad + ((value - low) / (high - low)) * (width - 2 * pad);
  const ns = "http://www.w3.org/2000/svg";
  const paper = paperNumber(claim, one);
  const show = (value) => format(value, claim.decimals, claim.difference);
  const spread = one.interval ? `, 95 % interval ${show(one.interval[0])} to ${show(one.interval[1])}` : "";
  const words = `${one.name}: ${one.values.length} values, mean ${show(one.mean)}${spread}`;
  const svg = document.createElementNS(ns, "svg");
  const put = (tag, attributes, text) => {
    const node = document.createElementNS(ns, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text) node.textContent = text;
    svg.append(node);
    return node;
  };
  for (const [name, value] of Object.entries({ class: "dots", role: "img", "aria-label": words, width, height: 84, viewBox: `0 0 ${width} 84` })) {
    svg.setAttribute(name, value);
  }
  put("text", { x: pad, y: 12 }, words.length * 6.2 < width ? words : `${one.name}: mean ${show(one.mean)}`);
  put("line", { class: "axis", x1: pad, x2: width - pad, y1: 64, y2: 64 });
  const [step, found] = ticks(low, high, width);
  const places = Math.max(0, -Math.floor(Math.log10(step)));
  for (const tick of found) {
    put("line", { class: "axis", x1: x(tick), x2: x(tick), y1: 64, y2: 68 });
    put("text", { x: x(tick), y: 80, "text-anchor": x(tick) < 24 ? "start" : x(tick) > width - 24 ? "end" : "middle" },
      format(tick, places, claim.difference));
  }
  if (claim.difference && low <= 0 && high >= 0) put("line", { class: "zero", x1: x(0), x2: x(0), y1: 18, y2: 64 });
  one.values.forEach((value, i) => {
    put("circle", { class: "dot", cx: x(value), cy: 26 + 5 * (i % 3), r: 4 }).append(title(`repeat ${i + 1}: ${value}`));
  });
  if (one.interval) put("line", { class: "interval", x1: x(one.interval[0]), x2: x(one.interval[1]), y1: 48, y2: 48 });
  put("circle", { class: "mean", cx: x(one.mean), cy: 48, r: 6 });
  if (paper !== null) {
    if (paper >= low && paper <= high) {
      if (claim.margin) put("line", { class: "margin", x1: x(Math.max(low, paper - claim.margin)), x2: x(Math.min(high, paper + claim.margin)), y1: 58, y2: 58 });
      put("path", { class: "printed", d: `M${x(paper)} 52l6 6l-6 6l-6 -6z` }).append(title(`paper: ${claim.printed_text}`));
    } else {
      const right = paper > high;
      put("text", { x: right ? width - pad : pad, y: 60, "text-anchor": right ? "end" : "start" },
        right ? `paper ${claim.printed_text} →` : `← paper ${claim.printed_text}`);
    }
  }
  return svg;

  function title(text) {
    const node = document.createElementNS(ns, "title");
    node.textContent = text;
    return node;
  }
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
