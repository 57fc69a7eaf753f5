"""The conformance checks and how they are run."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kshot import artifacts, engine
from kshot.episodes import Episodes, Examples, map_input, stack_inputs
from kshot.learners import AdaptedModel, Learner, adapt
from kshot.randomness import seeded
from kshot.testing.gradients import META_GRADIENT_CHECKS
from kshot.testing.solving import solve_toys, train_on_toys
from kshot.testing.toys import episodes_for, kinds_of, uneven, unpadded

Factory = Callable[[], Learner]
Check = Callable[[Factory, str], None]

RTOL, ATOL = 1e-4, 1e-5
"""float32: modes order their sums differently; a wrong gradient is off by far more."""


def _make(factory: Factory, dtype: torch.dtype = torch.float32) -> Learner:
    with seeded(0):
        return factory().to(dtype)


def outputs_of(learner: Learner, support: Examples, query: Examples) -> Tensor:
    """One task's outputs, through the hooks alone."""
    with torch.no_grad():
        adapted = learner.adapt(engine.featured(learner, support))
        output: Tensor = learner.predict_with_mask(adapted, engine.featured(learner, query))
    return output


def check_modes_agree(factory: Factory, kind: str) -> None:
    """loop = vmap = compile = native: losses and meta-gradients, on even and on uneven tasks."""
    learner = _make(factory)
    modes = [m for m in learner.modes if m != "loop"] + (["native"] if learner.native else [])
    # A graph grows with every example that is taken one after another, and so does the time to trace it.
    few = {"shot": 2, "query": 2} if learner.unrolls and kind != "sequence" else {}
    even, odd = (episodes_for(learner, kind, 4, seed=seed, **few) for seed in range(2))
    for episodes in (even, uneven(odd)):
        losses, gradient = engine.losses_and_gradient(learner, episodes, "loop")
        assert torch.isfinite(losses).all() and torch.isfinite(gradient).all(), "losses or meta-gradient are not finite"
        for mode in modes:
            with engine.compile_backend("eager"):
                other, other_gradient = engine.losses_and_gradient(learner, episodes, mode)
            _close(other, losses, f"losses in mode {mode} differ from the loop's")
            _close(other_gradient, gradient, f"meta-gradient in mode {mode} differs from the loop's")
            if (
                mode == "compile" and episodes is not even
            ):  # what a Trainer does in one graph is what learner(episodes).mean().backward() gives
                with engine.compile_backend("eager"):
                    losses_of_mode = engine.task_losses(learner, episodes, mode)
                    own = [p for p in learner.parameters() if p.requires_grad]
                    found = torch.autograd.grad(losses_of_mode.mean(), own, allow_unused=True) if own else []
                flat = [torch.zeros_like(p) if g is None else g for p, g in zip(own, found, strict=True)]
                _close(losses_of_mode.detach(), losses, "losses that are compiled alone differ from the loop's")
                _close(torch.cat([g.flatten() for g in flat]), gradient, "their gradient differs from the loop's")
        chunked = engine.task_losses(learner, episodes, modes[0] if modes else "loop", chunk=3)
        _close(chunked.detach(), losses, "losses in chunks of 3 tasks differ")


def check_meta_gradient(factory: Factory, kind: str) -> None:
    """The meta-gradient is of the kind that the learner declares."""
    learner = _make(factory, torch.float64)
    check = META_GRADIENT_CHECKS.get(learner.meta_gradient)
    assert check is not None, f"no check is known for the meta-gradient {learner.meta_gradient!r}"
    check(learner, episodes_for(learner, kind, 3, dtype=torch.float64))


def check_support_order(factory: Factory, kind: str) -> None:
    """The order of the support examples does not matter (unless the learner says that it does)."""
    learner = _make(factory).eval()
    if learner.support_order_matters:
        return
    task = episodes_for(learner, kind, 1)[0]
    order = torch.arange(task.support.size).flip(0)
    shuffled = task.support.map(
        lambda t: t[order] if t.shape[:1] == order.shape and t.shape[0] != task.support.way else t
    )
    if task.support.size == task.support.way:
        raise AssertionError("the toys need more support examples than classes")
    if task.support.unlabeled is not None:
        shuffled = replace(shuffled, unlabeled=task.support.unlabeled.map(lambda t: t.flip(0)))
    a, b = outputs_of(learner, task.support, task.query), outputs_of(learner, shuffled, task.query)
    _close(b, a, "predictions depend on the order of the support examples")


def check_masks(factory: Factory, kind: str) -> None:
    """A padded task gives the loss that it gives without its padding."""
    learner = _make(factory)
    episodes = uneven(episodes_for(learner, kind, 4, seed=2))
    for training in (True, False):
        learner.train(training)
        padded = engine.task_losses(learner, episodes, "loop").detach()
        for t in range(len(episodes)):
            support, query = unpadded(episodes[t])
            alone = Episodes(support.map(_lead), query.map(_lead), episodes.class_ids[t : t + 1])
            _close(
                engine.task_losses(learner, alone, "loop").detach()[0],
                padded[t],
                f"padding changes the loss of task {t}",
            )


