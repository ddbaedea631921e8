// Navigation: the parts of the model, the stations of a part, next and back.
const partOf = (station) => (station.block === null ? station.name.split(/[.@]/)[0] : `block ${station.block}`);
const parts = [...new Set(stations.map(partOf))];
const inPart = (station) => station.name.replace(/^.*blocks\.\d+\./, "");

function setUpWay() {
  const buttons = parts.map((part) => {
    const button = el("button", { type: "button" }, part);
    button.addEventListener("click", () => go(stations.findIndex((station) => partOf(station) === part)));
    return button;
  });
  byId("way").append(...buttons);
  roving(buttons, () => parts.length);
}

/** Show a station. */
function go(i) {
  chosen.station = Math.max(0, Math.min(stations.length - 1, i));
  Object.assign(chosen, { row: -1, column: -1 });
  const station = current(), part = partOf(station);
  const away = byId("stations").dataset.part !== part;
  if (away) fillPart(part);
  [...byId("way").children].forEach((button, k) => button.setAttribute("aria-current", String(parts[k] === part)));
  for (const button of byId("stations").children) button.setAttribute("aria-current", String(button.dataset.name === station.name));
  inSight(byId("way"));
  inSight(byId("stations"));
  tell(station);
  drawMap();
  drawOne();
}

/** Scroll a row of buttons, and nothing else, to the chosen one. */
function inSight(row) {
  const button = row.querySelector('[aria-current="true"]');
  if (button) row.scrollLeft = button.offsetLeft - row.offsetLeft - row.clientWidth / 2 + button.offsetWidth / 2;
}

function fillPart(part) {
  const buttons = stations.flatMap((station, i) => {
    if (partOf(station) !== part) return [];
    const button = el("button", { type: "button" }, inPart(station));
    button.dataset.name = station.name;
    button.addEventListener("click", () => go(i));
    return [button];
  });
  byId("stations").replaceChildren(...buttons);
  byId("stations").dataset.part = part;
  roving(buttons, () => 1);
}

function tell(station) {
  byId("title").textContent = station.name;
  byId("words").textContent = station.words;
  byId("formula").textContent = station.formula;
  const letters = station.axes.split(" ").filter(Boolean);
  const sizes = letters.map((letter, i) => `${letter} = ${station.shape[i]}`);
  byId("shape").textContent = letters.length
    ? `(${letters.join(", ")}) = (${station.shape.join(", ")}) ${station.dtype}: ${letters.map((letter) => data.letters[letter] && letter !== "1" ? `${letter} ${data.letters[letter]}` : "").filter(Boolean).join(", ")}`
    : `one number, ${station.dtype}`;
  byId("shape").title = sizes.join(", ");
  byId("source").textContent = station.source ? `computed by ${station.source}, for ${station.caller}` : "";
  byId("where").textContent = `${chosen.station + 1} of ${stations.length}`;
  byId("back").disabled = chosen.station === 0;
  byId("next").disabled = chosen.station === stations.length - 1;
  byId("head-label").hidden = station.heads < 2;
  byId("show-label").hidden = !station.gradient;
  if (!station.gradient) chosen.show = "values";
  byId("show").value = chosen.show;
  byId("choices").hidden = station.columns === 1;
  fillStats(station);
  fillHeads(station);
  byId("thinned").textContent = thinning(station);
}

function fillStats(station) {
  byId("stats").parentElement.hidden = !station.stats;
  if (!station.stats) return;
  const { zeros, nan, infinite, ...figures } = station.stats;
  const cells = Object.entries(figures).map(([name, x]) => [name, x === null ? "–" : Number(x.toPrecision(4)).toString().replace("-", "−")]);
  for (const [name, share] of [["zeros", zeros], ["NaN", nan], ["±∞", infinite]]) {
    if (share || name === "zeros") cells.push([name, `${Number((100 * share).toPrecision(3))} %`]);
  }
  byId("stats").replaceChildren(
    el("thead", {}, el("tr", {}, ...cells.map(([name]) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, el("tr", {}, ...cells.map(([, text]) => el("td", {}, text)))));
}

function fillHeads(station) {
  byId("head").replaceChildren(...Array.from({ length: station.heads }, (_, h) => el("option", { value: String(h) }, String(h))));
  byId("head").value = String(headOf(station));
}

/** Describe what the page leaves out of a station, and the colours. */
function thinning(station) {
  const notes = [];
  const whole = station.shape.at(-1) ?? 1;
  if (lastAxis(station) === "V" && station.columns < whole) notes.push(`Only the ${station.columns} tokens of ${whole} that are most likely after the last position.`);
  else if (station.every > 1) notes.push(`Only every ${station.every}th of ${whole} columns.`);
  if (data.width === 2 && chosen.station > 0) notes.push("Values are rounded to three digits; the statistics are computed from all unrounded values.");
  if (station.columns > 1) {
    notes.push(isShare(station) ? "Colours follow the square root of the share."
      : "Colours follow the square root of the value and saturate above its 99th percentile.");
  }
  return notes.join(" ");
}

function saveStep() {
  const station = current();
  if (chosen.station === 0) {
    saveFile("tokens.csv", [csvRow(["position", "token", "id"]), ...data.tokens.map((label, i) => csvRow([i, label, data.ids[i]]))]);
    return;
  }
  const lines = [csvRow(["head", "position", "token", "column", "column name", "value"])];
  for (let h = 0; h < station.heads; h++) {
    for (let r = 0; r < station.rows; r++) {
      for (let c = 0; c < station.columns; c++) {
        const x = valueAt(r, c, station, h), text = Number.isFinite(x) ? Number(float32(x)) : String(x).replace("-I", "−I");
        const named = /[SV]/.test(lastAxis(station)) ? columnName(station, c) : "";
        lines.push(csvRow([h, r, station.rows === T ? data.tokens[r] : "", c * station.every, named, text]));
      }
    }
  }
  saveFile(`${station.name}${chosen.show === "gradient" ? "-gradient" : ""}.csv`, lines);
}

function setUpWalk() {
  byId("back").addEventListener("click", () => go(chosen.station - 1));
  byId("next").addEventListener("click", () => go(chosen.station + 1));
  byId("save").addEventListener("click", saveStep);
  byId("position").append(...data.tokens.map((label, i) => el("option", { value: String(i) }, `${i} ${label}`)));
  byId("position").value = String(chosen.position);
  byId("position").addEventListener("change", (event) => choosePosition(Number(event.target.value)));
  const most = Math.max(...stations.map((station) => station.heads));
  byId("head").addEventListener("change", (event) => {
    chosen.head = Math.ceil((Number(event.target.value) * most) / current().heads);
    drawMap();
    drawOne();
  });
  byId("show").addEventListener("change", (event) => {
    chosen.show = event.target.value;
    byId("thinned").textContent = thinning(current());
    drawMap();
    drawOne();
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select, input, #grid, #way, #stations")) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    go(chosen.station + step);
  });
  byId("facts").textContent = `${data.name}: ${T} token${T > 1 ? "s" : ""}, ${stations.length} steps`;
  if (data.dropped) {
    showCut(`${data.cut[0].toUpperCase()}${data.cut.slice(1)}.`);
  }
}

setUpWay();
setUpWalk();
setUpMap();
go(data.first === null ? 0 : stations.findIndex((station) => station.name === data.first));
