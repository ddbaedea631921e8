// Data of the stations (the steps of the forward pass), the chosen one, and colours.
const T = data.tokens.length;
const numbers = data.width === 4 ? unpack(data.numbers, Float32Array) : Float32Array.from(unpack(data.numbers, Uint16Array), half);
// The first station is the tokens themselves, which are not computed.
const stations = [{
  name: "tokens", block: null, formula: "tokenizer.encode(prompt)", words: "The text is split into tokens. The model sees only their ids.",
  axes: "B T", shape: [1, T], dtype: "int32", source: "", caller: "", stats: null, heads: 1, rows: T, columns: 1, every: 1,
}, ...data.stations];
const chosen = { station: 0, head: data.head, position: T - 1, show: "values", column: -1, row: -1 };
const current = () => stations[chosen.station];

/** Decode a half-precision number (IEEE 754) from its bits. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/** Return the shown head of a station. With grouped queries, several query heads share one key head. */
function headOf(station) {
  const most = Math.max(...data.stations.map((one) => one.heads));
  return Math.floor((chosen.head * station.heads) / most);
}

/** Return a value of the shown head of a station. */
function valueAt(row, column, station = current(), head = headOf(station)) {
  const [start, exponent] = station[chosen.show] ?? station.values;
  return numbers[start + (head * station.rows + row) * station.columns + column] * 2 ** exponent;
}

const isShare = (station) => chosen.show === "values" && /softmax|probabilities/.test(station.name);
const lastAxis = (station) => station.axes.split(" ").at(-1);

/** Format a number with as many digits as the page stores. */
function shown(x) {
  if (x === null || Number.isNaN(x)) return x === null ? "–" : "NaN";
  if (!Number.isFinite(x)) return x < 0 ? "−∞" : "∞";
  const digit = data.width === 4 ? 5 : 3;
  const size = Math.abs(x);
  return x === 0 ? "0" : (size < 1e-4 || size >= 1e6 ? x.toExponential(digit - 1) : String(Number(x.toPrecision(digit)))).replace("-", "−");
}

/** Name a column. */
function columnName(station, column) {
  if (lastAxis(station) === "S") return data.tokens[column];
  if (lastAxis(station) === "V") return data.vocabulary[column];
  return `column ${column * station.every}`;
}

// Colour scales from negative through zero to positive, on a light and on a dark page.
const SIGNED = [
  [[150, 60, 10], [228, 140, 88], [250, 250, 250], [98, 158, 214], [8, 60, 125]],
  [[255, 190, 130], [190, 96, 40], [28, 33, 40], [40, 105, 170], [150, 205, 255]],
];

/** Return 256 colours: from 0 to 1 for shares, from negative to positive for other values. */
const ramp = (station) => shades((isShare(station) ? SHARES : SIGNED)[isDark() ? 1 : 0]);

/** Return the absolute value at which colours end: the 99th percentile, because a few outliers would make all others pale. */
function reach(station) {
  if (isShare(station)) return 1;
  const sizes = [];
  for (let r = 0; r < station.rows; r++) {
    for (let c = 0; c < station.columns; c++) {
      const size = Math.abs(valueAt(r, c, station));
      if (Number.isFinite(size)) sizes.push(size);
    }
  }
  sizes.sort((a, b) => a - b);
  return sizes[Math.min(sizes.length - 1, Math.floor(0.99 * sizes.length))] || sizes.at(-1) || 1;
}

/** Map a value to a colour in 0 ... 255. */
function shade(x, end, station) {
  const share = isShare(station) ? Math.sqrt(x) : 0.5 + 0.5 * Math.sign(x) * Math.sqrt(Math.min(1, Math.abs(x) / end));
  return Math.max(0, Math.min(255, Math.round(255 * share)));
}
