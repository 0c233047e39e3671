"use strict";
// The table stands whole without this script; it only changes the order of its rows.
const body = document.querySelector("#jobs tbody");
const lines = [...body.rows];
const heads = [...document.querySelectorAll("#jobs th")];
function order(line, at) {
  const text = line.cells[at].dataset.order;
  return text === "" ? null : Number(text);
}
heads.forEach((head, at) => head.firstElementChild.addEventListener("click", () => {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...[...lines].sort((a, b) => {
    const x = order(a, at), y = order(b, at);
    if (x === null || y === null) return (x === null) - (y === null); // what was not measured stands last either way
    return (x - y) * (down ? -1 : 1);
  }));
}));
