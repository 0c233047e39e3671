"use strict";
// Foreign text is only ever set as textContent: it is data, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = new Map(data.latents.map((row) => [row.latent, row]));
const PAGE = 50, WIDE = matchMedia("(min-width: 761px)");
const $ = (id) => document.getElementById(id);
const moved = data.prompts.some((prompt) => prompt.target);

function make(tag, name, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return node;
}
function number(value, digits) { return value === null || value === undefined ? "" : value.toFixed(digits); }
function signed(value, digits) { return value === null || value === undefined ? "" : (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits); }
const cost = (token, run) => (token[run] === undefined ? undefined : token[run] - token.ce_clean);

// What tokens can be coloured by: a function of the token, and how its numbers are told.
const MEASURES = [
  ["relative error", (t) => t.relative_error, (v) => number(v, 3), "||x \u2212 x\u0302|| / ||x||"],
  ["FVU", (t) => t.fvu, (v) => number(v, 3), "squared error over the tokens' mean squared deviation"],
  ["cosine", (t) => t.cosine, (v) => number(v, 3), "cos(x, x\u0302)", true],
  ["L0", (t) => (t.special ? undefined : t.l0), (v) => number(v, 0), "active latents"],
  ["CE clean", (t) => t.ce_clean, (v) => number(v, 2), "nats"],
  ["what the SAE costs", (t) => cost(t, "ce_sae"), (v) => signed(v, 3), "CE with the SAE \u2212 CE clean, nats"],
  ["what zero costs", (t) => cost(t, "ce_zero"), (v) => signed(v, 2), "CE with zero \u2212 CE clean, nats"],
  ["KL", (t) => t.kl_sae, (v) => number(v, 3), "KL(clean || with SAE) of the prediction of the token, nats"],
];
if (moved) MEASURES.push(["attribution of the rest", (t) => t.attribution_rest, (v) => signed(v, 3), "what the SAE leaves over does for the next token"]);
const state = { measure: 0, latent: null, pinned: null, order: "rank", down: false, shown: PAGE };
const strength = (latent) => (t) => (t.special ? undefined : (t.latents.find((one) => one[0] === latent) || [0, 0])[1]);

const spans = data.prompts.map((prompt, p) => prompt.tokens.map((token, t) => {
  const span = make("span", token.special ? "special" : "", token.token);
  span.tabIndex = 0;
  span.setAttribute("role", "button");
  span.setAttribute("aria-pressed", "false");
  span.addEventListener("click", () => pin(p, t));
  span.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(p, t); }
    const next = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (next && spans[p][t + next]) { event.preventDefault(); spans[p][t + next].focus(); }
  });
  span.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse" && !state.pinned) panel(p, t); });
  return span;
}));

function colour() {
  const latent = state.latent;
  const [name, of, tell, about, low] = latent === null ? MEASURES[state.measure]
    : ["latent " + latent, strength(latent), (v) => number(v, 2), "activation"];
  const values = data.prompts.map((prompt) => prompt.tokens.map(of));
  const known = values.flat().filter((v) => v !== undefined && v !== null);
  const least = Math.min(...known), most = Math.max(...known);
  const both = least < 0; // two colours about zero: warm is more, cool is less
  const span = both ? Math.max(Math.abs(least), Math.abs(most)) : low ? 1 - least : most;
  values.forEach((row, p) => row.forEach((value, t) => {
    const node = spans[p][t], there = value !== undefined && value !== null;
    const share = !there || !span ? 0 : (low ? 1 - value : Math.abs(value)) / span;
    node.style.backgroundColor = share > 0.004 ? "rgba(var(--" + (both && value > 0 ? "warm" : "mark") + "), " + (0.06 + 0.54 * share) + ")" : "";
    node.title = there ? name + " " + tell(value) : data.prompts[p].tokens[t].special ? "special: keeps its own activation" : "";
  }));
  $("scale").style.background = both
    ? "linear-gradient(90deg, rgba(var(--mark), .6), transparent, rgba(var(--warm), .6))"
    : "linear-gradient(90deg, transparent, rgba(var(--mark), .6))";
  const ends = both ? [-span, span] : low ? [1, least] : [0, most];
  $("range").textContent = known.length ? tell(ends[0]) + " to " + tell(ends[1]) + ", " + about : "";
}

