// Tables of the most surprising tokens and of the layers, and CSV files.
const MOST_SURPRISING = 50;
const place = (i) => `${lineOf[i]}:${columnOf[i]}`;

function setUpSurprising() {
  const order = Array.from({ length: M }, (_, m) => m + 1).sort((a, b) => losses[b - 1] - losses[a - 1] || a - b);
  const columns = [
    { title: "line:column", value: (i) => lineOf[i] * 1e6 + columnOf[i], show: placeLink },
    { title: "token", text: true, value: labelOf, show: (i) => tokenBox(labelOf(i)) },
    { title: "bits", value: (i) => bitsAt(i, -1), show: (i) => bitsAt(i, -1).toFixed(2), fill: (i) => bitsAt(i, -1) / bitsAt(order[0], -1) },
    { title: "rank", value: (i) => ranks[i - 1] },
    { title: "expected", text: true, value: (i) => expected(i), show: (i) => tokenBox(expected(i), best[(i - 1) * BEST] === tokens[i] ? "true" : "") },
    { title: "probability", value: (i) => bestP[(i - 1) * BEST], show: (i) => bestP[(i - 1) * BEST].toFixed(3) },
  ];
  sortableTable(byId("surprising"), columns, order.slice(0, MOST_SURPRISING));
}

const expected = (i) => data.labels[best[(i - 1) * BEST]];

function placeLink(i) {
  const button = el("button", { type: "button", className: "link", title: "Show it in the text" }, place(i));
  button.addEventListener("click", () => visit(i));
  return button;
}

/** Compute the means of each layer over all tokens. */
function layerRows() {
  return lens.layers.map((_, k) => {
    const row = { k, bits: 0, right: 0, agreed: 0 };
    for (let m = 0; m < M; m++) {
      row.bits += bitsOf(lens.losses[k * M + m]) / M;
      row.right += (lens.ranks[k * M + m] === 1) / M;
      row.agreed += (lens.top[k * M + m] === best[m * BEST]) / M;
    }
    return row;
  });
}

function setUpLens() {
  byId("lens-section").hidden = !K;
  if (!K) return;
  const rows = layerRows(), most = Math.min(2 * guessing, Math.max(...rows.map((row) => row.bits))); // the embeddings may predict very badly
  const percent = (x) => `${(100 * x).toFixed(1)} %`;
  const lines = [];
  sortableTable(byId("lens"), [
    { title: "after", text: false, value: (row) => row.k, show: layerLink },
    { title: "bits per token", help: "mean surprisal", value: (row) => row.bits, show: (row) => row.bits.toFixed(3), fill: (row) => row.bits / most },
    { title: "correct", help: "share of tokens that are the most likely one of the layer", value: (row) => row.right, show: (row) => percent(row.right), fill: (row) => row.right },
    { title: "same as the model", help: "share of tokens for which layer and model expect the same token", value: (row) => row.agreed, show: (row) => percent(row.agreed), fill: (row) => row.agreed },
  ], rows, (line, row) => lines.push([line, row.k]));
  const mark = () => lines.forEach(([line, k]) => line.setAttribute("aria-current", String(k === view.layer)));
  layerListeners.push(mark);
}

function layerLink(row) {
  const button = el("button", { type: "button", className: "link", title: "Colour the text by it" }, layerName(row.k));
  button.addEventListener("click", () => chooseLayer(row.k));
  return button;
}

function saveTokens() {
  const names = Array.from({ length: BEST }, (_, b) => [`best ${b + 1}`, `probability ${b + 1}`]).flat();
  const parts = [csvRow(["position", "line", "column", "token", "loss", "bits", "rank", "context", ...names])];
  for (let i = 0; i < N; i++) {
    const m = i - 1;
    const numbers = i ? [float32(losses[m]), String(bitsAt(i, -1)), ranks[m], context[m]] : ["", "", "", ""];
    const guesses = Array.from({ length: BEST }, (_, b) => (i ? [data.labels[best[m * BEST + b]], float32(bestP[m * BEST + b])] : ["", ""]));
    parts.push(csvRow([i, lineOf[i], columnOf[i], labelOf(i), ...numbers, ...guesses.flat()]));
  }
  saveFile("tokens.csv", parts);
}

function saveLines() {
  const parts = [csvRow(["line", "tokens", "bits"])];
  lineRows.forEach((line, n) => {
    const inside = tokensOfLine(line);
    parts.push(csvRow([n + 1, inside.length, inside.reduce((sum, i) => sum + bitsAt(i, -1), 0)]));
  });
  saveFile("lines.csv", parts);
}

function saveLens() {
  const parts = [csvRow(["position", "token", "after", "loss", "rank", "expected", "probability"])];
  for (let k = 0; k < K; k++) {
    for (let m = 0; m < M; m++) {
      const at = k * M + m;
      parts.push(csvRow([m + 1, labelOf(m + 1), layerName(k), float32(lens.losses[at]), lens.ranks[at], data.labels[lens.top[at]], float32(lens.p[at])]));
    }
  }
  saveFile("lens.csv", parts);
}

setUpSurprising();
setUpLens();
byId("save-tokens").addEventListener("click", saveTokens);
byId("save-lines").addEventListener("click", saveLines);
byId("save-lens").addEventListener("click", saveLens);
