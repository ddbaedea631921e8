// Runs after page.js, which provides the data, the theme, and helpers for elements and CSV.
(() => {
const page = data, chart = byId("chart"), tip = byId("tip"), search = byId("search");
// Shapes that exist in two and three dimensions, so that classes differ by more than colour.
const SYMBOLS = ["diamond", "circle", "square", "circle-open", "cross", "square-open", "diamond-open", "x"];
const GLYPHS = ["\u25c6", "\u25cf", "\u25a0", "\u25cb", "\u271a", "\u25a1", "\u25c7", "\u2715"];
const RESULTS = 50, LABELLED = 40, ALL_LABELLED = 250, MANY = 2000;
const EYE = { x: 1.5, y: 1.5, z: 1.1 };
const webgl = (() => {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
})();

for (const view of page.views) {
  view.points = unpack(view.points, Float32Array);
  view.ids = unpack(view.ids, Int32Array);
  view.cosines = unpack(view.cosines, Float32Array);
  view.classes = view.classes === null ? null : unpack(view.classes, Uint8Array);
  view.lower = view.labels.map((label) => label.toLowerCase());
  view.noun = view.what.slice(0, -1);
}

const state = { view: page.views[0], dims: 2, off: new Set([page.classNames.indexOf("untrained")]), query: "", matches: [], chosen: -1, labels: false };
let drawn = [];  // ids of the points of every trace

function count(n) { return n.toLocaleString("en-US"); }
function className(view, id) { return view.classes === null ? null : page.classNames[view.classes[id]]; }
function hidden(view, id) { return view.classes !== null && state.off.has(view.classes[id]); }
function named(view, id) { return view.classes === null ? `position ${view.labels[id]}` : view.labels[id]; }

// Labels in WebGL interpret tags but not entities: a zero-width space after < keeps text from being a tag.
function pointLabel(text) {
  const short = Array.from(text).slice(0, 24).join("");
  return kindOfTrace() === "scatter" ? plain(short) : short.replaceAll("<", "<\u200b");
}

function coordinates(ids) {
  const { view } = state, found = [[], [], []];
  for (const id of ids) {
    for (let axis = 0; axis < state.dims; axis++) found[axis].push(view.points[id * view.dims + axis]);
  }
  return state.dims === 3 ? { x: found[0], y: found[1], z: found[2] } : { x: found[0], y: found[1] };
}

// All traces have the same type. WebGL is always drawn above SVG, so SVG marks would be hidden below WebGL points.
function kindOfTrace() {
  if (state.dims === 3) return "scatter3d";
  return webgl && state.view.labels.length > MANY ? "scattergl" : "scatter";
}

function trace(ids, rest) {
  drawn.push(ids);
  return { type: kindOfTrace(), mode: "markers", hoverinfo: "none", showlegend: false,
           ...coordinates(ids), ...rest };
}

function scale() { return [[0, colour("low")], [0.5, colour("middle")], [1, colour("high")]]; }

function pointTraces(size, opacity) {
  const { view } = state, all = [...view.labels.keys()];
  if (view.classes === null) {
    const marker = { size: size + 1, opacity, color: all, colorscale: scale(), cmin: 0, cmax: Math.max(1, all.length - 1),
                     colorbar: { title: { text: "position" }, thickness: 10, len: 0.6, outlinewidth: 0 } };
    return [trace(all, { mode: "lines+markers", line: { color: colour("line"), width: 1 }, marker })];
  }
  const faint = opacity < 0.5;
  const members = page.classNames.map((name, k) => ({ name, k, ids: all.filter((id) => view.classes[id] === k && !state.off.has(k)) }));
  members.sort((a, b) => b.ids.length - a.ids.length); // rare classes are drawn last, on top, otherwise 50 thousand points would hide them
  return members.map(({ name, k, ids }) => {
    const text = state.labels && name !== "byte" && name !== "untrained" && !faint  /* labels, unless some points are highlighted */ ? ids.map((id) => pointLabel(view.labels[id])) : undefined;
    return trace(ids, {
      name, mode: text ? "markers+text" : "markers", text, textposition: "top center", cliponaxis: false,
      textfont: { color: colour("fg"), size: 12 }, marker: { size, opacity, color: colour(name), symbol: SYMBOLS[k] } });
  });
}

/** Return the points that get a label; bytes and untrained tokens are many and say little. */
const labelled = (view) => [...view.classes].filter((k) => !["byte", "untrained"].includes(page.classNames[k]));

function canLabel(view) {
  return view.classes !== null && labelled(view).length <= MANY;
}
function fewEnough(view) {
  return canLabel(view) && labelled(view).length <= ALL_LABELLED;
}

function markTraces(size) {
  const { view } = state, marks = [];
  const shade = (id) => (view.classes === null ? colour("accent") : colour(className(view, id)));
  // While a point is chosen, only this point and its neighbours are marked.
  const shown = state.chosen < 0 ? state.matches.filter((id) => !hidden(view, id)) : [];
  if (shown.length) {
    const labels = shown.length <= LABELLED;
    marks.push(trace(shown, {
      mode: labels ? "markers+text" : "markers", text: labels ? shown.map((id) => pointLabel(view.labels[id])) : undefined,
      textposition: "top center", textfont: { color: colour("fg"), size: 13 }, cliponaxis: false,
      marker: { size: size + 4, color: shown.map(shade), line: { color: colour("fg"), width: 1.5 } } }));
  }
  if (state.chosen >= 0) {
    const near = nearest(state.chosen).map(([id]) => id);
    const ids = [state.chosen, ...near];
    marks.push(trace(ids, {
      mode: "markers+text", text: ids.map((id) => pointLabel(view.labels[id])), textposition: "top center", cliponaxis: false,
      textfont: { color: ids.map((id, i) => colour(i ? "fg" : "accent")), size: ids.map((id, i) => (i ? 13 : 16)) },
      marker: { size: ids.map((id, i) => (i ? size + 3 : size + 8)), color: ids.map(shade), opacity: 1,
                line: { color: ids.map((id, i) => colour(i ? "bg" : "accent")), width: ids.map((id, i) => (i ? 1 : 3)) } } }));
  }
  return marks;
}

function axis(k) {
  const { view } = state, share = view.shares[k];
  const text = share === undefined ? "" : `PC ${k + 1} (${(100 * share).toFixed(1)} %)`;
  return { title: { text, font: { size: 13 } }, gridcolor: colour("line"), zerolinecolor: colour("line"), color: colour("soft"),
           showticklabels: share !== undefined, zeroline: share !== undefined, backgroundcolor: colour("bg") };
}

function layout() {
  const all = { paper_bgcolor: colour("bg"), plot_bgcolor: colour("bg"), font: { color: colour("fg") }, showlegend: false,
                hovermode: "closest", uirevision: `${state.view.what} ${state.dims}`, margin: { l: 56, r: 16, t: 46, b: 56 } };
  if (state.dims === 3) {
    return { ...all, margin: { l: 0, r: 0, t: 40, b: 0 },
             scene: { xaxis: axis(0), yaxis: axis(1), zaxis: axis(2), aspectmode: "data", dragmode: "orbit", camera: { eye: EYE } } };
  }
  // Both axes have the same scale, so that distances are comparable in every direction.
  return { ...all, dragmode: "pan", xaxis: axis(0), yaxis: { ...axis(1), scaleanchor: "x" } };
}

function draw() {
  const n = state.view.labels.length, size = n > 20000 ? 3 : n > MANY ? 4 : 7, marked = state.query || state.chosen >= 0;
  drawn = [];
  const traces = [...pointTraces(state.dims === 3 ? size * 0.7 : size, marked ? (n > MANY ? 0.08 : 0.22) : 0.85), ...markTraces(size)];
  return Plotly.react(chart, traces, layout(), { displayModeBar: false, displaylogo: false, responsive: true, scrollZoom: true });
}

function nearest(id) {
  const { view } = state, found = [];
  for (let i = id * view.k; i < (id + 1) * view.k; i++) found.push([view.ids[i], view.cosines[i]]);
  return found;
}

// One line of a list: a button with the shape of the class, the token and a number.
function line(id, figure, share) {
  const { view } = state, kind = view.classes === null ? -1 : view.classes[id];
  const shape = el("span", { "aria-hidden": "true" }, kind < 0 ? "\u25cf" : GLYPHS[kind]);
  shape.style.color = kind < 0 ? "var(--accent)" : `var(--${page.classNames[kind]})`;
  const button = el("button", { type: "button" }, shape, el("bdi", {}, named(view, id)), el("span", { className: "figure" }, figure));
  button.dataset.id = id;
  if (share !== undefined) {
    const bar = button.appendChild(el("span", { className: "bar" }));
    bar.style.width = `${Math.max(0, 100 * share)}%`;
  }
  button.addEventListener("click", () => choose(id));
  return el("li", {}, button);
}

function choose(id) {
  state.chosen = id;
  showChosen();
  draw();
}

function showChosen() {
  const { view, chosen } = state, box = byId("chosen");
  box.hidden = chosen < 0;
  if (chosen < 0) return;
  byId("chosen-name").textContent = named(view, chosen);
  const kind = className(view, chosen), near = nearest(chosen);
  byId("chosen-facts").textContent = (kind === null ? "" : `${kind}, id ${chosen}. `) +
    `Nearest by cosine in all ${view.width} dimensions:`;
  byId("neighbours").replaceChildren(...near.map(([id, cosine]) => line(id, cosine.toFixed(3), cosine)));
}

// Search: a blank, \n and \t find the symbols that labels use for them, and #12 finds the id 12. Exact matches come
// first, then matches in another case, then labels that contain the text. Bytes are found only by a text such as <0x or 0x.
function find(text) {
  const { view } = state;
  const typed = text.replaceAll(" ", "\u2423").replaceAll("\\n", "\u21b5").replaceAll("\\t", "\u21e5");
  const wanted = typed.toLowerCase();
  if (text === "") return [];
  const number = /^#(\d+)$/.exec(text);
  if (number && Number(number[1]) < view.labels.length) return [Number(number[1])];
  const exact = [], whole = [], parts = [], bytes = /^<|^0/.test(wanted);
  view.lower.forEach((label, id) => {
    if (label === wanted) (view.labels[id] === typed ? exact : whole).push(id);
    else if (label.includes(wanted) && (bytes || className(view, id) !== "byte")) parts.push(id);
  });
  return [...exact, ...whole, ...parts];
}

function showMatches() {
  state.query = search.value;
  state.matches = find(state.query);
  const { view, matches } = state;
  byId("results").replaceChildren(...matches.slice(0, RESULTS).map((id) => line(id, `#${id}`)));
  byId("results").hidden = matches.length === 0;
  const more = matches.length > RESULTS ? `; the first ${RESULTS} are listed` : "";
  byId("status").textContent = state.query
    ? `${count(matches.length)} of ${count(view.labels.length)} ${view.what} match${more}`
    : `Type a ${view.noun}, part of one, or #id; or click a point.`;
}

function shareLines(view) {
  let sum = 0;
  return view.shares.map((share, k) => {
    sum += share;
    const bar = el("span", { className: "bar" });
    bar.style.width = `${100 * share / (view.shares[0] || 1)}%`;
    return el("li", { title: `together ${(100 * sum).toFixed(1)} %` }, `PC ${k + 1}`, el("span", {}, bar),
              el("span", { className: "figure" }, `${(100 * share).toFixed(1)} %`));
  });
}

function classButtons(view) {
  if (view.classes === null) return [];
  const counts = new Array(page.classNames.length).fill(0);
  view.classes.forEach((k) => { counts[k] += 1; });
  return page.classNames.flatMap((name, k) => {
    if (!counts[k]) return [];
    const shape = el("span", { "aria-hidden": "true" }, `${GLYPHS[k]} `);
    shape.style.color = `var(--${name})`;
    const button = el("button", { type: "button", "aria-pressed": String(!state.off.has(k)) }, shape, `${name} `,
                      el("span", { className: "count" }, count(counts[k])));
    button.addEventListener("click", () => {
      if (!state.off.delete(k)) state.off.add(k);
      button.setAttribute("aria-pressed", String(!state.off.has(k)));
      draw();
    });
    return [button];
  });
}

function showLabels(on) {
  state.labels = on;
  byId("labels").setAttribute("aria-pressed", String(on));
}

function showView() {
  const { view } = state;
  state.chosen = -1;
  byId("labels").hidden = !canLabel(view);
  showLabels(fewEnough(view) && chart.clientWidth > 600);  // on a phone they would overlap
  state.dims = Math.min(state.dims, view.dims);
  const size = view.labels.length < view.total ? `${count(view.labels.length)} of ${count(view.total)}` : count(view.total);
  byId("facts").textContent = `${page.title ? `${page.title}: ` : ""}${size} ${view.what}, ${view.width} dimensions, ${page.method}`;
  byId("search-label").textContent = `Search ${view.what}`;
  search.value = "";
  byId("classes").replaceChildren(...classButtons(view));
  byId("variance").hidden = view.shares.length === 0;
  byId("shares").replaceChildren(...shareLines(view));
  byId("notes").replaceChildren(...view.notes.map((note) => el("p", { className: "note" }, note)));
  showChosen();
  showMatches();
  return draw();
}

// Zoom, turn and move by buttons and keys, as by the mouse.
function zoom(factor) {
  if (state.dims === 3) return turn((eye) => ({ x: eye.x * factor, y: eye.y * factor, z: eye.z * factor }));
  const change = {};
  for (const name of ["xaxis", "yaxis"]) {
    const [low, high] = chart.layout[name].range, middle = (low + high) / 2, half = (high - low) / 2 * factor;
    change[`${name}.range`] = [middle - half, middle + half];
  }
  return Plotly.relayout(chart, change);
}
function turn(change) {
  const eye = chart.layout.scene.camera?.eye ?? EYE;
  return Plotly.relayout(chart, { "scene.camera.eye": change(eye) });
}
function move(right, up) {
  if (state.dims === 3) {
    const angle = 0.2 * right, c = Math.cos(angle), s = Math.sin(angle);
    return turn((eye) => ({ x: c * eye.x - s * eye.y, y: s * eye.x + c * eye.y, z: eye.z + 0.2 * up }));
  }
  const change = {};
  for (const [name, share] of [["xaxis", right], ["yaxis", up]]) {
    const [low, high] = chart.layout[name].range, step = 0.1 * share * (high - low);
    change[`${name}.range`] = [low + step, high + step];
  }
  return Plotly.relayout(chart, change);
}
function reset() {
  return Plotly.relayout(chart, state.dims === 3 ? { "scene.camera": { eye: EYE } }
    : { "xaxis.autorange": true, "yaxis.autorange": true });
}
const KEYS = {
  ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, 1), ArrowDown: () => move(0, -1),
  "+": () => zoom(0.8), "=": () => zoom(0.8), "-": () => zoom(1.25), 0: () => reset(),
};

function save() {
  const { view } = state, axes = ["x", "y", "z"].slice(0, view.dims);
  const rows = [csvRow(["id", view.noun, "class", ...axes, "neighbours", "cosines"])];
  view.labels.forEach((label, id) => {
    const near = nearest(id), at = axes.map((_, k) => float32(view.points[id * view.dims + k]));
    // Numbers are passed as numbers, so that only tokens can get the apostrophe against formulas.
    rows.push(csvRow([id, view.classes === null ? id : label, className(view, id) ?? "", ...at.map(Number),
                      near.map(([other]) => other).join(" "), near.map(([, cosine]) => cosine.toFixed(6)).join(" ")]));
  });
  saveFile(`${view.what}.csv`, rows);
}

function listen() {
  let waiting = 0, pointer = { x: 0, y: 0 };
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { showMatches(); choose(-1); }, 120);
  });
  byId("clear").addEventListener("click", () => { choose(-1); search.focus(); });
  byId("csv").addEventListener("click", save);
  byId("closer").addEventListener("click", () => zoom(0.8));
  byId("farther").addEventListener("click", () => zoom(1.25));
  byId("reset").addEventListener("click", reset);
  byId("labels").addEventListener("click", () => { showLabels(!state.labels); draw(); });
  onTheme(draw);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && state.chosen >= 0) choose(-1); });
  chart.addEventListener("keydown", (event) => {
    if (KEYS[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      KEYS[event.key]();
    }
  });
  document.addEventListener("mousemove", (event) => { pointer = { x: event.clientX, y: event.clientY }; }, true);
  chart.on("plotly_hover", (event) => {
    const id = drawn[event.points[0].curveNumber]?.[event.points[0].pointNumber];
    if (id === undefined) return;
    const { view } = state, kind = className(view, id);
    tip.replaceChildren(el("bdi", {}, named(view, id)));
    if (kind !== null) tip.append(el("div", {}, `${kind}, id ${id}`));
    tip.hidden = false;
    const box = chart.getBoundingClientRect(), x = pointer.x - box.left, y = pointer.y - box.top;
    tip.style.left = `${Math.max(0, Math.min(x + 14, box.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${y > tip.offsetHeight + 20 ? y - tip.offsetHeight - 12 : y + 16}px`;
  });
  chart.on("plotly_unhover", () => { tip.hidden = true; });
  chart.on("plotly_click", (event) => {
    const id = drawn[event.points[0].curveNumber]?.[event.points[0].pointNumber];
    if (id !== undefined) choose(id);
  });
}

function chooseDims() {
  byId("dims").replaceChildren(byId("dims").firstElementChild);
  const options = state.view.dims < 3 ? [] : [["2", "2-D"], ["3", "3-D", webgl ? "" : "needs WebGL, which this browser lacks"]];
  choice(byId("dims"), "dims", options, String(state.dims), (value) => { state.dims = Number(value); draw(); });
}

choice(byId("views"), "view", page.views.map((view) => [view.what, view.what[0].toUpperCase() + view.what.slice(1)]),
       state.view.what, (value) => {
         state.view = page.views.find((view) => view.what === value);
         showView();
         chooseDims();
       });
chooseDims();
showView().then(() => {
  listen();
  document.body.dataset.ready = "yes";
});
})();
