const PAGE = 100;
const get = (id) => document.getElementById(id);
const table = get("latents"), lines = table.tBodies[0];
let order = data.scorers.length ? "value" : "interest", down = true, page = 0;
let found = [], lower = null;

// Best and worst by the scorer that is looked at; by another than the first, of all latents that it scored.
function rank() {
  let { best, worst } = data;
  const score = columns["score/" + scorer];
  if (scorer > 0 && score) {
    const sure = (latent) => (score.low[latent] === null ? score.value[latent] : score.low[latent]);
    const scored = all().filter((latent) => score.value[latent] !== null && placeOf(latent) !== undefined);
    scored.sort((a, b) => sure(b) - sure(a) || a - b);
    const most = Math.max(best.length, 1);
    [best, worst] = [scored.slice(0, most), scored.slice(most).slice(-Math.ceil(most / 2)).reverse()];
  }
  get("best").replaceChildren(...best.map((latent) => card(latent, false)));
  get("worst").replaceChildren(...worst.map((latent) => card(latent, false)));
}
function all() { return Array.from({ length: data.n }, (_, latent) => latent); }

// What to sort by, of each latent; null stands last either way.
function keys(by) {
  const score = columns["score/" + scorer];
  if (by === "latent") return (latent) => latent;
  if (by === "label") return (latent) => (lower ? lower[latent] || null : null);
  if (by === "status") return statusOf;
  if (by === "density" || by === "interest") return (latent) => columns[by][latent];
  return (latent) => (score ? score[by][latent] : null);
}
function look() {
  const words = get("search").value.toLowerCase().split(/\s+/).filter(Boolean), status = get("status").value;
  const asked = /^#?\d+$/.test(words[0] || "") && words.length === 1 ? Number(words[0].replace("#", "")) : -1;
  found = all().filter((latent) => (!status || statusOf(latent) === status) &&
    (latent === asked || words.every((word) => lower !== null && lower[latent].includes(word))));
  const key = keys(order), sign = down ? -1 : 1, of = new Array(data.n);
  for (const latent of found) of[latent] = key(latent);
  found.sort((a, b) => {
    const x = of[a], y = of[b];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return (x < y ? -1 : x > y ? 1 : 0) * sign || a - b;
  });
  page = 0;
  draw();
}
function line(latent) {
  const here = row(latent), tr = make("tr", here.value !== null && isLow(here.value) ? "low" : "");
  const cells = [[latent, "number id"], [visible(here.label), "label"], [number(here.value, 3), "number"],
    [interval(here, ""), "number rest"], [number(here.control, 2), "number rest"], [here.density.toExponential(1), "number"],
    [number(here.interest, 1), "number rest"], [here.status, "soft"]];
  tr.tabIndex = 0;
  tr.append(...cells.map(([text, name]) => make("td", name, String(text))));
  tr.addEventListener("click", () => show(latent));
  tr.addEventListener("keydown", (event) => { if (event.key === "Enter") show(latent); });
  return tr;
}
function draw() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(0, page), pages - 1);
  lines.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(line));
  get("count").textContent = found.length.toLocaleString("en-GB") + " of " + data.n.toLocaleString("en-GB") + " latents";
  get("page").max = pages;
  get("page").value = page + 1;
  get("pages").textContent = "of " + pages.toLocaleString("en-GB");
  get("before").disabled = page === 0;
  get("after").disabled = page === pages - 1;
  get("pager").hidden = pages === 1;
  for (const button of table.querySelectorAll("th button")) {
    const own = button.dataset.by === order;
    if (own) button.parentNode.setAttribute("aria-sort", down ? "descending" : "ascending");
    else button.parentNode.removeAttribute("aria-sort");
  }
}
function turn(to) { page = to; draw(); }
function show(latent) {
  get("chosen").replaceChildren(card(latent, true));
  get("chosen").scrollIntoView();
  history.replaceState(null, "", "#latent-" + latent);
}
// Columns have come: all that is drawn of them is drawn anew, but for the card that somebody reads.
function columnsHave(come) {
  if (columns.label && lower === null) lower = columns.label.map((label) => label.toLowerCase());
  if (come === undefined) statuses();
  rank();
  look();
  const asked = /^#latent-(\d+)$/.exec(location.hash);
  if (asked && Number(asked[1]) < data.n && (come === undefined || come === "label")) show(Number(asked[1]));
}
function statuses() {
  const kept = get("status").value, names = [...new Set(all().map(statusOf))].sort();
  get("status").replaceChildren(new Option("every status", ""), ...names.map((name) => new Option(name, name)));
  get("status").value = names.includes(kept) ? kept : "";
}
get("search").addEventListener("input", look);
get("status").addEventListener("change", look);
get("scorer").addEventListener("change", (event) => { scorer = Number(event.target.value); statuses(); rank(); look(); });
get("before").addEventListener("click", () => turn(page - 1));
get("after").addEventListener("click", () => turn(page + 1));
get("page").addEventListener("change", (event) => turn(Number(event.target.value) - 1 || 0));
for (const button of table.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    down = order === button.dataset.by ? !down : !["label", "latent", "status"].includes(button.dataset.by);
    order = button.dataset.by;
    look();
  });
}
// Paper opens nothing: what is folded is unfolded while the page is printed.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
read(columnsHave);
