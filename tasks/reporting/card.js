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
    .replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]|[\udb40][\udc00-\udfff]/g,
      (c) => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"));
}
function windowOf([tokens, steps, peak, most], tag) {
  const line = make("div", "window");
  line.title = most > 0 ? "strongest activation " + most : "does not fire";
  line.append(make("small", "strength", tag));
  tokens.forEach((token, i) => {
    const span = make("span", i === peak && steps[i] ? "peak" : "", visible(token));
    if (steps[i]) span.style.backgroundColor = "rgba(var(--mark), " + (0.08 + 0.062 * steps[i]) + ")";
    line.append(span);
  });
  return line;
}
function chips(title, pairs) {
  const box = make("div");
  if (!pairs.length) return box;
  box.append(make("small", "", title));
  const list = make("div", "chips");
  for (const [text, value] of pairs) {
    const chip = make("span", "token", visible(text));
    chip.title = String(value);
    list.append(chip);
  }
  box.append(list);
  return box;
}
function interval(found, before) {
  return found.low === null ? "" : before + number(found.low, 2) + " to " + number(found.high, 2);
}
function bar(found) {
  const box = make("span", "bar");
  const scale = data.scorers[scorer], range = make("i"), point = make("b"), tick = make("u");
  const at = (value) => 100 * Math.min(1, Math.max(0, (value - scale.low) / (scale.high - scale.low)));
  box.title = scale.name + ", " + scale.metric + ": " + number(found.value, 3) + interval(found, ", 95% interval ");
  tick.style.left = at(scale.chance) + "%";
  point.style.left = "calc(" + at(found.value) + "% - 1px)";
  if (found.low !== null) {
    range.style.left = at(found.low) + "%";
    range.style.width = at(found.high) - at(found.low) + "%";
  }
  box.append(tick, range, point);
  return box;
}
function part(title, lines, open) {
  const box = make("details");
  box.open = open;
  box.append(make("summary", "", title), ...lines);
  return box;
}
// Of a card among others, what tells it at a glance; the rest is folded away.
const GLANCE = 4;
function windows(card, whole) {
  const [strongest, ...weaker] = card.quantiles, box = make("div");
  const tag = (shown) => number(shown[3], 2);
  if (strongest) box.append(part("strongest", strongest[2].slice(0, whole ? undefined : GLANCE).map((shown) => windowOf(shown, tag(shown))), true));
  const wide = matchMedia("(min-width: 760px)").matches, each = Math.max(1, weaker.length / GLANCE);
  const some = whole ? weaker.flatMap(([, , all]) => all)
    : weaker.filter((_, i) => Math.floor((i + 1) / each) > Math.floor(i / each)).map(([, , all]) => all[0]);
  if (some.length) box.append(part("weaker, down to the weakest", some.map((shown) => windowOf(shown, tag(shown))), whole || wide));
  const silent = card.misses.slice(0, whole ? undefined : GLANCE / 2).map((shown) => windowOf(shown, ""));
  if (silent.length) box.append(part("near misses: it does not fire here", silent, whole));
  if (!strongest) box.prepend(make("p", "soft", card.fires ? "No window of it was kept." : "It never fired on the text that was read."));
  return box;
}
function histogram(bins, max) {
  const box = make("div"), bars = make("div", "histogram");
  if (!bins.length) return box;
  box.append(make("small", "", "activation, on a log axis, " + bins[0][0] + " to " + max), bars);
  for (const [edge, height] of bins) {
    const column = make("span");
    column.style.height = 100 * height + "%";
    column.title = "from " + edge;
    bars.append(column);
  }
  return box;
}
function nearest(pairs) {
  const box = make("div");
  if (!pairs.length) return box;
  box.append(make("small", "", "latents that write nearly the same (cosine)"));
  for (const [other, cosine] of pairs) {
    const link = make("button", "near", number(cosine, 2) + "  " + other + "  " + visible(row(other).label || row(other).status));
    link.addEventListener("click", () => show(other));
    box.append(link);
  }
  return box;
}
function body(card, whole) {
  const both = make("div", "columns"), side = make("div");
  side.append(histogram(card.bins, card.max), chips("promotes", card.promoted), chips("suppresses", card.suppressed),
    nearest(card.nearest), chips("evidence (log-odds on hover)", card.evidence));
  if (card.confidence !== null) side.append(make("small", "", "the explainer's own confidence " + number(card.confidence, 2)));
  both.append(windows(card, whole), side);
  return both;
}
// The head of a card at once, the rest when it has come.
function card(latent, whole) {
  const found = row(latent), box = make("article", "card"), top = make("div", "top");
  box.id = "latent-" + latent;
  top.append(make("span", "id soft", "latent " + latent), make("span", found.label ? "label" : "label soft", visible(found.label) || found.status));
  if (found.value !== null) {
    const name = data.scorers.length > 1 ? data.scorers[scorer].name + " " : "";
    const range = found.low === null ? "" : " [" + number(found.low, 2) + ", " + number(found.high, 2) + "]";
    top.append(bar(found), make("span", "soft", name + number(found.value, 2) + range + ", n " + found.n));
  }
  const others = data.scorers.map((scale, i) => {
    const score = columns["score/" + i], value = score && i !== scorer ? score.value[latent] : null;
    return value === null ? "" : scale.name + " " + number(value, 2);
  }).filter(Boolean);
  if (others.length) top.append(make("span", "soft", others.join(", ")));
  top.append(make("span", "soft", found.density ? "fires on " + Number((100 * found.density).toPrecision(2)) + "% of tokens" : "never fires"));
  if (found.status !== "ok" && found.label) top.append(make("span", "tag", found.status));
  if (!whole) {
    const link = make("button", "whole", "all of it");
    link.addEventListener("click", () => show(latent));
    top.append(link);
  }
  box.append(top);
  const more = cardOf(latent);
  if (more === null) {
    box.append(make("p", "soft", "This report keeps no windows of it; saint run report.n_cards=all makes one that does."));
  } else if (more instanceof Promise) {
    const wait = make("p", "soft", "\u2026");
    box.append(wait);
    box.setAttribute("aria-busy", "true");
    more.then((known) => wait.replaceWith(body(known, whole)), (error) => {
      wait.textContent = "Its windows could not be read: " + error.message + ". They lie in the folder latents beside report.html; copy both.";
    }).finally(() => box.removeAttribute("aria-busy"));
  } else {
    box.append(body(more, whole));
  }
  return box;
}
