from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from episode_checks import same
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kshot import randomness, tasks
from kshot.errors import ConfigError, OverlappingSplitsError, UnsupportedError
from kshot.tasks import FAMILIES, FunctionTasks, TaskSource
from kshot.tasks.functions import GaussianProcesses, Lines, Polynomials, Sawtooth, Sinusoids, Steps

KEYS = randomness.bits(0, np.arange(6))
GRID = np.linspace(-5, 5, 401)[None].repeat(6, axis=0)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_batches_are_the_samples_of_their_steps(name: str, noise: float) -> None:
    split = tasks.load(name, shot=3, query=4, noise=noise).train
    # More than one block of steps, the last one cut short.
    batches = list(split.batches(5, steps=300, seed=2, start=7))
    assert len(batches) == 300
    for i in (0, 1, 255, 256, 299):
        assert same(batches[i], split.sample(5, seed=2, step=7 + i))


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(FAMILIES)),
    shot=st.integers(1, 12),
    query=st.integers(1, 12),
    number=st.integers(0, 5),
    first=st.integers(0, 4),
    seed=st.integers(0, 2**63),
)
def test_every_episode_is_what_it_says(name: str, shot: int, query: int, number: int, first: int, seed: int) -> None:
    split = tasks.load(name, shot=shot, query=query).train
    whole = split.sample(9, seed=seed)
    episodes = split.sample(number, seed=seed, first=first)
    assert same(whole[first : first + number], episodes)
    for examples, n in ((episodes.support, shot), (episodes.query, query)):
        assert isinstance(examples.x, torch.Tensor)
        assert examples.x.shape == examples.y.shape == (number, n, 1)
        assert examples.x.dtype == examples.y.dtype == torch.float32
        assert examples.x.is_contiguous()
        assert examples.y.isfinite().all()
        assert bool((examples.x.abs() <= 5).all())
        assert examples.mask.all()
        assert examples.classes.shape == (number, 0)
    assert episodes.class_ids.shape == (number, 0)
    assert episodes.support_ids is None


def test_sinusoids_are_those_of_maml() -> None:
    split = tasks.load("sinusoids", shot=10, query=10).train
    episodes = split.sample(3000, seed=0)
    assert isinstance(episodes.support.x, torch.Tensor)
    x, y = episodes.support.x[..., 0].double().numpy(), episodes.support.y[..., 0].double().numpy()
    assert stats.kstest(x.ravel(), "uniform", args=(-5, 10)).pvalue > 1e-3
    # y = A sin(x - phase) = (A cos phase) sin x - (A sin phase) cos x: linear in two unknowns.
    design = np.stack([np.sin(x), -np.cos(x)], axis=-1)
    solution = np.array([np.linalg.lstsq(d, target, rcond=None)[0] for d, target in zip(design, y, strict=True)])
    assert np.abs((design @ solution[..., None])[..., 0] - y).max() < 1e-4
    amplitude, phase = np.hypot(*solution.T), np.arctan2(solution[:, 1], solution[:, 0])
    assert stats.kstest(amplitude, "uniform", args=(0.1, 4.9)).pvalue > 1e-3
    assert stats.kstest(phase, "uniform", args=(0, math.pi)).pvalue > 1e-3
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 0.1


def test_lines_are_lines() -> None:
    y = Lines().values(KEYS, GRID)
    assert np.abs(np.diff(y, 2)).max() < 1e-12
    slope = (y[:, -1] - y[:, 0]) / 10
    assert bool((np.abs(slope) <= 1).all())
    assert np.unique(slope).size == 6


@pytest.mark.parametrize("degree", [1, 3])
def test_polynomials_have_their_degree(degree: int) -> None:
    y = Polynomials(degree=degree).values(KEYS, GRID)
    fits = [np.polynomial.Polynomial.fit(x / 5, row, degree, domain=[-1, 1]) for x, row in zip(GRID, y, strict=True)]
    assert max(np.abs(fit(x / 5) - row).max() for fit, x, row in zip(fits, GRID, y, strict=True)) < 1e-9
    coefficients = np.array([fit.convert().coef for fit in fits])
    assert bool((np.abs(coefficients) <= 3 + 1e-9).all())
    assert bool((np.abs(coefficients[:, -1]) > 0).all())


def test_steps_jump_as_often_as_they_say() -> None:
    y = Steps(steps=3).values(KEYS, GRID)
    assert all(len(np.unique(row)) <= 4 for row in y)
    assert bool(((np.diff(y) != 0).sum(axis=1) <= 3).all())
    assert np.abs(y).max() <= 3


def test_a_sawtooth_rises_and_falls_back() -> None:
    y = Sawtooth().values(KEYS, GRID)
    assert np.abs(y).max() <= 5
    for row in np.diff(y):
        jumps = row < 0
        assert 1 <= jumps.sum() <= 5
        assert np.ptp(row[~jumps]) < 1e-9


