// Clicks and keys within our own HTML become events of Gradio. What is clicked carries data-act and data-value.
element.addEventListener("click", (event) => {
  const at = event.target.closest("[data-act]");
  if (!at || event.ctrlKey || event.metaKey || event.shiftKey) return;  // a link in a new tab or window is the browser's
  event.preventDefault();
  trigger("select", { act: at.dataset.act, value: at.dataset.value });
  if (at.dataset.act !== "latent") return;
  for (const old of element.querySelectorAll("[aria-current]")) old.removeAttribute("aria-current");
  (at.closest("tr") || at).setAttribute("aria-current", "true");
});
element.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.matches("tbody a[data-act]")) return;
  const links = [...element.querySelectorAll("tbody a[data-act]")];
  const next = links[links.indexOf(event.target) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
});
watch("value", () => {
  const shown = element.querySelector("[data-permalink]");
  if (!shown) return;
  history.replaceState(null, "", shown.dataset.permalink);
  if (innerWidth < 760) shown.scrollIntoView({ block: "start" });
});
