// Values of a station: a map of all positions, and the chosen position in detail.
const cell = { width: 1, height: 1 };

function drawMap() {
  const station = current(), { rows, columns } = station;
  const hasMap = chosen.station > 0 && columns > 1;
  byId("map").hidden = byId("readout").hidden = !hasMap;
  document.querySelector(".legend").hidden = !hasMap;
  if (!hasMap) return;
  cell.height = rows > 40 ? 11 : 18;
  byId("labels").replaceChildren(...Array.from({ length: rows }, (_, r) => {
    const line = el("div", { className: r === chosen.position ? "chosen" : "", title: data.tokens[r] }, data.tokens[r]);
    line.style.height = line.style.lineHeight = `${cell.height}px`;
    line.addEventListener("click", () => choosePosition(r));
    return line;
  }));
  const room = byId("map").clientWidth - byId("labels").offsetWidth - 2;
  cell.width = Math.max(0.5, Math.min(columns <= 64 ? 26 : 12, room / columns));
  paint(byId("cells"), station);
  Object.assign(byId("cells").style, { width: `${cell.width * columns}px`, height: `${cell.height * rows}px` });
  byId("grid").setAttribute("aria-label", `Values of ${station.name}; arrow keys move`);
  drawMark();
}

function paint(canvas, station) {
  const { rows, columns } = station, colours = ramp(station), end = reach(station);
  Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let r = 0, i = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++, i++) {
      const x = valueAt(r, c, station);
      // Later tokens have no weight and no score, so their cells stay transparent.
      if (!Number.isFinite(x) || (lastAxis(station) === "S" && c > r)) continue;
      colours[shade(x, end, station)].forEach((value, k) => { image.data[4 * i + k] = value; });
      image.data[4 * i + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  paintLegend((share) => colours[Math.round(255 * share)]);
  byId("least").textContent = isShare(station) ? "0" : shown(Number((-end).toPrecision(2)));
  byId("most").textContent = isShare(station) ? "1" : shown(Number(end.toPrecision(2)));
}

/** Show the value of the marked cell above the map, and frame the cell. */
function drawMark() {
  const { row, column } = chosen, station = current(), there = row >= 0 && column >= 0;
  byId("mark").style.display = there ? "block" : "none";
  if (!there) {
    byId("readout").textContent = "Point at a cell, or press an arrow key in the map, to read its value here. Click a cell to choose its position.";
    return;
  }
  Object.assign(byId("mark").style, {
    left: `${column * cell.width - 1}px`, top: `${row * cell.height - 1}px`, width: `${cell.width + 2}px`, height: `${cell.height + 2}px`,
  });
  const name = columnName(station, column), boxed = /[SV]/.test(lastAxis(station));
  byId("readout").replaceChildren(`${row} `, tokenBox(data.tokens[row]), ", ", boxed ? tokenBox(name) : name, ": ",
    el("strong", {}, shown(valueAt(row, column))));
}

function pointAt(row, column) {
  Object.assign(chosen, { row, column });
  drawMark();
}

function choosePosition(row) {
  chosen.position = row;
  byId("position").value = String(row);
  [...byId("labels").children].forEach((line, r) => line.classList.toggle("chosen", r === row));
  drawOne();
}

/** Draw one position: bars for a vector, a list for tokens. */
function drawOne() {
  const station = current(), keys = lastAxis(station) === "S";
  const t = Math.min(chosen.position, station.rows - 1);
  const end = station.name.startsWith("probabilities");
  const single = station.columns === 1, listed = single || /[SV]/.test(lastAxis(station)) || end;
  byId("bars").hidden = listed;
  byId("list").hidden = !listed;
  byId("one-title").replaceChildren(...(single ? [] : [end ? "After " : "At ", `${t} `, tokenBox(data.tokens[t])]));
  if (end) byId("one-title").append(" the model expects:");
  else if (listed && !single) byId("one-title").append(keys ? ", the keys with the largest values" : ", the largest values");
  if (!listed) drawBars(station, t);
  else byId("list").replaceChildren(...(end ? endRows(t) : listRows(station, t, single)));
}

function drawBars(station, t) {
  const canvas = byId("bars"), { columns } = station, height = 110;
  const values = Array.from({ length: columns }, (_, c) => valueAt(t, c));
  canvas.width = Math.max(columns, Math.round(canvas.clientWidth * (devicePixelRatio || 1)));
  canvas.height = height;
  canvas.style.height = `${height}px`;
  const most = Math.max(...values.map(Math.abs).filter(Number.isFinite), 1e-30);
  const context = canvas.getContext("2d"), wide = canvas.width / columns;
  const [up, down] = isDark() ? ["#6db3ff", "#ff9d5c"] : ["#0b5cad", "#c2541b"];
  values.forEach((x, c) => {
    const size = (Math.abs(x) / most) * (height / 2 - 2);
    context.fillStyle = x < 0 ? down : up;
    context.fillRect(c * wide, x < 0 ? height / 2 : height / 2 - size, Math.max(1, wide - (wide > 4 ? 1 : 0)), size);
  });
  canvas.setAttribute("aria-label", `${columns} values at position ${t}, the largest of size ${shown(most)}`);
  byId("one-title").append(`, up to a size of ${shown(most)}`);
}

function listRow(index, label, value, share, mark = "") {
  const bar = el("div", { className: `bar ${value < 0 ? "negative" : ""}`, hidden: share === null });
  bar.style.width = `${100 * Math.max(0, Math.min(1, share ?? 0))}%`;
  return el("div", { className: "row" }, el("span", { className: "index" }, String(index)), tokenBox(label, mark),
    el("div", {}, bar), el("span", { className: "value" }, shown(value)));
}

function listRows(station, t, single) {
  if (chosen.station === 0) return data.tokens.map((label, i) => listRow(i, label, data.ids[i], null));  // ids are names, so that they get no bar
  const count = single ? station.rows : lastAxis(station) === "S" ? t + 1 : station.columns;
  const rows = Array.from({ length: count }, (_, i) => ({
    index: i, label: single ? (station.rows === 1 ? "all" : data.tokens[i]) : columnName(station, i),
    value: single ? valueAt(i, 0) : valueAt(t, i),
  }));
  if (!single) rows.sort((a, b) => b.value - a.value);
  const most = Math.max(...rows.map((row) => Math.abs(row.value)).filter(Number.isFinite), 1e-30);
  return rows.slice(0, single ? rows.length : 12).map((row) => listRow(row.index, row.label, row.value, Math.abs(row.value) / most));
}

/** List the most likely next tokens after position t. */
function endRows(t) {
  const { best, p } = data.predictions[t];
  const rows = best.map(([label, value], i) => listRow(i + 1, label, value, value, label === data.tokens[t + 1] ? "true" : ""));
  if (p !== null) rows.push(el("p", { className: "soft small" }, "In the prompt: ", tokenBox(data.tokens[t + 1], "true"), ` probability ${shown(p)}`));
  return rows;
}

function setUpMap() {
  const grid = byId("grid");
  const cellAt = (event) => {
    const box = grid.getBoundingClientRect(), { rows, columns } = current();
    const inside = (x, n) => Math.max(0, Math.min(n - 1, Math.floor(x)));
    return [inside((event.clientY - box.top) / cell.height, rows), inside((event.clientX - box.left) / cell.width, columns)];
  };
  grid.addEventListener("pointermove", (event) => pointAt(...cellAt(event)));
  grid.addEventListener("click", (event) => {
    pointAt(...cellAt(event));
    choosePosition(chosen.row);
  });
  grid.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }, step = steps[event.key];
    if (event.key === "Enter" && chosen.row >= 0) choosePosition(chosen.row);
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const { rows, columns } = current(), inside = (x, n) => Math.max(0, Math.min(n - 1, x));
    if (chosen.row < 0) pointAt(chosen.position, 0);
    else pointAt(inside(chosen.row + step[0], rows), inside(chosen.column + step[1], columns));
  });
  new ResizeObserver(() => { drawMap(); drawOne(); }).observe(document.querySelector("main"));
  onTheme(() => { drawMap(); drawOne(); });
}
