// Attention weights, the chosen head, and the overview of all heads.
const L = data.layers, H = data.heads, T = data.tokens.length;
const triangle = (T * (T + 1)) / 2;
const allWeights = unpack(data.weights, Float32Array);
const chosen = { layer: data.layer, head: data.head, shade: "root" };
const chosenListeners = [];

/** Return the weights of one head: its lower triangle, row by row. */
function mapOf(layer, head) {
  const start = (layer * H + head) * triangle;
  return allWeights.subarray(start, start + triangle);
}

/** Return the weight of token `query` on token `key`, for key <= query. */
const weightIn = (map, query, key) => map[(query * (query + 1)) / 2 + key];

/** Choose a head; all parts of the page show it. */
function choose(layer, head) {
  Object.assign(chosen, { layer, head });
  chosenListeners.forEach((listener) => listener());
}

/** Return the colours of 0 ... 1 in 256 steps, for a canvas. */
const ramp = () => shades(SHARES[isDark() ? 1 : 0]);

/** Map a weight to a position on the colour scale. */
const shadeOf = (weight) => (chosen.shade === "root" ? Math.sqrt(weight) : weight);

/** Paint a head, one pixel per weight; on a smaller canvas, a pixel shows the largest of its weights. */
function paint(canvas, map, size, colours) {
  canvas.width = canvas.height = size;
  const strongest = new Float32Array(size * size).fill(-1);
  for (let q = 0, i = 0; q < T; q++) {
    const row = Math.floor((q * size) / T) * size;
    for (let k = 0; k <= q; k++, i++) {
      const pixel = row + Math.floor((k * size) / T);
      if (map[i] > strongest[pixel]) strongest[pixel] = map[i];
    }
  }
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  for (let i = 0; i < strongest.length; i++) {
    const weight = strongest[i];
    if (weight < 0) continue; // later tokens stay transparent
    const colour = colours[Math.min(255, Math.round(255 * shadeOf(weight)))];
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = colour[c];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function setUpOverview() {
  const place = byId("overview");
  place.style.gridTemplateColumns = `1.6em repeat(${H}, minmax(22px, 1fr))`;
  place.style.minWidth = `${48 + 26 * H}px`;
  place.append(el("span"), ...Array.from({ length: H }, (_, h) => el("span", { className: "axis" }, String(h))));
  const buttons = [];
  for (let l = 0; l < L; l++) {
    place.append(el("span", { className: "axis" }, String(l)));
    for (let h = 0; h < H; h++) {
      const name = `layer ${l}, head ${h}`;
      const button = el("button", { type: "button", title: name, "aria-label": name }, el("canvas"));
      button.addEventListener("click", () => {
        choose(l, h);
        if (innerWidth < 1100) byId("one").scrollIntoView();
      });
      place.append(button);
      buttons.push(button);
    }
  }
  roving(buttons, () => H);
  const draw = () => {
    const colours = ramp();
    buttons.forEach((button, i) => {
      paint(button.firstChild, mapOf(Math.floor(i / H), i % H), Math.min(T, 128), colours);
    });
    paintLegend((share) => colours[Math.round(255 * shadeOf(share))]);
  };
  const mark = () => buttons.forEach((button, i) => {
    button.setAttribute("aria-current", String(i === chosen.layer * H + chosen.head));
  });
  chosenListeners.push(mark);
  onTheme(draw);
  byId("shade").addEventListener("change", (event) => { chosen.shade = event.target.value; draw(); });
  draw();
  mark();
}

function setUpFacts() {
  const tokens = `${T} token${T > 1 ? "s" : ""}`;
  byId("facts").textContent = `${data.name}: ${tokens}, ${L} layer${L > 1 ? "s" : ""} x ${H} head${H > 1 ? "s" : ""}, numbered from 0`;
  if (data.dropped) showCut(`${data.cut[0].toUpperCase()}${data.cut.slice(1)}.`);
}

setUpFacts();
setUpOverview();
