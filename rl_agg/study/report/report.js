"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const DASHES = ["solid", "dash", "dot", "dashdot"];
const root = document.documentElement, wantsDark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Set();  // charts that have been near the screen
let printing = false;

function color(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }

function faint(hex, share) {
  return "rgba(" + [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16)).join(",") + "," + share + ")";
}

// "<" would start a tag in Plotly's own small HTML, and "%{" a value
function plain(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/%\{/g, "%\u200b{");
}

function chosen() {
  return new Set([...document.querySelectorAll("input[name=system]:checked")].map(input => Number(input.value)));
}

function line(number) { return { color: color("--c" + number % 8), width: 2.2, dash: DASHES[Math.floor(number / 8) % 4] }; }

// A line with its interval: x, value, low and high, null where not known
function band(number, parts, shape) {
  const [x, value, low, high] = parts, style = Object.assign(line(number), { shape: shape });
  const known = x.map((_, i) => i).filter(i => low.length && low[i] !== null && x[i] !== null), back = known.slice().reverse();
  const name = plain(DATA.systems[number]);
  const area = {
    x: known.concat(back).map(i => x[i]), y: known.map(i => high[i]).concat(back.map(i => low[i])), mode: "lines",
    fill: "toself", fillcolor: faint(style.color, 0.14), line: { width: 0 }, hoverinfo: "skip"
  };
  const ends = low.length ? " [%{customdata[0]:.4~g}, %{customdata[1]:.4~g}]" : "";
  const curve = {
    x: x, y: value, customdata: low.map((end, i) => [end, high[i]]), mode: "lines", name: name, line: style,
    hovertemplate: "%{y:.4~g}" + ends + "<extra>" + name + "</extra>"
  };
  return known.length ? [area, curve] : [curve];
}

function layout(box, titles, more) {
  const narrow = box.clientWidth < 560, ink = color("--ink"), soft = color("--soft"), grid = color("--grid");
  const axis = title => ({
    gridcolor: grid, zerolinecolor: grid, linecolor: color("--line"), tickfont: { color: soft }, automargin: true,
    title: { text: title, font: { color: soft, size: 13 }, standoff: 8 }
  });
  return Object.assign({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: "system-ui, sans-serif", color: ink },
    margin: { l: narrow ? 44 : 60, r: 12, t: 12, b: 44 }, hovermode: "x unified", dragmode: narrow ? false : "zoom", showlegend: false,
    hoverlabel: { bgcolor: color("--card"), bordercolor: color("--line"), font: { color: ink, size: narrow ? 11 : 13 } },
    xaxis: axis(titles[0]), yaxis: axis(narrow ? "" : titles[1])
  }, more);
}

function note(box, numbers, what) {
  const absent = box.parentElement.querySelector(".absent");
  absent.hidden = !numbers.length;
  absent.textContent = numbers.length ? "Without " + what + ": " + numbers.map(n => DATA.systems[n]).join(", ") + "." : "";
}

function curves(box, chart, measure) {
  const axis = document.querySelector("input[name=axis]:checked").value, shown = chosen(), given = measure.axes[axis] || {};
  const order = chart.order.filter(n => shown.has(n));
  note(box, order.filter(n => !given[n]), "a record of " + DATA.axes[axis].toLowerCase());
  const soft = color("--soft"), y = measure.threshold, threshold = y === null ? {} : {
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: soft, width: 1.5, dash: "dot" } }],
    annotations: [{ xref: "paper", x: 0, y: y, xanchor: "left", yanchor: "bottom", showarrow: false, text: "threshold " + y,
      font: { color: soft, size: 12 } }]
  };
  const made = layout(box, [DATA.axes[axis], measure.label], threshold);
  made.xaxis.rangemode = "tozero";
  return [order.filter(n => given[n]).flatMap(n => band(n, given[n], "linear")), made];
}

