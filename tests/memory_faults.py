"""A program: everything that takes memory, with the n-th allocation failing, for every n.

After each failure the object has to be what it was, or to be at a completed epoch; going on from
there has to end in the bits of a run that met no failure; and nothing may have leaked.

It needs the library of faults.c, preloaded. Two arguments: whose allocations fail, "ours" (those
of fastmlp's own modules), "threads" (the same, and the starts of threads), "arrays" (those that
hold NumPy's arrays), "python" (the large ones of the interpreter) or "behalf" (all that it does on
behalf of fastmlp's modules, under PYTHONMALLOC=malloc; there are others that would have it crash);
and from one n to the next. Prints a line of JSON for every case.
"""

import ctypes
import gc
import json
import os
import pickle
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from scipy import sparse

from fastmlp import MLP, SGD, Adam, MLPClassifier, MLPRegressor

OURS, BLAS, PYTHON, OTHERS, ARRAYS, THREADS, BEHALF = range(7)  # as in faults.c
KINDS = {
    "ours": [OURS],
    "threads": [OURS, THREADS],
    "arrays": [ARRAYS],
    "python": [PYTHON],
    "behalf": [BEHALF],
}
EPOCHS = 3
STEPS = 3  # of an epoch

faults = ctypes.CDLL(None)
for name in ("allocations", "live", "stop_failing"):
    getattr(faults, name).restype = ctypes.c_long
faults.fail_nth.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long]

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 40)).astype("f")  # rows enough to be no small block to NumPy
Y = rng.integers(3, size=60)
T = rng.normal(size=(60, 2)).astype("f")
WEIGHTS = rng.uniform(0.5, 2, size=60).astype("f")
SPARSE = sparse.csr_array(X * (X > 1))
FOLDER = Path(tempfile.mkdtemp())


def as_bytes(value):
    """Return the bits of what an operation returns."""
    return value.tobytes() if isinstance(value, np.ndarray) else pickle.dumps(value)


class Operation:
    """What changes nothing: a function of a model that is there."""

    def __init__(self, act, model=None):
        self.model = model or MLP([40, 20, 3], seed=1)
        self.act = act

    def begin(self):
        return self.model.copy()

    def go_on(self, model):
        return self.act(model)

    def bits(self, model):
        return model.params.tobytes()

    end = bits


