// Follows plotly.js and page.js. What the pages with charts share.

// plotly wants a colour, not the name of one: the browser works it out.
const probe = document.body.appendChild(el("span", { hidden: true }));
function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** Text for plotly's SVG, which reads tags, entities and $formulas$ in labels: entities keep it text, isolates in order. */
function plain(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", $: "&#36;" };
  return `\u2068${text.replace(/[&<>$]/g, (c) => entities[c])}\u2069`;
}

/** Radio buttons in a row, in a fieldset; of an option: value, text, and why it cannot be chosen, if it cannot. */
function choice(box, name, options, chosen, pick) {
  box.hidden = options.length < 2;
  for (const [value, text, disabled] of options) {
    const input = el("input", { type: "radio", name, value, checked: value === chosen, disabled: Boolean(disabled) });
    input.addEventListener("change", () => pick(value));
    box.append(el("label", { title: disabled || "" }, input, el("span", {}, text)));
  }
}
