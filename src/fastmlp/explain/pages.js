// Head, image, matrices, table of derivatives, and the page on non-linearity.
function startHead() {
  const hidden = [...new Set(data.layers.slice(0, -1).map((layer) => layer.activation))].join(", ");
  byId("summary").textContent = `A network of ${data.sizes.join(" – ")} neurons${hidden ? ` with ${hidden}` : ""}, ${count(data.nParameters, "parameter")}, and ${count(data.nRows, "row")}. Point at a neuron to see its sum, at a line to see its chain of derivatives; by keyboard, Enter goes from a neuron to its weights and Escape back.`;
  const c = data.check;
  const facts = [
    ["loss", fmt(data.loss)], ["after one step", fmt(data.lossAfter)], ["learning rate", fmt(data.rate)],
    ["numbers", data.dtype], ["derivatives", c.agrees ? (c.entries.length < data.nParameters ? `✓ ${c.entries.length} agree` : "✓ all agree") : "✗ some disagree"],
  ];
  for (const [name, value] of facts) byId("facts").append(el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  byId("omitted").replaceChildren(...[...undrawn(), ...data.omitted].map((text) => el("li", {}, text)));
  // In a notebook the page stands in a frame without an address, where a link would load the host.
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    const section = byId(link.hash.slice(1));
    section.tabIndex = -1;
    link.addEventListener("click", (event) => {
      event.preventDefault();
      section.scrollIntoView();
      section.focus({ preventScroll: true });
    });
  }
}

function startImage() {
  if (!data.image) {
    document.querySelector("[data-for=image]").remove();
    return;
  }
  byId("image").hidden = false;
  const choice = byId("image-class"), answers = (row) => data.layers[L - 1].A[row];
  const guess = (row) => data.scores.reduce((best, k) => (answers(row)[k] > answers(row)[best] ? k : best));
  let chosen = false; // by hand; else what the network takes the row for
  const named = (place) => label(data.shown[L][place]);
  for (const place of data.scores) choice.append(el("option", { value: place }, named(place)));
  choice.append(el("option", { value: -1 }, "the loss"));
  const draw = () => {
    const row = state.row, x = data.X[row], all = data.shown[0];
    if (!chosen) choice.value = guess(row);
    const k = Number(choice.value);
    const d = k < 0 ? data.dX[row] : data.inputGradients[row][data.scores.indexOf(k)];
    const [high, wide] = data.image, cell = Math.min(34, 280 / wide), box = byId("pictures");
    const what = k < 0 ? "the loss" : `the score of ${named(k)}`;
    const ink = (svg) => {
      const most = largestOf([x]);
      all.forEach((p, n) => svg.append(el("rect", {
        x: (p % wide) * cell, y: Math.floor(p / wide) * cell, width: cell, height: cell,
        fill: colour(mix(palette.paper, palette.ink, (Math.abs(x[n]) / (most || 1)) * 0.9)),
      }, el("title", {}, `pixel ${p}: ${fmt(x[n])}`))));
    };
    const blank = (text) => el("svg", { viewBox: `-1 -1 ${wide * cell + 2} ${high * cell + 2}`, role: "img", "aria-label": text, class: "pixels" });
    const plain = blank("The image"), over = blank(`Derivatives of ${what} by pixels`), most = largestOf([d]);
    ink(plain);
    ink(over);
    all.forEach((p, n) => {
      const r = cell * 0.46 * Math.sqrt(Math.abs(d[n]) / (most || 1));
      over.append(el("circle", {
        cx: ((p % wide) + 0.5) * cell, cy: (Math.floor(p / wide) + 0.5) * cell, r: r.toFixed(2), class: d[n] < 0 ? "minus" : "plus", "data-pixel": p,
      }, el("title", {}, `pixel ${p}: ${fmt(x[n])}, derivative ${fmt(d[n])}`)));
    });
    box.replaceChildren(
      el("figure", {}, plain, el("figcaption", {}, `the image${data.nRows > 1 ? ` of row ${row}` : ""}: ${label(data.y[row])}`)),
      el("figure", {}, over, el("figcaption", {}, `derivatives of ${what}, ${fmt(-most, 3)} to ${fmt(most, 3)}`)),
      el("figure", { class: "answer" }, answer(row), el("figcaption", {}, "what the network answers")),
    );
  };
  const answer = (row) => {
    const table = el("table", { class: "terms" });
    const values = answers(row);
    const listed = values.map((v, k) => [v, k]).sort((a, b) => (values.length > 12 ? b[0] - a[0] : 0)).slice(0, 12);
    table.innerHTML = `<tbody>${listed.map(([v, k]) => `<tr><td>${escaped(named(k))}</td><td>${(100 * v).toFixed(2)}%</td><td>${bar(v, 1)}</td></tr>`).join("")}${others(listed.length)}</tbody>`;
    return table;
  };
  choice.addEventListener("change", () => {
    chosen = true;
    draw();
  });
  redraws.push(draw);
  draw();
}