class Fit:
    """A run of some epochs; who goes on does those that are left."""

    def __init__(self, kind, model=None, fit=None, checkpoint=None, **options):
        self.model, self.kind = model or MLP([40, 20, 3], seed=1), kind
        self.fit, self.checkpoint = fit or {}, checkpoint
        self.options = {"batch_size": 25, "seed": 3, **options}

    def begin(self):
        trainer = self.kind(self.model.copy(), **self.options)
        trainer.checkpoint(self.checkpoint)
        return trainer

    def go_on(self, trainer, epochs=EPOCHS):
        y = Y if trainer.model.classifies else T
        # By steps: an epoch is not counted that was done, but had no memory to say so.
        trainer.fit(X, y, epochs=epochs - trainer._session.step // STEPS, **self.fit)

    def end(self, trainer):
        """Return the bits that a finished run ends with."""
        return self.bits(trainer) + as_bytes(trainer._rng.bit_generator.state)

    def bits(self, trainer):
        session = trainer._session
        session.store()  # as the next fit does, if this one could not
        return as_bytes([trainer.model.params, *session.moments, session.step])

    def states(self):
        """Return the bits after every completed epoch."""
        trainer = self.begin()
        states = [self.bits(trainer)]
        for epochs in range(EPOCHS):
            self.go_on(trainer, 1 + epochs)
            states.append(self.bits(trainer))
        return states


class Estimator:
    """A fit or a step of an estimator, which is done or not done."""

    def __init__(self, kind, act, fitted=False, **options):
        self.kind, self.act, self.fitted = kind, act, fitted
        self.options = {"hidden_layer_sizes": (20,), "max_iter": 2, "random_state": 5, **options}

    def begin(self):
        estimator = self.kind(**self.options)
        if self.fitted:
            estimator.partial_fit(X[:10], Y[:10], classes=[0, 1, 2])
        return estimator

    def go_on(self, estimator):
        return self.act(estimator)

    def bits(self, estimator):
        held = dict(vars(estimator))
        if "_network" not in held:
            return as_bytes(sorted(held))
        network, stream = held.pop("_network"), held.pop("_random_state")
        network.settle()
        moments = [m.tobytes() for m in network.session.moments] if network.session else []
        names = ("n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "_no_improvement_count")
        books = [held.get(name) for name in names]
        return as_bytes([network.model.params, moments, books, stream.get_state(), sorted(held)])

    end = bits


def saved(model):
    model.save(FOLDER / "m")
    return (FOLDER / "m").read_bytes()


def resumed(trainer=None):
    again = SGD.resume(FOLDER / "run")
    again.fit(X, Y, epochs=1)
    return again.model.params


def trained_core(model):
    core = model.core(max_rows=25, engine="blas", optimizer="adam")
    moments = [np.zeros_like(model.params) for _ in range(2)]
    core.load(model.params, *moments)
    params = np.empty_like(model.params)
    core.store(params, *moments)
    return params


def cases():
    """Return every case by its name."""
    values = MLP([40, 20, 2], loss="squared_error", dtype="float64", seed=1)
    wide = MLP([40, 40_000, 3], seed=1)  # which takes more than is kept from one call to the next
    found = {
        "a model": Operation(lambda model: MLP([40, 20, 3], seed=2).params),
        "a core": Operation(trained_core),
        "a trainer": Operation(lambda model: [m.tobytes() for m in Adam(model)._session.moments]),
        "forward": Operation(lambda model: model.forward(X)),
        "forward of another dtype": Operation(lambda model: model.forward(X.astype("d"))),
        "predict": Operation(lambda model: model.predict(X)),
        "predict in much memory": Operation(lambda model: model.predict(X), wide),
        "predict a row": Operation(lambda model: model.predict(X[:1])),
        "predict values": Operation(lambda model: model.predict(X), values),
        "predict_proba": Operation(lambda model: model.predict_proba(X)),
        "input_gradients": Operation(lambda model: model.input_gradients(X)),
        "gradients": Operation(lambda model: model.gradients(X, Y)),
        "gradients of values": Operation(lambda model: model.gradients(X, T), values),
        "evaluate": Operation(lambda model: model.evaluate(X, Y, WEIGHTS)),
        "save": Operation(saved),
        "load": Operation(lambda model: MLP.load(FOLDER / "loaded").params),
        "pickle": Operation(lambda model: pickle.loads(pickle.dumps(model)).params),
        "resume": Operation(resumed),
        "checkpoint": Fit(SGD, checkpoint=FOLDER / "written"),
    }
    Operation(None).model.save(FOLDER / "loaded")
    trainer = SGD(MLP([40, 20, 3], seed=1), batch_size=25)
    trainer.checkpoint(FOLDER / "run")
    trainer.fit(X, Y, epochs=1)

    fits = {
        "weights": {"fit": {"sample_weight": WEIGHTS}},
        "validation": {"fit": {"validation_data": (X, Y)}},
        "dropout and max_norm": {"dropout": 0.3, "max_norm": 0.1},
        "values": {"model": values},
        "threads": {"n_threads": 3},
        "callback": {"fit": {"callback": lambda history: None}},
    }
    for kind in SGD, Adam:
        for engine in "fused", "blas":
            for name, options in fits.items():
                case = Fit(kind, engine=engine, **options)
                found[f"{kind.__name__} {engine} {name}"] = case

    def step(estimator):
        return estimator.partial_fit(X, Y, classes=[0, 1, 2]) and None

    for solver in "sgd", "adam", "lbfgs":
        found[f"fit {solver}"] = Estimator(
            MLPClassifier, lambda estimator: estimator.fit(X, Y) and None, solver=solver
        )
    of_classes = {"kind": MLPClassifier, "fitted": True, "batch_size": 25}
    found |= {
        "fit early stopping": Estimator(
            MLPRegressor, lambda e: e.fit(X, T, sample_weight=WEIGHTS) and None,
            early_stopping=True,
        ),
        "fit sparse": Estimator(MLPClassifier, lambda e: e.fit(SPARSE, Y) and None, dropout=0.2),
        "warm start": Estimator(
            act=lambda e: e.fit(X, Y) and None, warm_start=True, **of_classes
        ),
        "partial_fit first": Estimator(MLPClassifier, step),
        "partial_fit": Estimator(act=step, **of_classes),
        "partial_fit sparse": Estimator(
            act=lambda e: e.partial_fit(SPARSE, Y) and None, **of_classes
        ),
        "partial_fit weights": Estimator(
            act=lambda e: e.partial_fit(X, Y, sample_weight=WEIGHTS) and None, **of_classes
        ),
        "estimator predict": Estimator(act=lambda e: e.predict(X), **of_classes),
        "estimator predict sparse": Estimator(act=lambda e: e.predict(SPARSE), **of_classes),
        "estimator predict_proba": Estimator(act=lambda e: e.predict_proba(X), **of_classes),
        "estimator input_gradients": Estimator(
            act=lambda e: e.input_gradients(X), **of_classes
        ),
        "estimator save": Estimator(act=lambda e: e.save(FOLDER / "e"), **of_classes),
    }  # fmt: skip
    return found


def survey(case, kinds, every, attempt):
    """Run a case with the n-th allocation failing, for every n; return what was found."""
    subject = case.begin()
    states = case.states() if isinstance(case, Fit) else [case.bits(subject)]
    expected = as_bytes(case.go_on(subject)), case.end(subject)
    states.append(case.bits(subject))
    del subject
    total = {"faults": 0, "errors": 0, "leaked": 0, "wrong": []}
    n, calls = 1 - every, 1
    while calls >= n:  # the run before had an n-th to fail, so there may be another
        n += every
        for more in (0, 5):  # it alone, or with those after it
            calls, found = attempt(case, kinds, n, more, states, expected)
            if found["leaked"]:  # or set up for good, which happens once
                calls, found = attempt(case, kinds, n, more, states, expected)
            for key, number in found.items():
                total[key] += number
    return total


def meet(case, kinds, n, more, states, expected):
    """Run a case once with a failure, and go on after it.

    Returns how many allocations there were to fail, and what was found.
    """
    blocks, threads = held(kinds), faults.allocations(THREADS)
    subject, failed, wrong = case.begin(), None, []
    try:
        faults.fail_nth(sum(1 << kind for kind in kinds), n, more)
        result = case.go_on(subject)
    except BaseException as error:
        failed = error
    finally:
        calls = faults.stop_failing()
    # Of the interpreter's own want of memory others make what they like: a SystemError, say, which
    # os.environ.get raises itself where its pools are off.
    allowed = {PYTHON: Exception, BEHALF: (MemoryError, SystemError)}.get(kinds[0], MemoryError)
    if failed is not None and not isinstance(failed, allowed):
        wrong.append(f"{type(failed).__name__}: {failed}")
    errors = failed is not None
    failed = None  # and with it the frames that hold what they worked on
    if errors:
        if calls < n:
            wrong.append("it failed without a failure")
        if not more and case.bits(subject) not in states:  # else it goes on without a look
            wrong.append("it is left between two states")
        try:
            result = case.go_on(subject)
        except Exception as error:
            wrong.append(f"it cannot go on: {error!r}")
    if not wrong and (as_bytes(result), case.end(subject)) != expected:
        wrong.append("it goes on otherwise" if errors else "it made up for it and went wrong")
    del subject
    result = None
    # A thread that was started is kept, with what belongs to it.
    leaked = held(kinds) - blocks - (faults.allocations(THREADS) - threads)
    if leaked > 0:
        wrong.append(f"{leaked} blocks leaked")
    found = {"faults": calls >= n, "errors": errors, "leaked": max(0, leaked)}
    return calls, {**found, "wrong": [f"{n}+{more}: {what}" for what in wrong]}


def held(kinds):
    """Return how many blocks were taken and not given back."""
    gc.collect()
    return sum(faults.live(kind) for kind in {OURS, *kinds} - {THREADS, BEHALF})


def meet_in_child(*arguments):
    """Do that in a child of this process, which has to start its threads anew."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)  # one that hangs is killed
        with os.fdopen(writer, "w") as pipe:
            json.dump(meet(*arguments), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    status = os.waitpid(child, 0)[1]
    if status:
        raise RuntimeError(f"allocation {arguments[2:4]}: the child ended with status {status}")
    return json.loads(told)


def watch_arrays():
    """Have NumPy take the memory of its arrays from the library (NEP 49)."""
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    api.PyCapsule_New.restype = ctypes.py_object
    capsule = np._core._multiarray_umath._ARRAY_API
    table = ctypes.cast(api.PyCapsule_GetPointer(capsule, None), ctypes.POINTER(ctypes.c_void_p))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[304])
    handler = ctypes.addressof(ctypes.c_char.in_dll(faults, "array_handler"))
    set_handler(api.PyCapsule_New(handler, b"mem_handler", None))


def main(whose, every):
    warnings.simplefilter("ignore")
    watch_arrays()
    everything, attempt, kinds = cases(), meet, KINDS[whose]
    if whose == "threads":
        everything, attempt = {"four threads": Fit(SGD, n_threads=4, engine="fused")}, meet_in_child
    for case in everything.values():  # whatever is set up at first use is set up now
        for _ in range(2):
            case.go_on(case.begin())
    gc.collect()
    gc.freeze()
    faults.start_counting()
    for name, case in everything.items():
        print(json.dumps({"case": name, **survey(case, kinds, every, attempt)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
