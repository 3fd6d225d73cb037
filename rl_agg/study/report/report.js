"use strict";
// What the page does: which charts show what, zoom, pointer, sorting, export; its state is in the address
const DATA = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement, wantsDark = matchMedia("(prefers-color-scheme: dark)");
const all = selector => [...document.querySelectorAll(selector)], one = selector => document.querySelector(selector);
const COLORS = Number(getComputedStyle(root).getPropertyValue("--colors")), DASHES = Number(getComputedStyle(root).getPropertyValue("--dashes"));
const zooms = {}, drawn = {};  // by chart
const tip = one(".tip");
let printing = false;

function chosen() { return new Set(all("input[name=system]:checked").map(input => Number(input.value))); }

function axis() { return one("input[name=axis]:checked").value; }

function smoothing() { return Number(one("input[name=smooth]").value); }

// The mean over a window of points around each
function smoothed(values, window) {
  const reach = Math.round(window / 2);
  if (!reach) { return values; }
  return values.map((value, i) => {
    if (!known(value)) { return null; }
    const near = values.slice(Math.max(0, i - reach), i + reach + 1).filter(known);
    return near.reduce((sum, each) => sum + each, 0) / near.length;
  });
}

function series(number, leader, [x, y, low, high], more) {
  return Object.assign({
    number, name: DATA.systems[number], style: [number % COLORS, number % DASHES], x, y, low: low || [], high: high || [], runs: [], stride: 1,
    band: number === DATA.baseline || number === leader
  }, more);
}

// The baseline first, as it gets its name and the top place
function shown(numbers) {
  const on = chosen(), kept = numbers.filter(number => on.has(number));
  return [...kept.filter(number => number === DATA.baseline), ...kept.filter(number => number !== DATA.baseline)];
}

function curves(chart, measure) {
  const name = axis(), given = measure.axes[name] || {}, numbers = shown(chart.order), share = smoothing(), runs = one("input[name=runs]").checked;
  return {
    title: `${measure.label} on ${chart.title}`, x: DATA.axes[name], threshold: measure.threshold, right: 0, writeX: name === "bytes" ? bytes : short,
    y: measure.label + (share ? `, smoothed (${share} %)` : ""),
    without: [numbers.filter(number => !given[number]), "a record of " + DATA.axes[name].toLowerCase()],
    series: numbers.filter(number => given[number]).map(number => {
      const [x, ...own] = given[number], [y, low, high, single, stride] = own.length ? own : measure.axes.updates[number].slice(1);
      const smooth = values => smoothed(values, values.length * share / 100);
      return series(number, chart.order[0], [x, ...[y, low, high].map(smooth)], { runs: runs ? single.map(smooth) : [], stride });
    })
  };
}

function profile(title, given, order) {
  return {
    title: "Performance profile, " + title, x: given.label, y: DATA.labels.profile, ys: [-0.02, 1.02], steps: true,
    series: shown(order.filter(number => given.systems[number])).map(number => series(number, order[0], [given.x, ...given.systems[number]]))
  };
}

function frontier(chart) {
  const numbers = shown(chart.order), best = chart.cheapest.filter(number => numbers.includes(number)).map(number => chart.frontier[number]);
  return {
    title: "Return against bytes on " + chart.title, x: DATA.labels.frontier[0], y: DATA.labels.frontier[1], logarithmic: chart.logarithmic,
    points: true, writeX: bytes, edge: [best.map(([sent]) => sent), best.map(([, value]) => value)],
    without: [numbers.filter(number => !chart.frontier[number]), "a record of bytes"],
    series: numbers.filter(number => chart.frontier[number]).map(
      number => series(number, null, chart.frontier[number].map(value => [value]), { band: true }))
  };
}

function differences(chart) {
  const numbers = chosen();
  return {
    title: `${DATA.labels.difference} on ${chart.title}`, x: DATA.labels.difference,
    rows: chart.differences.filter(([number]) => numbers.has(number)).map(
      ([number, outcome, text, ends]) => ({ number, name: DATA.systems[number], outcome, text, ends }))
  };
}