function latentLine([latent, value, pushed], most) {
  const row = byId.get(latent), line = make("button", "latent", make("span", "id soft", latent),
    make("span", "name", row.label || make("span", "soft", row.status && row.status !== "ok" ? row.status : "\u2013")),
    make("span", "value", number(value, 2) + (pushed === undefined ? "" : "  " + signed(pushed, 3))));
  const bar = make("span", "strength");
  bar.style.width = 100 * value / most + "%";
  line.append(bar);
  const scores = row.scores.map((score, i) => (score === null ? "" : data.scorers[i] + " " + number(score, 2))).filter(Boolean);
  line.title = [row.label, ...scores, row.largest ? "largest known " + row.largest : ""].filter(Boolean).join("; ");
  line.addEventListener("click", () => choose(latent));
  return line;
}
function fact(name, value) { return make("div", "", make("small", "", name), value); }
function chips(title, pairs) {
  const row = make("div", "chips", ...pairs.map(([text, logit]) => {
    const chip = make("span", "token", text);
    chip.title = String(logit);
    return chip;
  }));
  return make("div", "", make("small", "", title), row);
}
function card(latent) {
  const row = byId.get(latent), close = make("button", "close", "\u00d7");
  close.setAttribute("aria-label", "no longer colour by this latent");
  close.addEventListener("click", () => choose(null));
  const box = make("div", "", close, make("h3", "", "latent " + latent), make("p", "", row.label || make("span", "soft", row.status || "no label")));
  const facts = make("div", "facts", fact("sum", number(row.sum, 2)), fact("max", number(row.max, 2)), fact("tokens", row.n_tokens));
  if (row.largest) facts.append(fact("of its largest", Math.round(100 * row.max / row.largest) + "%"));
  if (row.density !== null) facts.append(fact("density", row.density.toExponential(1)));
  if (row.attribution !== null) facts.append(fact("attribution", signed(row.attribution, 3)));
  row.scores.forEach((score, i) => { if (score !== null) facts.append(fact(data.scorers[i], number(score, 2))); });
  box.append(facts);
  if (row.promoted) box.append(chips("promotes", row.promoted), chips("suppresses", row.suppressed));
  return box;
}
function panel(p, t) {
  const box = $("panel");
  box.className = p === undefined && state.latent === null ? "empty" : "";
  if (state.latent !== null && p === undefined) { box.replaceChildren(card(state.latent)); return; }
  if (p === undefined) {
    box.replaceChildren(make("p", "soft", "Point at a token, or choose one, for its latents; choose a latent to see where it is active."));
    return;
  }
  const token = data.prompts[p].tokens[t];
  const title = make("h3", "", make("span", "token", token.token), make("span", "soft", "  token " + t + ", id " + token.id));
  const facts = make("div", "facts");
  if (!token.special) facts.append(fact("L0", token.l0), fact("relative error", number(token.relative_error, 3)), fact("FVU", number(token.fvu, 3)), fact("cosine", number(token.cosine, 3)));
  if (token.ce_clean !== undefined) facts.append(fact("CE clean", number(token.ce_clean, 3)), fact("SAE costs", signed(cost(token, "ce_sae"), 3)), fact("zero costs", signed(cost(token, "ce_zero"), 3)), fact("KL", number(token.kl_sae, 3)));
  box.replaceChildren(title, facts);
  if (token.special) { box.append(make("p", "soft", "A special token: it keeps its own activation in every run, and the SAE is not asked about it.")); return; }
  const most = token.latents.length ? token.latents[0][1] : 1;
  box.append(make("small", "", moved ? "latents: activation, and nats for the next token" : "latents, by activation"), ...token.latents.map((one) => latentLine(one, most)));
  if (token.l0 > token.latents.length) box.append(make("p", "soft", "The " + data.most + " strongest of " + token.l0 + "; saint inspect --json has all."));
}
function pin(p, t) {
  const again = state.pinned && state.pinned[0] === p && state.pinned[1] === t;
  if (state.pinned) spans[state.pinned[0]][state.pinned[1]].setAttribute("aria-pressed", "false");
  state.pinned = again ? null : [p, t];
  if (!again) spans[p][t].setAttribute("aria-pressed", "true");
  if (again) panel(); else panel(p, t);
  if (!again && !WIDE.matches) spans[p][t].scrollIntoView({ block: "center" }); // above the panel at the foot
}
function choose(latent, scroll) {
  state.latent = latent;
  if (state.pinned) pin(...state.pinned);
  $("colour").value = latent === null ? String(state.measure) : "latent";
  $("chosen").hidden = latent === null;
  if (latent !== null) $("chosen").textContent = "latent " + latent;
  colour();
  panel();
  for (const line of document.querySelectorAll("#latents tbody tr")) line.setAttribute("aria-selected", String(Number(line.dataset.latent) === latent));
  if (scroll) document.querySelector("main .tools").scrollIntoView();
  try { history.replaceState(null, "", latent === null ? "#" : "#latent-" + latent); } catch { /* a notebook's frame has no address */ }
}