function profile(box, given) {
  const shown = chosen(), numbers = Object.keys(given.systems).map(Number).filter(n => shown.has(n));
  const made = layout(box, [given.label, DATA.labels.profile], {});
  made.yaxis.range = [-0.02, 1.02];
  return [numbers.flatMap(n => band(n, [given.x].concat(given.systems[n]), "hv")), made];
}

function frontier(box, chart) {
  const shown = chosen(), numbers = chart.order.filter(n => shown.has(n));
  const known = numbers.filter(n => chart.frontier[n]), best = chart.cheapest.filter(n => shown.has(n));
  note(box, numbers.filter(n => !chart.frontier[n]), "a record of bytes");
  const edge = {
    x: best.map(n => chart.frontier[n][0]), y: best.map(n => chart.frontier[n][1]), mode: "lines", hoverinfo: "skip",
    line: { color: color("--soft"), width: 1, dash: "dot", shape: "hv" }
  };
  const points = known.map(n => {
    const [sent, value, low, high] = chart.frontier[n], name = plain(DATA.systems[n]);
    const ends = low === null ? "" : " [" + low + ", " + high + "]";
    return {
      x: [sent], y: [value], mode: "markers", name: name, marker: { color: line(n).color, size: 11, symbol: Math.floor(n / 8) % 4 },
      error_y: { type: "data", symmetric: false, array: [low === null ? 0 : high - value], visible: low !== null,
        arrayminus: [low === null ? 0 : value - low], color: line(n).color, thickness: 1.5 },
      hovertemplate: "%{y:.4~g}" + ends + ", %{x:.4~s}B<extra>" + name + "</extra>"
    };
  });
  const made = layout(box, DATA.labels.frontier, { hovermode: "closest" });
  Object.assign(made.xaxis, { exponentformat: "SI" }, chart.logarithmic ? { type: "log" } : { rangemode: "tozero" });
  return [[edge].concat(points), made];
}

function draw(id) {
  const box = document.getElementById(id), [kind, number, measure] = id.split("-"), chart = DATA.charts[number];
  const [traces, made] = kind === "curves" ? curves(box, chart, chart.measures[measure])
    : kind === "frontier" ? frontier(box, chart) : profile(box, kind === "profile" ? chart.profile : DATA.overall);
  if (printing) { Object.assign(made, { width: kind === "curves" || kind === "overall" ? 630 : 300, height: 280 }); }
  Plotly.react(box, traces, made, { responsive: !printing, displaylogo: false, displayModeBar: false });
  box.dataset.drawn = String(Number(box.dataset.drawn || 0) + 1);
}

function redraw() { drawn.forEach(draw); }

function paint() {
  const asked = document.querySelector("input[name=theme]:checked").value;
  root.dataset.theme = printing ? "light" : asked || (wantsDark.matches ? "dark" : "light");
  redraw();
}

function all(checked) {
  document.querySelectorAll("input[name=system]").forEach(input => { input.checked = checked; });
  redraw();
}

function print(now) {
  printing = now;
  if (now) { document.querySelectorAll(".chart").forEach(box => drawn.add(box.id)); }
  paint();
}

async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function start() {
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.head.append(script);
  document.querySelectorAll("input[name=axis], input[name=system]").forEach(input => input.addEventListener("change", redraw));
  document.querySelectorAll("input[name=theme]").forEach(input => input.addEventListener("change", paint));
  document.querySelectorAll("button[data-all]").forEach(button => button.addEventListener("click", () => all(!!button.dataset.all)));
  wantsDark.addEventListener("change", paint);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  const near = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(entry => {
    near.unobserve(entry.target);
    drawn.add(entry.target.id);
    draw(entry.target.id);
  }), { rootMargin: "600px" });
  document.querySelectorAll(".chart").forEach(box => near.observe(box));
  root.dataset.ready = "yes";
}

start().catch(error => {
  document.querySelectorAll("figure .absent").forEach(note => {
    note.hidden = false;
    note.textContent = "This browser cannot draw the curves (" + error + "); the tables give the same in numbers.";
  });
});
