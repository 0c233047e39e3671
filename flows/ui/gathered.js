// The lists of latents and prompts as they stand in the page, in place of the first two inputs.
(_turned, _asked, ...rest) => {
  const number = (text) => (String(text).trim() === "" ? null : Number(text));
  const turned = [...document.querySelectorAll("#turned [data-push]")].map((row) => {
    const of = (name) => row.querySelector(`[data-of=${name}]`);
    const found = {
      sae: row.dataset.sae, latent: Number(row.dataset.latent), strength: number(of("strength").value), mode: of("mode").value, on: of("on").checked,
    };
    return row.dataset.largest ? { ...found, largest: Number(row.dataset.largest) } : found;
  });
  const asked = [...document.querySelectorAll("#asked [data-prompt]")].map((row) => {
    const turns = [...row.querySelectorAll("textarea")].map((box) => ({ role: box.dataset.role, content: box.value }));
    return row.dataset.prompt === "text" ? turns[0].content : turns;
  });
  return [JSON.stringify(turned), JSON.stringify(asked), ...rest];
}
