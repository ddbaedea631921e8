// Runs after plotly.js and page.js. Code shared by the pages with charts.

// plotly needs a colour, not the name of a CSS variable, so let the browser compute it.
const probe = document.body.appendChild(el("span", { hidden: true }));
function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/** Escape text for plotly, whose labels can contain tags, entities and $formulas$. Isolates keep the direction of text to itself. */
function plain(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", $: "&#36;" };
  return `\u2068${text.replace(/[&<>$]/g, (c) => entities[c])}\u2069`;
}

/** Fill a fieldset with radio buttons. An option has a value, a text and, if it is disabled, the reason. */
function choice(box, name, options, chosen, pick) {
  box.hidden = options.length < 2;
  for (const [value, text, disabled] of options) {
    const input = el("input", { type: "radio", name, value, checked: value === chosen, disabled: Boolean(disabled) });
    input.addEventListener("change", () => pick(value));
    box.append(el("label", { title: disabled || "" }, input, el("span", {}, text)));
  }
}
