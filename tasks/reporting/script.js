"use strict";
// Text from the corpus or from an explainer is only ever set as textContent: it is data, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = new Map(data.latents.map((row) => [row.latent, row]));
const PAGE = 100;
let scorer = 0;
// The figures of the scorer that is looked at, as fields of the row: value, interval, windows, control.
function choose(place) {
  scorer = place;
  for (const row of data.latents) {
    const found = row.scores[place] || [null, null, null, 0, null];
    [row.value, row.low, row.high, row.n, row.control_value] = found;
  }
}
choose(0);

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}
function number(value, digits) { return value === null || value === undefined ? "" : value.toFixed(digits); }
// Control and direction-changing characters are shown, not obeyed.
function visible(text) {
  return text.replace(/\n/g, "\u23ce").replace(/\t/g, "\u21e5")
    .replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069]/g,
      (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
}
function windowOf([tokens, steps, peak, most, quantile]) {
  const line = make("div", "window");
  line.title = quantile < 0 ? "does not fire" : "strongest activation " + most;
  tokens.forEach((token, i) => {
    const span = make("span", i === peak && steps[i] ? "peak" : "", visible(token));
    if (steps[i]) span.style.backgroundColor = "rgba(var(--mark), " + (0.08 + 0.062 * steps[i]) + ")";
    line.append(span);
  });
  return line;
}
function chips(title, pairs) {
  const box = make("div");
  box.append(make("small", "", title));
  const row = make("div", "chips");
  for (const [text, value] of pairs) {
    const chip = make("span", "token", visible(text));
    chip.title = String(value);
    row.append(chip);
  }
  box.append(row);
  return box;
}
function interval(row, before) {
  return row.low === null ? "" : before + number(row.low, 2) + " to " + number(row.high, 2);
}
function bar(row) {
  const box = make("span", "bar");
  const scale = data.scorers[scorer], range = make("i"), point = make("b"), tick = make("u");
  const at = (value) => 100 * Math.min(1, Math.max(0, (value - scale.low) / (scale.high - scale.low)));
  box.title = scale.name + ", " + scale.metric + ": " + number(row.value, 3) + interval(row, ", 95% interval ");
  tick.style.left = at(scale.chance) + "%";
  point.style.left = "calc(" + at(row.value) + "% - 1px)";
  if (row.low !== null) {
    range.style.left = at(row.low) + "%";
    range.style.width = at(row.high) - at(row.low) + "%";
  }
  box.append(tick, range, point);
  return box;
}
function card(latent) {
  const row = byId.get(latent), more = data.cards[latent];
  const box = make("article", "card");
  box.id = "latent-" + latent;
  const top = make("div", "top");
  top.append(make("span", "id soft", "latent " + latent), make("span", "label", visible(row.label) || row.status));
  if (row.value !== null) {
    const name = data.scorers.length > 1 ? data.scorers[scorer].name + " " : "";
    const range = row.low === null ? "" : " [" + number(row.low, 2) + ", " + number(row.high, 2) + "]";
    top.append(bar(row), make("span", "soft", name + number(row.value, 2) + range + ", n " + row.n));
  }
  const others = row.scores.map((score, i) => (score && i !== scorer ? data.scorers[i].name + " " + number(score[0], 2) : ""));
  if (others.some(Boolean)) top.append(make("span", "soft", others.filter(Boolean).join(", ")));
  top.append(make("span", "soft", "fires on " + (100 * row.density).toPrecision(2) + "% of tokens"));
  if (row.status !== "ok") top.append(make("span", "soft", row.status));
  box.append(top);
  if (!more) {
    box.append(make("p", "soft", "This page holds no windows of it; saint run report.n_cards=N makes one that shows more."));
    return box;
  }
  const columns = make("div", "columns"), left = make("div"), right = make("div");
  let first = true;
  for (const [title, windows] of Object.entries(more.windows)) {
    if (!windows.length) continue;
    const part = make("details");
    part.open = first;
    first = false;
    part.append(make("summary", "", title), ...windows.map(windowOf));
    left.append(part);
  }
  if (row.bins.length) {
    right.append(make("small", "", "activation, " + row.bins[0][0] + " to " + row.bins[row.bins.length - 1][0] + ", log scale"));
    const histogram = make("div", "histogram");
    for (const [edge, height] of row.bins) {
      const column = make("span");
      column.style.height = 100 * height + "%";
      column.title = "from " + edge;
      histogram.append(column);
    }
    right.append(histogram);
  }
  right.append(chips("promotes", more.promoted), chips("suppresses", more.suppressed));
  if (more.nearest.length) {
    right.append(make("small", "", "latents that write nearly the same (cosine)"));
    for (const [other, cosine] of more.nearest) {
      const link = make("button", "near", number(cosine, 2) + "  " + other + "  " + visible(byId.get(other).label));
      link.addEventListener("click", () => open_(byId.get(other)));
      right.append(link);
    }
  }
  if (more.evidence.length) right.append(chips("evidence (log-odds on hover)", more.evidence));
  columns.append(left, right);
  box.append(columns);
  return box;
}
// Best and worst by the scorer that is looked at; by another than the first, of the latents that have windows here.
function rank() {
  let { best, worst } = data;
  if (scorer > 0) {
    const sure = (row) => (row.low === null ? row.value : row.low);
    const found = data.latents.filter((row) => row.value !== null && data.cards[row.latent])
      .sort((a, b) => sure(b) - sure(a) || a.latent - b.latent).map((row) => row.latent);
    const most = Math.max(best.length, 1);
    [best, worst] = [found.slice(0, most), found.slice(most).slice(-Math.ceil(most / 2)).reverse()];
  }
  document.getElementById("best").replaceChildren(...best.map(card));
  document.getElementById("worst").replaceChildren(...worst.map(card));
}
rank();

