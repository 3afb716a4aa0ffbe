// Small pictures. What is shown as text was set as text: nothing a stranger wrote is ever read as HTML.

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  fill(element, attributes, children);
  return element;
}

function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  fill(element, attributes, children);
  return element;
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
}

function shown(value, digits = 4) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e5 || size < 1e-3) ? value.toExponential(2) : value.toFixed(digits);
}

const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

// One line a score: a dot with its 95 % interval, both runs of a comparison on the same line.
function intervalChart(rows, from, to) {
  const line = 24, left = 300, width = 330, right = 90, height = rows.length * line + 26;
  const x = (value) => left + ((value - from) / (to - from || 1)) * width;
  const picture = draw("svg", { width: left + width + right, height, viewBox: `0 0 ${left + width + right} ${height}`, role: "img", "aria-label": "scores with 95 % intervals" });
  for (let i = 0; i <= 4; i++) {
    const value = from + ((to - from) * i) / 4;
    picture.append(
      draw("line", { class: "guide", x1: x(value), x2: x(value), y1: 0, y2: height - 20 }),
      draw("text", { x: x(value), y: height - 6, "text-anchor": "middle" }, shown(value, 2)),
    );
  }
  rows.forEach((row, i) => {
    const y = i * line + 13;
    picture.append(draw("text", { x: left - 12, y: y + 4, "text-anchor": "end" }, row.name.length > 42 ? `${row.name.slice(0, 41)}…` : row.name));
    row.scores.forEach((score, run) => {
      if (!score || number(score.value) === null) return;
      const at = y + (row.scores.length > 1 ? run * 7 - 3.5 : 0), mark = `s${run}`;
      const low = number(score.ci_low), high = number(score.ci_high);
      if (low !== null && high !== null) picture.append(draw("line", { class: mark, x1: x(Math.max(low, from)), x2: x(Math.min(high, to)), y1: at, y2: at, "stroke-width": 2 }));
      picture.append(draw("circle", { class: mark, cx: x(score.value), cy: at, r: 3.5 }, draw("title", {}, `${row.name}: ${shown(score.value)}${low === null ? "" : ` [${shown(low)}, ${shown(high)}]`}`)));
    });
    const first = row.scores.find(Boolean);
    picture.append(draw("text", { x: left + width + 12, y: y + 4 }, shown(first ? first.value : null)));
  });
  return picture;
}

// Confidence against the share that was right (Guo et al. 2017); the area of a dot says how many documents.
function reliabilityChart(series) {
  const side = 220, margin = 40, size = side + 2 * margin;
  const x = (value) => margin + value * side, y = (value) => margin + (1 - value) * side;
  const picture = draw("svg", { width: size, height: size, viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "reliability diagram" });
  picture.append(
    draw("rect", { x: margin, y: margin, width: side, height: side, fill: "none", class: "axis" }),
    draw("line", { class: "guide", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
    draw("text", { x: x(0.5), y: size - 8, "text-anchor": "middle" }, "confidence"),
    draw("text", { x: 10, y: y(0.5), "text-anchor": "middle", transform: `rotate(-90 10 ${y(0.5)})` }, "share that was right"),
  );
  for (const value of [0, 0.5, 1]) {
    picture.append(
      draw("text", { x: x(value), y: margin + side + 16, "text-anchor": "middle" }, shown(value, 1)),
      draw("text", { x: margin - 6, y: y(value) + 4, "text-anchor": "end" }, shown(value, 1)),
    );
  }
  series.forEach((bins, run) => {
    const most = Math.max(1, ...bins.map((bin) => bin.count));
    if (bins.length > 1) picture.append(draw("polyline", { class: `s${run}`, "fill-opacity": 0, points: bins.map((bin) => `${x(bin.confidence)},${y(bin.accuracy)}`).join(" ") }));
    for (const bin of bins) {
      picture.append(draw("circle", { class: `s${run}`, "fill-opacity": 0.6, cx: x(bin.confidence), cy: y(bin.accuracy), r: 2 + 8 * Math.sqrt(bin.count / most) },
        draw("title", {}, `${bin.count} documents, confidence ${shown(bin.confidence)}, right ${shown(bin.accuracy)}`)));
    }
  });
  return picture;
}

// How the values of a column are spread.
function histogram(columns) {
  const width = 300, height = 160, bottom = 22, bins = 24;
  const all = columns.flat().filter((value) => value !== null);
  if (all.length < 2) return null;
  let low = Infinity, high = -Infinity;
  for (const value of all) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low === high) return null;
  const counts = columns.map((column) => {
    const found = new Array(bins).fill(0);
    for (const value of column) if (value !== null) found[Math.min(bins - 1, Math.floor(((value - low) / (high - low)) * bins))]++;
    return found;
  });
  const most = Math.max(...counts.flat()), step = width / bins;
  const picture = draw("svg", { width: width + 20, height: height + bottom, viewBox: `-10 0 ${width + 20} ${height + bottom}`, role: "img", "aria-label": "histogram" });
  counts.forEach((found, run) => found.forEach((count, i) => {
    if (count) picture.append(draw("rect", { class: `s${run}`, "fill-opacity": 0.55, "stroke-opacity": 0, x: i * step + 1, width: step - 2, y: height - (count / most) * (height - 8), height: (count / most) * (height - 8) },
      draw("title", {}, `${count} documents from ${shown(low + (i * (high - low)) / bins)}`)));
  }));
  picture.append(draw("line", { class: "axis", x1: 0, x2: width, y1: height, y2: height }),
    draw("text", { x: 0, y: height + 16 }, shown(low)), draw("text", { x: width, y: height + 16, "text-anchor": "end" }, shown(high)));
  return picture;
}
