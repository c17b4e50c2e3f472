"""The report in a real browser: hover, step, slide; the right numbers, and a silent console."""

import re
import shutil
import time
from itertools import pairwise

import numpy as np
import pytest

import fastmlp
from fastmlp.explain import Recorder, examples
from fastmlp.explain.linearity import rings

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open an explanation's report; check at the end that nothing went wrong in the page."""
    errors, contexts = [], []

    def show(explanation, viewport=DESKTOP, **options):
        path = tmp_path / "report.html"
        explanation.to_html(path)
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: errors.append(said.text) if said.type != "log" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:")) else errors.append(r.url),
        )
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]", state="attached", timeout=10_000)
        return page

    yield show
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def chain():
    model, X, y, rate = examples.chain()
    return fastmlp.explain(model, X, y, learning_rate=rate)


@pytest.fixture(scope="module")
def two_layer():
    model, X, y, rate = examples.two_layer()
    return fastmlp.explain(model, X, y, learning_rate=rate)


@pytest.fixture(scope="module")
def disc():
    """A network of two inputs in its recorded training."""
    X, y = rings()
    model = fastmlp.MLP([2, 6, 4, 2], seed=3)
    recorder = Recorder(model)
    trainer = fastmlp.Adam(model, learning_rate=0.02, batch_size=50)
    trainer.fit(X, y, epochs=80, callback=recorder)
    return fastmlp.explain(model, X, y, recorder=recorder)


@pytest.fixture(scope="module")
def digit():
    X, y = fastmlp.data.load_digits()
    model = fastmlp.MLP([64, 100, 10], seed=0)
    recorder = Recorder(model)
    fastmlp.SGD(model, learning_rate=0.02).fit(X / 16, y, epochs=6, callback=recorder)
    return fastmlp.explain(model, X[7] / 16, y[7], recorder=recorder)


def said(page, query):
    """Return the text of an element, white space and typographic signs made plain."""
    text = page.locator(query).inner_text().replace("−", "-").replace("\N{INVISIBLE TIMES}", "")
    return re.sub(r"\s+", " ", text)


def formulas(page, query):
    """Return the formulas in an element without any white space."""
    found = page.locator(f"{query} math").all()
    return [re.sub(r"\s", "", math.text_content()).replace("−", "-") for math in found]


def test_neuron_under_the_pointer(show, two_layer):
    page = show(two_layer)
    page.hover('[data-neuron="1,1"]')
    assert "h1[1] is off" in said(page, "#inspector h3")
    shown = "".join(formulas(page, "#inspector"))
    assert "z=1·1+(-1)·2=-1" in shown and "a=relu(-1)=0" in shown
    assert "its slope is 0, and no error passes" in said(page, "#inspector")
    page.hover('[data-neuron="2,1"]')
    assert "h2[1] fires" in said(page, "#inspector h3")
    shown = "".join(formulas(page, "#inspector"))
    assert "z=0.5·2+(-1)·0+1=2" in shown
    assert shown.endswith("=1·(0·(-0.5)+1·0.5)=0.5")


def test_weight_under_the_pointer(show, two_layer):
    page = show(two_layer)
    # Lines cross in the middle: point at the first third.
    box = page.locator('[data-weight="0,1,0"]').bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.7)
    assert "W1[1,0]" in said(page, "#inspector h3")
    shown = formulas(page, "#inspector .paths")
    assert "".join(shown[6:14]) == "=(-0.5)·1·1·1·1·2=-1"
    assert said(page, "#derivative") == "-0.5"
    assert "relative error 0.0e+0" in said(page, "#inspector .verdict")
    assert "0.5 - 0.1 · (-0.5) = 0.55" in said(page, "#inspector .verdict")
    page.evaluate("inspect({kind: 'weight', layer: 0, i: 1, j: 1})")
    assert said(page, "#derivative") == "0"


