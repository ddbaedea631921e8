// Runs after metrics_charts.js. Statistics of every layer over the steps, from watch.jsonl.
const WATCHED = [
  { id: "update", kind: "weights", of: "update", title: "Update-to-weight ratio", log: true, help: "size of a step divided by size of the weights; about 1e-3 is usual", mark: 1e-3 },
  { id: "ratio", kind: "gradients", of: "ratio", title: "Gradient-to-weight ratio", log: true, help: "ratio of root mean squares, before clipping" },
  { id: "weight-std", kind: "weights", of: "std", title: "Weights, standard deviation", zero: true },
  { id: "weight-max", kind: "weights", of: "max", title: "Weights, largest absolute value", zero: true },
  { id: "gradient-std", kind: "gradients", of: "std", title: "Gradients, standard deviation", log: true },
  { id: "gradient-zeros", kind: "gradients", of: "zeros", title: "Gradients, share of zeros", zero: true, help: "tokens that do not occur in the batch have zero gradients", percent: true },
  { id: "activation-std", kind: "activations", of: "std", title: "Activations, standard deviation", zero: true, help: "of the residual stream after each block, and inside its MLP" },
  { id: "dead", kind: "activations", of: "dead", title: "Dead units of the MLP", zero: true, percent: true, help: "units whose activation (with SwiGLU, gate) is at most 0 for every token of the batch" },
];
const MOST_BANDS = 12;
const watchedRuns = data.runs.map((run, k) => k).filter((k) => data.runs[k].watch.length);
const seriesHere = () => data.runs[state.watched].watch;
const chosenSeries = () => seriesHere().filter((one) => (!state.layer || one.layer === state.layer) && (!state.part || one.part === state.part));
const called = (one) => (state.layer ? one.part : one.part.includes(".") && !one.layer.startsWith("block") ? one.part : one.layer === one.part ? one.part : `${one.layer} ${one.part}`);

/** Colour of line i of n, from the first layer to the last: distinct on a light and on a dark page, and without red against green. */
function ramp(i, n) {
  const hue = n < 2 ? 215 : 265 - 225 * (i / (n - 1));
  return `hsl(${Math.round((hue + 360) % 360)}, ${isDark() ? "75%, 68%" : "70%, 38%"})`;
}

/** Dash every other one of many lines, because neighbours have nearly the same colour. */
const dashed = (i, list) => (i % 2 && list.length > 6 ? 1 : 0);

function watchBox(one) {
  return chartBox(byId("watch-charts"), `watch-${one.id}`, one.title, one.help);
}
const watchBoxes = watchedRuns.length ? new Map(WATCHED.map((one) => [one.id, watchBox(one)])) : new Map();

/** Mark the bounds of the healthy range, outside which the run warns, if values come near them. */
function bounds(one, values) {
  const [low, high] = data.healthy[`${one.kind}.${one.of}`] ?? [null, null], top = Math.max(...values), bottom = Math.min(...values);
  const near = [];
  if (known(high) && (one.log ? top > high / 20 : top > high / 2)) near.push(["warning above", high]);
  if (known(low) && low > 0 && one.log && bottom < low * 20) near.push(["warning below", low]);
  if (known(one.mark)) near.push(["usual", one.mark]);
  return near.map(([text, y]) => level(y, text, "bound"));
}

function drawWatched() {
  return [...watchBoxes].map(([id, { chart, caption }]) => {
    const one = WATCHED.find((other) => other.id === id);
    const found = chosenSeries().filter((series) => series.kind === one.kind && series[one.of]);
    const some = found.length > 0 && (one.of !== "zeros" || found.some((series) => series.zeros.some(Boolean)));
    chart.parentElement.hidden = !some;
    if (!some) return null;
    const traces = found.map((series, i) => line({ step: series.step, seconds: series.seconds, y: series[one.of].map((y) => (known(y) && one.percent ? 100 * y : y)) }, {
      mode: series.step.length > 1 ? "lines" : "markers", line: { color: ramp(i, found.length), width: 1.6, dash: DASHES[dashed(i, found)] },
      hovertemplate: `${shortName(called(series), 28)} %{y:.3g}<extra></extra>` }));
    const values = found.flatMap((series) => series[one.of].filter(known));
    const shown = found.length <= 12 ? found : [found[0], found[found.length - 1]];
    caption.replaceChildren(`${one.title}${one.percent ? ", %" : ""}`, el("small", {}, one.help ?? ""),
      key(...shown.map((series) => [sample(ramp(found.indexOf(series), found.length), 3, DASHED[DASHES[dashed(found.indexOf(series), found)]]), called(series)]), ...(shown.length < found.length ? [["", `${found.length} lines, first to last`]] : [])));
    return plot(chart, [...traces, ...(one.percent ? [] : bounds(one, values))], layout({ hovermode: "closest", xaxis: xAxis(),
      yaxis: axis({ type: one.log ? "log" : "linear", rangemode: one.zero ? "tozero" : "normal", fixedrange: true, nticks: 6, exponentformat: "power", ...(one.log ? { dtick: 1 } : {}) }) }));
  });
}

