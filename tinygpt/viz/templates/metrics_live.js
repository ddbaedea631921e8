// Runs after metrics_watch.js. Sets the page up, and reloads it during the run without losing its state.
const LONGEST = 60;  // most seconds between two reloads

function drawAll() {
  return Promise.all([drawCharts(), drawWatch()]);
}

function listen() {
  byId("raw").addEventListener("click", () => { state.raw = !state.raw; pressRaw(); drawCharts(); remember(); });
  byId("all").addEventListener("click", () => setRange(null));
  byId("csv").addEventListener("click", save);
  onTheme(() => { showLegend(); drawAll(); remember(); });
  addEventListener("pagehide", remember);
}

const pressRaw = () => byId("raw").setAttribute("aria-pressed", String(state.raw));

/** Reload the page at intervals: short ones while the run writes, longer ones when it is silent, none while the user acts. */
function stayFresh() {
  if (!data.live) return;
  const button = byId("pause"), text = stateText(data.runs[0]);
  let held = false, timer = 0;
  addEventListener("pointerdown", () => { held = true; });
  for (const name of ["pointerup", "pointercancel", "blur"]) addEventListener(name, () => { held = false; });
  const age = () => Math.max(0, Date.now() / 1000 - data.live.written);
  const wait = () => Math.min(LONGEST, Math.max(data.live.seconds, age() / 4));
  const busy = () => held || document.hidden || document.activeElement?.tagName === "SELECT";
  const tick = () => {
    const silent = age() > 10 * data.live.seconds + 60 ? `; no new data for ${clock(age())}; the run may have ended` : "";
    byId("state").textContent = `${text}${state.paused ? "; reloading is paused" : ""}${silent}`;
  };
  const again = () => {
    clearTimeout(timer);
    if (state.paused) return;
    timer = setTimeout(() => {
      if (busy()) return again();
      remember();
      location.reload();
    }, 1000 * wait());
  };
  const show = () => { button.textContent = state.paused ? "Follow the run" : "Pause reloading"; tick(); };
  button.hidden = false;
  button.title = "This page reloads itself while the run is active";
  button.addEventListener("click", () => { state.paused = !state.paused; remember(); show(); again(); });
  setInterval(tick, 5000);
  show();
  again();
}

function start() {
  if (data.live) history.scrollRestoration = "manual";
  if (data.live && state.theme && state.theme !== (isDark() ? "dark" : "light")) byId("theme").click();
  showHead();
  showSummary();
  showCompared();
  showSettings();
  showEvaluations();
  for (const id of state.open) byId(id).open = true;
  choice(byId("axis"), "axis", [["step", "Steps"], ["time", "Time"]], state.axis, (value) => { state.axis = value; setRange(null); });
  choice(byId("scale"), "scale", [["linear", "Linear loss"], ["log", "Log loss"]], state.scale, (value) => { state.scale = value; drawCharts(); remember(); });
  pressRaw();
  showLegend();
  startWatch();
  return drawAll().then(() => {
    listen();
    if (data.live) scrollTo(0, state.scroll);
    stayFresh();
    document.body.dataset.ready = "yes";
  });
}

start();
