// Runs after page.js and charts.js. State of the page, formats of numbers, summary and tables.
const KEY = "tinygpt metrics";  // name in the session storage, which keeps the state across reloads
const DASHES = ["solid", "dash", "dot"];
const HUES = [["#2463c9", "#74a9ff"], ["#b3500b", "#ffa45c"], ["#0a7a55", "#4fd6a4"], ["#a3249b", "#ee8ae6"],
              ["#c02942", "#ff7d8f"], ["#6d5a00", "#e0c24a"], ["#0b7285", "#5fd3e6"], ["#5b5f97", "#b5b9ff"]];

const state = { axis: "step", scale: "linear", raw: true, off: [], range: null, watched: 0, layer: null, part: "", paused: false,
                open: [], scroll: 0, theme: null, ...remembered() };
state.off = state.off.filter((k) => k < data.runs.length);
if (data.runs.every((run, k) => state.off.includes(k))) state.off = [];
if (state.watched >= data.runs.length) state.watched = 0;

/** Read the state that an earlier load of this page stored; empty if there is none. */
function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(`${KEY} ${location.pathname}`) || "{}");
  } catch {
    return {};  // storage is switched off, or the page is in a sandboxed frame
  }
}

function remember() {
  state.scroll = scrollY;
  state.theme = document.documentElement.dataset.theme || null;
  state.open = ["evaluations-box", "settings-box"].filter((id) => byId(id).open);
  try {
    sessionStorage.setItem(`${KEY} ${location.pathname}`, JSON.stringify(state));
  } catch { /* the next load starts with the defaults */ }
}

const runColour = (k) => HUES[k % HUES.length][isDark() ? 1 : 0];
const runDash = (k) => DASHES[Math.floor(k / HUES.length) % DASHES.length];
function faint(color, share) {
  const parts = color.startsWith("#") ? [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)) : color.match(/[\d.]+/g).slice(0, 3);
  return `rgba(${parts.join(",")},${share})`;
}

/** Shorten a name for plotly to its end, where names differ. */
function shortName(text, most) {
  const chars = Array.from(text);
  return plain(chars.length > most ? `…${chars.slice(1 - most).join("")}` : text);
}

const known = (x) => x !== null && x !== undefined;
const whole = (n) => n.toLocaleString("en-US");
const nats = (x) => (known(x) ? x.toFixed(x < 100 ? 4 : 1) : "–");
const percent = (x) => `${(100 * x).toPrecision(2)} %`;
function big(n) {
  if (n < 1e4) return n < 100 ? n.toPrecision(3) : whole(Math.round(n));
  const at = n < 1e6 ? [1e3, "k"] : n < 1e9 ? [1e6, "M"] : [1e9, "G"];
  return `${(n / at[0]).toPrecision(3)} ${at[1]}`;
}
function clock(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)} min` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)} h`;
}

const shownRuns = () => data.runs.map((run, k) => ({ run, k })).filter(({ k }) => !state.off.includes(k));
const only = data.runs.length === 1;

function stateText(run) {
  const { steps, total } = run.facts, of = known(total) ? `${whole(steps)} of ${whole(total)} steps` : `${whole(steps)} steps`;
  if (run.state === "running") return `running, ${of}`;
  if (run.state === "stopped") return `stopped after ${of}`;
  if (run.state === "complete") return `complete, ${whole(steps)} steps`;
  return of;
}

function showHead() {
  const line = byId("state");
  line.textContent = only ? stateText(data.runs[0]) : `${data.runs.length} runs`;
  line.className = only ? data.runs[0].state : "";
  byId("names").textContent = only ? data.runs[0].name : "";
  byId("names").hidden = !only;
  byId("notes").replaceChildren(...data.notes.map((note) => el("p", { className: "note" }, note)));
}

/** Make a card of the summary; no card if the figure is unknown. */
function card(title, value, more = "") {
  return known(value) ? [el("div", {}, el("dt", {}, title), el("dd", {}, String(value), el("small", {}, more)))] : [];
}

