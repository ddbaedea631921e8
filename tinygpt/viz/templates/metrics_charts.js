// Runs after metrics.js. Curves of the runs: one chart for each figure, all with the same horizontal axis.
const touch = matchMedia("(pointer: coarse)").matches;  // on a touch screen, dragging scrolls the page
const longest = Math.max(1, ...data.runs.map((run) => run.facts.seconds ?? 0));
const [unit, unitName] = longest < 180 ? [1, "s"] : longest < 10800 ? [60, "min"] : [3600, "h"];
const byTime = () => state.axis === "time";
const along = (curve) => (byTime() ? curve.seconds.map((s) => s / unit) : curve.step);
const lastOf = (list) => list[list.length - 1] ?? 0;

/** Return the default range of the horizontal axis. */
function extent() {
  const ends = shownRuns().flatMap(({ run }) => [run.curves.loss, run.curves.val].map((curve) => lastOf(along(curve))));
  return [0, Math.max(...ends, byTime() ? 1 / unit : 1)];
}

function line(curve, rest) {
  return { type: "scatter", mode: "lines", x: along(curve), y: curve.y, showlegend: false, ...rest };
}

/** Make the traces of a figure for every shown run: the raw curve in a faint colour, the smoothed one in a strong colour. */
function pair(name, format, scaled = (y) => y) {
  return shownRuns().flatMap(({ run, k }) => {
    const color = runColour(k), smooth = run.curves[`${name}_smooth`], many = run.curves[name].y.length > 1;
    const called = only ? "" : `${shortName(run.name, 24)} `, traces = [];
    const at = (curve) => ({ ...curve, y: curve.y.map(scaled) });
    if (!smooth || state.raw || !many) {
      traces.push(line(at(run.curves[name]), {
        mode: many ? "lines" : "markers", line: { width: smooth ? 1 : 2, color: smooth ? faint(color, only ? 0.4 : 0.22) : color, dash: smooth ? "solid" : runDash(k) },
        marker: { color }, hovertemplate: `${called}%{y:${format}}<extra></extra>`, hoverinfo: smooth && !only ? "skip" : undefined,
        ...(smooth && !only ? { hovertemplate: undefined } : {}) }));
    }
    if (smooth && many) {
      traces.push(line(at(smooth), { line: { width: 2, color, dash: runDash(k) }, hovertemplate: `${called}mean %{y:${format}}<extra></extra>` }));
    }
    return traces;
  });
}

/** Make a horizontal line across the chart; `plot` writes its name at the right end. */
function level(y, text, name) {
  const [low, high] = extent();
  return { type: "scatter", mode: "lines", x: [low, high], y: [y, y], meta: text, line: { color: colour("soft"), dash: "dot", width: 1.3 }, hoverinfo: "skip", showlegend: false, name };
}

function lossTraces() {
  const held = shownRuns().map(({ run, k }) => line(run.curves.val, {
    mode: "lines+markers", line: { color: only ? colour("held") : runColour(k), width: 1.5, dash: only ? "solid" : "dot" }, marker: { size: only ? 6 : 5, symbol: only ? "circle" : "diamond" },
    hovertemplate: `${only ? "" : `${shortName(run.name, 24)} `}validation %{y:.4f}<extra></extra>` }));
  const levels = new Map(shownRuns().filter(({ run }) => known(run.guessing)).map(({ run }) => [run.vocab, run.guessing]));
  return [...[...levels].map(([vocab, y]) => level(y, `guessing: ln ${whole(vocab)} = ${y.toFixed(2)}`, "guessing")), ...pair("loss", ".4f"), ...held];
}

function clipTraces() {
  const clips = new Set(shownRuns().filter(({ run }) => known(run.clip)).map(({ run }) => run.clip));
  return [...pair("grad_norm", ".4g"), ...[...clips].map((clip) => level(clip, "", "clip"))];
}

