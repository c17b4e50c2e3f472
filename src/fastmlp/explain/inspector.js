// What a hovered neuron or weight shows: its sum, or its chain of derivatives, with the numbers.
const TERMS = 10, PATHS = 6;

function inspect(what, into = false) {
  state.what = what;
  byId("inspector").innerHTML = what.kind === "weight" ? weightPanel(what) : what.level === 0 ? inputPanel(what) : neuronPanel(what);
  for (const button of byId("inspector").querySelectorAll("button[data-go]")) {
    button.addEventListener("click", () => inspect(JSON.parse(button.dataset.go), true));
  }
  for (const canvas of byId("inspector").querySelectorAll("canvas")) paintWeights(canvas, what);
  mark(what);
  reachable(byId("inspector"));
  if (into) byId("inspector").focus();
}

// Enter on a neuron goes into its panel, where Tab finds its weights; Escape goes back to it.
function enter(what) {
  state.from = what;
  inspect(what, true);
}
byId("inspector").addEventListener("keydown", (event) => {
  const from = state.from;
  const node = event.key === "Escape" && from && document.querySelector(`#drawing [data-neuron="${from.level},${from.place}"]`);
  if (!node) return;
  event.preventDefault();
  node.focus();
});

function mark(what) {
  for (const node of document.querySelectorAll("#drawing .picked")) node.classList.remove("picked");
  const query = what.kind === "weight" ? `[data-weight="${what.layer},${what.i},${what.j}"]` : `[data-neuron="${what.level},${what.place}"]`;
  const found = document.querySelector(`#drawing ${query}`);
  if (found) found.classList.add("picked");
}

const go = (what, text) => `<button class="link" data-go='${JSON.stringify(what)}'>${text}</button>`;
const tone = (value) => (value < 0 ? "minus" : "plus");
function bar(value, largest) {
  const share = largest ? (100 * Math.abs(value)) / largest : 0;
  return `<span class="meter"><i class="${tone(value)}" style="width:${share.toFixed(1)}%"></i></span>`;
}

function inputPanel({ place }) {
  const row = state.row, name = neuronName(0, place);
  const place2 = data.image ? `, row ${Math.floor(data.shown[0][place] / data.image[1])}, column ${data.shown[0][place] % data.image[1]} of the image` : "";
  return `<h3>${escaped(name)} <small>an input${place2}</small></h3>` +
    block(mi(name), mo("="), mn(data.X[row][place])) +
    `<p>How the total loss would change with it, by the chain rule through every layer:</p>` +
    block(partial(mi("L"), mi(name)), mo("="), mn(data.dX[row][place]));
}

function neuronPanel({ level, place }) {
  const row = state.row, part = data.layers[level - 1], name = neuronName(level, place);
  const z = part.Z[row][place], a = part.A[row][place], b = part.b[place];
  const terms = data.shown[level - 1].map((_, i) => {
    const input = valueAt(level - 1, row, i), weight = part.W[i][place];
    return { i, input, weight, term: input * weight };
  });
  terms.sort((p, q) => Math.abs(q.term) - Math.abs(p.term));
  const listed = (terms.length <= TERMS ? terms.slice().sort((p, q) => p.i - q.i) : terms.slice(0, TERMS));
  const left = data.sizes[level - 1] - listed.length;
  const rest = z - b - listed.reduce((sum, t) => sum + t.term, 0);
  const largest = Math.max(...listed.map((t) => Math.abs(t.term)), Math.abs(b));
  const last = level === L, off = isOff(level, row, place);
  const status = last ? (data.classifies ? `output for ${escaped(label(data.shown[L][place]))}` : "output") : off ? "is off" : part.activation === "relu" ? "fires" : "";
  let html = `<h3>${escaped(name)} <small class="${off ? "off" : ""}">${status}</small></h3>`;
  const few = listed.length <= 4 && !left;
  if (few) {
    const sum = listed.map((t, k) => (k ? mo("+") : "") + mb(t.weight) + mo("·") + mb(t.input));
    html += wrapped([mi("z") + mo("="), ...sum, b ? mo("+") + mb(b) : "", mo("=") + mn(z)]);
  } else {
    html += block(mi("z"), mo("="), "<munder><mo>∑</mo><mi>i</mi></munder>", mi("w[i]"), mi("x[i]"), mo("+"), mi("b"), mo("="), mn(z));
  }
  if (part.activation !== "identity") html += block(mi("a"), mo("="), `<mtext>${part.activation}</mtext>`, mo("("), mn(z), mo(")"), mo("="), mn(a));
  if (data.image && level === 1) html += `<div class="pair"><figure><canvas data-show="weights"></canvas><figcaption>its weights</figcaption></figure><figure><canvas data-show="terms"></canvas><figcaption>weights × pixels</figcaption></figure></div>`;
  html += `<table class="terms"><thead><tr><th>from</th><th>value</th><th>weight</th><th>term</th><th></th></tr></thead><tbody>`;
  for (const t of listed) {
    html += `<tr><td>${go({ kind: "weight", layer: level - 1, i: t.i, j: place }, escaped(neuronName(level - 1, t.i)))}</td><td>${fmt(t.input)}</td><td class="${tone(t.weight)}">${fmt(t.weight)}</td><td>${fmt(t.term)}</td><td>${bar(t.term, largest)}</td></tr>`;
  }
  if (left) html += `<tr><td colspan="3">${count(left, "smaller term")}</td><td>${fmt(rest)}</td><td></td></tr>`;
  html += `<tr><td colspan="3">bias</td><td>${fmt(b)}</td><td>${bar(b, largest)}</td></tr></tbody></table>`;
  return html + errorOf(level, place);
}

