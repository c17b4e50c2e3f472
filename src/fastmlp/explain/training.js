// The slider over recorded steps: loss, weights, boundary and answers move with it.
const frames = data.frames;
const trackedAt = new Map(frames.tracked.map((at, k) => [at.join(), k]));

function frameWeight(frame) {
  return (layer, i, j) => {
    const k = trackedAt.get([layer, data.shown[layer][i], data.shown[layer + 1][j]].join());
    return k === undefined ? null : frames.states[frame][k];
  };
}

function drawCurve(frame) {
  const box = byId("curve"), wide = Math.max(240, box.clientWidth), tall = 220;
  const right = 12, top = 12, low = 30;
  const losses = frames.loss, known = losses.filter((v) => v !== null);
  const positive = known.filter((v) => v > 0);
  const log = positive.length === known.length && Math.max(...known) > 20 * Math.min(...known);
  const scale = log ? Math.log10 : (v) => v;
  let least = scale(Math.min(...known)), most = scale(Math.max(...known));
  if (!log) least = Math.min(0, least);
  if (most === least) most = least + 1;
  const ticks = [0, 1, 2, 3].map((k) => least + ((most - least) * k) / 3);
  const written = ticks.map((at) => fmt(log ? 10 ** at : at, 2));
  const left = 12 + 7 * Math.max(3, ...written.map((text) => text.length));
  const lastEpoch = frames.epochs.at(-1) || 1;
  const x = (k) => left + ((wide - left - right) * frames.epochs[k]) / lastEpoch;
  const y = (v) => top + ((tall - top - low) * (most - scale(v))) / (most - least);
  const svg = el("svg", { viewBox: `0 0 ${wide} ${tall}`, width: wide, height: tall, role: "img", "aria-label": "Loss by step" });
  ticks.forEach((at, k) => {
    const h = y(log ? 10 ** at : at);
    svg.append(el("line", { x1: left, x2: wide - right, y1: h, y2: h, class: "rule" }), el("text", { x: left - 6, y: h + 4, class: "tick" }, written[k]));
  });
  for (const k of [0, frames.epochs.length - 1]) svg.append(el("text", { x: x(k), y: tall - 8, class: "tick", style: `text-anchor:${k ? "end" : "start"}` }, k ? `${frames.rehearsed ? "step" : "epoch"} ${frames.epochs[k]}` : "0"));
  const points = losses.map((v, k) => (v === null ? null : `${x(k).toFixed(1)},${y(v).toFixed(1)}`)).filter(Boolean);
  svg.append(el("polyline", { points: points.join(" "), class: "curve" }));
  if (losses[frame] !== null) svg.append(el("circle", { cx: x(frame), cy: y(losses[frame]), r: 6, class: "here" }));
  svg.addEventListener("click", (event) => {
    const at = ((event.offsetX - left) / (wide - left - right)) * lastEpoch;
    const nearest = frames.epochs.reduce((best, e, k) => (Math.abs(e - at) < Math.abs(frames.epochs[best] - at) ? k : best), 0);
    byId("slider").value = nearest;
    showFrame();
  });
  box.replaceChildren(svg);
}

// A plane of cells as colours: two classes blend, more are told apart by hue, values by depth.
const HUES = [[33, 102, 172], [217, 95, 2], [0, 140, 110], [170, 70, 150], [150, 120, 0], [90, 90, 200], [200, 60, 60], [60, 150, 190], [120, 120, 120], [150, 90, 40]];
function planeColour(byte, classes) {
  if (classes <= 2) {
    const p = byte / 255;
    return mix(palette.paper, p < 0.5 ? palette.minus : palette.plus, 0.1 + 0.75 * Math.abs(2 * p - 1));
  }
  return mix(palette.paper, HUES[(byte >> 4) % HUES.length], 0.1 + (0.75 * (byte & 15)) / 15);
}

