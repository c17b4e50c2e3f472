// The picture of the network: neurons in columns, weights as lines, both by sign and size.
const EDGES = 160; // lines between two wide layers

function columns(wide, tall, under) {
  const found = data.shown.map((ids, level) => {
    const n = ids.length, image = level === 0 && data.image;
    const across = image ? data.image[1] : n > 12 ? Math.ceil(Math.sqrt(n)) : 1;
    return { level, n, across, down: Math.ceil(n / across), grid: across > 1 };
  });
  const bars = data.classifies ? Math.min(150, wide * 0.22) : 0;
  const room = wide - bars;
  const shares = found.map((c) => (c.grid ? 2.8 : 1));
  const total = shares.reduce((a, b) => a + b, 0);
  let left = 0;
  for (const [k, c] of found.entries()) {
    const span = (room * shares[k]) / total;
    const largest = c.grid ? span * 0.76 : Math.min(span * 0.6, 60);
    c.cell = Math.min(largest / c.across, (tall - 56) / c.down, c.grid ? 30 : 60);
    const gap = c.grid ? c.cell : Math.min((tall - 56) / c.down, 110); // from row to row
    if (!c.grid && under) c.cell = Math.min(c.cell, (gap - 17) / 0.88);
    const x = left + span / 2, top = 30 + (tall - 40 - gap * c.down) / 2;
    c.x = x;
    c.at = Array.from({ length: c.n }, (_, p) => ({
      x: x + ((p % c.across) - (c.across - 1) / 2) * c.cell,
      y: top + (Math.floor(p / c.across) + 0.5) * gap,
    }));
    left += span;
  }
  return { found, bars };
}

// The lines to draw in one layer: all of a small one, else the strongest.
function edgesOf(layer, strength) {
  const part = data.layers[layer], n = data.shown[layer].length, m = data.shown[layer + 1].length;
  const all = [];
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) {
    all.push({ layer, i, j, size: Math.abs(strength(part, i, j)) });
  }
  if (all.length <= EDGES) return all;
  all.sort((a, b) => b.size - a.size);
  return all.slice(0, EDGES);
}

// What the picture leaves out, for the list below it.
function undrawn() {
  return data.layers.flatMap((_, layer) => {
    const all = data.shown[layer].length * data.shown[layer + 1].length;
    return all <= EDGES ? [] : [`${EDGES} of ${(data.sizes[layer] * data.sizes[layer + 1]).toLocaleString("en")} weights from ${layerName(layer)} to ${layerName(layer + 1)} are drawn: those that carry most on the chosen row.`];
  });
}

