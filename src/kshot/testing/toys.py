"""The toys: task distributions that every learner must learn, small enough to learn in seconds."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kshot.episodes import Episodes, Examples, Unlabeled, first_tensor
from kshot.errors import UnsupportedError
from kshot.functional import class_means
from kshot.learners.base import Learner
from kshot.randomness import bits, distinct, integers, normal, stream, uniform

FEATURES = 8
WAY = 5
CLASSES = 512
BITS = 3
LENGTH = 3


def gaussian_episodes(
    tasks: int,
    *,
    seed: int = 0,
    step: int = 0,
    way: int = WAY,
    shot: int = 5,
    query: int = 5,
    unlabeled: int = 0,
    distractors: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Episodes:
    """Tasks of classes that are Gaussian clouds in 8 features, of which only the first three tell them apart.

    A task draws its classes from 512, a seed's own; its class ids say which.

    Class means are normal with standard deviation 3 in the three, the noise is 0.5 there and 3 in the five others:
    plain nearest means on the raw features is drowned by the idle ones, a learner that was meta-trained ignores them.
    `unlabeled` more examples of each class, and of `distractors` more classes, come without labels.
    """
    n = shot + query
    task = torch.arange(tasks).numpy()[:, None, None, None]
    drawn = distinct(
        CLASSES, way + distractors, bits(seed, stream("toy classes"), step, torch.arange(tasks).numpy())
    )  # [T, way + distractors]
    a = torch.arange(way + distractors).numpy()[None, :, None, None]
    b = torch.arange(n + unlabeled).numpy()[None, None, :, None]
    c = torch.arange(FEATURES).numpy()[None, None, None, :]
    means = torch.from_numpy(normal(seed, stream("toy means"), drawn[:, :, None, None], c)).to(dtype)
    noise = torch.from_numpy(normal(seed, stream("toy noise"), step, task, a, b, c)).to(dtype)
    informative = torch.arange(FEATURES) < 3
    x = torch.where(informative, 3.0 * means + 0.5 * noise, 3.0 * noise)
    y = torch.arange(way).expand(tasks, way)

    def part(first: int, last: int) -> Examples:
        # One example of each class after the other, so that any prefix is nearly balanced.
        inputs = x[:, :way, first:last].transpose(1, 2).flatten(1, 2).contiguous()
        labels = y[:, None, :].expand(tasks, last - first, way).flatten(1).contiguous()
        return Examples(
            inputs, labels, torch.ones(labels.shape, dtype=torch.bool), torch.ones(tasks, way, dtype=torch.bool)
        )

    ids = torch.from_numpy(drawn[:, :way])
    return Episodes(_beside(part(0, shot), x[:, :, n:].flatten(1, 2)), part(shot, n), ids)


def sinusoid_episodes(
    tasks: int,
    *,
    seed: int = 0,
    step: int = 0,
    shot: int = 10,
    query: int = 10,
    unlabeled: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Episodes:
    """Sinusoids of amplitude [0.1, 5] and phase [0, pi] on [-5, 5] (Finn et al. 2017, sec. 5.1).

    `unlabeled` more points come without values.
    """
    task = torch.arange(tasks).numpy()[:, None]
    example = torch.arange(shot + query + unlabeled).numpy()[None, :]
    amplitude = 0.1 + 4.9 * torch.from_numpy(uniform(seed, stream("toy amplitude"), step, task)).to(dtype)
    phase = torch.pi * torch.from_numpy(uniform(seed, stream("toy phase"), step, task)).to(dtype)
    x = 10 * torch.from_numpy(uniform(seed, stream("toy x"), step, task, example)).to(dtype) - 5
    y = amplitude * torch.sin(x - phase)

    def part(rows: slice) -> Examples:
        mask = torch.ones(tasks, x[:, rows].shape[1], dtype=torch.bool)
        return Examples(x[:, rows, None], y[:, rows, None], mask, torch.ones(tasks, 0, dtype=torch.bool))

    support = _beside(part(slice(shot)), x[:, shot + query :, None])
    return Episodes(support, part(slice(shot, shot + query)), torch.zeros(tasks, 0, dtype=torch.int64))


def _beside(support: Examples, x: Tensor) -> Examples:
    """The support with unlabelled examples `[T, n, d]`, where there are any."""
    unlabeled = Unlabeled(x.contiguous(), torch.ones(x.shape[:2], dtype=torch.bool))
    return replace(support, unlabeled=unlabeled) if unlabeled.size else support


def kinds_of(learner_class: type[Learner]) -> list[str]:
    """The kinds of task that a learner class has a `tiny` instance for.

    Raises:
        AssertionError: it has none.
    """
    kinds: list[str] = []
    for kind in ("classification", "regression", "sequence"):
        try:
            made = learner_class.tiny(kind)
        except UnsupportedError:
            continue
        if made.kind == kind:  # one that knows fewer kinds may answer with another
            kinds.append(kind)
    name = learner_class.__name__
    assert kinds, f"{name}.tiny() makes no learner of classes, values or sequences: the suite cannot test it"
    return kinds


def copy_episodes(tasks: int, *, seed: int = 0, step: int = 0, dtype: torch.dtype = torch.float32) -> Episodes:
    """One to three vectors of 3 bits, a delimiter in a channel of its own, then blank steps in which to repeat them."""
    task = torch.arange(tasks).numpy()[:, None, None]
    place = torch.arange(LENGTH).numpy()[None, :, None]
    channel = torch.arange(BITS).numpy()[None, None, :]
    length = torch.from_numpy(1 + integers(LENGTH, seed, stream("toy length"), step, task[:, 0]))
    real = torch.arange(LENGTH) < length
    y = torch.from_numpy(bits(seed, stream("toy bits"), step, task, place, channel) >> 63 > 0).to(dtype)
    y = y * real.unsqueeze(-1)
    x = torch.zeros(tasks, LENGTH + 1, BITS + 1, dtype=dtype)
    x[:, :LENGTH, :BITS] = y
    end = torch.arange(LENGTH + 1) == length
    x[..., BITS] = end.to(dtype)
    none = torch.ones(tasks, 0, dtype=torch.bool)
    support = Examples(x, x[..., :0], torch.arange(LENGTH + 1) <= length, none)
    query = Examples(torch.zeros_like(x[:, :LENGTH]), y, real, none)
    return Episodes(support, query, torch.zeros(tasks, 0, dtype=torch.int64))


def toy_episodes(kind: str, tasks: int, **options: object) -> Episodes:
    """The toys of a kind of task, `"classification"`, `"regression"` or `"sequence"`."""
    if kind == "classification":
        return gaussian_episodes(tasks, **options)  # type: ignore[arg-type]
    if kind == "sequence":
        return copy_episodes(tasks, **options)  # type: ignore[arg-type]
    return sinusoid_episodes(tasks, **options)  # type: ignore[arg-type]


def episodes_for(learner: Learner, kind: str, tasks: int, **options: object) -> Episodes:
    """The toys of a kind of task, with unlabelled examples and distractors for a learner that makes use of them."""
    if learner.semi_supervised and kind != "sequence":
        options = {"unlabeled": 3, **({"distractors": 2} if kind == "classification" else {}), **options}
    return toy_episodes(kind, tasks, **options)


def uneven(episodes: Episodes) -> Episodes:
    """Hides some support, query and unlabelled examples, and from the second task on a class, behind the masks."""

    def cut(examples: Examples, keep_every: int) -> Examples:
        mask, classes = examples.mask.clone(), examples.classes.clone()
        n = mask.shape[1]
        for t in range(mask.shape[0]):
            if t:
                mask[t, torch.arange(n) % keep_every == t % keep_every] = False
                mask[t, n - t % 3 :] = False
            if t and classes.shape[1] > 2:
                classes[t, t % classes.shape[1]] = False
                mask[t] &= examples.y[t] != t % classes.shape[1]
        y = torch.where(
            mask if examples.y.ndim == mask.ndim else mask[..., None], examples.y, torch.zeros_like(examples.y)
        )
        # Padding holds what must not matter.
        x = first_tensor(examples.x)
        x = torch.where(mask.view(*mask.shape, *[1] * (x.ndim - 2)), x, torch.full_like(x, 7.0))
        return Examples(x, y, mask, classes, unlabeled=cut_unlabeled(examples.unlabeled))

    def cut_unlabeled(unlabeled: Unlabeled | None) -> Unlabeled | None:
        if unlabeled is None:
            return None
        mask = unlabeled.mask.clone()
        for t in range(1, mask.shape[0]):
            mask[t, torch.arange(mask.shape[1]) % 3 == t % 3] = False
        return Unlabeled(first_tensor(unlabeled.x).masked_fill(~mask[..., None], 7.0), mask)

    return Episodes(cut(episodes.support, 4), cut(episodes.query, 3), episodes.class_ids)


def unpadded(task: Episodes) -> tuple[Examples, Examples]:
    """One task's support and query without their padding (its absent classes stay, masked)."""

    def strip(e: Examples) -> Examples:
        others = None if e.unlabeled is None else Unlabeled.of(first_tensor(e.unlabeled.x)[e.unlabeled.mask])
        return Examples(first_tensor(e.x)[e.mask], e.y[e.mask], e.mask[e.mask], e.classes, unlabeled=others)

    return strip(task.support), strip(task.query)


def baseline_score(kind: str, episodes: Episodes) -> float:
    """What a learner must beat on the toys: nearest means on raw features (accuracy), predicting zero (MSE), guessing
    (bit error)."""
    if kind == "classification":
        means = class_means(episodes.support)
        distance = (first_tensor(episodes.query.x)[:, :, None] - means[:, None]).square().sum(-1)
        return float((distance.argmin(-1) == episodes.query.y).float().mean())
    if kind == "sequence":
        return 0.5
    return float(episodes.query.y.square().mean())
