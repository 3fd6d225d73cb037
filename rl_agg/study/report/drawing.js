"use strict";
// Charts as SVG: of numbers on two axes, and of intervals by name. What they look like is in the style sheet.

const LETTER = 7.9;  // pixels of a bold one, on average

function make(parent, tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  if (text !== undefined) { node.textContent = text; }
  return parent.appendChild(node);
}

// A number for an axis or a pointer
function short(value, digits = 4) {
  const size = Math.abs(value), sign = text => text.replace("e+", "e").replace(/-/g, "\u2212");
  if (size >= 1e9 || (size > 0 && size < 1e-4)) { return sign(value.toExponential(digits - 1).replace(/\.?0+e/, "e")); }
  const [unit, factor] = size >= 1e6 ? ["M", 1e6] : size >= 1e4 ? ["k", 1e3] : ["", 1];
  return sign(String(Number((value / factor).toPrecision(digits)))) + unit;
}

function bytes(value, digits = 4) {
  const power = value >= 1 ? Math.min(4, Math.floor(Math.log10(value) / 3)) : 0;
  return Number((value / 1000 ** power).toPrecision(digits)) + " " + ["B", "kB", "MB", "GB", "TB"][power];
}

// With as many digits as tell them apart
function labels(values, write) {
  for (let digits = 3; ; digits++) {
    const made = values.map(value => write(value, digits));
    if (new Set(made).size === made.length || digits > 14) { return made; }
  }
}

// Round numbers that divide a range into about so many parts
function ticks(low, high, count) {
  const rough = (high - low) / count, unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find(times => times * unit >= rough * 0.7), first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1) }, (_, i) => (first + i) * step);
}

function powers(low, high) {
  const from = Math.ceil(Math.log10(low) - 1e-9), to = Math.floor(Math.log10(high) + 1e-9);
  const decades = Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => 10 ** (from + i));
  return decades.length > 1 ? decades : ticks(low, high, 3);
}

// The range of some numbers, widened by a share of it; around a single number too
function range(values, share) {
  let low = Infinity, high = -Infinity;
  values.forEach(value => { if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value); } });
  if (low > high) { return null; }
  const margin = high - low > Math.abs(high) * 1e-12 ? (high - low) * share : Math.abs(high) * 0.1 || 1;
  return [low - margin, high + margin];
}

function scale([low, high], from, to, logarithmic) {
  const of = logarithmic ? Math.log10 : value => value, length = of(high) - of(low);
  return {
    low, high, at: value => from + (of(value) - of(low)) / length * (to - from),
    back: at => { const value = of(low) + (at - from) / (to - from) * length; return logarithmic ? 10 ** value : value; }
  };
}

// Labels moved apart as little as possible; see spread() of style.py
function spread(positions, gap, low, high) {
  const order = positions.map((_, i) => i).sort((a, b) => positions[a] - positions[b]), placed = [];
  gap = Math.min(gap, (high - low) / Math.max(order.length - 1, 1));
  order.forEach((number, rank) => {
    placed[number] = Math.max(rank ? placed[order[rank - 1]] + gap : low, positions[number]);
  });
  let limit = high;
  order.reverse().forEach(number => { placed[number] = limit = Math.min(placed[number], limit); limit -= gap; });
  return placed;
}

function cut(text, letters) { return text.length > letters ? text.slice(0, letters - 1) + "\u2026" : text; }

function known(value) { return value !== null && value !== undefined; }

function line(xs, ys, X, Y, steps) {
  let pen = "M";
  return xs.map((x, i) => {
    if (!known(x) || !known(ys[i])) { pen = "M"; return ""; }
    const at = X.at(x).toFixed(1), y = Y.at(ys[i]).toFixed(1), move = pen;
    pen = steps ? "H" : "L";
    return move === "H" ? `H${at}V${y}` : `${move}${at} ${y}`;
  }).join("");
}

function area(one, X, Y) {
  const all = one.x.map((_, i) => i).filter(i => known(one.x[i]) && known(one.low[i]));
  if (!all.length) { return ""; }
  const edge = (values, order) => line(order.map(i => one.x[i]), order.map(i => values[i]), X, Y, false);
  return edge(one.high, all) + edge(one.low, all.slice().reverse()).replace("M", "L") + "Z";
}