function showSummary() {
  const box = byId("summary");
  box.hidden = !only;
  if (!only) return;
  const { facts, vocab, guessing } = data.runs[0], has = (x, show) => (known(x) ? show(x) : null);
  box.replaceChildren(
    ...card("Training loss, last step", has(facts.final, nats), known(facts.smooth) ? `mean of the last ${data.window} steps: ${nats(facts.smooth)}` : ""),
    ...card("Training loss, first step", has(facts.first, nats), known(guessing) ? `guessing: ln ${whole(vocab)} = ${guessing.toFixed(3)}` : ""),
    ...card("Training loss, lowest", has(facts.lowest, nats), `at step ${whole(facts.lowestStep ?? 0)}`),
    ...card("Training loss, mean", has(facts.average, nats), "of all steps"),
    ...card("Validation loss, best", has(facts.best, nats), facts.bestStep < 1 ? "before the first step" : `after step ${whole(facts.bestStep ?? 0)}, last ${nats(facts.val)}`),
    ...card("Loss on the whole validation split", has(facts.score, nats), "of the best model"),
    ...card("Steps", whole(facts.steps), known(facts.total) ? `of ${whole(facts.total)}` : ""),
    ...card("Tokens seen", has(facts.tokens, big), has(facts.tokens, whole) ?? ""),
    ...card("Parameters", has(facts.parameters, big), has(facts.parameters, whole) ?? ""),
    ...card("Training time", has(facts.seconds, clock), "without evaluations"),
    ...card("Throughput", has(facts.rate, (x) => `${big(x)} tok/s`), "median step"),
    ...card("Share of peak", has(facts.peak, percent), "median step"));
}

/** Fill the table that compares runs: settings in which they differ, and results. */
function showCompared() {
  byId("compared").hidden = only;
  if (only) return;
  const figure = (title, help, name, show) => ({ title, help, value: (k) => data.runs[k].facts[name] ?? null,
                                                 show: (k) => (known(data.runs[k].facts[name]) ? show(data.runs[k].facts[name]) : "–") });
  const setting = ({ name, values }) => {
    const numbers = values.every((value) => value === "" || Number.isFinite(Number(value)));
    return { title: name, help: "setting", text: !numbers, show: (k) => values[k] || "–",
             value: (k) => (values[k] === "" ? null : numbers ? Number(values[k]) : values[k]) };
  };
  sortableTable(byId("runs"), [
    { title: "run", text: true, value: (k) => data.runs[k].name },
    ...data.differing.map(setting),
    figure("steps", "steps made so far", "steps", whole),
    figure("final loss", "training loss of the last step", "final", nats),
    figure("smoothed", `mean of the last ${data.window} steps`, "smooth", nats),
    figure("validation, best", "lowest validation loss", "best", nats),
    figure("validation, last", "last validation loss", "val", nats),
    figure("parameters", "trained values", "parameters", whole),
    figure("time", "training time, without evaluations", "seconds", clock),
    figure("tok/s", "median step", "rate", big),
  ], data.runs.map((run, k) => k));
}

function showSettings() {
  const names = [...new Set(data.runs.flatMap((run) => run.settings.map(([name]) => name)))];
  byId("settings-box").hidden = names.length === 0;
  const heads = only ? [] : [el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "setting"), ...data.runs.map((run) => el("th", { scope: "col" }, run.name))))];
  byId("settings").replaceChildren(...heads, el("tbody", {}, ...names.map((name) => el("tr", {}, el("th", { scope: "row" }, name),
    ...data.runs.map((run) => el("td", {}, run.settings.find(([other]) => other === name)?.[1] ?? ""))))));
}

function showEvaluations() {
  const rows = data.runs.flatMap((run) => run.curves.val.step.map((step, i) => ({ run, step, i, val: run.curves.val })));
  byId("evaluations-box").hidden = rows.length === 0;
  const table = byId("evaluations"), columns = [
    { title: "after step", value: (row) => row.step, show: (row) => (row.step < 1 ? "none" : whole(row.step)) },
    { title: "time", value: (row) => row.val.seconds[row.i], show: (row) => clock(row.val.seconds[row.i]) },
    { title: "validation loss", value: (row) => row.val.y[row.i], show: (row) => nats(row.val.y[row.i]) },
    { title: "bits per byte", value: (row) => row.val.bits[row.i], show: (row) => nats(row.val.bits[row.i]) }];
  table.replaceChildren();
  sortableTable(table, only ? columns : [{ title: "run", text: true, value: (row) => row.run.name }, ...columns], rows);
}

function save() {
  const rows = [csvRow(["run", "curve", "step", "seconds", "value"])];
  for (const { run } of shownRuns()) {
    for (const [name, curve] of Object.entries(run.curves)) {
      const called = name === "val" ? "val_loss" : name;
      curve.y.forEach((y, i) => rows.push(csvRow([run.name, called, curve.step[i], curve.seconds[i], y])));
    }
  }
  saveFile("metrics.csv", rows);
}
