// The map of one head: labels that stay visible while scrolling, and the exact weight of the cell at the pointer or cursor.
const LONGEST_LABEL = 14;
const cursor = { query: -1, key: -1 };
const tip = el("div", { id: "tip", hidden: true });
document.body.append(tip);

function shortLabel(text) {
  const chars = [...text];
  return chars.length > LONGEST_LABEL ? `${chars.slice(0, LONGEST_LABEL - 1).join("")}…` : text;
}

/** Compute the side of a cell in pixels: at least 13, so that labels are legible, and at most 30. */
function cellSize(labelWidth) {
  const frame = byId("frame");
  const room = Math.min(frame.clientWidth, parseFloat(getComputedStyle(frame).maxHeight) || Infinity) - labelWidth - 4;
  const fits = room / T;
  if (byId("cells").value === "fit") return Math.max(2, Math.min(30, fits));
  return Math.max(13, Math.min(30, Math.floor(fits)));
}

function labelFont(cell) {
  return `${Math.max(9, Math.min(13, Math.floor(cell - 1)))}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace`;
}

/** Draw labels along an axis; if cells are smaller than a line of text, only every n-th label. */
function drawLabels(canvas, labels, cell, depth, upright) {
  const scale = devicePixelRatio || 1, length = Math.max(1, cell * T);
  const [width, height] = upright ? [length, depth] : [depth, length];
  Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  context.font = labelFont(cell);
  context.direction = "ltr";
  context.textBaseline = "middle";
  context.textAlign = upright ? "left" : "right";
  const [ink, mark] = isDark() ? ["#c9d1db", "#6db3ff"] : ["#2b3138", "#0b5cad"];
  const every = Math.max(1, Math.ceil(10 / cell));
  const marked = upright ? cursor.key : cursor.query;
  labels.forEach((label, i) => {
    const near = Math.abs(i - marked) < every && marked >= 0;
    if (i !== marked && (i % every || near)) return;
    context.fillStyle = i === marked ? mark : ink;
    context.save();
    if (upright) {
      context.translate((i + 0.5) * cell, depth - 4);
      context.rotate(-Math.PI / 2);
    } else {
      context.translate(depth - 4, (i + 0.5) * cell);
    }
    context.fillText(label, 0, 0);
    context.restore();
  });
}

function setUpMap() {
  const labels = data.tokens.map(shortLabel);
  const sizes = { cell: 13, depth: 40 };

  function drawAxes() {
    drawLabels(byId("columns"), labels, sizes.cell, sizes.depth, true);
    drawLabels(byId("rows"), labels, sizes.cell, sizes.depth, false);
  }

  function draw() {
    tip.hidden = true; // it may show another head
    const context = byId("rows").getContext("2d");
    context.font = labelFont(13);
    sizes.depth = Math.ceil(Math.max(42, ...labels.map((label) => context.measureText(label).width))) + 8;
    sizes.cell = cellSize(sizes.depth);
    const canvas = byId("weights");
    paint(canvas, mapOf(chosen.layer, chosen.head), T, ramp());
    canvas.style.width = canvas.style.height = `${sizes.cell * T}px`;
    drawAxes();
    markCell();
  }

  function markCell() {
    const { query, key } = cursor, { cell } = sizes, length = cell * T;
    const shown = query >= 0 ? "block" : "none";
    const place = (mark, left, top, width, height) => Object.assign(mark.style,
      { display: shown, left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    place(byId("row-mark"), 0, query * cell, length, cell);
    place(byId("column-mark"), key * cell, 0, cell, length);
    showWeight();
  }

  function point(query, key) {
    if (query === cursor.query && key === cursor.key) return;
    Object.assign(cursor, { query, key });
    drawAxes();
    markCell();
  }

  chosenListeners.push(draw);
  onTheme(draw);
  byId("shade").addEventListener("change", draw);
  byId("cells").addEventListener("change", draw);
  new ResizeObserver(() => { if (Math.abs(cellSize(sizes.depth) - sizes.cell) > 0.01) draw(); }).observe(byId("frame"));
  setUpPointer(sizes, point);
  setUpKeys(sizes, point);
  draw();
}

/** Show the weight of the marked cell in the line above the map. */
function showWeight() {
  const { query, key } = cursor;
  const line = byId("readout");
  if (query < 0) {
    line.textContent = "Point at a cell, or press an arrow key in the map, to read its weight here.";
    return;
  }
  const weight = key <= query ? digits(weightIn(mapOf(chosen.layer, chosen.head), query, key)) : null;
  line.replaceChildren(
    `layer ${chosen.layer}, head ${chosen.head}: ${query} `, tokenBox(data.tokens[query]),
    weight === null ? " cannot attend to " : " attends to ", `${key} `, tokenBox(data.tokens[key]),
    weight === null ? ", a later token" : ": ", el("strong", {}, weight ?? ""));
}

function setUpPointer(sizes, point) {
  const grid = byId("grid");
  const cellAt = (event) => {
    const box = grid.getBoundingClientRect();
    const inside = (x) => Math.max(0, Math.min(T - 1, Math.floor(x / sizes.cell)));
    return [inside(event.clientY - box.top), inside(event.clientX - box.left)];
  };
  grid.addEventListener("pointermove", (event) => {
    const [query, key] = cellAt(event);
    point(query, key);
    if (event.pointerType === "touch") return;
    tip.hidden = false;
    tip.textContent = key <= query ? digits(weightIn(mapOf(chosen.layer, chosen.head), query, key)) : "later token";
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 4)}px`;
  });
  grid.addEventListener("pointerleave", () => { tip.hidden = true; });
  grid.addEventListener("click", (event) => {
    const [query, key] = cellAt(event);
    point(query, key);
    hold(query);
  });
}

function setUpKeys(sizes, point) {
  byId("grid").addEventListener("keydown", (event) => {
    const { query, key } = cursor;
    const steps = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
      Home: [0, -key], End: [0, query - key], PageUp: [-query, 0], PageDown: [T - 1 - query, 0],
    };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const inside = (x) => Math.max(0, Math.min(T - 1, x));
    if (query < 0) point(T - 1, 0);
    else point(inside(query + step[0]), inside(key + step[1]));
    const frame = byId("frame"), { cell, depth } = sizes;
    const near = (at, from, room) => Math.max((at + 2) * cell + depth - room, Math.min(from, (at - 1) * cell));
    frame.scrollTo(near(cursor.key, frame.scrollLeft, frame.clientWidth), near(cursor.query, frame.scrollTop, frame.clientHeight));
  });
}

function setUpMenus() {
  for (const [id, count] of [["layer", L], ["head", H]]) {
    const menu = byId(id);
    menu.append(...Array.from({ length: count }, (_, i) => el("option", { value: String(i) }, String(i))));
    menu.addEventListener("change", () => choose(Number(byId("layer").value), Number(byId("head").value)));
  }
  const show = () => {
    byId("layer").value = String(chosen.layer);
    byId("head").value = String(chosen.head);
    byId("one-title").textContent = `Layer ${chosen.layer}, head ${chosen.head}`;
    byId("grid").setAttribute("aria-label", `Weights of layer ${chosen.layer}, head ${chosen.head}; arrow keys move`);
  };
  chosenListeners.push(show);
  show();
}

setUpMenus();
