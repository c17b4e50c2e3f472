"""SGD: the same losses as the reference, and everything around the epochs."""

import numpy as np
import pytest
import reference

import fastmlp
from fastmlp import MLP, SGD, schedules


def problem(loss="softmax_cross_entropy", n=101, sizes=(7, 9, 4), **options):
    model = MLP(sizes, loss=loss, **options)
    rng = np.random.default_rng(5)
    X = rng.normal(size=(n, sizes[0]))
    if model.classifies:
        return model, X, rng.integers(0, sizes[-1], n)
    return model, X, rng.normal(size=(n, sizes[-1]))


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize("activation", ["relu", "identity", "tanh", "logistic"])
@pytest.mark.parametrize(
    "momentum, nesterov, weight_decay", [(0, 0, 0), (0.9, 0, 0), (0.8, 1, 0.01)]
)
@pytest.mark.parametrize("batch_size", [1, 32, 500])
def test_losses_are_those_of_the_reference(
    loss, activation, momentum, nesterov, weight_decay, batch_size
):
    model, X, y = problem(loss, activation=activation, dtype="float64")
    orders = reference.orders(len(X), epochs=4, seed=3)
    expected = reference.train(
        model, X, y, orders, batch_size, 0.001, momentum, nesterov, weight_decay
    )
    history = SGD(
        model,
        learning_rate=0.001,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        batch_size=batch_size,
        seed=3,
    ).fit(X, y, epochs=4)
    np.testing.assert_allclose(history.loss, expected, rtol=1e-12)


def test_ten_recorded_losses():
    """A seeded float64 run on the digits, its first ten losses as recorded on 2026-11-20."""
    X, y = fastmlp.data.load_digits()
    model = MLP([64, 100, 10], dtype="float64", seed=0)
    history = SGD(model, learning_rate=0.1, batch_size=32, seed=0).fit(X / 16, y, epochs=10)
    recorded = [
        0.7363978500556406, 0.1594230221357528, 0.1179912276071225, 0.0725202946484305,
        0.0591841982366718, 0.0397152555734953, 0.0346472810770223, 0.0389460739113198,
        0.0290077714090495, 0.0613402040363046,
    ]  # fmt: skip
    np.testing.assert_allclose(history.loss, recorded, rtol=1e-9)


def test_same_seed_same_bits():
    results = []
    for _ in range(2):
        model, X, y = problem()
        SGD(model, seed=7, n_threads=1).fit(X, y, epochs=5)
        results.append(model.params)
    np.testing.assert_array_equal(*results)


def test_five_epochs_and_five_more_are_ten():
    together, X, y = problem()
    apart = problem()[0]
    rate = schedules.cosine(0.1, epochs=10)
    history = SGD(together, learning_rate=rate).fit(X, y, epochs=10)
    trainer = SGD(apart, learning_rate=rate)
    first, second = trainer.fit(X, y, epochs=5), trainer.fit(X, y, epochs=5)
    np.testing.assert_array_equal(together.params, apart.params)
    assert history.loss == first.loss + second.loss
    assert history.learning_rate == first.learning_rate + second.learning_rate