function startMatrices() {
  if (!small || data.nRows > 8) {
    document.querySelector("[data-for=matrices]").remove();
    return;
  }
  byId("matrices").hidden = false;
  let values = data.X, html = "<h3>Forward</h3>";
  data.layers.forEach((layer, l) => {
    const n = l + 1, straight = layer.activation === "identity", out = layerName(n);
    html += block(mi(straight ? out : `Z${n}`), mo("="), mi(layerName(l)), mi(`W${n}`), mo("+"), mi(`b${n}`), mo("="), matrix(values), matrix(layer.W), mo("+"), matrix([layer.b]), mo("="), matrix(layer.Z));
    if (!straight) html += block(mi(out), mo("="), `<mtext>${layer.activation}</mtext>`, mo("("), mi(`Z${n}`), mo(")"), mo("="), matrix(layer.A));
    values = layer.A;
  });
  html += "<h3>Back</h3>";
  for (let l = L - 1; l >= 0; l--) {
    const layer = data.layers[l], n = l + 1, into = layerName(l);
    const columns = (rows) => rows[0].map((_, j) => rows.map((row) => row[j]));
    html += block(partial(mi("L"), mi(`W${n}`)), mo("="), `<msup>${mi(into)}<mi>T</mi></msup>`, partial(mi("L"), mi(`Z${n}`)), mo("="), matrix(columns(l ? data.layers[l - 1].A : data.X)), matrix(layer.dZ), mo("="), matrix(layer.dW));
  }
  byId("matrix-forms").innerHTML = html;
}

function startGradients() {
  const c = data.check;
  byId("gradients-text").innerHTML = `The gradient is the vector of all partial derivatives: change one weight, hold the rest. Beside each, the same by differences of the loss in float64, which knows nothing of the chain rule. The largest relative error is <b>${c.largest.toExponential(1)}</b>, where ${c.allowed.toExponential(0)} is allowed. Against the engine that trains, this page's dW are ${c.difference.toExponential(1)} apart and sums over paths ${c.path.toExponential(1)}, as shares of the largest; rounding in ${data.dtype} explains ${c.tolerance.toExponential(1)}.`;
  const checked = c.entries.length, listed = c.table.length;
  if (checked < data.nParameters) byId("gradients-title").textContent = "The largest derivatives, checked";
  byId("gradients-left").textContent = (checked < data.nParameters ? `Of ${count(data.nParameters, "derivative")}, the ${checked.toLocaleString("en")} largest are compared. ` : "") +
    (listed < checked ? `The table shows the ${listed.toLocaleString("en")} largest of the ${checked.toLocaleString("en")} compared.` : "");
  const most = Math.max(...c.entries.map((entry) => Math.abs(entry[2])));
  const narrow = data.dtype === "float32";  // then differences are held against float64
  const rows = c.table.map((k) => {
    const [name, , value, numerical, error] = c.entries[k];
    const inFloat64 = narrow ? `<td>${fmt(c.inFloat64[k], 7)}</td>` : "";
    return `<tr><th scope="row">${escaped(name)}</th><td>${fmt(value, 7)}</td>${inFloat64}<td>${fmt(numerical, 7)}</td><td>${error === null ? "a kink" : error.toExponential(1).replace("-", "−")}</td><td>${bar(value, most)}</td></tr>`;
  });
  byId("gradient-table").innerHTML = `<thead><tr><th>by</th><th>${narrow ? "engine, float32</th><th>in float64" : "derivative"}</th><th>by differences</th><th>relative error</th><th></th></tr></thead><tbody>${rows.join("")}</tbody>`;
}

function startLinearity() {
  const page = data.linear, cells = bytes(page.frames.u8), shape = page.sizes.join("–");
  byId("linearity-text").textContent = `Two networks of the same shape, ${shape}, trained on the same points in the same way: find the disc inside the ring. The left one passes its sums on as they are, and however many layers it has, a line is all it can draw. The right one cuts off what is below 0, and bends.`;
  byId("linearity-pictures").replaceChildren(...["identity", "relu"].map((name, k) => el("figure", {}, el("canvas", { id: `plane-${name}`, role: "img", "aria-label": `Decision boundary with ${name}` }), el("figcaption", {}, `${name}: ${(100 * page.accuracy[k]).toFixed(1)}% right`))));
  const draw = () => ["identity", "relu"].forEach((name, k) => drawPlane(byId(`plane-${name}`), page, cells, k));
  redraws.push(draw);
  draw();
  const named = page.weights.map((_, k) => mi(`W${k + 1}`)).join("");
  byId("linearity-product").innerHTML = block(mi("X"), named, mo("="), mi("X"), mi("W"), mo(","), `<mspace width="1em"/>`, mi("W"), mo("="), matrix(page.W), mo(","), `<mspace width="1em"/>`, mi("b"), mo("="), matrix([page.b]));
  byId("linearity-end").textContent = `The product of all its weight matrices is one matrix of 2 × 2 numbers, and a network with that matrix alone gives the same outputs: the largest difference on all points is ${page.difference.toExponential(1)}.`;
}
startHead();
startImage();
startMatrices();
startGradients();
startLinearity();
reachable();
width = innerWidth;
document.documentElement.dataset.ready = "yes";