// Prompts, and what comes after them.
const RUNS = [["clean", "next"], ["sae", "next, with the SAE"], ["zero", "next, with zero"]];
data.prompts.forEach((prompt, p) => {
  const text = make("div", "text");
  prompt.tokens.forEach((token, t) => { text.append(spans[p][t]); if (token.ends) text.append("\n"); });
  const next = make("div", "next", ...RUNS.map(([run, title]) => make("div", "", make("small", "", title), ...prompt.next[run].map(([token, share]) => {
    const bar = make("i");
    bar.style.width = 100 * share + "%";
    return make("div", "guess", bar, make("span", "token", token), make("span", "soft", (100 * share).toFixed(share < 0.0995 ? 1 : 0) + "%"));
  }))));
  const box = make("section", "prompt", text, next);
  if (prompt.target) box.append(make("small", "", "Attribution is to ", make("span", "token", prompt.target[0]), ", " + (100 * prompt.target[1]).toPrecision(2) + "% likely, in nats to first order."));
  $("prompts").append(box);
});
MEASURES.forEach(([name], i) => $("colour").append(new Option(name, String(i))));
const chosen = new Option("latent", "latent");
chosen.id = "chosen";
chosen.hidden = true;
$("colour").append(chosen);
$("colour").addEventListener("change", (event) => {
  if (event.target.value === "latent") return;
  state.measure = Number(event.target.value);
  choose(null);
});

// The table of latents.
const COLUMNS = [["latent", "latent", "number id"], ["sum", "sum", "number"], ["max", "max", "number"], ["n_tokens", "tokens", "number"]];
if (moved) COLUMNS.push(["attribution", "attribution", "number"]);
COLUMNS.push(["label", "label", "label"], ...data.scorers.map((name, i) => ["score" + i, name, "number"]), ["promoted", "promotes", "pushed"], ["suppressed", "suppresses", "pushed"]);
data.latents.forEach((row, i) => { row.rank = i; row.scores.forEach((score, j) => { row["score" + j] = score; }); });
function cell(row, name) {
  const value = row[name];
  if (name === "promoted" || name === "suppressed") return (value || []).slice(0, 5).map(([token]) => token).join(" ");
  if (name === "label") return value || (row.status === "ok" ? "" : row.status);
  if (name === "attribution") return signed(value, 3);
  return typeof value === "number" ? (Number.isInteger(value) && (name === "latent" || name === "n_tokens") ? String(value) : number(value, 2)) : "";
}
const heads = COLUMNS.map(([name, title, sort]) => {
  const button = make("button", "", title), head = make("th", sort.includes("number") ? "number" : "", button);
  if (name === "promoted" || name === "suppressed") { head.replaceChildren(title); return head; }
  button.addEventListener("click", () => {
    state.down = state.order === name ? !state.down : name !== "label" && name !== "latent";
    state.order = name;
    draw();
  });
  return head;
});
document.querySelector("#latents thead tr").append(...heads);
function draw() {
  const wanted = $("search").value.toLowerCase();
  const found = data.latents.filter((row) => !wanted || row.label.toLowerCase().includes(wanted) || String(row.latent) === wanted);
  const missing = (v) => v === null || v === undefined || v === "";
  found.sort((a, b) => {
    const x = a[state.order], y = b[state.order];
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a.rank - b.rank;
    return (x < y ? -1 : x > y ? 1 : 0) * (state.down ? -1 : 1) || a.rank - b.rank;
  });
  COLUMNS.forEach(([name], i) => {
    if (name === state.order) heads[i].setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else heads[i].removeAttribute("aria-sort");
  });
  document.querySelector("#latents tbody").replaceChildren(...found.slice(0, state.shown).map((row) => {
    const line = make("tr", "", ...COLUMNS.map(([name, , sort]) => make("td", sort, cell(row, name))));
    line.tabIndex = 0;
    line.dataset.latent = row.latent;
    line.setAttribute("aria-selected", String(row.latent === state.latent));
    line.addEventListener("click", () => choose(row.latent, true));
    line.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(row.latent, true); });
    return line;
  }));
  $("count").textContent = found.length + " of " + data.latents.length + " latents";
  $("more").hidden = found.length <= state.shown;
}
$("search").addEventListener("input", () => { state.shown = PAGE; draw(); });
$("more").addEventListener("click", () => { state.shown += PAGE; draw(); });
colour();
if (WIDE.matches) panel(0, spans[0].length - 1); else panel();
draw();
const asked = /^#latent-(\d+)$/.exec(location.hash);
if (asked && byId.has(Number(asked[1]))) choose(Number(asked[1]), true);