function specOf(id) {
  const [kind, number, measure] = id.split("-"), chart = DATA.charts[number];
  if (kind === "curves") { return curves(chart, chart.measures[measure]); }
  if (kind === "frontier") { return frontier(chart); }
  if (kind === "differences") { return differences(chart); }
  if (chart) { return profile(chart.title, chart.profile, chart.order); }
  const order = Object.keys(DATA.overall.systems).map(Number);
  return profile("all environments", DATA.overall, order);
}

function draw(box) {
  const spec = specOf(box.id), figure = box.closest("figure"), note = figure.querySelector(".absent"), half = figure.matches(".pair > :not(:nth-child(odd):last-child)");
  if (figure.clientWidth < 100) { return; }  // the window has no size yet, or no longer
  const [missing, what] = spec.without || [[], ""], content = spec.rows || spec.series;
  const names = missing.map(number => DATA.systems[number]).join(", ");
  box.hidden = false;  // or it has no width
  spec.width = printing ? (half ? 345 : 700) : box.clientWidth;
  const narrow = spec.width < 560;
  spec.height = spec.rows ? 60 + 28 * spec.rows.length : printing ? 215 : narrow ? 300 : half ? 340 : 400;
  if (spec.rows && spec.width < 400) { spec.rows.forEach(row => { row.text = row.text.split(" [")[0]; }); }
  spec.right = spec.rows ? 7.4 * Math.max(0, ...spec.rows.map(row => row.text.length)) + 14
    : Math.min(narrow ? Math.max(98, spec.width * 0.28) : 190, 26 + LETTER * Math.max(0, ...spec.series.map(each => each.name.length)));
  note.textContent = !content.length ? "Nothing to draw: choose a system" + (names ? "; without " + what + ": " + names + "." : ".")
    : names ? `Without ${what}: ${names}.` : "";
  note.hidden = !note.textContent;
  spec.zoom = zooms[box.id] && zooms[box.id].axis === axisOf(box.id) ? zooms[box.id].range : null;
  figure.querySelector(".unzoom").hidden = !spec.zoom;
  box.replaceChildren();
  box.hidden = figure.querySelector(".menu").hidden = !content.length;
  drawn[box.id] = content.length ? Object.assign((spec.rows ? forest : plane)(box, spec), { spec }) : null;
}

function axisOf(id) { return id.startsWith("curves") ? axis() : ""; }

function redraw() {
  tip.hidden = true;
  all(".chart").forEach(draw);
}

// A system's curves and rows stand out while the pointer or the keyboard is on one of them
function light(number) {
  all("[data-s]").forEach(each => {
    each.classList.toggle("lit", each.dataset.s === number);
    each.classList.toggle("dim", number !== undefined && each.dataset.s !== number);
  });
}

// The values at a place, in order, and which line is nearest to the pointer
function read(id, at, height) {
  const { spec, X, Y, svg, bottom } = drawn[id], rows = [];
  svg.querySelectorAll(".cursor").forEach(each => each.remove());
  if (!spec.points) { make(svg, "line", { class: "cursor", x1: at, x2: at, y1: 10, y2: bottom }); }
  let nearest = null, where = null;
  spec.series.forEach(each => {
    let best = -1;
    each.x.forEach((x, i) => {
      if (known(x) && known(each.y[i]) && (best < 0 || Math.abs(X.at(x) - at) < Math.abs(X.at(each.x[best]) - at))) { best = i; }
    });
    if (best < 0 || Math.abs(X.at(each.x[best]) - at) > 40) { return; }
    const gap = Math.hypot(Y.at(each.y[best]) - height, spec.points ? X.at(each.x[best]) - at : 0);
    if (height !== null && gap < 30 && (!nearest || gap < nearest.gap)) { nearest = { gap, number: String(each.number) }; }
    where = each.x[best];
    rows.push([each, each.y[best], each.low[best], each.high[best]]);
  });
  light(nearest ? nearest.number : undefined);
  tip.replaceChildren();
  tip.append(rows.length && !spec.points ? `${spec.x} ${(spec.writeX || short)(where)}` : "");
  rows.sort((a, b) => b[1] - a[1]).slice(0, 14).forEach(([each, value, low, high]) => {
    const row = tip.appendChild(document.createElement("div")), swatch = one(`.controls [data-s="${each.number}"] .key`).cloneNode(true);
    row.append(swatch, each.name, " ", short(value) + (known(low) ? ` [${short(low)}, ${short(high)}]` : ""));
    row.classList.toggle("lit", !!nearest && nearest.number === String(each.number));
  });
  tip.hidden = !rows.length;
  const frame = svg.getBoundingClientRect(), left = frame.left + at + 18;
  tip.style.left = Math.max(8, left + tip.offsetWidth > innerWidth - 8 ? frame.left + at - tip.offsetWidth - 18 : left) + "px";
  tip.style.top = Math.max(8, Math.min(frame.top + 20, innerHeight - tip.offsetHeight - 8)) + "px";
}