// The sheet of a chart, with axes: wide is in pixels, marks are the ticks of y as [value, text]
function sheet(box, spec, xs, ys, marks) {
  const { width, height } = spec, narrow = width < 560, bottom = height - 42;
  const svg = make(box, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": spec.title });
  make(svg, "title", {}, spec.title);
  const left = Math.min(Math.max(...marks.map(([, text]) => text.length)) * (spec.rows ? 7.4 : narrow ? 6.6 : 7.2) + (spec.y && !narrow ? 34 : spec.rows ? 26 : 14), width / 2);
  const right = width - spec.right, X = scale(xs, left, right, spec.logarithmic), Y = scale(ys, bottom, 10);
  const across = (spec.logarithmic ? powers : ticks)(...xs, spec.logarithmic ? 0 : Math.max(3, Math.round((right - left) / 90)));
  const texts = labels(across, spec.writeX || short);
  across.forEach((value, i) => {
    make(svg, "line", { class: "grid", x1: X.at(value), x2: X.at(value), y1: 10, y2: bottom });
    make(svg, "text", { class: "tick", x: X.at(value), y: bottom + 17, "text-anchor": "middle" }, texts[i]);
  });
  marks.forEach(([value, text, number]) => {
    if (!spec.rows) { make(svg, "line", { class: "grid", x1: left, x2: right, y1: Y.at(value), y2: Y.at(value) }); }
    const mark = make(svg, "text", { class: "tick", x: left - 8, y: Y.at(value) + 4, "text-anchor": "end" }, text);
    if (number !== undefined) { mark.dataset.s = number; mark.classList.add("name"); }
  });
  make(svg, "text", { class: "axis-title", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, spec.x);
  if (spec.y && !narrow) {
    const middle = (10 + bottom) / 2;
    make(svg, "text", { class: "axis-title", transform: `translate(14 ${middle}) rotate(-90)`, "text-anchor": "middle" }, cut(spec.y, Math.floor(bottom / 6.6)));
  }
  return { svg, X, Y, left, right, bottom, narrow };
}

// Lines and points. A series: number of its system, name, style, x and y; low, high and runs where known
function plane(box, spec) {
  const inside = x => known(x) && (!spec.zoom || (x >= spec.zoom[0] && x <= spec.zoom[1]));
  const xs = spec.zoom || range(spec.series.flatMap(one => one.x), spec.points ? 0.06 : 0);
  if (!spec.zoom && !spec.logarithmic && xs[0] > 0 && xs[0] < xs[1] * 0.3) { xs[0] = 0; }
  if (spec.logarithmic && !spec.zoom) { const at = spec.series.map(one => one.x[0]); xs[0] = Math.min(...at) / 1.5; xs[1] = Math.max(...at) * 1.5; }
  const within = (values, one, stride) => values.filter((_, i) => inside(one.x[i * stride]));
  const shown = spec.series.flatMap(one => [
    ...(one.band ? [one.y, one.low, one.high] : [one.y]).flatMap(values => within(values, one, 1)),
    ...one.runs.flatMap(run => within(run, one, one.stride))
  ]);
  const ys = spec.ys || range(shown, 0.05) || [0, 1], mark = spec.threshold;
  if (known(mark) && !spec.zoom && Math.max(mark, ys[1]) - Math.min(mark, ys[0]) < 1.6 * (ys[1] - ys[0])) {
    const margin = 0.05 * (ys[1] - ys[0]);
    [ys[0], ys[1]] = [Math.min(ys[0], mark - margin), Math.max(ys[1], mark + margin)];
  }
  const at = ticks(...ys, Math.max(2, Math.round(spec.height / 70)));
  const drawn = sheet(box, spec, xs, ys, labels(at, short).map((text, i) => [at[i], text]));
  const { svg, X, Y, left, right, bottom, narrow } = drawn, clip = `clip-${box.id}`;
  make(make(svg, "clipPath", { id: clip }), "rect", { x: left, y: 0, width: right - left, height: bottom + 1 });
  const plot = make(svg, "g", { "clip-path": `url(#${clip})` });
  if (known(mark) && mark >= ys[0] && mark <= ys[1]) {
    make(plot, "line", { class: "threshold", x1: left, x2: right, y1: Y.at(mark), y2: Y.at(mark) });
    make(plot, "text", { class: "tick", x: left + 6, y: Y.at(mark) - 5 }, "threshold " + short(mark));
  }
  if (spec.edge) { make(plot, "path", { class: "threshold", d: line(...spec.edge, X, Y, true) }); }
  // The first ones last, on top
  spec.series.slice().reverse().forEach(one => {
    const group = make(plot, "g", { class: `series c${one.style[0]} d${one.style[1]}`, "data-s": one.number });
    if (one.low && !spec.points) { make(group, "path", { class: one.band ? "band" : "band other", d: area(one, X, Y) }); }
    one.runs.forEach(run => make(group, "path", { class: "run", d: line(one.x.filter((_, i) => i % one.stride === 0), run, X, Y) }));
    const dots = one.x.map((_, i) => i).filter(i => known(one.x[i]) && known(one.y[i]));
    if (spec.points || dots.length === 1) {
      const [x, y] = [X.at(one.x[dots[0]]), Y.at(one.y[dots[0]])];
      if (known(one.low[dots[0]])) { make(group, "line", { class: "whisker", x1: x, x2: x, y1: Y.at(one.low[dots[0]]), y2: Y.at(one.high[dots[0]]) }); }
      make(group, "circle", { class: "dot", cx: x, cy: y, r: spec.points ? 5 : 3 });
    } else {
      make(group, "path", { class: "curve", d: line(one.x, one.y, X, Y, spec.steps) });
    }
  });
  // Names at the lines' ends, as many as there is room for, the baseline's and the best ones first
  const ends = spec.series.map(one => {
    const last = one.y.findLastIndex((value, i) => known(value) && inside(one.x[i]));
    return last < 0 ? null : { one, x: X.at(one.x[last]), y: Math.min(Math.max(Y.at(one.y[last]), 10), bottom) };
  }).filter(known).slice(0, Math.floor((bottom - 10) / 14) + 1);
  spread(ends.map(end => end.y), 14, 12, bottom).forEach((y, i) => {
    const { one, x, y: from } = ends[i], group = make(svg, "g", { class: `ending c${one.style[0]}`, "data-s": one.number });
    const at = spec.points ? Math.min(x + 12, right + 15) : right + 15;  // a point's name is where the point is
    // From where a line ends early it would cross the others
    if (!spec.points && x > left + 0.9 * (right - left)) {
      make(group, "path", { class: "leader", d: `M${(x + 2).toFixed(1)} ${from.toFixed(1)}L${right + 8} ${y.toFixed(1)}H${right + 12}` });
    } else if (spec.points && Math.abs(y - from) > 8) {
      make(group, "path", { class: "leader", d: `M${(x + 6).toFixed(1)} ${from.toFixed(1)}L${(at - 2).toFixed(1)} ${(y - 4).toFixed(1)}` });
    }
    const text = make(group, "text", { class: "name", x: at, y: spec.points ? y - 4 : y + 4 }, cut(one.name, Math.floor((spec.right - 17) / LETTER)));
    make(text, "title", {}, one.name);
  });
  return drawn;
}

// Intervals by name, around zero. A row: number, name, outcome, text, and [value, low, high] on each basis
function forest(box, spec) {
  const xs = range([0, ...spec.rows.flatMap(row => row.ends.flat())], 0.06), limit = Math.floor(Math.min(24, Math.max(13, spec.width / 28)));
  const marks = spec.rows.map((row, i) => [spec.rows.length - i, cut(row.name, limit), row.number]);
  const drawn = sheet(box, spec, xs, [0.4, spec.rows.length + 0.6], marks), { svg, X, Y, right, bottom } = drawn;
  make(svg, "line", { class: "zero", x1: X.at(0), x2: X.at(0), y1: 6, y2: bottom });
  spec.rows.forEach((row, i) => {
    const group = make(svg, "g", { class: `interval-of ${row.outcome.split(" ")[0]}`, "data-s": row.number });
    row.ends.forEach(([value, low, high], basis) => {
      const y = Y.at(spec.rows.length - i) + (row.ends.length > 1 ? 8 * basis - 4 : 0), style = basis ? "whisker second" : "whisker";
      if (!known(value)) { return; }
      if (known(low)) { make(group, "line", { class: style, x1: X.at(low), x2: X.at(high), y1: y, y2: y }); }
      make(group, "circle", { class: basis ? "dot second" : "dot", cx: X.at(value), cy: y, r: basis ? 2.5 : 4.5 });
    });
    make(group, "text", { class: "name value", x: right + 10, y: Y.at(spec.rows.length - i) + 4 }, row.text);
  });
  return drawn;
}
