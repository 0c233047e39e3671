"use strict";
// Text from the corpus or from an explainer is only ever set as textContent: it is data, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = new Map(data.latents.map((row) => [row.latent, row]));
const PAGE = 100;

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
function bar(row) {
  const box = make("span", "bar");
  box.title = "score " + number(row.value, 3) + ", 95% interval " + number(row.low, 2) + " to " + number(row.high, 2);
  const range = make("i"), point = make("b");
  range.style.left = 100 * row.low + "%";
  range.style.width = 100 * (row.high - row.low) + "%";
  point.style.left = "calc(" + 100 * row.value + "% - 1px)";
  box.append(make("u"), range, point);
  return box;
}
function card(latent) {
  const row = byId.get(latent), more = data.cards[latent];
  const box = make("article", "card");
  box.id = "latent-" + latent;
  const top = make("div", "top");
  top.append(make("span", "id soft", "latent " + latent), make("span", "label", visible(row.label) || row.status));
  if (row.value !== null) {
    top.append(bar(row), make("span", "soft", number(row.value, 2) + " [" + number(row.low, 2) + ", " +
      number(row.high, 2) + "], n " + row.n));
  }
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
  if (more.evidence.length) right.append(chips("evidence (log-odds on hover)", more.evidence));
  columns.append(left, right);
  box.append(columns);
  return box;
}
for (const name of ["best", "worst"]) document.getElementById(name).append(...data[name].map(card));

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
    const line = make("tr", row.value !== null && row.value < 0.6 ? "low" : "");
    line.tabIndex = 0;
    const cells = [[row.latent, "number id"], [visible(row.label), ""], [number(row.value, 3), "number"],
      [row.value === null ? "" : number(row.low, 2) + "\u2013" + number(row.high, 2), "number"],
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