const KIND_NAMES = { weights: "weights", gradients: "gradients", activations: "activations" };
let bandCharts = [];

/** Draw median and bands of each chosen tensor over the steps. */
function drawBands() {
  const found = chosenSeries().filter((series) => series.q), shown = found.slice(0, MOST_BANDS);
  byId("bands-note").textContent = found.length > shown.length ? `Only the first ${shown.length} of ${found.length} are drawn. Choose a layer or a part to see the others.` : "";
  bandCharts.forEach(({ chart }) => Plotly.purge(chart));
  byId("bands").replaceChildren();
  bandCharts = shown.map((series, i) => chartBox(byId("bands"), `band-${i}`, `${called(series)}`, KIND_NAMES[series.kind]));
  return shown.map((series, i) => {
    const color = runColour({ weights: 0, gradients: 1, activations: 2 }[series.kind]);
    const at = (q) => ({ step: series.step, seconds: series.seconds, y: series.q.map((values) => values[q]) });
    const last = data.quantiles.length - 1, traces = [];
    for (let q = 0; q < last / 2; q++) {
      traces.push(line(at(q), { line: { width: 0 }, hoverinfo: "skip" }));
      traces.push(line(at(last - q), { line: { width: 0 }, fill: "tonexty", fillcolor: faint(color, 0.16), hoverinfo: "skip" }));
    }
    const middle = at(last / 2);
    const spread = series.q.map((values) => `median ${values[last / 2]?.toPrecision(3)}<br>90 %: ${values[1]?.toPrecision(3)} to ${values[last - 1]?.toPrecision(3)}`);
    traces.push(line(middle, { mode: middle.y.length > 1 ? "lines" : "markers", line: { color, width: 1.6 }, text: spread, hovertemplate: "%{text}<extra></extra>" }));
    return plot(bandCharts[i].chart, traces, layout({ margin: { l: 44, r: 8, t: 8, b: 30 }, xaxis: { ...xAxis(), title: undefined, nticks: 5 },
      yaxis: axis({ fixedrange: true, nticks: 5 }) }));
  });
}

function drawWatch() {
  return watchedRuns.length ? Promise.all([...drawWatched(), ...drawBands()]) : Promise.resolve();
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
}

function showMenus() {
  const layers = [...new Set(seriesHere().map((one) => one.layer))];
  const order = (name) => (name === "embeddings" ? -1 : name.startsWith("block ") ? Number(name.slice(6)) : 1e9);
  layers.sort((a, b) => order(a) - order(b));
  if (state.layer === null || (state.layer && !layers.includes(state.layer))) state.layer = layers.find((name) => name.startsWith("block")) ?? "";
  fill(byId("layer"), [["", "all layers"], ...layers.map((name) => [name, name])], state.layer);
  const parts = [...new Set(seriesHere().filter((one) => !state.layer || one.layer === state.layer).map((one) => one.part))];
  if (!parts.includes(state.part)) state.part = "";
  fill(byId("part"), [["", "all parts"], ...parts.map((name) => [name, name])], state.part);
}

function saveWatch() {
  const names = ["mean", "std", "max", "zeros", "update", "ratio", "dead"], rows = [csvRow(["run", "kind", "layer", "part", "step", "seconds", ...names, ...data.quantiles.map((q) => `q${q}`)])];
  for (const one of seriesHere()) {
    one.step.forEach((step, i) => rows.push(csvRow([data.runs[state.watched].name, one.kind, one.layer, one.part, step, one.seconds[i],
      ...names.map((name) => one[name]?.[i] ?? ""), ...data.quantiles.map((_, q) => one.q?.[i]?.[q] ?? "")])));
  }
  saveFile("watch.csv", rows);
}

function startWatch() {
  byId("watch").hidden = watchedRuns.length === 0;
  if (!watchedRuns.length) return;
  if (!watchedRuns.includes(state.watched)) state.watched = watchedRuns[0];
  const kinds = [...new Set(seriesHere().map((one) => one.kind))].join(", ");
  byId("watch-help").textContent = `Statistics of ${kinds}, recorded in watch.jsonl${!only && watchedRuns.length === 1 ? ` of ${data.runs[watchedRuns[0]].name}` : ""}. Colours run from the first layer or part to the last.`;
  for (const id of ["watched", "watched-label"]) byId(id).hidden = watchedRuns.length < 2;
  fill(byId("watched"), watchedRuns.map((k) => [String(k), data.runs[k].name]), String(state.watched));
  showMenus();
  const choose = (id, set) => byId(id).addEventListener("change", (event) => { set(event.target.value); showMenus(); drawWatch(); remember(); });
  choose("watched", (value) => { state.watched = Number(value); });
  choose("layer", (value) => { state.layer = value; });
  choose("part", (value) => { state.part = value; });
  byId("watch-csv").addEventListener("click", saveWatch);
}
