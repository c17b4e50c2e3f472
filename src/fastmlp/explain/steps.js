// The five steps: forward layer by layer, loss, back layer by layer, update, repeat.
const state = { row: 0, at: 0, what: null };
const NAMES = ["Forward", "Loss", "Backpropagation", "Update", "Repeat"];
const moments = [
  ...data.layers.map((_, layer) => ({ step: 0, layer })),
  { step: 1 },
  ...data.layers.map((_, k) => ({ step: 2, layer: L - 1 - k })),
  { step: 3 },
  { step: 4 },
];

function drawStage() {
  const { step, layer } = moments[state.at], row = state.row;
  const back = step === 2;
  const first = (level, p) => (step === 4 && level ? data.layers[level - 1].A[row][p] : valueAt(level, row, p));
  drawNetwork(byId("drawing"), {
    value: (level, p) => (back ? (level ? data.layers[level - 1].dZ[row][p] : data.dX[row][p]) : first(level, p)),
    weight: (l, i, j) => (back ? data.layers[l].dW[i][j] : step === 3 ? -data.rate * data.layers[l].dW[i][j] : step === 4 ? data.layers[l].Wafter[i][j] : data.layers[l].W[i][j]),
    lit: step === 0 ? (level) => level <= layer + 1 : step === 1 ? (level) => level === L : back ? (level) => level > layer : null,
    litLayer: step === 0 ? (l) => l <= layer : step === 1 ? () => false : back ? (l) => l >= layer : null,
    pick: inspect,
    ink: !back,
  });
  const lines = step === 2 ? "derivatives of the loss by weights" : step === 3 ? "the step of each weight" : step === 4 ? "the new weights" : "weights";
  const discs = back ? "errors, ∂L/∂z" : step > 2 ? "values before the step" : "values";
  byId("legend").innerHTML = `<span class="key plus"></span>positive <span class="key minus"></span>negative, dashed · lines: ${lines} · ${small ? "discs" : "cells"}: ${discs} · stronger is larger${data.layers.slice(0, -1).some((part) => part.activation === "relu") ? "; dashed outline: off" : ""}`;
  if (state.what) mark(state.what);
}

const times = mo("·");
// What the last layer's function makes of its sums.
const MADE = { softmax: ", which makes them shares of 1.", logistic: ", which makes each a probability, between 0 and 1.", exp: ", which makes each positive." };
function stepText() {
  const { step, layer } = moments[state.at], row = state.row;
  const title = (text) => `<h3><span class="count">Step ${step + 1} of 5</span> ${text}</h3>`;
  if (step === 0) {
    const part = data.layers[layer], n = layer + 1, into = layerName(layer);
    const firing = () => `: ${part.Z[row].filter((z) => z > 0).length} of ${part.Z[row].length}${part.Z[row].length < data.sizes[n] ? " drawn" : ""} neurons fire.`;
    const made = layer < L - 1 ? (part.activation === "relu" ? firing() : ".") : MADE[part.activation];
    const out = part.activation === "identity" ? "" : `<p>and each sum goes through <b>${part.activation}</b>${made}</p>`;
    return title(`Forward, layer ${n} of ${L}`) + `<p>Every neuron adds up what comes in times its weights, and its bias:</p>` +
      block(mi(`Z${n}`), mo("="), mi(into), mi(`W${n}`), mo("+"), mi(`b${n}`)) + out;
  }
  if (step === 1) return title("Loss") + lossText(row);
  if (step === 2) {
    const n = layer + 1, into = layerName(layer);
    const start = layer === L - 1 ? `<p>The chain rule starts at the loss, and the errors now go from right to left. Of each weight:</p>`
      : `<p>The errors of layer ${n + 1} come back through its weights, times the slope of each neuron:</p>` +
        block(partial(mi("L"), mi(`Z${n}`)), mo("="), mo("("), partial(mi("L"), mi(`Z${n + 1}`)), `<msup>${mi(`W${n + 1}`)}<mi>T</mi></msup>`, mo(")"), mo("⊙"), `<msup><mi>a</mi><mo>′</mo></msup>`, mo("("), mi(`Z${n}`), mo(")")) + `<p>and of each weight:</p>`;
    return title(`Backpropagation, layer ${n} of ${L}`) + start +
      block(partial(mi("L"), mi(`W${n}`)), mo("="), `<msup>${mi(into)}<mi>T</mi></msup>`, partial(mi("L"), mi(`Z${n}`)));
  }
  if (step === 3) return title("Update") + `<p>Every weight takes a small step against its derivative, downhill:</p>` + block(mi("w"), mo("←"), mi("w"), mo("−"), mn(data.rate), times, partial(mi("L"), mi("w"))) + updateExample();
  return title("Repeat") + `<p>The same rows through the new weights:</p>` +
    `<p class="big"><span>${fmt(data.loss)}</span> → <span>${fmt(data.lossAfter)}</span></p><p>${data.lossAfter < data.loss ? "The loss is smaller, and the next turn starts from here." : "The loss did not get smaller: the step was too large, or there was nothing left to gain."}</p>`;
}