def test_chain_through_the_five_steps(show, chain):
    page = show(chain)
    assert said(page, "#facts").startswith("loss 3 after one step 0.47703")
    assert "Forward, layer 1 of 2" in said(page, "#step-text")
    seen = [said(page, "#step-text h3")]
    while page.locator("#next").is_enabled():
        page.click("#next")
        seen.append(said(page, "#step-text h3"))
    assert [text.removeprefix("Step ")[0] for text in seen] == list("1123345")
    assert "3 → 0.47703" in said(page, "#step-text")
    page.click("#steps button:nth-child(2)")
    shown = "".join(formulas(page, "#step-text"))
    assert "L=0+0.5+2+4.5+85=3" in shown  # the 5 is below the line
    page.keyboard.press("ArrowRight")
    assert "Backpropagation, layer 2 of 2" in said(page, "#step-text h3")
    page.keyboard.press("ArrowLeft")
    assert "Loss" in said(page, "#step-text h3")
    page.click("#steps button:nth-child(4)")
    assert "W2←1-0.01·18=0.82" in "".join(formulas(page, "#step-text"))
    page.select_option("#row", "4")
    page.hover('[data-weight="0,0,0"]', force=True)
    assert "=0.8·1·4=3.2" in "".join(formulas(page, "#inspector .paths"))
    assert said(page, "#derivative") == "6"
    page.hover('[data-weight="1,0,0"]', force=True)
    assert said(page, "#derivative") == "18"
    assert "01234" in "".join(formulas(page, "#matrix-forms"))


def pixels(page, query):
    return page.evaluate(f"document.querySelector('{query}').toDataURL()")


def test_slider(show, disc):
    page = show(disc)
    states = []
    for value in ("0", "20", "59"):
        page.locator("#slider").fill(value)
        line = page.locator("#frame-network line.edge").first.get_attribute("stroke-width")
        dot = page.locator("#curve .here").get_attribute("cx")
        states.append((said(page, "#slider-text"), line, dot, pixels(page, "#boundary")))
    for moved in zip(*states, strict=True):
        assert len(set(moved)) == 3  # text, weights, curve and boundary
    places = disc.recorder.frames(60)
    model = fastmlp.MLP([2, 6, 4, 2], dtype="float64")
    for value, (text, *_) in zip((0, 20, 59), states, strict=True):
        model.params[:] = disc.recorder.states[places[value]]
        epoch, loss = disc.recorder.epochs[places[value]], model.loss(disc.X, disc.y)
        match = re.fullmatch(r"epoch (\d+) · loss (\S+)", text)
        assert int(match[1]) == epoch and float(match[2]) == pytest.approx(loss, rel=1e-4)
    # The boundary is the engine's: the middle of the disc is class 0, the corner class 1.
    corner, middle = page.evaluate("[0, 28 * 56 + 28].map(k => boundaryCells[59 * 56 * 56 + k])")
    assert corner > 200 and middle < 55


def test_landscape_and_tables(show, chain):
    page = show(chain)
    assert "W1 and W2" in said(page, "#surface-text")
    assert page.locator("#landscape .arrow").count() >= 60
    assert page.locator("#landscape .point").count() == 41
    page.hover("#landscape svg", position={"x": 200, "y": 150})
    u, v, loss = map(
        float,
        re.findall(r"= ([\d.]+).*= ([\d.]+): loss ([\d.e-]+)", said(page, "#surface-read"))[0],
    )
    assert loss == pytest.approx(3 * (u * v - 2) ** 2, rel=1e-3)
    rows = page.locator("#gradient-table tbody tr").all_inner_texts()
    assert [row.split()[:3] for row in rows[:2]] == [["W2", "18", "18"], ["W1", "6", "6"]]


def test_linearity(show, chain):
    page = show(chain)
    assert re.search(r"identity: [5-7]\d\.\d% right", said(page, "#linearity"))
    assert "relu: 100.0% right" in said(page, "#linearity")
    assert pixels(page, "#plane-identity") != pixels(page, "#plane-relu")
    assert len(formulas(page, "#linearity-product")) == 1