function unread(box) {
  tip.hidden = true;
  box.querySelectorAll(".cursor").forEach(each => each.remove());
  light(undefined);
}

function zoom(box, range) {
  if (range) { zooms[box.id] = { axis: axisOf(box.id), range }; } else { delete zooms[box.id]; }
  draw(box);
  remember();
}

function interact(box) {
  let from = null, cursor = null, shade = null;
  const place = event => event.clientX - box.getBoundingClientRect().left, plain = () => drawn[box.id] && !drawn[box.id].spec.rows;
  const clamp = at => Math.max(drawn[box.id].left, Math.min(drawn[box.id].right, at));
  box.addEventListener("pointermove", event => {
    if (!plain()) { return; }
    if (from === null) { read(box.id, clamp(place(event)), event.clientY - box.getBoundingClientRect().top); return; }
    const to = clamp(place(event));
    shade.setAttribute("x", Math.min(from, to));
    shade.setAttribute("width", Math.abs(to - from));
  });
  box.addEventListener("pointerdown", event => {
    if (!plain() || drawn[box.id].spec.points || event.pointerType !== "mouse" || event.button) { return; }
    from = clamp(place(event));
    shade = make(drawn[box.id].svg, "rect", { class: "shade", x: from, y: 10, width: 0, height: drawn[box.id].bottom - 10 });
    box.setPointerCapture(event.pointerId);
    event.preventDefault();
    drawn[box.id].svg.focus({ preventScroll: true });
  });
  box.addEventListener("pointerup", event => {
    if (from === null) { return; }
    const { X } = drawn[box.id], ends = [from, clamp(place(event))].sort((a, b) => a - b);
    from = null;
    shade.remove();
    if (ends[1] - ends[0] > 8) { zoom(box, ends.map(X.back)); }
  });
  box.addEventListener("pointerleave", () => unread(box));
  box.addEventListener("dblclick", () => zoom(box, null));
  box.addEventListener("focusout", () => { cursor = null; unread(box); });
  box.addEventListener("keydown", event => {
    if (!plain()) { return; }
    const { left, right, X, spec } = drawn[box.id], step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) {
      cursor = clamp((cursor === null ? (left + right) / 2 : cursor) + step * (right - left) / 50);
      read(box.id, cursor, null);
    } else if ((event.key === "+" || event.key === "-") && !spec.points) {
      const middle = X.back(cursor === null ? (left + right) / 2 : cursor), share = event.key === "+" ? 0.25 : 1;
      const ends = [-1, 1].map(side => middle + side * share * (X.high - X.low));
      const whole = range(spec.series.flatMap(each => each.x), 0), next = [Math.max(ends[0], Math.min(0, whole[0])), Math.min(ends[1], whole[1])];
      zoom(box, event.key === "-" && next[1] - next[0] >= whole[1] - whole[0] ? null : next);
      drawn[box.id].svg.focus({ preventScroll: true });
    } else if (event.key === "Escape") {
      zoom(box, null);
      drawn[box.id].svg.focus({ preventScroll: true });
    } else { return; }
    event.preventDefault();
  });
  box.closest("figure").querySelector(".unzoom").addEventListener("click", () => zoom(box, null));
}