def check_no_leak(factory: Factory, kind: str) -> None:
    """Adapting to one task changes nothing for another, and nothing in the learner."""
    learner = _make(factory).eval()
    first, second = episodes_for(learner, kind, 2)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    attributes = set(learner.__dict__)
    alone = outputs_of(learner, second.support, second.query)
    outputs_of(learner, first.support, first.query)
    again = outputs_of(learner, second.support, second.query)
    assert torch.equal(alone, again), "a task's predictions change after another task was adapted to"
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), f"adapting changed the learner's {name}"
    assert set(learner.__dict__) == attributes, f"adapting left {set(learner.__dict__) - attributes} in the learner"
    both = engine.predict_queries(learner, episodes_for(learner, kind, 2), "loop")
    _close(both[1], alone, "a task's predictions depend on the other tasks of its meta-batch")


def check_threads(factory: Factory, kind: str) -> None:
    """Threads that adapt one learner to tasks of their own get what each would get alone."""
    learner = _make(factory).eval()
    tasks = [episodes_for(learner, kind, 1, seed=seed)[0] for seed in range(4)]

    def work(task: Episodes) -> Tensor:
        return torch.stack([adapt(learner, task.support).predict(task.query.x) for _ in range(5)])

    alone = [work(task) for task in tasks]
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    with ThreadPoolExecutor(len(tasks)) as pool:
        for together, expected in zip(pool.map(work, tasks), alone, strict=True):
            _close(together, expected, "a thread's predictions depend on what other threads do")
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), f"threads changed the learner's {name}"


@torch.no_grad()
def check_stacked(factory: Factory, kind: str) -> None:
    """Tasks that are adapted together, and asked together, get what each gets alone: how a server runs them."""
    learner = _make(factory).eval()
    even = list(episodes_for(learner, kind, 3))
    odd = [unpadded(task) for task in uneven(episodes_for(learner, kind, 3, seed=1))]
    supports = [engine.featured(learner, task.support) for task in even]
    supports += [engine.featured(learner, support.widen(learner.way)) for support, _ in odd]
    queries = [engine.featured(learner, query).x for query in [task.query for task in even] + [q for _, q in odd]]
    alone = [learner.adapt(support) for support in supports]
    for state, together, x in zip(alone, engine.adapt_tasks(learner, supports), queries, strict=True):
        expected, found = learner.predict(state, x), learner.predict(together, x)
        # Hundreds of steps of an iterative solver add their rounding up (fine-tuning: 2e-5).
        _close(found, expected, "a task that was adapted together with others predicts otherwise", atol=1e-4)
    answers = engine.predict_tasks(learner, alone[:3], stack_inputs(queries[:3]))
    for t in range(3):
        expected = learner.predict(alone[t], queries[t])
        _close(answers[t], expected, "a task that is asked together with others answers otherwise")


def check_fewer_classes(factory: Factory, kind: str) -> None:
    """A task of fewer classes than the learner was built for gets probabilities of its own classes."""
    if kind != "classification":
        return
    learner = _make(factory).eval()
    task = episodes_for(learner, kind, 1, way=3)[0]
    probabilities = adapt(learner, task.support).probabilities(task.query.x)
    assert probabilities.shape == (task.query.size, 3), (
        f"expected probabilities of 3 classes, got {probabilities.shape}"
    )
    _close(
        probabilities.sum(-1), torch.ones(task.query.size), "the probabilities of the task's classes do not sum to 1"
    )


def check_adapted(factory: Factory, kind: str) -> None:
    """`adapt` returns a pytree of tensors and leaves its input alone."""
    learner = _make(factory).eval()
    task = episodes_for(learner, kind, 1)[0]
    features = engine.featured(learner, task.support)
    copies = [leaf.clone() for leaf in pytree.tree_leaves(features)]
    leaves = pytree.tree_leaves(learner.adapt(features))
    assert leaves and all(isinstance(leaf, Tensor) for leaf in leaves), "adapted holds something that is not a tensor"
    for leaf, copy in zip(pytree.tree_leaves(features), copies, strict=True):
        assert torch.equal(leaf, copy), "adapt changed its support set in place"


def check_transductive(factory: Factory, kind: str) -> None:
    """A prediction depends on other queries only where the learner says so: on all of them (transductive), or on those
    before it (sequential)."""
    learner = _make(factory).eval()
    if learner.transductive:
        return
    task = episodes_for(learner, kind, 1)[0]
    query, size = task.query, task.query.size
    if learner.sequential:  # blank steps are alike: others show what the outputs depend on
        query = query.replace_x(map_input(lambda x: x + torch.linspace(0, 1, x.numel()).view_as(x), query.x))
    together = outputs_of(learner, task.support, query)

    def some(rows: slice) -> Tensor:
        return outputs_of(learner, task.support, query.map(lambda t: t[rows] if t.shape[:1] == (size,) else t))

    if not learner.sequential:
        message = "a prediction depends on the other queries: declare transductive, or sequential where on earlier ones"
        for i in (0, size - 1):
            _close(some(slice(i, i + 1)), together[i : i + 1], message)
        return
    message = "a prediction depends on later queries: sequential says that it does not. Declare transductive"
    for i in range(1, size):
        _close(some(slice(0, i)), together[:i], message)