def test_digit_from_pixels_to_probability(show, digit):
    start = time.perf_counter()
    page = show(digit)
    assert time.perf_counter() - start < 10  # of a busy machine; the page itself says below
    assert len(digit.html().encode()) < 3e6
    took = []
    for _ in range(3):  # other programs may be busy
        took.append(page.evaluate("performance.getEntriesByType('navigation')[0].domComplete"))
        page.reload()
    assert min(took) < 1000, f"{took} ms until it can be used"
    assert "100 of" not in said(page, "#omitted") and "200 of 7,510 derivatives" in said(
        page, "#omitted"
    )
    assert "160 of 6,400 weights from X to H are drawn" in said(page, "#omitted")
    assert page.locator("#drawing [data-weight^='0,']").count() == 160
    drawn = page.locator("#frame-network line.edge").count()
    assert f"{drawn} of 7,400, those that weigh most" in said(page, "#frame-caption")
    left = said(page, "#gradients-left")
    assert "Of 7,510 derivatives, the 200 largest are compared." in left
    assert "The table shows the 60 largest of the 200 compared." in left
    assert page.locator("#gradient-table tbody tr").count() == 60
    assert said(page, "#gradients-title") == "The largest derivatives, checked"
    d = digit.model.input_gradients(digit.X)[0]
    page.select_option("#image-class", "3")
    titles = page.locator("#pictures circle title").all_text_contents()
    for pixel in (10, 27, 44):
        value = float(titles[pixel].rpartition("derivative ")[2].replace("−", "-"))
        assert value == pytest.approx(d[3, pixel], rel=1e-4)
    assert said(page, "#pictures .answer").startswith("0 ")
    p = 100 * digit.layers[-1].A[0, 7]
    assert f"7 {p:.2f}%" in said(page, "#pictures .answer")
    strongest = int(digit.layers[0].A[0].argmax())
    page.hover(f'[data-neuron="1,{strongest}"]')
    assert page.locator("#inspector canvas").count() == 2
    assert "54 smaller terms" in said(page, "#inspector")
    assert f"z=∑iwixi+b={digit.layers[0].Z[0, strongest]:.5g}" in "".join(
        formulas(page, "#inspector")
    )
    start = time.perf_counter()
    for _ in range(4):
        page.click("#next")
    assert time.perf_counter() - start < 4


def test_pixels_of_the_chosen_row(show):
    X, y = fastmlp.data.load_digits()
    model = fastmlp.MLP([64, 8, 10], seed=0)
    e = fastmlp.explain(model, X[:3] / 16, y[:3])
    page = show(e)
    page.select_option("#row", "2")
    assert "row 2: 2" in said(page, "#pictures")
    assert f"2 {100 * e.layers[-1].A[2, 2]:.2f}%" in said(page, "#pictures .answer")
    assert page.input_value("#image-class") == str(e.layers[-1].A[2].argmax())
    page.select_option("#image-class", "5")
    titles = page.locator("#pictures circle title").all_text_contents()
    d = model.input_gradients(e.X)[2]
    for pixel in (10, 27, 44):
        value = float(titles[pixel].rpartition("derivative ")[2].replace("−", "-"))
        assert value == pytest.approx(d[5, pixel], rel=1e-4)
    page.select_option("#row", "1")
    assert page.input_value("#image-class") == "5"  # what was chosen by hand stays


def test_columns_are_no_pixels(show):
    rng = np.random.default_rng(0)
    values = fastmlp.MLP([64, 3, 1], loss="squared_error", seed=0)
    few = fastmlp.MLP([36, 3, 2], seed=0)
    centred = fastmlp.MLP([64, 3, 2], seed=0)
    for e in (
        fastmlp.explain(values, rng.uniform(size=(2, 64)), [[0.0], [1.0]]),
        fastmlp.explain(few, rng.uniform(size=(2, 36)), [0, 1]),
        fastmlp.explain(centred, rng.normal(size=(2, 64)), [0, 1]),
    ):
        page = show(e)
        assert not page.locator("#image").is_visible()
        assert page.locator("nav a[href='#image']").count() == 0


