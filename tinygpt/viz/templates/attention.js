// The weights, what is chosen, and the overview of all heads.
const L = data.layers, H = data.heads, T = data.tokens.length;
const triangle = (T * (T + 1)) / 2;
const allWeights = decodeFloats(data.weights);
const chosen = { layer: data.layer, head: data.head, shade: "root" };
const chosenListeners = [];

function decodeFloats(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = raw.charCodeAt(i);
  const view = new DataView(bytes.buffer);
  const little = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;
  if (little) return new Float32Array(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** The lower triangle of one head, row by row. */
function mapOf(layer, head) {
  const start = (layer * H + head) * triangle;
  return allWeights.subarray(start, start + triangle);
}

/** What token `query` gives to token `key`, which is not after it. */
const weightIn = (map, query, key) => map[(query * (query + 1)) / 2 + key];

/** Open a head everywhere on the page. */
function choose(layer, head) {
  Object.assign(chosen, { layer, head });
  chosenListeners.forEach((listener) => listener());
}

const LIGHT = [[250, 251, 253], [176, 208, 240], [62, 135, 204], [8, 48, 107]];
const DARK = [[24, 29, 36], [27, 74, 122], [72, 155, 226], [240, 247, 255]];

/** The colours of 0 ... 1 in 256 steps, as they are in a canvas. */
function ramp() {
  const stops = isDark() ? DARK : LIGHT;
  return Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((value, c) => Math.round(value + (at - low) * (stops[low + 1][c] - value)));
  });
}

/** Paint a head, a pixel per weight; a smaller canvas shows the largest of the weights that share a pixel. */
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
  const root = chosen.shade === "root";
  for (let i = 0; i < strongest.length; i++) {
    const weight = strongest[i];
    if (weight < 0) continue; // what comes later stays transparent
    const colour = colours[Math.min(255, Math.round(255 * (root ? Math.sqrt(weight) : weight)))];
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = colour[c];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function paintLegend(colours) {
  const canvas = byId("legend");
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    const share = x / (canvas.width - 1);
    const shade = chosen.shade === "root" ? Math.sqrt(share) : share;
    context.fillStyle = `rgb(${colours[Math.round(255 * shade)].join(" ")})`;
    context.fillRect(x, 0, 1, 1);
  }
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
    paintLegend(colours);
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
  byId("facts").textContent = `${data.name}: ${tokens}, ${L} layer${L > 1 ? "s" : ""} x ${H} head${H > 1 ? "s" : ""}, counted from 0`;
  if (!data.dropped) return;
  byId("cut").hidden = false;
  byId("cut").textContent =
    `The prompt has ${T + data.dropped} tokens; the page shows the first ${T}. A larger --max-tokens shows more.`;
}

/** A token in a frame of its own, for use in a sentence or a table. */
const tokenBox = (label, mark = "") => el("span", { className: `token ${mark}`, title: label }, label);

setUpFacts();
setUpOverview();
