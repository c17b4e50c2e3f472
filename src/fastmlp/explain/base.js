// Helpers: numbers, colours, elements, formulas.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

function unpack(value) {
  if (value === null || typeof value !== "object" || !("f32" in value)) return value;
  const flat = new Float32Array(bytes(value.f32).buffer);
  const build = (depth, start, size) => {
    if (depth === value.shape.length - 1) return Array.from(flat.subarray(start, start + size));
    const n = value.shape[depth], part = size / n;
    return Array.from({ length: n }, (_, k) => build(depth + 1, start + k * part, part));
  };
  return build(0, 0, flat.length);
}

for (const key of ["X", "dX", "rowLosses", "inputGradients"]) data[key] = unpack(data[key]);
for (const layer of data.layers) for (const key in layer) layer[key] = unpack(layer[key]);
for (const key of ["states", "outputs"]) data.frames[key] = unpack(data.frames[key]);
for (const key in data.surface) data.surface[key] = unpack(data.surface[key]);
const L = data.layers.length;
const small = Math.max(...data.sizes) <= 12;

function fmt(value, digits = 5) {
  if (value === "∞") return value;
  if (value === null || value === undefined || !isFinite(value)) return "–";
  const text = String(Number(value.toPrecision(digits)));
  return (Object.is(value, -0) ? "0" : text).replace("-", "−").replace("e+", "e");
}
const brief = (value) => fmt(value, 3);
// At most five letters or so, to stand inside a disc.
function inDisc(value) {
  const size = Math.abs(value);
  return size && (size < 0.01 || size >= 10000) ? value.toExponential(0).replace(/-/g, "−").replace("+", "") : fmt(value, size < 1 ? 2 : 3);
}
const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

// Names as the Python side has them: x, h1, h2, ..., y; ids are places in the full layer.
function neuronName(level, place) {
  const base = level === 0 ? "x" : level === L ? "y" : L === 2 ? "h" : `h${level}`;
  return data.sizes[level] === 1 ? base : `${base}[${data.shown[level][place]}]`;
}
function weightName(layer, i, j) {
  const n = data.sizes[layer] * data.sizes[layer + 1];
  return `W${layer + 1}` + (n > 1 ? `[${data.shown[layer][i]},${data.shown[layer + 1][j]}]` : "");
}
const short = (text, most = 14) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const label = (k) => (data.labels ? data.labels[k] : String(k));
const layerName = (level) => (level === 0 ? "X" : level === L ? "Y" : L === 2 ? "H" : `H${level}`);
// The last row of a table of answers that lists a few of many.
const others = (listed) => (listed < data.sizes[L] ? `<tr><td colspan="3">and ${count(data.sizes[L] - listed, "smaller output")}</td></tr>` : "");
// Off is what passes neither a value nor an error: a relu below its kink.
const isOff = (level, row, place) => level > 0 && level < L && data.layers[level - 1].activation === "relu" && data.layers[level - 1].slope[row][place] === 0;
const valueAt = (level, row, place) => (level ? data.layers[level - 1].A : data.X)[row][place];

function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "circle", "rect", "path", "text", "title", "polyline"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

// Formulas. Every function returns MathML as text.
const mi = (name) => {
  const [, base, places] = /^([^[]*)(?:\[(.*)\])?$/.exec(name);
  const letter = /^([a-zA-Zŷ]+)(\d*)$/.exec(base);
  const places2 = [letter ? letter[2] : "", places || ""].filter(Boolean).join("; ");
  const head = `<mi>${escaped(letter ? letter[1] : base)}</mi>`;
  return places2 ? `<msub>${head}<mn>${places2}</mn></msub>` : head;
};
const mo = (sign) => `<mo>${escaped(sign)}</mo>`;
const mn = (value) => `<mn>${fmt(value)}</mn>`;
const mb = (value) => (value < 0 ? `<mrow><mo>(</mo>${mn(value)}<mo>)</mo></mrow>` : mn(value));
const mfrac = (top, bottom) => `<mfrac><mrow>${top}</mrow><mrow>${bottom}</mrow></mfrac>`;
const partial = (of, by) => mfrac(mo("∂") + of, mo("∂") + by);
const math = (...parts) => `<math>${parts.join("")}</math>`;
const wrapped = (parts) => `<div class="formula wraps">${parts.map((part) => `<math displaystyle="true">${part}</math>`).join(" ")}</div>`;
const block = (...parts) => `<div class="formula"><math display="block">${parts.join("")}</math></div>`;
function matrix(rows) {
  const body = rows.map((row) => `<mtr>${row.map((v) => `<mtd>${mn(v)}</mtd>`).join("")}</mtr>`);
  return `<mtable class="matrix">${body.join("")}</mtable>`; // the style sheet draws the brackets
}

// What scrolls must be within reach of the keyboard.
function reachable(root = document) {
  for (const node of root.querySelectorAll(".formula, .wide")) {
    if (node.scrollWidth > node.clientWidth + 1 || node.scrollHeight > node.clientHeight + 8) {
      node.tabIndex = 0;
      node.setAttribute("role", "region");
      if (!node.hasAttribute("aria-label")) node.setAttribute("aria-label", "Formula, scrolls");
    } else node.removeAttribute("tabindex");
  }
}

// Colours: blue for plus, orange for minus, paler where smaller; read from the style sheet.
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function rgb(name) {
  const hex = css(name).slice(1);
  return [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16));
}
let palette;
function readPalette() {
  palette = { plus: rgb("--plus"), minus: rgb("--minus"), paper: rgb("--paper"), ink: rgb("--ink") };
}
readPalette();
const mix = (a, b, share) => a.map((v, k) => Math.round(v + (b[k] - v) * share));
const colour = (c) => `rgb(${c.join(",")})`;
function signColour(value, largest) {
  const share = Math.min(1, Math.sqrt(Math.abs(value) / (largest || 1)));
  return colour(mix(palette.paper, value < 0 ? palette.minus : palette.plus, 0.08 + 0.92 * share));
}
const largestOf = (values) => values.flat(3).reduce((most, v) => Math.max(most, Math.abs(v)), 0);

const redraws = [];
let width = 0;
function redraw() {
  readPalette();
  for (const draw of redraws) draw();
  reachable();
}
addEventListener("resize", () => {
  if (Math.abs(innerWidth - width) < 2) return; // a phone's address bar changes the height only
  width = innerWidth;
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
