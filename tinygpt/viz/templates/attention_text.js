// The prompt as text. Tokens are shaded by the weight that the active token gives them; its predictions are beside the text.
const shownHeads = new Set(Array.from({ length: H }, (_, h) => h));
const view = { active: T - 1, held: -1 };
const textTokens = [];

/** Give each head a hue; hues of neighbouring heads are far apart. */
const hue = (head) => Math.round((210 + 360 * ((head * 0.618034) % 1)) % 360);
const headColour = (head, strength = 1) =>
  `hsl(${hue(head)} 75% ${isDark() ? 42 : 62}% / ${(100 * Math.min(1, strength)).toFixed(1)}%)`;

function setUpText() {
  const place = byId("text");
  data.tokens.forEach((label, i) => {
    const button = el("button", { type: "button", className: "token-button", "aria-label": `${i} ${label}` });
    // Make symbols for blanks paler than text.
    for (const part of label.split(/([␣↵⇥]+)/)) {
      if (part) button.append(/^[␣↵⇥]/.test(part) ? el("span", { className: "blank" }, part) : part);
    }
    button.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") point(i); });
    button.addEventListener("focus", () => point(i));
    button.addEventListener("click", () => hold(view.held === i ? -1 : i));
    textTokens.push(button);
    place.append(button, data.breaks[i] ? el("br") : el("wbr"));
  });
  roving(textTokens, () => 10);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hold(-1); });
  chosenListeners.push(() => showOnly(chosen.head));
  onTheme(shadeText);
  byId("average").addEventListener("change", shadeText);
  byId("every").addEventListener("click", () => showHeads([...Array(H).keys()]));
  setUpChips();
  showHeads([...shownHeads]);
  showNext();
}

/** Make token `i` the active one, unless another token is held. */
function point(i) {
  if (view.held >= 0) return;
  view.active = i;
  shadeText();
  showNext();
}

/** Hold token `i`; -1 releases the held one. */
function hold(i) {
  view.held = i;
  if (i >= 0) view.active = i;
  shadeText();
  showNext();
}

function setUpChips() {
  for (let h = 0; h < H; h++) {
    const chip = el("button", { type: "button" }, String(h));
    chip.addEventListener("click", (event) => {
      if (event.shiftKey) return showOnly(h);
      const heads = new Set(shownHeads);
      if (!heads.delete(h)) heads.add(h);
      return showHeads([...heads]);
    });
    // The two clicks of a double click have already switched the head off and on.
    chip.addEventListener("dblclick", () => showOnly(h));
    byId("chips").append(chip);
  }
}

const showOnly = (head) => showHeads([head]);

function showHeads(heads) {
  shownHeads.clear();
  heads.sort((a, b) => a - b).forEach((head) => shownHeads.add(head));
  shadeText();
}

/** Compute the background of a token: one stripe per head, from top to bottom, as strong as its weight; or the mean of all heads. */
function shading(key) {
  const heads = [...shownHeads];
  const weights = heads.map((head) => weightIn(mapOf(chosen.layer, head), view.active, key));
  if (byId("average").checked) {
    const mean = weights.reduce((sum, weight) => sum + weight, 0) / Math.max(1, heads.length);
    return [`color-mix(in srgb, var(--accent) ${(70 * Math.sqrt(mean)).toFixed(1)}%, transparent)`, mean];
  }
  const stripes = heads.map((head, i) => {
    const colour = headColour(head, Math.sqrt(weights[i]));
    return `${colour} ${(100 * i) / heads.length}% ${(100 * (i + 1)) / heads.length}%`;
  });
  return [stripes.length ? `linear-gradient(${stripes.join(", ")})` : "none", Math.max(0, ...weights)];
}

function shadeText() {
  byId("text-layer").textContent = `Layer ${chosen.layer}, heads`;
  [...byId("chips").children].forEach((chip, h) => {
    chip.setAttribute("aria-pressed", String(shownHeads.has(h)));
    chip.setAttribute("aria-label", `head ${h}`);
    chip.style.setProperty("--hue", headColour(h));
  });
  textTokens.forEach((button, i) => {
    const [background, weight] = i <= view.active ? shading(i) : ["none", 0];
    button.style.background = background;
    button.style.opacity = i > view.active ? "0.45" : "1";
    button.dataset.weight = String(weight);
    button.classList.toggle("active", i === view.active);
    button.classList.toggle("held", i === view.held);
  });
}

/** Show the five most likely tokens after the active one. */
function showNext() {
  const { best, rank, p } = data.predictions[view.active];
  const next = data.tokens[view.active + 1];
  const table = el("table", {}, el("tbody", {}, ...best.map(([label, probability], i) => {
    const row = el("tr", {}, el("td", { className: "text" }, tokenBox(label, rank === i + 1 ? "true" : "")),
      tableCell({ value: () => probability, show: () => digits(probability), fill: () => probability }, null));
    return row;
  })));
  const truth = rank === null ? ["The prompt ends here."]
    : ["In the prompt: ", tokenBox(next, "true"), ` rank ${rank}, probability ${digits(p)}`];
  byId("next").replaceChildren(
    el("div", {}, `After ${view.active} `, tokenBox(data.tokens[view.active]), view.held >= 0 ? " (held)" : "", " the model expects:"),
    table, el("div", {}, ...truth));
}

setUpText();
setUpMap();
