"use strict";
// Code shared by all pages. Text of the data enters the document only as text nodes, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

/** Make an element. Names with a hyphen and `role` are set as attributes, others as properties; children are nodes or text. */
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const themeListeners = [];

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : darkSystem.matches;
}

/** Call `listener` when the page turns light or dark, because canvases must be drawn again. */
function onTheme(listener) {
  themeListeners.push(listener);
}

function setUpTheme() {
  const button = el("button", { type: "button", id: "theme" });
  const show = () => { button.textContent = isDark() ? "Light page" : "Dark page"; };
  const changed = () => { show(); themeListeners.forEach((listener) => listener()); };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    changed();
  });
  darkSystem.addEventListener("change", changed);
  show();
  document.querySelector("header").append(button);
}

/** Make many elements one tab stop, with arrow keys between them; `columns()` of them are in a row. */
function roving(items, columns) {
  items.forEach((item, i) => { item.tabIndex = i ? -1 : 0; });
  const go = (i) => {
    items.forEach((item) => { item.tabIndex = -1; });
    items[i].tabIndex = 0;
    items[i].focus();
  };
  items.forEach((item, i) => item.addEventListener("keydown", (event) => {
    const last = items.length - 1;
    const steps = { ArrowLeft: i - 1, ArrowRight: i + 1, ArrowUp: i - columns(), ArrowDown: i + columns(), Home: 0, End: last };
    const to = steps[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to <= last) go(to);
  }));
}

/** Decode base64 to numbers of type `Kind`: little-endian, the byte order of all machines with a browser today. */
function unpack(text, Kind) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Kind(bytes.buffer);
}

/** Make a framed label of a token, for a sentence or a table. */
const tokenBox = (label, mark = "") => el("span", { className: `token ${mark}`, title: label }, label);

/** Show a remark on what the page leaves out. */
function showCut(text) {
  byId("cut").hidden = false;
  byId("cut").textContent = text;
}

// Colour scales for a share from 0 to 1, on a light and on a dark page. Brightness alone gives the same order.
const SHARES = [
  [[250, 251, 253], [176, 208, 240], [62, 135, 204], [8, 48, 107]],
  [[24, 29, 36], [27, 74, 122], [72, 155, 226], [240, 247, 255]],
];

/** Interpolate between colours: red, green and blue at `place` in 0 ... 1. */
function blend(stops, place) {
  const at = Math.min(1, Math.max(0, place)) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((value, c) => Math.round(value + (at - low) * (stops[low + 1][c] - value)));
}

/** Interpolate between colours in 256 steps. */
const shades = (stops) => Array.from({ length: 256 }, (_, i) => blend(stops, i / 255));

/** Paint a legend: the colours of 0 ... 1 from left to right. */
function paintLegend(colourOf) {
  const canvas = byId("legend"), pen = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    pen.fillStyle = `rgb(${colourOf(x / (canvas.width - 1)).join(" ")})`;
    pen.fillRect(x, 0, 1, 1);
  }
}

/** Format a probability or a weight with six digits. */
const digits = (x) => (x === 0 ? "0" : x < 1e-4 ? x.toExponential(5) : x.toPrecision(6));

/** Format a float32 so that reading it back gives the same float32. */
const float32 = (x) => String(Number(x.toPrecision(9)));

/** Format a field of a CSV file. An apostrophe keeps a spreadsheet from reading text as a formula. */
function csvField(value) {
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@].|^[\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const csvRow = (fields) => `${fields.map(csvField).join(",")}\r\n`;

/** Offer text, given in parts, to the user as a file. */
function saveFile(name, parts) {
  const address = URL.createObjectURL(new Blob(parts, { type: "text/csv;charset=utf-8" }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

/** Fill a table that can be sorted by any column. A column has title, help, value(row), show(row), text (true or false) and fill(row), its bar in 0..1. */
function sortableTable(table, columns, rows, dress = () => {}) {
  const body = el("tbody");
  const lines = rows.map((row) => {
    const line = el("tr", {}, ...columns.map((column) => tableCell(column, row)));
    dress(line, row);
    return { row, line };
  });
  const headers = columns.map((column, i) => {
    const button = el("button", { type: "button", title: column.help || "" }, column.title);
    const header = el("th", { scope: "col", className: column.text ? "text" : "" }, button);
    button.addEventListener("click", () => {
      // Numbers are sorted largest first, because a reader usually searches for the largest ones.
      const first = column.text ? "ascending" : "descending";
      const other = column.text ? "descending" : "ascending";
      const order = header.getAttribute("aria-sort") === first ? other : first;
      headers.forEach((one) => one.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", order);
      lines.sort((a, b) => compareCells(columns[i].value(a.row), columns[i].value(b.row), order === "ascending" ? 1 : -1));
      body.append(...lines.map(({ line }) => line));
    });
    return header;
  });
  body.append(...lines.map(({ line }) => line));
  table.append(el("thead", {}, el("tr", {}, ...headers)), body);
}

function tableCell(column, row) {
  const shown = column.show ? column.show(row) : String(column.value(row));
  const cell = el("td", { className: column.text ? "text" : "" }, shown);
  if (column.fill) {
    const share = `${100 * Math.min(1, Math.max(0, column.fill(row)))}%`;
    cell.style.background = `linear-gradient(90deg, var(--bar) ${share}, transparent ${share})`;
  }
  return cell;
}

/** Compare two values; a missing one comes last in both directions. */
function compareCells(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}

setUpTheme();
