// Data and colours of the page, and the text with a colour for every token.
const bitsOf = (nats) => nats / Math.LN2;
const tokens = unpack(data.tokens, Int32Array), N = tokens.length, M = N - 1;
const lineOf = unpack(data.line, Int32Array), columnOf = unpack(data.column, Int32Array);
const losses = unpack(data.losses, Float32Array), ranks = unpack(data.ranks, Int32Array);
const context = unpack(data.context, Int32Array);
const best = unpack(data.best, Int32Array), bestP = unpack(data.p, Float32Array), BEST = bestP.length / M;
const lens = {
  layers: data.lens.layers, losses: unpack(data.lens.losses, Float32Array), ranks: unpack(data.lens.ranks, Int32Array),
  top: unpack(data.lens.top, Int32Array), p: unpack(data.lens.p, Float32Array),
};
const K = lens.layers.length;
const guessing = Math.log2(data.vocab); // bits of a token under a uniform guess
const view = { active: -1, held: -1, layer: -1 }; // layer: an index into lens.layers; -1 is the whole model
const layerListeners = [], spans = Array.from({ length: N }, () => []), lineRows = [];

/** Return the label of token `i`. */
const labelOf = (i) => data.labels[tokens[i]];

/** Return the surprisal of token `i` > 0, for a layer of the lens or for the model. */
const bitsAt = (i, layer = view.layer) => bitsOf(layer < 0 ? losses[i - 1] : lens.losses[layer * M + i - 1]);

/** Name a layer of the lens. */
function layerName(k) {
  const passed = lens.layers[k];
  return passed === 0 ? "embeddings" : passed === data.depth ? `layer ${passed - 1}, last` : `layer ${passed - 1}`;
}

// One hue that darkens (on a dark page, lightens) steadily, so that brightness alone gives the order.
const LIGHT = [[255, 255, 255], [255, 236, 196], [252, 186, 104], [228, 116, 48], [158, 44, 16]];
const DARK = [[20, 23, 28], [66, 42, 24], [130, 70, 22], [216, 132, 52], [255, 218, 150]];

/** Return background and foreground colours for a share of the scale. */
function colours(share) {
  const rgb = blend(isDark() ? DARK : LIGHT, share);
  const [r, g, b] = rgb.map((value) => ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = 0.2126 * r + 0.7152 * g + 0.0722 * b; // WCAG 2.2, relative luminance; black and white tie at 0.179
  return [`rgb(${rgb.join(" ")})`, light > 0.179 ? "#000000" : "#ffffff"];
}

function showLegend() {
  paintLegend((share) => blend(isDark() ? DARK : LIGHT, share));
  byId("legend-high").textContent = `${guessing.toFixed(1)} bits or more: guessing`;
}

/** Make the span for the part of a token on one line; blanks are elements, so that CSS can show them. */
function tokenPart(i, text, ends) {
  const span = el("span", {});
  span.dataset.i = i;
  for (const part of text.split(/([ \t]+)/)) {
    if (!part) continue;
    if (!/^[ \t]/.test(part)) span.append(part);
    else for (const char of part) span.append(el("span", { className: char === "\t" ? "tab" : "space" }, char));
  }
  if (ends) span.classList.add("end");
  spans[i].push(span);
  return span;
}

function addLine(place) {
  const bar = el("i"), code = el("code", { role: "none" });
  const row = el("div", { className: "line", role: "none" },
    el("span", { className: "number", "aria-hidden": "true" }, String(lineRows.length + 1)),
    el("span", { className: "bar", "aria-hidden": "true" }, bar), code);
  place.append(row);
  lineRows.push({ row, bar, code, first: -1, last: -1 });
  return lineRows.at(-1);
}

function setUpText() {
  const place = document.createDocumentFragment();
  let line = addLine(place);
  for (let i = 0; i < N; i++) {
    data.pieces[tokens[i]].forEach((text, part, all) => {
      if (part) line = addLine(place);
      const ends = part < all.length - 1;
      if (text || ends || all.length === 1) line.code.append(tokenPart(i, text, ends));
    });
    const home = lineRows[lineOf[i] - 1]; // where the token begins
    if (home.first < 0) home.first = i;
    home.last = i;
    const [first] = spans[i];
    first.id = `t${i}`;
    first.setAttribute("role", "option");
  }
  const { first, code } = lineRows.at(-1);
  if (first < 0 && lineRows.length > 1 && !code.childNodes.length) lineRows.pop().row.remove(); // after the last newline
  spans[0].forEach((span) => span.classList.add("first"));
  byId("text").append(place);
}

/** List the tokens that begin in a line, without the first token of the file. */
function tokensOfLine({ first, last }) {
  const found = [];
  for (let i = Math.max(1, first); i <= last && first >= 0; i++) found.push(i);
  return found;
}

function colourText() {
  for (let i = 1; i < N; i++) {
    const [back, fore] = colours(bitsAt(i) / guessing);
    for (const span of spans[i]) {
      span.style.background = back;
      span.style.color = fore;
    }
  }
  const mean = byId("bars").value === "mean";
  const sums = lineRows.map((line) => {
    const inside = tokensOfLine(line);
    const sum = inside.reduce((total, i) => total + bitsAt(i), 0);
    return { count: inside.length, sum, value: mean ? sum / Math.max(1, inside.length) : sum };
  });
  const most = sums.reduce((found, { value }) => Math.max(found, value), 1e-9);
  lineRows.forEach(({ row, bar }, n) => {
    const { count, sum, value } = sums[n];
    bar.style.width = `${(100 * value) / most}%`;
    bar.style.visibility = count ? "visible" : "hidden";
    row.dataset.bits = String(sum);
    bar.parentNode.title = `line ${n + 1}: ${sum.toFixed(1)} bits, ${count} token${count === 1 ? "" : "s"}`;
  });
  const all = sums.reduce((total, { sum }) => total + sum, 0);
  byId("mean").textContent = `${view.layer < 0 ? "The model" : `After ${layerName(view.layer)}`}: `
    + `${all.toFixed(1)} bits in total, ${(all / M).toFixed(3)} bits per token.`;
}

function setUpLayers() {
  const menu = byId("layer");
  menu.append(el("option", { value: "-1" }, "the model"));
  for (let k = 0; k < K; k++) menu.append(el("option", { value: String(k) }, layerName(k)));
  menu.addEventListener("change", () => chooseLayer(Number(menu.value)));
}

/** Colour the text by a layer of the lens, or by the model. */
function chooseLayer(k) {
  view.layer = k;
  byId("layer").value = String(k);
  colourText();
  layerListeners.forEach((listener) => listener());
}

function setUpFacts() {
  const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
  byId("title").textContent = `${data.file}, predicted by ${data.name}`;
  byId("facts").textContent = `${plural(N, "token")} in ${plural(lineRows.length, "line")}; loss ${data.loss.toFixed(4)}, `
    + `perplexity ${data.perplexity.toFixed(3)}, ${data.bitsPerByte.toFixed(4)} bits per byte. `
    + `A prediction uses at most ${plural(data.window, "token")} of context`
    + (data.window < M ? `; a new window begins every ${plural(data.stride, "token")}.` : ".");
  if (data.dropped) {
    showCut(`The file has ${plural(N + data.dropped, "token")}; the page shows the first ${N.toLocaleString("en")} (limited by max_tokens).`);
  }
}

setUpText();
setUpFacts();
setUpLayers();
showLegend();
colourText();
onTheme(() => { showLegend(); colourText(); });
byId("bars").addEventListener("change", colourText);
byId("blanks").addEventListener("change", (event) => byId("text").classList.toggle("blanks", event.target.checked));