def check_unlabeled(factory: Factory, kind: str) -> None:
    """A learner that makes use of unlabelled examples predicts otherwise with them, and can do without."""
    learner = _make(factory).eval()
    if not learner.semi_supervised:
        return
    task = episodes_for(learner, kind, 1)[0]
    alone = replace(task.support, unlabeled=None)
    outputs = outputs_of(learner, alone, task.query)
    assert torch.isfinite(outputs).all(), "without unlabelled examples the outputs are not finite"
    assert not torch.equal(outputs_of(learner, task.support, task.query), outputs), (
        "unlabelled examples make no difference: declare semi_supervised = False"
    )


def check_save_load(factory: Factory, kind: str) -> None:
    """A learner, and a task adapted with it, are the same after saving and loading, bit for bit."""
    learner = _make(factory).eval()
    task = episodes_for(learner, kind, 1)[0]
    expected = outputs_of(learner, task.support, task.query)
    with tempfile.TemporaryDirectory() as folder:
        path = artifacts.save_pretrained(learner, Path(folder) / "learner")
        loaded = artifacts.from_pretrained(path).eval()
        again = outputs_of(loaded, task.support, task.query)
        assert torch.equal(again, expected), "a loaded learner predicts otherwise"
        with torch.no_grad():
            features = engine.featured(learner, task.support)
            labels = list(range(task.support.way))
            model = AdaptedModel(learner, learner.adapt(features), task.support.classes, labels)
        saved = artifacts.save_adapted(model, Path(folder) / "task.safetensors")
        other = artifacts.load_adapted(saved, run=path)
        assert torch.equal(other.predict(task.query.x), model.predict(task.query.x)), "a loaded task predicts otherwise"
        assert other.labels == labels


def check_seed(factory: Factory, kind: str) -> None:
    """The same seed gives the same learner after a few outer steps, bit for bit."""
    states = []
    for _ in range(2):
        learner = _make(factory)
        with seeded(1):
            train_on_toys(learner, kind, steps=3)
        states.append(learner.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), f"{name} differs between two runs of one seed"


def check_solves_toys(factory: Factory, kind: str) -> None:
    """Meta-training on the toys leads as far as the learner says, 85 % where it says nothing."""
    solve_toys(_make(factory), kind)


def _lead(t: Tensor) -> Tensor:
    return t[None]


def _close(actual: Tensor, expected: Tensor, message: str, atol: float = ATOL) -> None:
    torch.testing.assert_close(actual, expected, rtol=RTOL, atol=atol, msg=lambda text: f"{message}. {text}")


CHECKS: dict[str, Check] = {
    "modes agree": check_modes_agree,
    "meta-gradient": check_meta_gradient,
    "support order": check_support_order,
    "masks": check_masks,
    "no leak": check_no_leak,
    "threads": check_threads,
    "stacked": check_stacked,
    "fewer classes": check_fewer_classes,
    "adapted": check_adapted,
    "transductive": check_transductive,
    "unlabeled": check_unlabeled,
    "save and load": check_save_load,
    "seed": check_seed,
    "solves the toys": check_solves_toys,
}
"""Every check by its name."""


def checks(*learners: type[Learner] | Factory) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields every check of every learner as a name and a function without arguments.

    Args:
        learners: classes that define `tiny`, or functions that make an instance for the toys (8 features and 5 ways,
            or 1 feature and 1 value, or 4 channels and 3 bits).
    """
    for item in learners:
        pairs: list[tuple[str, Factory]]
        if isinstance(item, type) and issubclass(item, Learner):
            pairs = [(kind, functools.partial(item.tiny, kind)) for kind in kinds_of(item)]
            title = item.__name__
        else:
            factory = cast("Factory", item)
            learner = factory()
            pairs = [(learner.kind, factory)]
            title = type(learner).__name__
        for kind, make in pairs:
            for name, check in CHECKS.items():
                yield f"{title}-{kind}-{name}", functools.partial(_run, check, make, kind)


def _run(check: Check, make: Factory, kind: str) -> None:
    """A check, with what torch says about a hook that cannot run in it explained."""
    try:
        check(make, kind)
    except RuntimeError as error:
        raise AssertionError(
            f"{str(error).strip().splitlines()[0]}. The hooks cannot run in an engine mode that the learner declares: "
            "they have to be tensor code whose shapes do not depend on values (a product with the mask, or "
            "torch.where, in place of x[mask]), and to respect support.mask. See 'Your own algorithm' in the docs; a "
            'learner that cannot do so declares modes = ("loop",)'
        ) from error


def check_learner(*learners: type[Learner] | Factory) -> None:
    """Runs every check; raises an `AssertionError` that names the first one that fails."""
    for name, check in checks(*learners):
        try:
            check()
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def parametrize(*learners: type[Learner] | Factory) -> Any:
    """A pytest decorator that hands every check of the learners to a test's argument `check`."""
    import pytest

    return pytest.mark.parametrize("check", [pytest.param(check, id=name) for name, check in checks(*learners)])
