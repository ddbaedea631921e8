// Tables of bars, one table per op. Widths are set through the style object, which the content policy allows.

/** Format a time in the unit that leaves one to three digits before the point. */
function duration(seconds) {
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  if (seconds >= 1e-3) return `${(seconds * 1e3).toFixed(2)} ms`;
  return `${(seconds * 1e6).toFixed(1)} µs`;
}

function row(bar, longest) {
  const line = el("span", { className: bar.ours ? "bar" : "bar peer" });
  line.style.width = `${(100 * bar.seconds) / longest}%`;
  return el("tr", {},
    el("td", { className: "name" }, bar.rung),
    el("td", { className: "time" }, (bar.disturbed ? "~" : "") + duration(bar.seconds)),
    el("td", { "aria-hidden": "true" }, line),
    el("td", { className: "rate soft" }, [bar.rate, bar.share].filter(Boolean).join(", ")),
    el("td", { className: "factor" }, bar.factor));
}

byId("machine").textContent = data.machine;
byId("notes").append(...data.notes.map((text) => el("li", {}, text)));
byId("groups").append(...data.groups.map((group) => {
  const longest = Math.max(...group.bars.map((bar) => bar.seconds));
  return el("section", { className: "group" },
    el("h2", {}, group.name),
    el("table", {}, el("tbody", {}, ...group.bars.map((bar) => row(bar, longest)))));
}));