let order = "value", down = true, shown = PAGE;
const body = document.querySelector("#latents tbody"), search = document.getElementById("search");
const status = document.getElementById("status"), count = document.getElementById("count");
for (const name of [...new Set(data.latents.map((row) => row.status))].sort()) status.append(new Option(name, name));
function open_(row) {
  const place = document.getElementById("chosen");
  place.replaceChildren(card(row.latent));
  place.scrollIntoView({ block: "nearest" });
  history.replaceState(null, "", "#latent-" + row.latent);
}
function draw() {
  const wanted = search.value.toLowerCase();
  const found = data.latents.filter((row) => (!status.value || row.status === status.value) &&
    (!wanted || row.label.toLowerCase().includes(wanted) || String(row.latent) === wanted));
  const missing = (v) => v === null || v === undefined || v === "";
  found.sort((a, b) => {
    const x = a[order], y = b[order];
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a.latent - b.latent;
    return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1) || a.latent - b.latent;
  });
  body.replaceChildren(...found.slice(0, shown).map((row) => {
    const scale = data.scorers[scorer]; // grey: less than a fifth of the way from chance to the best there is
    const line = make("tr", row.value !== null && row.value < scale.chance + (scale.high - scale.chance) / 5 ? "low" : "");
    line.tabIndex = 0;
    const cells = [[row.latent, "number id"], [visible(row.label), ""], [number(row.value, 3), "number"],
      [interval(row, ""), "number"],
      [number(row.control_value, 2), "number"], [row.density.toExponential(1), "number"], [row.status, "soft"]];
    line.append(...cells.map(([text, name]) => make("td", name, String(text))));
    line.addEventListener("click", () => open_(row));
    line.addEventListener("keydown", (event) => { if (event.key === "Enter") open_(row); });
    return line;
  }));
  count.textContent = found.length + " of " + data.latents.length + " latents";
  document.getElementById("more").hidden = found.length <= shown;
}
search.addEventListener("input", () => { shown = PAGE; draw(); });
status.addEventListener("change", () => { shown = PAGE; draw(); });
document.getElementById("scorer").addEventListener("change", (event) => { choose(Number(event.target.value)); rank(); draw(); });
document.getElementById("more").addEventListener("click", () => { shown += PAGE; draw(); });
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    down = order === button.dataset.by ? !down : button.dataset.by !== "label" && button.dataset.by !== "latent";
    order = button.dataset.by;
    draw();
  });
}
draw();
const asked = /^#latent-(\d+)$/.exec(location.hash);
if (asked && byId.has(Number(asked[1]))) open_(byId.get(Number(asked[1])));