// The curve of each row of a ranking, on one scale
function spark(table) {
  const chart = DATA.charts[table.dataset.chart], given = chart.measures[0].axes.updates, rows = [...table.tBodies[0].rows];
  const values = Object.values(given), xs = range(values.flatMap(([x]) => x), 0), ys = range(values.flatMap(([, y]) => y), 0.04);
  if (!ys) { return; }
  rows.filter(row => given[row.dataset.s]).forEach(row => {
    const number = Number(row.dataset.s), [x, y] = given[number];
    make(row.querySelector(".spark"), "path", { class: `curve c${number % COLORS}`, d: line(x, y, scale(xs, 1, 89), scale(ys, 23, 1), false) });
  });
}

// What stands in a cell as a number; what is none comes last
function worth(cell) {
  const text = cell.innerText.replace(/\u202f/g, "").replace(/\u2212/g, "-"), found = text.match(/-?[\d.]+(e-?\d+)?/);
  return found ? Number(found[0]) * ({ kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 }[text.split(/\s/).at(-1)] || 1) : -Infinity;
}

function cellsOf(row) { return [...row.cells].filter(cell => !cell.classList.contains("drawn")); }

function sort(button) {
  const table = button.closest("table"), column = Number(button.dataset.column), head = button.parentElement;
  const down = head.ariaSort !== "descending", body = table.tBodies[0], names = column === 0;
  table.querySelectorAll("thead th").forEach(each => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const by = row => names ? row.cells[0].innerText.toLowerCase() : worth(cellsOf(row)[column]);
  const order = [...body.rows].map(row => [by(row), row]).sort(([a], [b]) => {
    if (a === -Infinity || b === -Infinity) { return (a === -Infinity) - (b === -Infinity); }
    return (a < b ? 1 : a > b ? -1 : 0) * (down !== names ? 1 : -1);
  });
  body.append(...order.map(([, row]) => row));
}

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = content instanceof Blob ? URL.createObjectURL(content) : URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function csv(rows) {
  return rows.map(row => row.map(cell => /[",\n]/.test(cell) ? `"${String(cell).replace(/"/g, '""')}"` : known(cell) ? cell : "").join(",")).join("\n") + "\n";
}

function texts(table) { return [...table.rows].map(row => cellsOf(row).map(cell => cell.innerText.replace(/\s+/g, " ").trim())); }

function markdown([head, ...body]) {
  const row = cells => "| " + cells.map(cell => cell.replace(/\|/g, "\\|").replace(/</g, "&lt;")).join(" | ") + " |";
  return [row(head), row(head.map((_, i) => i ? "---:" : "---")), ...body.map(row)].join("\n") + "\n";
}

function latex([head, ...body]) {
  const plain = text => text.replace(/[\\{}$&#_%^~]/g, letter => letter === "\\" ? "\\textbackslash{}" : letter === "^" || letter === "~" ? `\\${letter}{}` : "\\" + letter)
    .replace(/\u2212/g, "$-$").replace(/\u202f/g, "\\,").replace(/R̄(\\_end)?/g, (_, end) => end ? "$\\bar R_{end}$" : "$\\bar R$")
    .replace(/Δ/g, "$\\Delta$").replace(/μ\\_(\w+)/g, "$\\mu_{$1}$").replace(/(\d)e(-?\d+)/g, "$1 \\times 10^{$2}");
  const row = cells => cells.map(plain).join(" & ") + " \\\\";
  return [`\\begin{tabular}{l${"r".repeat(head.length - 1)}}`, "\\toprule", row(head), "\\midrule", ...body.map(row), "\\bottomrule", "\\end{tabular}"].join("\n") + "\n";
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

// A chart as a file of its own: with its title, on its ground, with the styles that the page gives it
function picture(id) {
  const { svg, spec } = drawn[id], copied = svg.cloneNode(true), away = ["cursor", "shade"];
  const style = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font-family", "font-size", "font-weight", "display"];
  const [from, to] = [svg, copied].map(each => [...each.querySelectorAll("*")]);
  from.forEach((each, i) => {
    const own = getComputedStyle(each);
    style.forEach(name => to[i].style.setProperty(name, own.getPropertyValue(name)));
    if (away.includes(each.getAttribute("class")) || own.display === "none") { to[i].remove(); }
  });
  const body = getComputedStyle(document.body), ground = getComputedStyle(svg.closest(".card")).backgroundColor, high = spec.height + 34;
  copied.setAttribute("viewBox", `0 -34 ${spec.width} ${high}`);
  copied.setAttribute("width", spec.width);
  copied.setAttribute("height", high);
  copied.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const title = make(copied, "text", { x: 10, y: -12, "font-size": 16, "font-weight": 600, "font-family": body.fontFamily, fill: body.color }, spec.title);
  copied.prepend(title);
  const rect = make(copied, "rect", { x: 0, y: -34, width: spec.width, height: high, fill: ground });
  copied.prepend(rect);
  return { text: new XMLSerializer().serializeToString(copied), width: spec.width, height: high };
}

async function png(id) {
  const { text, width, height } = picture(id), image = new Image(), canvas = document.createElement("canvas"), times = 3;
  image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  await image.decode();
  Object.assign(canvas, { width: width * times, height: height * times });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise(done => canvas.toBlob(done, "image/png"));
}

function numbers(id) {
  const { spec } = drawn[id];
  if (spec.rows) { return [["system", "value", "low", "high", "outcome"], ...spec.rows.map(row => [row.name, ...row.ends[0], row.outcome])]; }
  const rows = spec.series.flatMap(each => each.x.map((x, i) => [each.name, x, each.y[i], each.low[i], each.high[i]]));
  return [["system", spec.x, spec.y, "low", "high"], ...rows];
}

function fill(menu) {
  const box = menu.closest("figure, .card"), chart = box.querySelector(".chart"), table = box.querySelector("table");
  const stem = (chart ? chart.dataset.label : table.parentElement.ariaLabel).replace(/[^\w.-]+/g, "-");
  const actions = chart ? {
    "PNG": async () => save(stem + ".png", "", await png(chart.id)),
    "SVG": () => save(stem + ".svg", "image/svg+xml", picture(chart.id).text),
    "CSV": () => save(stem + ".csv", "text/csv", csv(numbers(chart.id)))
  } : {
    "CSV": () => save(stem + ".csv", "text/csv", csv(texts(table))),
    "Copy as Markdown": () => copy(markdown(texts(table))),
    "Copy as LaTeX": () => copy(latex(texts(table)))
  };
  const list = menu.appendChild(document.createElement("div"));
  Object.entries(actions).forEach(([name, act]) => {
    const button = list.appendChild(document.createElement("button"));
    Object.assign(button, { type: "button", textContent: name });
    button.addEventListener("click", async () => { await act(); menu.open = false; });
  });
}

// The address: the section, then what is not as it is at first
function remember() {
  const section = location.hash.slice(1).split("&")[0], state = new URLSearchParams();
  if (axis() !== "updates") { state.set("axis", axis()); }
  const differing = all("input[name=system]").filter(input => input.checked !== input.defaultChecked).map(input => input.value);
  if (differing.length) { state.set("toggled", differing.join(".")); }
  if (one("input[name=runs]").checked) { state.set("runs", "1"); }
  if (smoothing()) { state.set("smooth", smoothing()); }
  if (one("input[name=theme]:checked").value) { state.set("theme", one("input[name=theme]:checked").value); }
  Object.entries(zooms).forEach(([id, { axis: name, range }]) => state.set("zoom-" + id, [name, ...range].join("~")));
  history.replaceState(null, "", "#" + [section.includes("=") ? "" : section, ...(state.size ? [state] : [])].join("&"));
}

function recall() {
  const [section, ...rest] = location.hash.slice(1).split("&"), state = new URLSearchParams(rest.join("&"));
  const press = (name, value) => all(`input[name=${name}]`).filter(input => input.value === value).forEach(input => { input.checked = true; });
  press("axis", state.get("axis"));
  press("theme", state.get("theme"));
  const toggled = new Set((state.get("toggled") || "").split("."));
  all("input[name=system]").forEach(input => { input.checked = input.defaultChecked !== toggled.has(input.value); });
  one("input[name=runs]").checked = state.has("runs");
  one("input[name=smooth]").value = state.get("smooth") || 0;
  state.forEach((value, key) => {
    const [name, ...ends] = value.split("~");
    if (key.startsWith("zoom-")) { zooms[key.slice(5)] = { axis: name, range: ends.map(Number) }; }
  });
  return document.getElementById(section);
}

function paint() {
  const asked = one("input[name=theme]:checked").value;
  root.dataset.theme = printing ? "light" : asked || (wantsDark.matches ? "dark" : "light");
}

function print(now) {
  printing = now;
  paint();
  redraw();
}

function changed() {
  one("output").textContent = smoothing() ? smoothing() + " %" : "off";
  redraw();
  remember();
}

// A page of a running study follows it, unless somebody is looking closely
function follow(seconds) {
  let moved = 0;
  addEventListener("pointermove", () => { moved = Date.now(); });
  setInterval(() => {
    if (!document.hidden && Date.now() - moved > 3000 && !one("main details[open]:not(.settings, .verdict *)")) { location.reload(); }
  }, 1000 * seconds);
}

function start() {
  const section = one(".chart") ? recall() : null, hints = new ResizeObserver(entries => requestAnimationFrame(() => entries.forEach(({ target }) => {
    target.nextElementSibling.hidden = target.scrollWidth <= target.clientWidth;
  })));
  paint();
  all("input[name=theme]").forEach(input => input.addEventListener("change", () => { paint(); remember(); }));
  wantsDark.addEventListener("change", paint);
  all(".sort").forEach(button => button.addEventListener("click", () => sort(button)));
  all(".menu").forEach(fill);
  all(".scroll").forEach(box => hints.observe(box));
  all("table[data-chart]").forEach(spark);
  if (one("main").dataset.reload) { follow(Number(one("main").dataset.reload)); }
  if (one(".chart")) {
    redraw();
    one("output").textContent = smoothing() ? smoothing() + " %" : "off";
    all("input[name=axis], input[name=system], input[name=runs], input[name=smooth]").forEach(input => input.addEventListener("input", changed));
    all("button[data-all]").forEach(button => button.addEventListener("click", () => {
      all("input[name=system]").forEach(input => { input.checked = !!button.dataset.all; });
      changed();
    }));
    all(".chart").forEach(interact);
    ["pointerover", "focusin"].forEach(name => document.addEventListener(name, event => {
      const lit = event.target.closest("[data-s]");
      if (lit || !event.target.closest(".chart")) { light(lit ? lit.dataset.s : undefined); }
    }));
    let width = one("main").clientWidth;
    new ResizeObserver(() => requestAnimationFrame(() => {
      if (one("main").clientWidth !== width && !printing) { width = one("main").clientWidth; redraw(); }
    })).observe(one("main"));
    addEventListener("beforeprint", () => print(true));
    addEventListener("afterprint", () => print(false));
    if (section) { section.scrollIntoView(); }
  }
  all("a[href^='#']").forEach(link => link.addEventListener("click", event => {
    const target = document.getElementById(link.hash.slice(1));
    event.preventDefault();
    target.scrollIntoView();
    history.replaceState(null, "", link.hash);
    if (one(".chart")) { remember(); }
  }));
  root.dataset.ready = "yes";
}

start();