def test_gaussian_processes_have_the_covariance_of_their_kernel() -> None:
    x = np.array([[-1.0, 0.0, 0.7, 3.0]]).repeat(40_000, axis=0)
    y = GaussianProcesses(length=1.3, scale=2.0).values(randomness.bits(1, np.arange(40_000)), x)
    kernel = 4 * np.exp(-0.5 * ((x[0, :, None] - x[0, None]) / 1.3) ** 2)
    # Entries of a sample covariance deviate by at most sqrt(2 / 40,000) * 4 = 0.03; five times that.
    assert np.abs(np.cov(y.T) - kernel).max() < 0.15
    assert np.abs(y.mean(axis=0)).max() < 0.05


def test_gaussian_processes_bear_equal_inputs() -> None:
    assert np.isfinite(GaussianProcesses().values(KEYS, np.zeros((6, 30)))).all()


def test_noise_has_its_deviation_and_spares_the_function() -> None:
    quiet, loud = (tasks.load("lines", shot=20, query=20, noise=noise).train for noise in (0.0, 0.5))
    difference = loud.sample(500, seed=0).support.y - quiet.sample(500, seed=0).support.y
    assert stats.kstest(difference.flatten().numpy() / 0.5, "norm").pvalue > 1e-3


def test_splits_have_no_function_in_common() -> None:
    source = tasks.load("sinusoids")
    amplitudes = [split.sample(50, seed=0).query.y.abs().amax((1, 2)) for split in source.splits.values()]
    assert torch.cat(amplitudes).unique().numel() == 150
    train = FunctionTasks(Sinusoids(), "train")
    with pytest.raises(OverlappingSplitsError, match="stream of its own, got the names train, train"):
        TaskSource("twice", {"train": train, "test": train}, example_shape=(1,))


def test_a_number_of_functions_limits_them_for_every_seed() -> None:
    split = tasks.load("lines", shot=2, query=2, functions=7).train
    slopes = set()
    for seed in (0, 1):
        support = split.sample(200, seed=seed).support
        assert isinstance(support.x, torch.Tensor)
        slope = (support.y[:, 1] - support.y[:, 0]) / (support.x[:, 1] - support.x[:, 0])
        near = (support.x[:, 1] - support.x[:, 0]).abs()[:, 0] > 1
        slopes |= {round(value, 4) for value in slope[near, 0].tolist()}
    assert len(slopes) == 7
    assert split.replace(functions=None).options["functions"] is None
    with pytest.raises(ConfigError, match="expected no functions=3 for GaussianProcesses"):
        tasks.load("gaussian_processes", functions=3)


def test_replace_keeps_what_it_is_not_told() -> None:
    split = tasks.load("sinusoids", shot=5, amplitude=(1, 2)).val
    other = split.replace(query=7, phase=0.5)
    assert (other.shot, other.query, other.name, other.kind, other.way) == (5, 7, "val", "regression", 0)
    assert other.options["amplitude"] == (1.0, 2.0)
    assert other.options["phase"] == (0.5, 0.5)
    assert other.source is split.source
    with pytest.raises(ConfigError, match="unknown option 'shots' for tasks of Sinusoids. Did you mean 'shot'?"):
        split.replace(shots=3)
    with pytest.raises(UnsupportedError, match="no classes to choose from: subset is for classification"):
        split.subset([0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amplitud": (1, 2)}, "unknown option 'amplitud' for tasks of Sinusoids. Did you mean 'amplitude'?"),
        ({"amplitude": (2, 1)}, r"expected amplitude to be a number or \(lowest, highest\), got \(2, 1\)"),
        ({"phase": "pi"}, r"expected phase to be a number or \(lowest, highest\), got 'pi'"),
        ({"noise": -1.0}, "expected noise to be a number of at least 0, got -1.0"),
        ({"shot": 0}, "expected shot to be a whole number of at least 1, got 0"),
        ({"shot": (1, 5)}, r"expected shot to be a whole number of at least 1, got \(1, 5\)"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks.load("sinusoids", **options)  # type: ignore[arg-type]


def test_load_takes_its_own_spec_again() -> None:
    source = tasks.load(
        "polynomials", way=5, shot=3, degree=2, coefficient=(0, 1), test={"query": 100}, train={"way": 9}
    )
    again = tasks.load(**json.loads(json.dumps(source.spec)))
    assert again.spec == source.spec
    assert (again.train.query, again.test.query) == (10, 100)
    for name in ("train", "val", "test"):
        assert same(source.splits[name].sample(3, seed=0), again.splits[name].sample(3, seed=0))
    assert (source.kind, source.example_shape, source.transform) == ("regression", (1,), None)
