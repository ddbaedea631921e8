// The active token, chosen by pointer, finger or keys: its surprisal, and the predictions of the model and of each layer.

/** Make token `i` the active one, unless another token is held. */
function point(i) {
  if (view.held < 0 && i !== view.active) activate(i);
}

function activate(i) {
  for (const span of spans[view.active] ?? []) span.classList.remove("active");
  view.active = i;
  for (const span of spans[i]) span.classList.add("active");
  spans[i][0].setAttribute("aria-label", i ? `${labelOf(i)}, ${bitsAt(i).toFixed(1)} bits` : labelOf(i));
  byId("text").setAttribute("aria-activedescendant", `t${i}`);
  showToken();
}

/** Hold token `i`; -1 releases the held one. */
function hold(i) {
  for (const span of spans[view.held] ?? []) span.classList.remove("held");
  view.held = i;
  for (const span of spans[i] ?? []) span.classList.add("held");
  if (i >= 0) activate(i);
  else if (view.active >= 0) showToken();
}

/** Scroll the text, and nothing else, so that token `i` is visible. */
function bring(i) {
  const box = byId("text"), span = spans[i][0].getBoundingClientRect(), frame = box.getBoundingClientRect();
  if (span.top < frame.top + 24) box.scrollTop -= frame.top + 24 - span.top;
  else if (span.bottom > frame.bottom - 24) box.scrollTop += span.bottom - frame.bottom + 24;
}

/** Find the token above or below: the one that begins nearest, in the next line that has tokens. */
function vertical(i, step) {
  let n = lineOf[i] - 1 + step;
  while (lineRows[n] && lineRows[n].first < 0) n += step;
  if (!lineRows[n]) return i;
  let found = lineRows[n].first;
  for (let j = found; j <= lineRows[n].last; j++) {
    if (Math.abs(columnOf[j] - columnOf[i]) < Math.abs(columnOf[found] - columnOf[i])) found = j;
  }
  return found;
}

function setUpChoosing() {
  const box = byId("text");
  const at = (event) => {
    const span = event.target.closest("[data-i]");
    return span ? Number(span.dataset.i) : -1;
  };
  box.addEventListener("pointerover", (event) => {
    const i = at(event);
    if (i >= 0 && event.pointerType !== "touch") point(i);
  });
  box.addEventListener("click", (event) => {
    const i = at(event);
    if (i >= 0) hold(view.held === i ? -1 : i);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && view.held >= 0) hold(-1); });
  box.addEventListener("focus", () => { if (view.active < 0) activate(Math.min(1, N - 1)); });
  box.addEventListener("keydown", (event) => {
    const i = Math.max(0, view.active), line = lineRows[lineOf[i] - 1];
    const to = {
      ArrowLeft: i - 1, ArrowRight: i + 1, ArrowUp: vertical(i, -1), ArrowDown: vertical(i, 1),
      Home: line.first, End: line.last, PageUp: 0, PageDown: N - 1,
    }[event.key];
    if (event.key === "Enter" || event.key === " ") hold(view.held === i ? -1 : i);
    else if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    else move(Math.max(0, Math.min(N - 1, to)));
    event.preventDefault();
  });
}

/** Make a token active by key; if a token is held, hold this one instead. */
function move(i) {
  if (view.held >= 0) hold(i);
  else activate(i);
  bring(i);
}

/** Show a token of another part of the page in the text. */
function visit(i) {
  hold(i);
  byId("text").scrollIntoView({ block: "nearest" });
  bring(i);
  byId("text").focus({ preventScroll: true });
}

function showToken() {
  const i = view.active, place = byId("token");
  if (i < 0) {
    place.replaceChildren(el("p", { className: "soft" }, "Point at a token, or press an arrow key in the text."));
    return;
  }
  const head = el("p", {}, tokenBox(labelOf(i), "true"),
    ` line ${lineOf[i]}, column ${columnOf[i]}, token ${i}${view.held >= 0 ? " (held)" : ""}`);
  if (i === 0) {
    place.replaceChildren(head, el("p", { className: "soft" }, "The first token is not predicted, because there is no token before it."));
    return;
  }
  const m = i - 1;
  place.replaceChildren(head,
    el("p", {}, el("span", { className: "big", id: "bits" }, `${bitsAt(i, -1).toFixed(3)} bits`),
      ` rank ${ranks[m].toLocaleString("en")} of ${data.vocab.toLocaleString("en")}, probability ${digits(Math.exp(-losses[m]))}`),
    el("p", { className: "soft" }, `predicted from ${context[m].toLocaleString("en")} token${context[m] === 1 ? "" : "s"} before it`),
    el("h3", {}, "What the model expected"), bestTable(m));
  if (K) place.append(el("h3", {}, "What each layer expected"), lensTable(m));
}

function bestTable(m) {
  const rows = Array.from({ length: BEST }, (_, b) => {
    const p = bestP[m * BEST + b], known = best[m * BEST + b];
    return el("tr", {},
      el("td", { className: "text" }, tokenBox(data.labels[known], known === tokens[m + 1] ? "true" : "")),
      tableCell({ value: () => p, show: () => digits(p), fill: () => p }, null));
  });
  return el("table", { className: "best" }, el("tbody", {}, ...rows));
}

/** Make the table of layers: the token that each layer expects most, and the probability of the true one. */
function lensTable(m) {
  const head = el("tr", {}, ...["layer", "expected", "p", "true p", "rank"].map((text, c) =>
    el("th", { scope: "col", className: c < 2 ? "text" : "" }, text)));
  const rows = lens.layers.map((_, k) => {
    const at = k * M + m, p = Math.exp(-lens.losses[at]);
    const link = el("button", { type: "button", className: "link" }, layerName(k));
    link.addEventListener("click", () => chooseLayer(k));
    return el("tr", { "aria-current": String(k === view.layer) },
      el("td", { className: "text" }, link),
      el("td", { className: "text" }, tokenBox(data.labels[lens.top[at]], lens.top[at] === tokens[m + 1] ? "true" : "")),
      tableCell({ value: () => 0, show: () => lens.p[at].toFixed(3), fill: () => lens.p[at] }, null),
      tableCell({ value: () => 0, show: () => p.toFixed(3), fill: () => p }, null),
      el("td", {}, String(lens.ranks[at])));
  });
  return el("table", { className: "lens" }, el("thead", {}, head), el("tbody", {}, ...rows));
}

setUpChoosing();
showToken();
layerListeners.push(showToken);