// The error that comes back to a neuron: its slope times the weighted errors behind it.
function errorOf(level, place) {
  const row = state.row, part = data.layers[level - 1], d = part.dZ[row][place];
  const left = partial(mi("L"), mi("z"));
  if (level === L) {
    const P = part.A[row][place], y = data.y[row];
    const wanted = data.classifies ? Number(y === data.shown[L][place]) : y[data.shown[L][place]];
    const simple = ["softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson"].includes(data.lossName);
    const how = simple ? mo("=") + mfrac(mn(P) + mo("−") + mb(wanted), `<mn>${data.nRows}</mn>`) : "";
    const said = simple ? "output minus what is wanted" : `the derivative of the ${data.lossName === "absolute_error" ? "absolute error" : `${data.lossName} loss`} by this output`;
    return `<p>The error starts here: ${said}, over the number of rows.</p>` + block(left, how, mo("="), mn(d));
  }
  const next = data.layers[level], slope = part.slope[row][place];
  const terms = data.shown[level + 1].map((_, k) => [next.W[place][k], next.dZ[row][k]]);
  const all = terms.length === data.sizes[level + 1];
  const sum = terms.length <= 3 && all ? mo("(") + terms.map(([w, e]) => mb(w) + mo("·") + mb(e)).join(mo("+")) + mo(")")
    : `<munder><mo>∑</mo><mi>k</mi></munder>` + mi("w[k]") + partial(mi("L"), mi("z[k]"));
  const why = isOff(level, row, place) ? "It is off" : "It is saturated";
  return `<p>The error that comes back: slope × weighted errors of the next layer.${slope === 0 ? ` <b>${why}: its slope is 0, and no error passes.</b>` : ""}</p>` +
    block(left, mo("="), mb(slope), mo("·"), sum, mo("="), mn(d));
}

// The strongest paths from the loss to the sum of neuron k of layer l: whatever goes on from a
// neuron, only its own strongest can be among the strongest of a path through it.
function strongestFrom(l, k, known) {
  if (known.has(`${l},${k}`)) return known.get(`${l},${k}`);
  const row = state.row, part = data.layers[l];
  let found;
  if (l === L - 1) found = [{ at: [k], product: part.dZ[row][k] }];
  else {
    const next = data.layers[l + 1].W[k];
    found = next.flatMap((w, m) => strongestFrom(l + 1, m, known).map((p) => ({ at: [k, ...p.at], product: part.slope[row][k] * w * p.product })));
    found.sort((p, q) => Math.abs(q.product) - Math.abs(p.product));
    found = found.slice(0, PATHS);
  }
  known.set(`${l},${k}`, found);
  return found;
}

function pathsTo(layer, i, j) {
  const source = valueAt(layer, state.row, i);
  const paths = strongestFrom(layer, j, new Map()).map((p) => ({ at: p.at, product: p.product * source }));
  return { paths, total: data.sizes.slice(layer + 2).reduce((a, b) => a * b, 1) };
}