def test_every_order_of_the_rows_is_equally_likely():
    """24 orders of 4 rows, 24,000 times: chi-square with 23 degrees of freedom."""
    from math import factorial

    from fastmlp._core import shuffled

    seen = {}
    for seed in range(1000 * factorial(4)):
        order = tuple(shuffled(4, seed * 0x9E3779B97F4A7C15 % 2**64).tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == factorial(4)
    # 1e-6 of all honest generators would exceed 68.4
    assert sum((count - 1000) ** 2 / 1000 for count in seen.values()) < 68.4
    for n in (0, 1, 2, 1000):
        np.testing.assert_array_equal(shuffled(n, 7), reference.shuffled(n, 7))


@pytest.mark.parametrize("engine", ["fused", "blas"])
def test_more_threads_than_there_are(engine):
    model, X, y = problem()
    assert SGD(model, n_threads=10**30, engine=engine).fit(X, y, epochs=1).epochs == 1


def test_a_fit_within_a_fit_is_refused():
    model, X, y = problem()
    trainer = SGD(model)
    with pytest.raises(RuntimeError, match="in the middle of a fit"):
        trainer.fit(X, y, callback=lambda history: trainer.fit(X, y))
    assert trainer.history.epochs == 1
    trainer.fit(X, y, epochs=1)


def test_a_copied_trainer_goes_on_where_the_first_stopped():
    import copy
    import pickle

    model, X, y = problem()
    trainer = SGD(model)
    trainer.fit(X, y, epochs=2)
    twins = [pickle.loads(pickle.dumps(trainer)), copy.deepcopy(trainer)]
    trainer.fit(X, y, epochs=2)
    for twin in twins:
        twin.fit(X, y, epochs=2)
        np.testing.assert_array_equal(twin.model.params, model.params)


def test_without_shuffling_rows_come_in_order():
    model, X, y = problem(dtype="float64")
    expected = reference.train(model, X, y, [np.arange(len(X))] * 2, 10, 0.1, 0.9, False, 0)
    history = SGD(model, batch_size=10, shuffle=False).fit(X, y, epochs=2)
    np.testing.assert_allclose(history.loss, expected, rtol=1e-12)


def test_history_and_validation():
    model, X, y = problem()
    history = SGD(model).fit(X, y, epochs=3, validation_data=(X[:20], y[:20]))
    assert history.epochs == 3
    for entries in vars(history).values():
        assert len(entries) == 3
    loss, accuracy = model.evaluate(X[:20], y[:20])
    assert (history.validation_loss[-1], history.validation_accuracy[-1]) == (loss, accuracy)
    model, X, y = problem("squared_error")
    history = SGD(model).fit(X, y, epochs=2, validation_data=(X, y))
    assert len(history.validation_loss) == 2 and history.validation_accuracy == []


def test_a_callback_can_stop():
    model, X, y = problem()
    seen = []
    history = SGD(model).fit(
        X, y, epochs=50, callback=lambda h: seen.append(h.epochs) or h.epochs == 3
    )
    assert seen == [1, 2, 3] and history.epochs == 3


def test_a_callback_that_fails_leaves_the_epochs_done():
    model, X, y = problem()
    trainer = SGD(model)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(X, y, epochs=5, callback=lambda h: 1 / 0)
    assert trainer.history.epochs == 1


def test_schedules():
    model, X, y = problem()
    asked = []

    def rate(epoch):
        asked.append(epoch)
        return 0.1 / (epoch + 1)

    history = SGD(model, learning_rate=rate).fit(X, y, epochs=3)
    assert asked == [0, 1, 2] and history.learning_rate == [0.1, 0.05, 0.1 / 3]
    assert [schedules.step(1, every=3)(e) for e in (0, 2, 3, 6)] == pytest.approx([1, 1, 0.1, 0.01])
    assert [schedules.constant(0.2)(e) for e in (0, 9)] == [0.2, 0.2]
    fall = schedules.cosine(0.3, epochs=10, minimum=0.1)
    assert [fall(e) for e in (0, 5, 10, 99)] == pytest.approx([0.3, 0.2, 0.1, 0.1])


def test_progress_shows_a_bar(capsys):
    model, X, y = problem()
    SGD(model).fit(X, y, epochs=3, validation_data=(X, y), progress=True)
    shown = capsys.readouterr()
    assert "3/3" in shown.err and "loss=" in shown.err and "accuracy=" in shown.err
    assert shown.out == ""


def test_no_epochs_change_nothing():
    model, X, y = problem()
    start = model.params.copy()
    assert SGD(model).fit(X, y, epochs=0).epochs == 0
    np.testing.assert_array_equal(model.params, start)


BAD_OPTIONS = {
    "learning_rate": -0.1, "momentum": 1.5, "weight_decay": -1, "batch_size": 0,
    "engine": "cuda", "n_threads": 0,
}  # fmt: skip


@pytest.mark.parametrize("name, value", BAD_OPTIONS.items(), ids=BAD_OPTIONS)
def test_bad_options_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        SGD(MLP([2, 2]), **{name: value})


BAD_FITS = {
    "epochs": ({"epochs": -1}, "epochs is -1"),
    "validation": ({"validation_data": 3}, "not a pair"),
    "validation X": ({"validation_data": ([[1, 2]], [0])}, "X of validation_data has 2 features"),
    "callback": ({"callback": 3}, "callback is 3"),
}


@pytest.mark.parametrize("options, message", BAD_FITS.values(), ids=BAD_FITS)
def test_bad_fits_are_named_and_change_nothing(options, message):
    model, X, y = problem()
    start = model.params.copy()
    with pytest.raises((TypeError, ValueError), match=message):
        SGD(model).fit(X, y, **options)
    np.testing.assert_array_equal(model.params, start)


def test_a_schedule_that_gives_nonsense():
    model, X, y = problem()
    with pytest.raises(ValueError, match=r"learning_rate\(0\) is nan"):
        SGD(model, learning_rate=lambda epoch: float("nan")).fit(X, y)


def test_a_model_must_be_a_model():
    with pytest.raises(TypeError, match="model is list"):
        SGD([64, 10])


def test_many_models_train_at_once():
    from concurrent.futures import ThreadPoolExecutor

    def fit(seed):
        model, X, y = problem(seed=seed)
        SGD(model, seed=seed, batch_size=16).fit(X, y, epochs=10)
        return model.params

    expected = [fit(seed) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for actual, wanted in zip(pool.map(fit, range(16)), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)
