"use strict";
// The page of the server. Text from the model reaches the document through textContent alone.
const byId = (id) => document.getElementById(id);
const MOST_BITS = 8; // the darkest colour
const FIELDS = ["temperature", "top_k", "max_tokens", "seed"];
const view = { tokens: [], shown: -1, pinned: false, request: null };

function el(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function percent(p) {
  return p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : p > 0 ? "< 0.1 %" : "0";
}

/** Append a token: its text, or its name while a character is incomplete. */
function write(token) {
  const span = el("span", token.given ? "given" : token.text ? "written" : "written part", token.given ? token.name : token.text || token.name);
  if (!token.given) {
    span.style.setProperty("--surprise", `${(60 * Math.min(token.bits, MOST_BITS)) / MOST_BITS}%`);
    const at = view.tokens.length;
    span.addEventListener("mouseenter", () => { if (!view.pinned) show(at); });
    span.addEventListener("click", () => { view.pinned = view.shown !== at || !view.pinned; show(at); });
  }
  token.span = span;
  view.tokens.push(token);
  byId("text").append(span);
}

/** Show one token: its probability, what else was likely, and what it was predicted from. */
function show(at) {
  const token = view.tokens[at];
  if (!token || token.given) return;
  if (view.tokens[view.shown]) view.tokens[view.shown].span.classList.remove("shown");
  view.shown = at;
  token.span.classList.add("shown");
  const rows = token.top.map((one) => row(one, one.token === token.name));
  if (!token.top.some((one) => one.token === token.name)) {
    rows.push(row({ token: token.name, p: token.p, sampled: token.sampled }, true));
  }
  const head = el("tr", "", el("th", "text", "token"), el("th", "", "model"), el("th", "", "sampled"), el("th", "", ""));
  const table = el("table", "", el("thead", "", head), el("tbody", "", ...rows));
  byId("token").replaceChildren(
    el("p", "", el("code", "token", token.name), ` probability ${percent(token.p)}, surprisal ${token.bits.toFixed(2)} bits`),
    table, attended(token, at));
}

function row(one, chosen) {
  const bars = ["p", "sampled"].map((name) => {
    const bar = el("i", name);
    bar.style.setProperty("--share", `${100 * one[name]}%`);
    return bar;
  });
  const made = el("tr", "", el("td", "text", el("span", chosen ? "token true" : "token", one.token)),
    el("td", "", percent(one.p)), el("td", "", percent(one.sampled)), el("td", "bar", ...bars));
  if (chosen) made.setAttribute("aria-current", "true");
  return made;
}

/** Underline the tokens that the shown one was predicted from, and name the strongest. */
function attended(token, at) {
  view.tokens.forEach((one) => one.span.classList.remove("attended"));
  const layers = byId("layer").value === "" ? token.attention : [token.attention[Number(byId("layer").value)]];
  if (!token.attention.length) return el("p", "soft small", "The prompt is too long to record attention for its first token.");
  const weights = layers[0].map((_, i) => layers.reduce((sum, layer) => sum + layer[i], 0) / layers.length);
  const most = Math.max(...weights);
  weights.forEach((weight, i) => {
    const one = view.tokens[i];
    if (!one || i >= at) return;
    one.span.classList.add("attended");
    one.span.style.setProperty("--weight", `${(100 * weight) / most}%`);
  });
  const best = weights.map((weight, i) => [weight, i]).sort((a, b) => b[0] - a[0]).slice(0, 5);
  const names = best.flatMap(([weight, i]) => [" ", el("code", "token", view.tokens[i].name), ` ${percent(weight)}`]);
  return el("p", "small", "attended most to", ...names);
}

/** Read server-sent events from a response. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) yield JSON.parse(part.slice("data: ".length));
  }
}

function tell(words, wrong = false) {
  byId("status").textContent = words;
  byId("status").className = wrong ? "error small" : "soft small";
}

function headers() {
  const key = byId("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function start() {
  if (view.request) view.request.abort();
  const request = view.request = new AbortController();
  const began = performance.now();
  Object.assign(view, { tokens: [], shown: -1, pinned: false });
  byId("text").replaceChildren();
  byId("stop").disabled = false;
  tell("writing");
  try {
    const body = { prompt: byId("prompt").value };
    for (const name of FIELDS) body[name] = Number(byId(name).value);
    const response = await fetch("watch", { method: "POST", headers: headers(), body: JSON.stringify(body), signal: request.signal });
    if (!response.ok) throw await refused(response);
    let written = 0;
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      written += take(event);
      const seconds = (performance.now() - began) / 1000;
      tell(`${written} tokens, ${(written / seconds).toFixed(0)} tokens/s${event.end ? `, ended: ${event.end}` : ""}`);
    }
  } catch (error) {
    if (error.name === "AbortError") tell(view.request === request ? "stopped" : "writing");
    else tell(error.message, true);
  }
  if (view.request === request) byId("stop").disabled = true;
}

async function refused(response) {
  if (response.status === 401) byId("key-row").hidden = false;
  const body = await response.json().catch(() => null);
  return new Error(body ? body.error.message : `status ${response.status}`);
}

/** Take one event; returns the number of tokens written. */
function take(event) {
  if (event.prompt) {
    event.prompt.forEach((name) => write({ given: true, name: readable(name) }));
    const layer = byId("layer");
    while (layer.options.length <= event.layers) layer.add(new Option(`layer ${layer.options.length - 1}`, layer.options.length - 1));
    return 0;
  }
  if (event.end) {
    byId("text").append(event.text);
    return 0;
  }
  write({ ...event, name: event.token });
  if (!view.pinned) show(view.tokens.length - 1);
  return 1;
}

/** A token's name as text again: an open box is a space, \n a line break. */
function readable(name) {
  return name.replaceAll("\u2423", " ").replaceAll("\\n", "\n").replaceAll("\\t", "\t");
}

function setUp() {
  const outputs = () => {
    document.querySelector("output[for=temperature]").value = byId("temperature").value;
    document.querySelector("output[for=top_k]").value = byId("top_k").value === "0" ? "all" : byId("top_k").value;
  };
  let waiting;
  for (const name of ["temperature", "top_k"]) {
    byId(name).addEventListener("input", () => {
      outputs();
      clearTimeout(waiting);
      if (view.tokens.length) waiting = setTimeout(start, 250); // write again with the same seed
    });
  }
  outputs();
  byId("form").addEventListener("submit", (event) => { event.preventDefault(); start(); });
  byId("stop").addEventListener("click", () => view.request && view.request.abort());
  byId("layer").addEventListener("change", () => show(view.shown));
  byId("text").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    view.pinned = true;
    show(view.shown + step);
  });
  fetch("v1/models", { headers: headers() }).then((response) => (response.ok ? response.json() : null))
    .then((list) => { if (list) byId("model").textContent = list.data[0].id; else byId("key-row").hidden = false; })
    .catch(() => tell("the server does not answer", true));
}

setUp();
