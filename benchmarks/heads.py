"""The closed-form heads of the estimators beside simpler ones: `python benchmarks/heads.py`.

Few-shot splits of scikit-learn's own data, no network: accuracy and negative log-likelihood of `Discriminant` against
nearest means and ridge on one-hot labels; mean squared error (as a fraction of the variance) of `KernelRidge` against
linear ridge, and against a length scale that is never chosen or always.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kshot.estimators import kernel
from kshot.estimators.discriminant import Discriminant
from kshot.estimators.kernel import KernelRidge

Data = tuple[NDArray[np.float64], NDArray[Any]]
Head = Callable[[NDArray[np.float64], NDArray[Any], NDArray[np.float64]], NDArray[np.float64]]


def one_hot_ridge(x: NDArray[np.float64], y: NDArray[Any], query: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of scikit-learn's ridge on one-hot labels, its alpha by leave-one-out."""
    head = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-2, 5, 22))).fit(x, y)
    scores = head.decision_function(query)
    return np.stack([-scores, scores], 1) if scores.ndim == 1 else scores


def log_likelihood(scores: NDArray[np.float64], y: NDArray[Any]) -> float:
    shifted = scores - scores.max(1, keepdims=True)
    return float((shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))[np.arange(len(y)), y].mean())


def classification(runs: int) -> None:
    heads: dict[str, Head] = {
        "nearest means": lambda x, y, q: np.log(Discriminant.fit(x, y, 1.0).probabilities(q) + 1e-12),
        "ridge on one-hot": one_hot_ridge,
        "Discriminant": lambda x, y, q: np.log(Discriminant.fit(x, y).probabilities(q) + 1e-12),
    }
    names = ("digits", "iris", "wine", "breast_cancer")
    data: dict[str, Data] = {name: getattr(datasets, f"load_{name}")(return_X_y=True) for name in names}
    print(f"accuracy in %, negative log-likelihood; means over {', '.join(names)} and {runs} draws of shots")
    for shot in (1, 2, 5, 10, 20):
        for name, head in heads.items():
            results = []
            for x, y in data.values():
                for run in range(runs):
                    draw = np.random.default_rng([shot, run])
                    rows = [draw.choice(np.flatnonzero(y == k), shot, replace=False) for k in np.unique(y)]
                    train = np.concatenate(rows)
                    test = np.setdiff1d(np.arange(len(y)), train)
                    scores = head(x[train], y[train], x[test])
                    results.append((100 * (scores.argmax(1) == y[test]).mean(), -log_likelihood(scores, y[test])))
            accuracy, loss = np.mean(results, 0)
            print(f"  {shot:2d} shot  {name:18s} {accuracy:5.1f}  {loss:5.2f}")


def kernel_ridge(few: int, lengths: tuple[float, ...]) -> Head:
    def head(x: NDArray[np.float64], y: NDArray[Any], query: NDArray[np.float64]) -> NDArray[np.float64]:
        kept = kernel._FEW, kernel._LENGTHS
        kernel._FEW, kernel._LENGTHS = few, lengths
        try:
            return KernelRidge.fit(x, y[:, None]).predict(query)[:, 0]
        finally:
            kernel._FEW, kernel._LENGTHS = kept

    return head


def linear_ridge(x: NDArray[np.float64], y: NDArray[Any], query: NDArray[np.float64]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = (
        make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 22))).fit(x, y).predict(query)
    )
    return values


def functions() -> dict[str, Data]:
    draw = np.random.default_rng(0)
    x, wine = draw.uniform(-5, 5, (1000, 1)), datasets.load_wine(return_X_y=True)[0]
    noise = 0.1 * draw.normal(size=1000)
    return {
        "diabetes": datasets.load_diabetes(return_X_y=True),
        "wine's alcohol": (wine[:, 1:], wine[:, 0]),
        "friedman1": datasets.make_friedman1(1000, noise=1.0, random_state=0),
        "friedman2": datasets.make_friedman2(1000, noise=50.0, random_state=0),
        "linear": datasets.make_regression(1000, 20, n_informative=5, noise=20, random_state=0),
        "sine": (x, 3 * np.sin(x[:, 0] + 1) + noise),
        "step": (x, np.sign(x[:, 0] - 0.5) + noise),
    }


def regression(runs: int) -> None:
    heads: dict[str, Head] = {
        "the mean": lambda x, y, q: np.full(len(q), y.mean()),
        "linear ridge": linear_ridge,
        "kernel, length 1": kernel_ridge(0, (1.0,)),
        "kernel, chosen": kernel_ridge(0, kernel._LENGTHS),
        "KernelRidge": kernel_ridge(kernel._FEW, kernel._LENGTHS),
    }
    data = functions()
    print(f"mean squared error / variance; means over {', '.join(data)} and {runs} draws of examples")
    for n in (5, 10, 20, 50):
        for name, head in heads.items():
            errors = []
            for x, y in data.values():
                for run in range(runs):
                    rows = np.random.default_rng([n, run]).permutation(len(y))
                    train, test = rows[:n], rows[n : n + 200]
                    errors.append(((head(x[train], y[train], x[test]) - y[test]) ** 2).mean() / y.var())
            print(f"  {n:2d} examples  {name:18s} {np.mean(errors):6.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40, help="draws of the support set")
    runs = parser.parse_args().runs
    classification(runs)
    regression(runs)


if __name__ == "__main__":
    main()
