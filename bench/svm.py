"""A network against support vector machines: accuracy and time on real data.

    python bench/svm.py

Five folds of data sets that come with scikit-learn and fastmlp, on one thread. The features are
standardised; to the digits so many columns of noise are added as `+ noise` says, which tell nothing
of the class and have to be told apart from those that do. Nobody is tuned: one set of parameters
each for all data. Times are of one fit, and of predictions for the rows held out.
"""

import time
from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from threadpoolctl import threadpool_limits

import fastmlp

FOLDS = 5


class Network:
    """A network of one hidden layer of 100, with the fit and predict of the others."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Network":
        self.model = fastmlp.MLP([X.shape[1], 100, int(y.max()) + 1], seed=0)
        trainer = fastmlp.Adam(self.model, weight_decay=1e-3, batch_size=32, seed=0, n_threads=1)
        trainer.fit(X, y, epochs=40)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.model.predict(X)


CONTENDERS: dict[str, Callable[[], object]] = {
    "fastmlp, 100 relu neurons": Network,
    "linear SVM, C = 1": lambda: LinearSVC(C=1, max_iter=20_000, random_state=0),
    "kernel SVM, RBF, C = 10": lambda: SVC(C=10),
}


def data_sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the name, the features and the classes of every data set."""
    X, y = fastmlp.data.load_digits()
    rng = np.random.default_rng(0)
    noise = {n: np.hstack([X, rng.normal(size=(len(X), n))]) for n in (64, 512)}
    cancer, wine = load_breast_cancer(), load_wine()
    return {
        "digits, 64 features": (X, y),
        **{f"digits + {n} of noise": (features, y) for n, features in noise.items()},
        "breast cancer, 30": (cancer.data, cancer.target),
        "wine, 13": (wine.data, wine.target),
    }


def measure(make: Callable[[], object], X: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return the accuracy over all folds, and the median times of a fit and of a prediction."""
    right, fits, predictions = 0, [], []
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(X, y):
        scaler = StandardScaler().fit(X[train])
        A, B = (scaler.transform(X[rows]).astype(np.float32) for rows in (train, test))
        start = time.perf_counter()
        model = make().fit(A, y[train])
        fits.append(time.perf_counter() - start)
        start = time.perf_counter()
        right += int((model.predict(B) == y[test]).sum())
        predictions.append(time.perf_counter() - start)
    return right / len(y), float(np.median(fits)), float(np.median(predictions))


def main() -> None:
    """Print the table."""
    print("| data | contender | accuracy | fit, ms | predict, ms |\n|---|---|--:|--:|--:|")
    with threadpool_limits(1):
        for data, (X, y) in data_sets().items():
            for name, make in CONTENDERS.items():
                accuracy, fit, predict = measure(make, X, y)
                print(
                    f"| {data} | {name} | {accuracy:.3f} | {1e3 * fit:.1f} | {1e3 * predict:.2f} |"
                )


if __name__ == "__main__":
    main()
