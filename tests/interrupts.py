"""Interrupts fits of a benchmark's shape at random moments; run as a program, by test_interrupt.py.

Ctrl-C is SIGINT, sent by another thread of this process. Two clocks run from there to where
KeyboardInterrupt leaves `fit`: the wall's, and the CPU time of the thread that fits, which on a
machine that others keep busy is what the answer took of the machine's work, and on a quiet one the
same. A twin does the same number of steps without interruption.

Prints one line of JSON: for every interrupt the two delays and whether the parameters are those of
the twin, and what a step takes.
"""

import json
import os
import signal
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import shapes

import fastmlp


def build(shape, optimizer, engine, n_threads):
    model = fastmlp.MLP(shape.sizes, dtype=shape.dtype, seed=0)
    kind = {"sgd": fastmlp.SGD, "adam": fastmlp.Adam}[optimizer]
    rate = shape.learning_rate
    return kind(model, learning_rate=rate, batch_size=shape.batch, engine=engine,
                n_threads=n_threads)  # fmt: skip


def seconds_a_step(trainer, X, y, n_steps):
    """The wall's and the CPU's, as medians over epochs."""
    wall, cpu, began = [], [time.thread_time()], time.perf_counter()
    while len(wall) < 3 or time.perf_counter() - began < 0.3:
        wall += trainer.fit(X, y, epochs=1).seconds
        cpu.append(time.thread_time())
    return statistics.median(wall) / n_steps, statistics.median(np.diff(cpu)) / n_steps


def interrupted(trainer, X, y, after):
    """Interrupt a fit after so many seconds; return the wall's and the CPU's delay."""
    clock = time.pthread_getcpuclockid(threading.get_ident())
    sent = []

    def send():
        time.sleep(after)
        sent.append((time.perf_counter(), time.clock_gettime(clock)))
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    try:
        sender.start()
        trainer.fit(X, y, epochs=10**9)
    except KeyboardInterrupt:
        left = time.perf_counter(), time.thread_time()
    sender.join()
    return left[0] - sent[0][0], left[1] - sent[0][1]


def catch_up(twin, X, y, n_done, n_steps):
    """Do so many steps, from the beginning of an epoch, as a fit of any number of epochs does."""
    epochs, rest = divmod(n_done, n_steps)
    twin.fit(X, y, epochs=epochs)
    if rest:
        rows = twin._order(len(X))[: rest * twin.batch_size]
        twin.shuffle = False
        twin.fit(X[rows], y[rows], epochs=1)
        twin.shuffle = True


def main(name, optimizer, engine, n_threads, count):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    shape = shapes.SHAPES[name]
    X, y = shape.data()
    n_steps = shape.rows // shape.batch
    trainer, twin = (build(shape, optimizer, engine, n_threads) for _ in range(2))
    wall, cpu = seconds_a_step(build(shape, optimizer, engine, n_threads), X, y, n_steps)
    moments = np.random.default_rng(len(name))
    found = []
    for _ in range(count):
        before = trainer._session.step
        delays = interrupted(trainer, X, y, moments.uniform(0, max(0.1, 4 * wall)))
        catch_up(twin, X, y, trainer._session.step - before, n_steps)
        same = all(
            mine.tobytes() == others.tobytes()
            for mine, others in zip(
                (trainer.model.params, *trainer._session.moments),
                (twin.model.params, *twin._session.moments),
                strict=True,
            )
        )
        found.append([*delays, same])
        # Interrupted between the draw of an order and its first step: the next goes by that order.
        at = (trainer._session.epochs, trainer._session.step)
        if trainer._drawn[:2] == at:
            here = (twin._session.epochs, twin._session.step)
            twin._drawn = (*here, trainer._drawn[2])
        twin._rng.bit_generator.state = trainer._rng.bit_generator.state
    steps = trainer._session.step
    print(json.dumps({"wall": wall, "cpu": cpu, "steps": steps, "interrupts": found}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