/** Mark the end of warm-up. */
function scheduleMarks() {
  const marks = shownRuns().map(({ run, k }) => ({ k, s: run.schedule, x: byTime() ? run.schedule.seconds && run.schedule.seconds / unit : run.schedule.warmup }));
  const there = marks.filter(({ s, x }) => s.warmup > 0 && known(x) && x <= extent()[1]);
  const shapes = there.map(({ k, x }) => ({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color: only ? colour("soft") : runColour(k), width: 1, dash: "dot" } }));
  if (!only || there.length !== 1) return { shapes };
  const { s, x } = there[0], note = (text, xanchor) => ({ x, y: 0.02, yref: "paper", yanchor: "bottom", xanchor, text, showarrow: false, font: { size: 12, color: colour("soft") } });
  const room = x > 0.22 * extent()[1];  // for a word to the left of the line
  return { shapes, annotations: [...(room ? [note("warm-up ", "right")] : []), note(room ? ` ${plain(s.kind)} decay` : ` warm-up ends; ${plain(s.kind)} decay`, "left")] };
}

const sample = (color, width, dash) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of Object.entries({ width: 22, height: 10, "aria-hidden": "true" })) svg.setAttribute(name, value);
  for (const [name, value] of Object.entries({ d: "M0 5H22", stroke: color, "stroke-width": width, fill: "none", "stroke-dasharray": dash || "none" })) path.setAttribute(name, value);
  svg.append(path);
  return svg;
};
const key = (...items) => el("small", { className: "key" }, ...items.map(([mark, text]) => el("span", {}, mark, text)));
const DASHED = { solid: "", dash: "6 3", dot: "2 3" };

function lossKey() {
  const color = only ? runColour(0) : colour("fg"), raw = state.raw ? [[sample(faint(color, 0.45), 1.5), "training, each step"]] : [];
  return key(...raw, [sample(color, 2.5), `training, mean of ${data.window} steps`],
             [sample(only ? colour("held") : color, 2, only ? "" : "2 3"), "validation"]);
}

const CHARTS = [
  { id: "loss", wide: true, title: "Loss, nats per token", key: lossKey, traces: lossTraces, log: () => state.scale === "log" },
  { id: "lr", title: "Learning rate", traces: () => pair("lr", ".3e"), extra: scheduleMarks, zero: true },
  { id: "grad", title: "Gradient norm", help: "before clipping; norms above the dotted line are clipped to it", traces: clipTraces, zero: true },
  { id: "rate", title: "Throughput, tokens per second", traces: () => pair("tokens_per_s", ",.0f"), zero: true },
  { id: "peak", title: "Share of the machine's peak", help: "of the measured float32 rate, in %", traces: () => pair("peak_share", ".1f", (y) => 100 * y), zero: true },
];

const CONFIG = { displayModeBar: false, displaylogo: false, responsive: true, doubleClick: "reset", showTips: false };

function axis(rest) {
  return { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), color: colour("soft"), automargin: true, ...rest };
}

function layout(rest = {}) {
  return { paper_bgcolor: colour("bg"), plot_bgcolor: colour("bg"), font: { color: colour("fg"), size: 12 }, showlegend: false, hovermode: "x",
           dragmode: touch ? false : "zoom", hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: colour("fg") }, namelength: 0 },
           margin: { l: 48, r: 14, t: 16, b: 38 }, ...rest };
}

const xAxis = () => axis({ range: state.range ?? extent(), title: { text: byTime() ? `training time, ${unitName}` : "step", standoff: 4, font: { size: 12 } },
                           hoverformat: byTime() ? ".2f" : ",d", tickformat: byTime() ? "" : ",d", nticks: 8 });

/** Make the box of a chart, with keys: arrows move, plus and minus zoom. */
function chartBox(parent, id, title, help = "", wide = false) {
  const caption = el("figcaption", {}, title, el("small", {}, help));
  const chart = el("div", { id: `chart-${id}`, className: "chart", tabIndex: 0, role: "group",
                            "aria-label": `${title}. Arrow keys move, plus and minus zoom, 0 shows the whole run.` });
  parent.append(el("figure", { className: wide ? "wide" : "" }, caption, chart));
  chart.addEventListener("keydown", pressed);
  return { chart, caption };
}

