// Lists of the Steer tab. Sliders, presets and heat are the browser's own affair; other clicks become events of Gradio.
const control = (row, name) => row.querySelector(`[data-of=${name}]`);
const settle = () => {
  // Gradio changes attributes alone; what a person has touched shows its own value until it is told
  for (const one of element.querySelectorAll("[data-set]")) {
    if (one.type === "checkbox") one.checked = one.dataset.set === "1";
    else one.value = one.dataset.set;
  }
  for (const row of element.querySelectorAll("[data-push]")) dress(row);
  heat();
};
const dress = (row) => {
  const mode = control(row, "mode").value, on = control(row, "on").checked;
  row.classList.toggle("off", !on);
  for (const name of ["slide", "strength"]) control(row, name).disabled = mode === "ablate";
  row.querySelector(".zero").hidden = mode !== "clamp" || Number(control(row, "strength").value) !== 0;
  for (const one of row.querySelectorAll("[data-preset]")) {
    const pressed = mode === one.dataset.preset && (mode === "ablate" || control(row, "strength").value === one.dataset.strength);
    one.setAttribute("aria-pressed", String(on && pressed));
  }
};
let heated = "-1";
const heat = () => {
  const choice = element.querySelector("[data-of=heat]");
  if (!choice) return;
  if (![...choice.options].some((one) => one.value === heated)) heated = "-1";
  choice.value = heated;
  if (heated === "-1" && !element.dataset.chosen) return;
  element.dataset.chosen = "1";
  for (const one of element.querySelectorAll("[data-heat]")) {
    const all = one.dataset.heat.split(" ").map(Number);
    const share = heated === "-1" ? Math.max(0, ...all) : all[Number(heated)] || 0;
    const step = Math.min(10, Math.ceil(share / 10));
    one.className = step > 0 ? `s${step}` : "";
    if (step > 0) one.title = `${share}% of its largest`;
    else one.removeAttribute("title");
  }
};
element.addEventListener("input", (event) => {
  const row = event.target.closest("[data-push]"), of = event.target.dataset.of;
  if (of === "heat") { heated = event.target.value; element.dataset.chosen = "1"; heat(); }
  if (!row) return;
  if (of === "slide") control(row, "strength").value = event.target.value;
  if (of === "strength") control(row, "slide").value = event.target.value;
  dress(row);
});
element.addEventListener("click", (event) => {
  const at = event.target.closest("[data-act], [data-preset], [data-copy]");
  if (!at) return;
  event.preventDefault();
  const row = at.closest("[data-push]");
  if (at.dataset.preset) {
    control(row, "mode").value = at.dataset.preset;
    control(row, "strength").value = control(row, "slide").value = at.dataset.strength;
    control(row, "on").checked = true;
    dress(row);
  } else if (at.dataset.copy) {
    navigator.clipboard?.writeText(element.querySelector(at.dataset.copy).textContent);
    at.textContent = "Copied";
  } else trigger("select", { act: at.dataset.act, value: at.dataset.value });
});
watch("value", settle);
settle();