def test_strongest_paths_as_python_has_them(show):
    rng = np.random.default_rng(0)
    model = fastmlp.MLP([3, 5, 6, 4, 3], dtype="float64", seed=1)
    e = fastmlp.explain(model, rng.normal(size=3), 1)
    page = show(e)
    expected = [path.product for path in e.weight(0, 1, 2, limit=6).paths]
    actual = page.evaluate("pathsTo(0, 1, 2).paths.map((p) => p.product)")
    np.testing.assert_allclose(actual, expected, rtol=1e-7)
    assert page.evaluate("pathsTo(0, 1, 2).total") == e.weight(0, 1, 2).n_paths == 72


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(show, disc, digit, scheme):
    for explanation in (disc, digit):
        page = show(explanation, PHONE, color_scheme=scheme, has_touch=True, is_mobile=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.tap('[data-neuron="2,1"]')
        name = "h2[1]" if explanation is disc else "y[1]"
        assert name in said(page, "#inspector h3")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper))) < 200) == (scheme == "dark")


def test_keyboard(show, two_layer):
    page = show(two_layer)
    page.focus('[data-neuron="1,0"]')
    page.keyboard.press("ArrowDown")
    assert "h1[1]" in said(page, "#inspector h3")
    page.keyboard.press("Tab")
    assert "h2[0]" in said(page, "#inspector h3")
    page.locator("#inspector button").first.focus()
    page.keyboard.press("Enter")
    assert "W2[0,0]" in said(page, "#inspector h3")


def test_weight_by_keyboard(show, two_layer):
    """From any neuron into its panel, to one of its weights, and back."""
    page = show(two_layer)
    page.focus('[data-neuron="1,0"]')
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "inspector"
    for key in ("Tab", "Tab", "Enter"):
        page.keyboard.press(key)
    assert "W1[1,1]" in said(page, "#inspector h3")
    assert page.evaluate("document.activeElement.id") == "inspector"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "x[1]"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.neuron") == "1,1"
    assert "h1[1]" in said(page, "#inspector h3")
    page.keyboard.press(" ")
    assert page.evaluate("document.activeElement.id") == "inspector"


def test_focus_is_kept(show, two_layer):
    """At the last step, at the first, and where the network is drawn anew."""
    page = show(two_layer)
    page.focus("#next")
    while page.locator("#next").is_enabled():
        page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "back"
    page.keyboard.press("ArrowLeft")
    assert "Step 4 of 5" in said(page, "#step-text h3")
    page.focus("#back")
    while page.locator("#back").is_enabled():
        page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "next"
    page.focus('[data-neuron="2,0"]')
    page.evaluate("goTo(3)")
    assert page.evaluate("document.activeElement.dataset.neuron") == "2,0"


def test_what_scrolls_can_be_reached(show, disc, digit):
    for explanation in (disc, digit):
        page = show(explanation, PHONE)
        for at in range(3):
            page.evaluate(f"goTo({at}); inspect({{kind: 'weight', layer: 0, i: 1, j: 1}})")
            left = page.evaluate(
                """[...document.querySelectorAll('main *')].filter((n) => {
                const wide = n.scrollWidth > n.clientWidth + 1;
                return getComputedStyle(n).overflowX === 'auto' && wide && n.tabIndex < 0;
                }).map((n) => n.outerHTML.slice(0, 200))"""
            )
            assert left == []


def test_every_loss_and_a_value_of_two_inputs(show):
    X = np.random.default_rng(0).normal(size=(20, 2))
    for loss in ("squared_error", "binary_cross_entropy", "poisson", "huber", "quantile"):
        model = fastmlp.MLP([2, 3, 1], loss=loss, activation="tanh", seed=1)
        page = show(fastmlp.explain(model, X, (X[:, 0] > 0).astype(float)))
        page.hover('[data-neuron="2,0"]')
        page.click("#steps button:nth-child(2)")
        assert page.locator("#boundary").is_visible()


