// The loss over two weights: heights as colour and lines, the way down, the gradient as arrows.
const HEIGHTS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
function heightColour(share) {
  const at = Math.max(0, Math.min(0.9999, share)) * (HEIGHTS.length - 1), k = Math.floor(at);
  return mix(HEIGHTS[k], HEIGHTS[k + 1], at - k);
}

// Lines of equal height in a grid, by marching squares.
function contour(grid, level) {
  const lines = [], n = grid.length;
  const cross = (a, b) => (level - a) / (b - a);
  for (let i = 0; i < n - 1; i++) for (let j = 0; j < n - 1; j++) {
    const a = grid[i][j], b = grid[i][j + 1], c = grid[i + 1][j + 1], d = grid[i + 1][j], cuts = [];
    if (a < level !== b < level) cuts.push([j + cross(a, b), i]);
    if (b < level !== c < level) cuts.push([j + 1, i + cross(b, c)]);
    if (d < level !== c < level) cuts.push([j + cross(d, c), i + 1]);
    if (a < level !== d < level) cuts.push([j, i + cross(a, d)]);
    for (let k = 0; k + 1 < cuts.length; k += 2) lines.push([cuts[k], cuts[k + 1]]);
  }
  return lines;
}

function drawSurface() {
  const s = data.surface, n = s.u.length, box = byId("landscape");
  const wide = Math.min(620, Math.max(280, box.clientWidth)), tall = Math.min(460, wide * 0.8);
  const left = 26 + 7 * Math.max(3, ...[0, (n - 1) / 2, n - 1].map((k) => brief(s.v[k]).length)), bottom = 40, right = 8, top = 8;
  const flat = s.loss.flat(), least = Math.min(...flat), most = Math.max(...flat);
  const scale = (v) => Math.sqrt((v - least) / (most - least || 1)); // shows the bottom of a valley
  const heights = s.loss.map((row) => row.map(scale));
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = n;
  const context = canvas.getContext("2d"), image = context.createImageData(n, n);
  heights.forEach((row, i) => row.forEach((h, j) => image.data.set([...heightColour(h), 255], 4 * ((n - 1 - i) * n + j))));
  context.putImageData(image, 0, 0);

  const w = wide - left - right, h = tall - bottom - top;
  const x = (u) => left + (w * (u - s.u[0])) / (s.u[n - 1] - s.u[0]), y = (v) => top + h - (h * (v - s.v[0])) / (s.v[n - 1] - s.v[0]);
  const svg = el("svg", { viewBox: `0 0 ${wide} ${tall}`, width: wide, height: tall, class: "land", role: "img", "aria-label": `Loss over ${s.names.join(" and ")}` });
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "image");
  for (const [k, v] of Object.entries({ href: canvas.toDataURL(), x: left, y: top, width: w, height: h, preserveAspectRatio: "none" })) picture.setAttribute(k, v);
  svg.append(picture);
  const step = { x: w / (n - 1), y: h / (n - 1) };
  for (let k = 1; k < 12; k++) {
    const path = contour(heights, k / 12).map(([a, b]) => `M${(left + a[0] * step.x).toFixed(1)} ${(top + h - a[1] * step.y).toFixed(1)}L${(left + b[0] * step.x).toFixed(1)} ${(top + h - b[1] * step.y).toFixed(1)}`);
    svg.append(el("path", { d: path.join(""), class: "contour" }));
  }
  const lengths = s.arrows.map(([, , du, dv]) => Math.hypot(du, dv)), longest = Math.max(...lengths) || 1;
  s.arrows.forEach(([u, v, du, dv], k) => {
    const size = (0.35 + 0.65 * Math.sqrt(lengths[k] / longest)) * Math.min(w, h) * 0.05;
    const sx = du * (w / (s.u[n - 1] - s.u[0])), sy = -dv * (h / (s.v[n - 1] - s.v[0])), norm = Math.hypot(sx, sy);
    if (!norm) return;
    const dx = (-sx / norm) * size, dy = (-sy / norm) * size, px = x(u), py = y(v);
    svg.append(el("path", { class: "arrow", d: `M${px - dx / 2} ${py - dy / 2}l${dx} ${dy}m${-dx * 0.35 - dy * 0.25} ${-dy * 0.35 + dx * 0.25}L${px + dx / 2} ${py + dy / 2}l${-dx * 0.35 + dy * 0.25} ${-dy * 0.35 - dx * 0.25}` }));
  });
  const way = s.path.map(([u, v]) => `${x(u).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  svg.append(el("polyline", { points: way, class: "way under" }), el("polyline", { points: way, class: "way" }));
  s.path.forEach(([u, v, loss], k) => svg.append(el("circle", { cx: x(u), cy: y(v), r: k === 0 ? 6 : 2.6, class: k ? "point" : "point start" }, el("title", {}, `step ${k}: loss ${fmt(loss)}`))));
  for (const k of [0, (n - 1) / 2, n - 1]) {
    svg.append(
      el("text", { x: x(s.u[k]), y: tall - 22, class: "tick", style: `text-anchor:${k === 0 ? "start" : k === n - 1 ? "end" : "middle"}` }, brief(s.u[k])),
      el("text", { x: left - 5, y: y(s.v[k]) + (k === 0 ? 0 : k === n - 1 ? 9 : 4), class: "tick" }, brief(s.v[k])),
    );
  }
  svg.append(el("text", { x: left + w / 2, y: tall - 5, class: "axis" }, s.names[0]), el("text", { x: 12, y: top + h / 4, class: "axis", transform: `rotate(-90 12 ${top + h / 4})` }, s.names[1]));
  const read = (event) => {
    const j = Math.round((event.offsetX - left) / step.x), i = Math.round((top + h - event.offsetY) / step.y);
    if (i >= 0 && j >= 0 && i < n && j < n) byId("surface-read").textContent = `${s.names[0]} = ${fmt(s.u[j])}, ${s.names[1]} = ${fmt(s.v[i])}: loss ${fmt(s.loss[i][j])}`;
  };
  for (const kind of ["pointermove", "pointerdown"]) svg.addEventListener(kind, read); // a finger may only tap
  box.replaceChildren(svg);
}

function startSurface() {
  const s = data.surface, last = s.path.at(-1);
  byId("surface-text").innerHTML = `All weights held but ${escaped(s.names[0])} and ${escaped(s.names[1])}${s.chosen ? "" : ", the two with the largest derivatives"}. The gradient is the vector of both; the arrows point against it, the way a small step goes down. From the ring, ${count(s.path.length - 1, "step")} with learning rate ${fmt(data.rate)} take the loss from ${fmt(s.path[0][2])} to ${fmt(last[2])}.`;
  byId("surface-read").textContent = "Dark is low, bright is high. Point at the landscape or tap it to read it.";
  redraws.push(drawSurface);
  drawSurface();
}
startSurface();
