"use strict";
// What the page knows. Text from the corpus or from an explainer is only ever set as textContent: it is data, never markup.
const data = JSON.parse(document.getElementById("data").textContent);

// Long values are zlib in base64; short ones are there as they are, so that a small page is whole as soon as it is read.
async function inflated(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i += 1) bytes[i] = letters.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}
const unpacked = (value) => (typeof value === "string" ? inflated(value) : value);

// A file beside this page, read in a frame that may do nothing but tell it: a page opened by double click may not fetch.
// One frame for all, one file after the other: each new frame would be a new process.
const reader = document.createElement("iframe");
reader.hidden = true;
reader.setAttribute("sandbox", "allow-scripts");
let idle = Promise.resolve();
function beside(name) {
  const told = idle.then(() => new Promise((resolve, reject) => {
    const file = "latents/" + name + ".html", over = new AbortController(), { signal } = over;
    const missing = () => { over.abort(); reject(new Error(file + " is not there")); };
    addEventListener("message", (event) => {
      if (event.source !== reader.contentWindow) return;
      over.abort();
      resolve(event.data);
    }, { signal });
    reader.addEventListener("load", () => setTimeout(() => { if (!signal.aborted) missing(); }, 1000), { signal });
    reader.src = file;
    if (!reader.isConnected) document.body.append(reader);
  }));
  idle = told.catch(() => {});
  return told.then((text) => unpacked(JSON.parse(text)));
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
  const inside = Object.keys(data.columns).filter((name) => data.columns[name] !== null);
  const found = await Promise.all([data.first, data.kept, ...inside.map((name) => data.columns[name])].map(unpacked));
  first = found[0];
  if (found[1] !== null) {
    const places = new Map(found[1].map((latent, place) => [latent, place]));
    placeOf = (latent) => places.get(latent);
  }
  inside.forEach((name, i) => { columns[name] = found[i + 2]; });
  again();
  for (const name of outside) {
    columns[name] = await beside(name.replace("/", "-"));
    again(name);
  }
}