def test_long_names_and_many_outputs(show):
    """A name as long as a line does not widen the page; the right class is drawn, whichever."""
    rng = np.random.default_rng(0)
    labels = ["Donaudampfschifffahrtsgesellschaftskapitaensmuetzen"] + [f"c{k}" for k in range(199)]
    model = fastmlp.MLP([4, 6, 200], seed=0)
    model.biases[1][:2] = -9
    e = fastmlp.explain(model, rng.normal(size=(2, 4)), [0, 1], labels=labels)
    for viewport in (DESKTOP, PHONE):
        page = show(e, viewport)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert page.locator("#drawing .bars .share").count() >= 6
        assert "and 188 smaller outputs" in said(page, "#frame-outputs")
        page.click("#steps button:nth-child(2)")
        p = re.search(r"a probability of ([\d.e-]+)\.", said(page, "#step-text"))[1]
        assert float(p) == pytest.approx(e.layers[-1].A[0, 0], rel=1e-4)
    few = fastmlp.MLP([4, 6, 3], seed=0)
    e = fastmlp.explain(few, rng.normal(size=(2, 4)), [0, 1], labels=[labels[0], "b", "c"])
    for viewport in (DESKTOP, PHONE):
        page = show(e, viewport)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_names_and_numbers_have_room(show):
    """Names below discs, numbers beside the curve, brackets around a matrix."""
    rng = np.random.default_rng(0)
    model = fastmlp.MLP([3, 12, 9, 1], loss="squared_error", seed=0)
    page = show(fastmlp.explain(model, rng.normal(size=(2, 3)), [[1e-4], [2e-4]]))
    boxes = page.evaluate(
        """[...document.querySelectorAll('#drawing [data-neuron^="1,"]')].map((node) => {
        const disc = node.querySelector('circle').getBoundingClientRect();
        const name = node.querySelector('.name').getBoundingClientRect();
        return [disc.top, disc.bottom, name.top, name.bottom];
        })"""
    )
    assert len(boxes) == 12
    for (*_, low), (top, *_) in pairwise(boxes):
        assert low <= top + 2
    cut = "document.querySelector('#curve').getBoundingClientRect().left"
    ticks = "[...document.querySelectorAll('#curve .tick')]"
    assert page.evaluate(f"{ticks}.every((t) => t.getBoundingClientRect().left >= {cut})")
    border = "getComputedStyle(document.querySelector('#matrix-forms .matrix')).borderLeftStyle"
    assert page.evaluate(border) == "solid"


def test_tap_on_the_landscape(show, chain):
    page = show(chain, PHONE, has_touch=True, is_mobile=True)
    page.tap("#landscape svg", position={"x": 150, "y": 120})
    assert re.search(r"W1 = [\d.]+, W2 = [\d.]+: loss [\d.]+", said(page, "#surface-read"))


def test_links_in_a_notebook(browser, chain, tmp_path):
    """The frame stays the report, and scrolls."""
    host = tmp_path / "notebook.html"
    host.write_text(f"<p id=training>host</p>{chain._repr_html_()}", encoding="utf-8")
    page = browser.new_page(viewport=DESKTOP)
    page.goto(host.as_uri())
    frame = page.frames[1]
    frame.wait_for_selector("html[data-ready=yes]", state="attached", timeout=10_000)
    frame.click("nav a[href='#training']")
    frame.wait_for_function("scrollY > 300")
    assert frame.url == "about:srcdoc"
    assert frame.evaluate("document.activeElement.id") == "training"
    page.close()


@pytest.mark.parametrize(
    ("loss", "made", "error"),
    [
        ("binary_cross_entropy", "logistic, which makes each a probability", "output minus"),
        ("poisson", "exp, which makes each positive", "output minus"),
        ("huber", None, "the derivative of the huber loss by this output"),
        ("quantile", None, "the derivative of the quantile loss by this output"),
        ("absolute_error", None, "the derivative of the absolute error by this output"),
    ],
)
def test_sentences_of_a_loss(show, loss, made, error):
    model = fastmlp.MLP([2, 3, 1], loss=loss, activation="logistic", seed=1)
    page = show(fastmlp.explain(model, [[1.0, 2.0], [0.5, -1.0]], [[0.0], [1.0]]))
    page.click("#next")
    if made is None:
        assert "goes through" not in said(page, "#step-text")
    else:
        assert f"each sum goes through {made}" in said(page, "#step-text")
    page.focus('[data-neuron="2,0"]')
    assert f"The error starts here: {error}" in said(page, "#inspector")


