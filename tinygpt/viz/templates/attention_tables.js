// Tables of heads and predictions, and CSV files.
const names = Object.keys(data.about);
const fixed = (x) => (x === null ? "–" : x.toFixed(3));

function setUpSummaries() {
  const rows = Array.from({ length: L * H }, (_, i) => ({
    layer: Math.floor(i / H), head: i % H, ...Object.fromEntries(names.map((name) => [name, data.summaries[name][i]])),
  }));
  // Bars run from the smallest to the largest value of a column, so that small differences are visible.
  const share = (name) => {
    const values = rows.map((row) => row[name] ?? 0);
    const least = Math.min(...values), span = Math.max(...values) - least;
    return (row) => (span > 0 ? ((row[name] ?? least) - least) / span : 0);
  };
  const columns = [
    { title: "layer.head", text: false, value: (row) => row.layer * H + row.head, show: headLink },
    ...names.map((name) => ({
      title: name, help: data.about[name], value: (row) => row[name], show: (row) => fixed(row[name]),
      fill: share(name),
    })),
  ];
  sortableTable(byId("summaries"), columns, rows);
  const baseline = el("tr", { className: "baseline" }, el("td", {}, "uniform attention (baseline)"),
    ...names.map((name) => el("td", {}, fixed(data.uniform[name]))));
  byId("summaries").append(el("tfoot", {}, baseline));
  for (const name of names) byId("about").append(el("dt", {}, name), el("dd", {}, data.about[name]));
  byId("about").append(el("dt", {}, "uniform attention (baseline)"),
    el("dd", {}, "A head that gives equal weight to every token up to the current one."));
  byId("save-summaries").addEventListener("click", () => saveFile("heads.csv", [
    csvRow(["layer", "head", ...names]),
    ...rows.map((row) => csvRow([row.layer, row.head, ...names.map((name) => row[name] ?? "")])),
  ]));
}

function headLink(row) {
  const button = el("button", { type: "button", title: "Open this head" }, `${row.layer}.${row.head}`);
  button.addEventListener("click", () => {
    choose(row.layer, row.head);
    byId("one").scrollIntoView();
  });
  return button;
}

function setUpPredictions() {
  const rows = data.predictions.map((found, i) => ({ i, label: data.tokens[i], next: data.tokens[i + 1] ?? null, ...found }));
  const columns = [
    { title: "#", value: (row) => row.i },
    { title: "token", text: true, value: (row) => row.label, show: (row) => tokenBox(row.label) },
    { title: "next", text: true, value: (row) => row.next, show: (row) => (row.next === null ? "–" : tokenBox(row.next)) },
    { title: "rank", value: (row) => row.rank, show: (row) => (row.rank === null ? "–" : String(row.rank)) },
    { title: "probability", value: (row) => row.p, show: (row) => fixed(row.p), fill: (row) => row.p ?? 0 },
    { title: "most likely", text: true, value: (row) => row.best[0][1], show: bestTokens },
  ];
  sortableTable(byId("predictions"), columns, rows);
  const best = data.predictions[0].best.flatMap((_, i) => [`best ${i + 1}`, `probability ${i + 1}`]);
  byId("save-predictions").addEventListener("click", () => saveFile("predictions.csv", [
    csvRow(["position", "token", "next", "rank", "probability", ...best]),
    ...rows.map((row) => csvRow([row.i, row.label, row.next ?? "", row.rank ?? "", row.p ?? "", ...row.best.flat()])),
  ]));
}

function bestTokens(row) {
  return el("span", {}, ...row.best.map(([label, probability], i) =>
    el("span", { className: "best" }, tokenBox(label, row.rank === i + 1 ? "true" : ""), ` ${probability.toFixed(3)}`)));
}

/** Return the CSV lines of one head. */
function headLines(layer, head, start, withTokens) {
  const map = mapOf(layer, head);
  const lines = [];
  for (let q = 0, i = 0; q < T; q++) {
    for (let k = 0; k <= q; k++, i++) {
      const weight = float32(map[i]);
      lines.push(withTokens ? csvRow([q, data.tokens[q], k, data.tokens[k], weight]) : `${start}${q},${k},${weight}\r\n`);
    }
  }
  return lines.join("");
}

function setUpSaving() {
  byId("save-head").addEventListener("click", () => {
    const { layer, head } = chosen;
    saveFile(`attention-${layer}-${head}.csv`, [
      csvRow(["query", "query token", "key", "key token", "weight"]), headLines(layer, head, "", true)]);
  });
  byId("save-all").addEventListener("click", () => {
    const parts = [csvRow(["layer", "head", "query", "key", "weight"])];
    for (let l = 0; l < L; l++) for (let h = 0; h < H; h++) parts.push(headLines(l, h, `${l},${h},`, false));
    saveFile("attention.csv", parts);
  });
}

setUpSummaries();
setUpPredictions();
setUpSaving();