function pathFormula(layer, i, { at, product }) {
  const row = state.row, names = [], values = [];
  const straight = data.layers[L - 1].activation === "identity";
  const node = (l, k) => mi(neuronName(l + 1, k));
  const sumOf = (l, k) => (data.layers[l].activation === "identity" ? node(l, k) : `<mrow><mi>z</mi><mo>(</mo>${node(l, k)}<mo>)</mo></mrow>`);
  const end = at.at(-1);
  let upper = straight ? node(L - 1, end) : sumOf(L - 1, end), place = end;
  names.push(partial(mi("L"), upper));
  values.push(data.layers[L - 1].dZ[row][end]);
  for (let l = L - 1; l > layer; l--) {
    const below = at[l - 1 - layer];
    names.push(partial(upper, node(l - 1, below)));
    values.push(data.layers[l].W[below][place]);
    if (data.layers[l - 1].activation !== "identity") {
      names.push(partial(node(l - 1, below), sumOf(l - 1, below)));
      values.push(data.layers[l - 1].slope[row][below]);
    }
    upper = sumOf(l - 1, below);
    place = below;
  }
  names.push(partial(upper, mi(weightName(layer, i, at[0]))));
  values.push(valueAt(layer, row, i));
  const dotted = (list) => list.map((part, k) => part + (k + 1 < list.length ? mo("·") : ""));
  return `<li>${wrapped(dotted(names))}${wrapped([mo("="), ...dotted(values.map(mb)), mo("=") + mn(product)])}</li>`;
}

function weightPanel({ layer, i, j }) {
  const part = data.layers[layer], name = weightName(layer, i, j), row = state.row;
  const w = part.W[i][j], d = part.dW[i][j];
  const from = { kind: "neuron", level: layer, place: i }, to = { kind: "neuron", level: layer + 1, place: j };
  const { paths, total } = pathsTo(layer, i, j);
  const shown = paths.slice(0, PATHS), onRow = valueAt(layer, row, i) * part.dZ[row][j];
  const id = [layer, data.shown[layer][i], data.shown[layer + 1][j]].join();
  const checked = data.check.entries.findIndex(([, at]) => at.join() === id), entry = data.check.entries[checked];
  let html = `<h3>${escaped(name)} <small>${go(from, escaped(neuronName(layer, i)))} → ${go(to, escaped(neuronName(layer + 1, j)))}</small></h3>` +
    block(mi(name), mo("="), mn(w)) +
    `<p>The chain rule on ${data.nRows > 1 ? `row ${row}` : "this row"}, ${count(total, "path")}${total > shown.length ? `, the strongest ${shown.length}` : ""}:</p>` +
    `<ol class="paths">${shown.map((p) => pathFormula(layer, i, p)).join("")}</ol>` +
    `<p>${total > 1 ? "The sum over its paths" : "Together"}: what comes in × the error of ${escaped(neuronName(layer + 1, j))}</p>` +
    block(mb(valueAt(layer, row, i)), mo("·"), mb(part.dZ[row][j]), mo("="), mn(onRow));
  html += `<dl class="verdict"><dt>derivative${data.nRows > 1 ? `, all ${count(data.nRows, "row")}` : ""}</dt><dd id="derivative">${fmt(d, 7)}</dd>`;
  if (entry) {
    if (data.dtype === "float32") html += `<dt>the same in float64</dt><dd>${fmt(data.check.inFloat64[checked], 7)}</dd>`;
    html += `<dt>by differences</dt><dd>${fmt(entry[3], 7)}</dd><dt>relative error</dt><dd>${entry[4] === null ? "a kink: no derivative here" : entry[4].toExponential(1).replace("-", "−")}</dd>`;
  }
  html += `<dt>after the update</dt><dd>${fmt(w)} − ${fmt(data.rate)} · ${d < 0 ? `(${fmt(d)})` : fmt(d)} = ${fmt(part.Wafter[i][j])}</dd></dl>`;
  return html;
}

function paintWeights(canvas, { place }) {
  const part = data.layers[0], terms = canvas.dataset.show === "terms";
  const values = part.W.map((weights, i) => weights[place] * (terms ? data.X[state.row][i] : 1));
  paint(canvas, values, (v, most) => mix(palette.paper, v < 0 ? palette.minus : palette.plus, Math.abs(v) / (most || 1)));
}

// One cell a pixel; the style sheet makes it large.
function paint(canvas, values, toColour) {
  const [high, wide] = data.image, most = largestOf([values]);
  canvas.width = wide;
  canvas.height = high;
  const context = canvas.getContext("2d"), image = context.createImageData(wide, high);
  values.forEach((v, k) => image.data.set([...toColour(v, most), 255], 4 * data.shown[0][k]));
  context.putImageData(image, 0, 0);
}