function drawPlane(canvas, plane, cells, frame) {
  const n = plane.n, size = Math.min(360, Math.max(220, canvas.parentElement.clientWidth)), ratio = devicePixelRatio || 1;
  const small = document.createElement("canvas");
  small.width = small.height = n;
  const context = small.getContext("2d"), image = context.createImageData(n, n);
  for (let k = 0; k < n * n; k++) image.data.set([...planeColour(cells[frame * n * n + k], plane.classes), 255], 4 * k);
  context.putImageData(image, 0, 0);
  canvas.width = canvas.height = size * ratio;
  canvas.style.width = canvas.style.height = `${size}px`;
  const out = canvas.getContext("2d");
  out.scale(ratio, ratio);
  out.imageSmoothingEnabled = true;
  out.drawImage(small, 0, 0, size, size);
  const [x0, y0, x1, y1] = plane.extent;
  for (const [x, y, target] of plane.points) {
    const px = ((x - x0) / (x1 - x0)) * size, py = ((y1 - y) / (y1 - y0)) * size;
    out.beginPath();
    const hue = plane.classes === 2 ? (target ? palette.plus : palette.minus) : HUES[target % HUES.length];
    const tone = plane.classes === 0 ? palette.ink : mix(hue, [0, 0, 0], 0.35);
    if (plane.classes === 2 && target === 0) out.rect(px - 3, py - 3, 6, 6); // told apart by shape, too
    else out.arc(px, py, 3.4, 0, 7);
    out.fillStyle = colour(tone);
    out.fill();
    out.strokeStyle = "#fff";
    out.stroke();
  }
}

const boundaryCells = data.boundary ? bytes(data.boundary.frames.u8) : null;

function drawOutputs(frame) {
  const values = frames.outputs[frame][state.row];
  const shares = data.classifies, most = shares ? 1 : largestOf([values]) || 1;
  const listed = values.map((v, k) => [v, k]).sort((a, b) => (values.length > 12 ? b[0] - a[0] : 0)).slice(0, 12);
  const wanted = (k) => (data.classifies ? k === data.y[state.row] : false);
  byId("frame-outputs").innerHTML = `<table class="terms"><tbody>${listed.map(([v, k]) => `<tr><td>${escaped(data.classifies ? label(k) : data.sizes[L] === 1 ? "y" : `y[${k}]`)}${wanted(k) ? " ✓" : ""}</td><td>${shares ? `${(100 * v).toFixed(1)}%` : fmt(v)}</td><td>${bar(v, most)}</td>${data.classifies ? "" : `<td>wanted ${fmt(data.y[state.row][k])}</td>`}</tr>`).join("")}${others(listed.length)}</tbody></table>`;
}

function showFrame() {
  const frame = Number(byId("slider").value), unit = frames.rehearsed ? "step" : "epoch";
  byId("slider-text").textContent = `${unit} ${frames.epochs[frame]} · loss ${fmt(frames.loss[frame])}`;
  byId("slider").setAttribute("aria-valuetext", byId("slider-text").textContent);
  drawCurve(frame);
  const weight = frameWeight(frame);
  drawNetwork(byId("frame-network"), {
    tall: 240, plain: true, value: (level, p) => (level ? 0 : valueAt(0, state.row, p)), weight, ink: true,
    outputs: () => data.shown[L].map((k) => frames.outputs[frame][state.row][k]),
  });
  const few = frames.tracked.filter((at) => at[1] !== null);
  const drawn = document.querySelectorAll("#frame-network line.edge").length;
  const all = data.layers.reduce((sum, _, l) => sum + data.sizes[l] * data.sizes[l + 1], 0);
  byId("frame-caption").textContent = few.length <= 6
    ? few.map(([l, i, j]) => `${weightName(l, data.shown[l].indexOf(i), data.shown[l + 1].indexOf(j))} = ${fmt(weight(l, data.shown[l].indexOf(i), data.shown[l + 1].indexOf(j)))}`).join(", ")
    : `The weights at this step${drawn < all ? `: ${drawn} of ${all.toLocaleString("en")}, those that weigh most` : ""}`;
  if (data.boundary) drawPlane(byId("boundary"), data.boundary, boundaryCells, frame);
  drawOutputs(frame);
}

function startTraining() {
  byId("slider").max = frames.epochs.length - 1;
  byId("slider").value = frames.here === null || frames.here === 0 ? 0 : frames.here;
  byId("training-text").textContent = frames.rehearsed
    ? `No training was recorded, so this is what plain gradient descent on ${count(data.nRows, "row")} would do from here with learning rate ${fmt(data.rate)}. Move the slider.`
    : `The recorded training of this model (${frames.cost}). Move the slider.`;
  if (data.boundary) {
    byId("boundary-figure").hidden = false;
    byId("boundary-text").textContent = data.boundary.classes ? "What the network says of every point of the plane: the decision boundary is where the colour turns" + (data.boundary.points.length < data.nRows ? `; ${data.boundary.points.length} of ${count(data.nRows, "row")} are drawn` : "") : `The output over the plane of the two inputs, from ${fmt(data.boundary.frames.low)} to ${fmt(data.boundary.frames.high)}`;
  }
  byId("slider").addEventListener("input", showFrame);
  redraws.push(showFrame);
  showFrame();
}
startTraining();