function pressed(event) {
  const [low, high] = state.range ?? extent(), width = high - low, [, end] = extent();
  const moves = { ArrowLeft: [low - 0.15 * width, high - 0.15 * width], ArrowRight: [low + 0.15 * width, high + 0.15 * width],
                  "+": [low + 0.15 * width, high - 0.15 * width], "=": [low + 0.15 * width, high - 0.15 * width],
                  "-": [low - 0.2 * width, high + 0.2 * width], 0: null };
  if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const to = moves[event.key], left = to && Math.max(0, Math.min(to[0], end - width / 2));
  setRange(to && (to[1] - to[0] >= end ? null : [left, left + to[1] - to[0]]));
}

function setRange(range) {
  state.range = range;
  drawAll();
  remember();
}

/** Apply the range that is chosen by dragging in one chart to all charts. */
function follow(chart) {
  chart.on("plotly_relayout", (change) => {
    if (known(change["xaxis.range[0]"])) setRange([change["xaxis.range[0]"], change["xaxis.range[1]"]]);
    else if (change["xaxis.autorange"]) setRange(null);
  });
  chart.on("plotly_doubleclick", () => { setTimeout(() => setRange(null)); return false; });
}

/** Draw a chart; the first time, also listen to its events. */
function plot(chart, traces, format) {
  // Names of levels get a background, so that no line crosses them. On a log axis, plotly needs the logarithm of y.
  const names = traces.filter((trace) => trace.meta).map(({ meta, y }) => ({ text: meta, xref: "paper", x: 1, xanchor: "right",
    y: format.yaxis.type === "log" ? Math.log10(y[0]) : y[0], yanchor: "bottom", yshift: 2, borderpad: 0, showarrow: false, bgcolor: faint(colour("bg"), 0.75),
    font: { size: 12, color: colour("soft") } }));
  const drawn = Plotly.react(chart, traces, { ...format, annotations: [...(format.annotations ?? []), ...names] }, CONFIG);
  if (!chart.dataset.followed) follow(chart);
  chart.dataset.followed = "yes";
  return drawn;
}

const boxes = new Map(CHARTS.map((one) => [one.id, chartBox(byId("charts"), one.id, one.title, one.help, one.wide)]));

function drawCharts() {
  const drawn = CHARTS.map((one) => {
    const { chart, caption } = boxes.get(one.id), traces = one.traces(), log = one.log?.() ?? false;
    const empty = !traces.some((trace) => trace.hoverinfo !== "skip" && trace.y.length);
    chart.parentElement.hidden = empty && one.id !== "loss";
    if (one.key) caption.replaceChildren(one.title, one.key());
    return plot(chart, traces, layout({ xaxis: xAxis(), yaxis: axis({ type: log ? "log" : "linear", rangemode: one.zero ? "tozero" : "normal",
      fixedrange: true, nticks: 6, ...(log ? { dtick: "D2" } : {}) }), ...(one.extra?.() ?? {}) }));
  });
  return Promise.all(drawn);
}

function showLegend() {
  byId("legend").hidden = only;
  byId("legend").replaceChildren(...data.runs.map((run, k) => {
    const button = el("button", { type: "button", className: "run", "aria-pressed": String(!state.off.includes(k)) }, sample(runColour(k), 3, DASHED[runDash(k)]), run.name);
    button.addEventListener("click", () => {
      const off = state.off.includes(k) ? state.off.filter((other) => other !== k) : [...state.off, k];
      if (off.length === data.runs.length) return;  // at least one run is always shown
      state.off = off;
      button.setAttribute("aria-pressed", String(!off.includes(k)));
      setRange(null);
    });
    return button;
  }));
}