@pytest.mark.parametrize("activation", ["identity", "tanh", "leaky_relu"])
def test_only_a_relu_is_off(show, activation):
    """A sum below 0 passes its error on, except through relu; a flat tanh is saturated."""
    model = fastmlp.MLP([1, 2, 1], activation=activation, loss="squared_error", dtype="float64")
    model.params[:] = [-1, 40, 0, 0, 1, 1, 0]
    page = show(fastmlp.explain(model, [[1.0]], [[0.0]]))
    assert page.locator("#drawing .node.off").count() == 0
    assert "dashed outline" not in said(page, "#legend")
    assert "fire" not in said(page, "#step-text")
    for place in (0, 1):
        page.focus(f'[data-neuron="1,{place}"]')
        assert said(page, "#inspector h3").strip() == f"h[{place}]"
        assert "is off" not in said(page, "#inspector")
        saturated = activation == "tanh" and place == 1
        assert ("It is saturated: its slope is 0" in said(page, "#inspector")) == saturated


def test_labels_are_text(show):
    """Names of classes are not taken as HTML."""
    model = fastmlp.MLP([2, 2], seed=0)
    labels = ["<img src=x onerror=alert(1)>", "</script><b>"]
    page = show(fastmlp.explain(model, [1, 2], 0, labels=labels))
    page.click("#steps button:nth-child(2)")
    assert labels[0] in said(page, "#step-text")
    assert page.locator("main img").count() == 0


def test_label_that_opens_a_comment(show):
    """Neither does one end the script that holds the numbers, or hide its end."""
    model = fastmlp.MLP([2, 2], seed=0)
    labels = ["<!--<script>", "<script>"]
    page = show(fastmlp.explain(model, [1, 2], 0, labels=labels))
    page.click("#steps button:nth-child(2)")
    assert labels[0] in said(page, "#step-text")


def test_float32_shows_what_the_differences_are_compared_with(show, digit):
    """Three numbers for a derivative: the engine's, the same in float64, and by differences."""
    page = show(digit)
    head = page.locator("#gradient-table thead th").all_inner_texts()
    assert [text.lower() for text in head[1:4]] == [
        "engine, float32", "in float64", "by differences",
    ]  # fmt: skip
    first = page.locator("#gradient-table tbody tr").first.locator("td").all_inner_texts()
    engine, double, numerical = (float(text.replace("−", "-")) for text in first[:3])
    k = np.abs(digit.check.derivatives).argmax()
    assert double == pytest.approx(digit.check.derivatives[k], rel=1e-6)
    assert numerical == pytest.approx(digit.check.numerical[k], rel=1e-6)
    assert engine == pytest.approx(digit.dparams[digit.check.indices[k]], rel=1e-6)


def test_a_report_of_numbers_that_overflow(show):
    model, X, y, _ = examples.chain()
    page = show(fastmlp.explain(model, X, y, learning_rate=1e300))
    assert "∞" in page.locator("body").inner_text()


def test_the_loss_over_two_chosen_weights(show, two_layer, tmp_path):
    path = tmp_path / "chosen.html"
    two_layer.to_html(path, weights=((0, 1, 0), (2, 1, 1)))
    page = show(two_layer)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", state="attached", timeout=10_000)
    text = page.locator("#surface-text").inner_text()
    assert "All weights held but W1[1,0] and W3[1,1]. The gradient" in text
    with pytest.raises(ValueError, match="expected two different ones"):
        two_layer.html(weights=((0, 1, 0), (0, 1, 0)))
