"""Small data sets of scikit-learn's, scaled, for the tests of the estimators."""

import numpy as np
from sklearn.datasets import load_diabetes, load_digits


def digits(n=300):
    X, y = load_digits(return_X_y=True)
    return X[:n] / 16, y[:n]


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X * 10, y / 100


def multilabel(n=200):
    X, y = digits(n)
    return X, np.column_stack([y > 4, y % 2 == 0, y == 7]).astype(int)
