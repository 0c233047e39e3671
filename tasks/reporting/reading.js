"use strict";
// What the page knows. Text from the corpus or from an explainer is only ever set as textContent: it is data, never markup.
const data = JSON.parse(document.getElementById("data").textContent);

// Long values are zlib in base64; short ones are there as they are, so that a small page is whole as soon as it is read.
async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}
const unpacked = (value) => (typeof value === "string" ? inflated(value) : value);

// A file beside this page, read in a frame that may do nothing but tell it: a page opened by double click may not fetch.
const listening = new Map();
addEventListener("message", (event) => { if (listening.has(event.source)) listening.get(event.source)(event.data); });
function beside(name) {
  return new Promise((resolve, reject) => {
    const frame = document.createElement("iframe");
    const end = (settle, value) => { listening.delete(frame.contentWindow); frame.remove(); settle(value); };
    frame.hidden = true;
    frame.setAttribute("sandbox", "allow-scripts");
    frame.src = "latents/" + name + ".html";
    frame.addEventListener("load", () => setTimeout(end, 1000, reject, new Error("latents/" + name + ".html is not there")));
    document.body.append(frame);
    listening.set(frame.contentWindow, (text) => {
      try { end(resolve, unpacked(JSON.parse(text))); } catch (error) { end(reject, error); }
    });
  });
}

// The cards of some latents at a time; only the pieces looked at last are held.
const HELD = 24, pieces = new Map();
let placeOf = (latent) => latent;
function piece(number) {
  let found = pieces.get(number);
  if (!found) {
    const name = String(number).padStart(5, "0");
    found = Promise.resolve(data.pieces ? unpacked(data.pieces[number]) : beside(name));
    found.catch(() => pieces.delete(number)); // it may be there when it is asked for again
  }
  pieces.delete(number);
  pieces.set(number, found);
  if (pieces.size > HELD) pieces.delete(pieces.keys().next().value);
  return found;
}
let first = {};
// What a latent's card shows: at once where it is known, else a promise; null where this report keeps none of it.
function cardOf(latent) {
  if (latent in first) return first[latent];
  const place = placeOf(latent);
  return place === undefined ? null : piece(Math.floor(place / data.per_piece)).then((cards) => cards[latent]);
}

// The index: a row is a view of its columns, made when it is drawn.
const columns = {};
let scorer = 0;
function row(latent) {
  const score = columns["score/" + scorer], label = columns.label;
  const found = { latent, label: label ? label[latent] : "\u2026", density: columns.density[latent], interest: columns.interest[latent] };
  for (const name of ["value", "low", "high", "n", "control"]) found[name] = score ? score[name][latent] : null;
  found.status = statusOf(latent);
  return found;
}
// Low: less than a fifth of the way from chance to the best there is.
function isLow(value) {
  const scale = data.scorers[scorer];
  return value !== null && value < scale.chance + (scale.high - scale.chance) / 5;
}
function statusOf(latent) {
  const score = columns["score/" + scorer], said = columns.status.names[columns.status.at[latent]];
  return said === "ok" && score && isLow(score.value[latent]) ? "low score" : said;
}
// Columns that are in the page first; `again` is called when the others have come.
async function read(again) {
  const outside = Object.keys(data.columns).filter((name) => data.columns[name] === null);
  for (const [name, value] of Object.entries(data.columns)) if (value !== null) columns[name] = await unpacked(value);
  first = await unpacked(data.first);
  if (data.kept !== null) {
    const places = new Map((await unpacked(data.kept)).map((latent, place) => [latent, place]));
    placeOf = (latent) => places.get(latent);
  }
  again();
  for (const name of outside) {
    columns[name] = await beside(name.replace("/", "-"));
    again(name);
  }
}