function lossText(row) {
  const last = data.layers[L - 1], y = data.y[row];
  let one = "";
  if (data.classifies) {
    const place = data.shown[L].indexOf(y);
    one = `<p>The network gives the right class, ${escaped(label(y))}, a probability of ${fmt(last.A[row][place])}. Had it been sure, the loss would be 0.</p>` +
      block(mi("l"), mo("="), mo("−"), `<mi>log</mi>`, mo("("), mn(last.A[row][place]), mo(")"), mo("="), mn(data.rowLosses[row]));
  } else if (data.lossName === "squared_error" && y.length === 1) {
    one = block(mi("l"), mo("="), "<mfrac><mn>1</mn><mn>2</mn></mfrac>", `<msup><mrow><mo>(</mo>${mn(last.A[row][0])}<mo>−</mo>${mb(y[0])}<mo>)</mo></mrow><mn>2</mn></msup>`, mo("="), mn(data.rowLosses[row]));
  } else {
    one = `<p>Output ${last.A[row].slice(0, 6).map((v) => fmt(v)).join(", ")}; wanted ${y.slice(0, 6).map((v) => fmt(v)).join(", ")}.</p>` + block(mi("l"), mo("="), mn(data.rowLosses[row]));
  }
  if (data.nRows === 1) return one;
  const few = data.nRows <= 6;
  const sum = few ? data.rowLosses.map(mb).join(mo("+")) : `<munder><mo>∑</mo><mtext>rows</mtext></munder>` + mi("l");
  return one + `<p>The total loss is the mean over ${count(data.nRows, "row")}:</p>` + block(mi("L"), mo("="), mfrac(sum, `<mn>${data.nRows}</mn>`), mo("="), mn(data.loss));
}

function updateExample() {
  const entry = data.check.entries.reduce((a, b) => (Math.abs(b[2]) > Math.abs(a[2]) && b[1][1] !== null ? b : a));
  const [layer, fi, fj] = entry[1], i = data.shown[layer].indexOf(fi), j = data.shown[layer + 1].indexOf(fj);
  if (i < 0 || j < 0) return "";
  const part = data.layers[layer], name = mi(weightName(layer, i, j));
  return `<p>The largest of them:</p>` + block(name, mo("←"), mn(part.W[i][j]), mo("−"), mn(data.rate), times, mb(entry[2]), mo("="), mn(part.Wafter[i][j]));
}

function goTo(at) {
  state.at = Math.max(0, Math.min(moments.length - 1, at));
  const now = moments[state.at];
  for (const button of byId("steps").children) button.setAttribute("aria-pressed", String(Number(button.dataset.step) === now.step));
  byId("step-text").innerHTML = stepText();
  reachable(byId("step-text"));
  const ends = { back: state.at === 0, next: state.at === moments.length - 1 };
  for (const [id, other] of [["back", "next"], ["next", "back"]]) {
    const focused = document.activeElement === byId(id);
    byId(other).disabled = ends[other];
    byId(id).disabled = ends[id];
    if (ends[id] && focused) byId(other).focus(); // a disabled button would drop it
  }
  drawStage();
}

function startSteps() {
  NAMES.forEach((name, step) => byId("steps").append(el("button", {
    "data-step": step, onclick: () => goTo(moments.findIndex((m) => m.step === step)),
  }, el("span", {}, String(step + 1)), ` ${name}`)));
  byId("back").addEventListener("click", () => goTo(state.at - 1));
  byId("next").addEventListener("click", () => goTo(state.at + 1));
  byId("steps").parentElement.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT") return;
    if (event.key === "ArrowRight") goTo(state.at + 1);
    else if (event.key === "ArrowLeft") goTo(state.at - 1);
    else return;
    event.preventDefault();
  });
  const rows = data.X.length;
  byId("row-choice").hidden = rows < 2;
  for (let row = 0; row < rows; row++) byId("row").append(el("option", { value: row }, String(row)));
  state.row = rows > 1 && largestOf([data.X[0]]) === 0 ? 1 : 0;
  byId("row").value = state.row;
  byId("row").addEventListener("change", () => {
    state.row = Number(byId("row").value);
    redraw();
    if (state.what) inspect(state.what);
  });
  redraws.push(() => goTo(state.at));
  const start = [...data.shown[1].keys()].reduce((a, b) => (data.layers[0].A[state.row][b] > data.layers[0].A[state.row][a] ? b : a));
  goTo(0);
  inspect({ kind: "neuron", level: 1, place: start });
}
startSteps();