// options: value(level, place), weight(layer, i, j), lit(level), litLayer(layer), pick, id
function drawNetwork(box, options) {
  const wide = Math.max(300, box.clientWidth), compact = wide < 520;
  const deep = Math.max(...data.shown.map((ids, k) => (k === 0 && data.image) || ids.length > 12 ? 6 : ids.length));
  const named = !compact && small && !options.plain; // the name below every disc
  const most = named ? Math.max(500, 60 + deep * 54) : 500;
  const tall = options.tall || Math.min(most, Math.max(compact ? 230 : 340, 60 + deep * (compact ? 52 : 84)));
  const { found, bars } = columns(wide, tall, named);
  const svg = el("svg", { viewBox: `0 0 ${wide} ${tall}`, width: wide, height: tall, role: "group", "aria-label": "Network" });
  const lines = el("g", { class: "lines" }), nodes = el("g", { class: "nodes" });
  const row = state.row;
  for (let layer = 0; layer < L; layer++) {
    const wideLayer = data.shown[layer].length * data.shown[layer + 1].length > EDGES;
    const edges = edgesOf(layer, (part, i, j) => (wideLayer ? part.W[i][j] * valueAt(layer, row, i) : part.W[i][j]));
    const values = edges.map((e) => options.weight(layer, e.i, e.j));
    const known = values.filter((v) => v !== null);
    const largest = largestOf([known]);
    edges.forEach((edge, k) => {
      const value = values[k];
      if (value === null) return;
      const from = found[layer].at[edge.i], to = found[layer + 1].at[edge.j];
      const a = found[layer].cell / 2, b = found[layer + 1].cell / 2;
      const x1 = from.x + (found[layer].grid ? a : 0.88 * a), x2 = to.x - (found[layer + 1].grid ? b : 0.88 * b);
      const share = Math.sqrt(Math.abs(value) / (largest || 1));
      const where = { x1, y1: from.y, x2, y2: to.y };
      const dim = options.litLayer && !options.litLayer(layer);
      const line = el("line", {
        ...where,
        class: `edge ${value < 0 ? "minus" : value > 0 ? "plus" : "none"}${dim ? " dim" : ""}`,
        "stroke-width": (wideLayer ? 0.4 + 2.2 * share : 1 + 5 * share).toFixed(2),
        "stroke-opacity": (0.25 + 0.7 * share).toFixed(2),
      });
      lines.append(line);
      if (edges.length <= 4 && !options.plain) {
        const at = edge.i === edge.j ? 0.5 : 0.3; // where crossing lines are apart
        lines.append(el("text", {
          x: x1 + at * (x2 - x1), y: from.y + at * (to.y - from.y) - 7, class: `amount${dim ? " dim" : ""}`,
        }, fmt(value, 3)));
      }
      if (options.pick) {
        const show = () => options.pick({ kind: "weight", layer, i: edge.i, j: edge.j });
        const hit = el("line", {
          ...where, class: "hit", "stroke-width": wideLayer ? 5 : 16,
          "data-weight": `${layer},${edge.i},${edge.j}`, onpointerenter: show, onclick: show,
        });
        hit.append(el("title", {}, weightName(layer, edge.i, edge.j)));
        lines.append(hit);
      }
    });
  }
  for (const c of found) {
    const heading = c.level === 0 ? "inputs" : c.level === L ? "outputs" : compact ? `h${L === 2 ? "" : c.level}` : `hidden ${L === 2 ? "" : c.level}`;
    nodes.append(el("text", { x: c.x, y: 16, class: "heading" }, heading));
    const values = c.at.map((_, p) => options.value(c.level, p));
    const largest = largestOf([values]);
    c.at.forEach((at, p) => {
      const value = values[p], name = neuronName(c.level, p);
      const off = isOff(c.level, row, p);
      const dim = options.lit && !options.lit(c.level);
      const ink = c.grid && c.level === 0 && data.image && options.ink;
      const fill = options.plain && c.level ? "var(--raised)" : ink ? colour(mix(palette.paper, palette.ink, Math.min(1, Math.abs(value) / (largest || 1)))) : signColour(value, largest);
      const group = el("g", {
        class: `node${off ? " off" : ""}${dim ? " dim" : ""}`, transform: `translate(${at.x.toFixed(1)} ${at.y.toFixed(1)})`,
      });
      const r = c.cell * 0.44;
      group.append(c.grid
        ? el("rect", { x: -c.cell / 2, y: -c.cell / 2, width: c.cell, height: c.cell, fill })
        : el("circle", { r, fill }));
      if (!c.grid && r >= 13 && !options.plain) {
        const dark = Math.abs(value) > 0.35 * largest;
        group.append(el("text", { y: 4, class: dark ? "on" : "value" }, inDisc(value)));
        if (named) group.append(el("text", { y: r + 13, class: "name" }, name));
      } else if (!c.grid && c.level === L && data.classifies && !compact) {
        group.append(el("text", { x: -r - 5, y: 4, class: "name", style: "text-anchor:end" }, short(label(data.shown[L][p]))));
      }
      if (options.pick) {
        const what = { kind: "neuron", level: c.level, place: p }, show = () => options.pick(what);
        group.append(el("title", {}, name));
        group.setAttribute("data-neuron", `${c.level},${p}`);
        group.setAttribute("tabindex", p === 0 ? 0 : -1);
        group.setAttribute("role", "button");
        group.setAttribute("aria-label", `${name} ${fmt(value)}`);
        for (const event of ["pointerenter", "click", "focus"]) group.addEventListener(event, show);
        group.addEventListener("keydown", (event) => {
          if (event.key !== "Enter" && event.key !== " ") return walk(event, nodes, c, p);
          event.preventDefault();
          enter(what);
        });
      }
      nodes.append(group);
    });
  }
  svg.append(lines, nodes);
  if (bars) svg.append(probabilities(found[L], wide, bars, options.outputs ? options.outputs() : data.layers[L - 1].A[row]));
  const focused = box.contains(document.activeElement) && document.activeElement.dataset.neuron;
  box.replaceChildren(svg);
  if (focused) box.querySelector(`[data-neuron="${focused}"]`).focus();
}

// Bars of probability beside the outputs; of many, the largest.
function probabilities(column, wide, room, values) {
  const group = el("g", { class: "bars" });
  const left = column.x + (column.cell * column.across) / 2 + 12, most = Math.max(20, wide - left - 44);
  const fit = Math.min(8, Math.floor((column.at.at(-1).y - column.at[0].y) / 34)); // of many outputs
  const best = [...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, fit);
  const places = column.grid ? best.map((p, k) => [p, column.at[0].y + 12 + 34 * k]) : column.at.map((at, p) => [p, at.y]);
  places.forEach(([p, y]) => {
    const h = column.grid ? 10 : Math.min(14, column.cell * 0.6);
    const right = data.y[state.row] === data.shown[L][p];
    group.append(...[
      column.grid ? el("text", { x: left, y: y - 9, class: "share" }, short(label(data.shown[L][p]))) : null,
      el("rect", { x: left, y: y - h / 2, width: most, height: h, class: "rail", rx: 2 }),
      el("rect", { x: left, y: y - h / 2, width: Math.max(1, most * values[p]), height: h, class: right ? "bar right" : "bar", rx: 2 }),
      el("text", { x: left + most + 5, y: y + 4, class: "share" }, `${(100 * values[p]).toFixed(values[p] > 0.9995 ? 0 : 1)}%`),
    ].filter(Boolean));
  });
  return group;
}

// Arrow keys move inside a column; Tab goes from column to column.
function walk(event, nodes, column, place) {
  const step = { ArrowDown: column.across, ArrowUp: -column.across, ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  const next = nodes.querySelector(`[data-neuron="${column.level},${place + step}"]`);
  if (next) next.focus();
}
