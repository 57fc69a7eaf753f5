"""Every learner that docs/families.md writes down runs: forward, backward, and `loop` equal to `vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kshot
from kshot import engine
from kshot.models import MLP
from kshot.randomness import seeded
from pages import python_blocks, run

TASKS, WAY, SHOT, QUERY = 3, 3, 2, 4


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    # The name that a module run as a script would have; classes defined in it are then known as families.<Class>.
    namespace: dict[str, Any] = {"__name__": "families"}
    run("docs/families.md", python_blocks("docs/families.md"), namespace)
    return namespace


def labelled(x: Callable[[Tensor], Any], shot: int) -> kshot.Examples:
    """Examples whose inputs are made from their labels; the last example of the last task is padding."""
    y = torch.arange(WAY).repeat(TASKS, shot)
    mask = torch.ones_like(y, dtype=torch.bool)
    mask[-1, -1] = False
    return kshot.Examples(x(y), y, mask, torch.ones(TASKS, WAY, dtype=torch.bool))


def episodes(support: kshot.Examples, query: kshot.Examples) -> kshot.Episodes:
    return kshot.Episodes(support, query, torch.zeros(TASKS, support.way, dtype=torch.int64))


def vectors() -> kshot.Episodes:
    """Classes around the unit vectors of 8 dimensions."""

    def x(y: Tensor) -> Tensor:
        return torch.eye(8)[y] + 0.3 * torch.randn(*y.shape, 8)

    return episodes(labelled(x, SHOT), labelled(x, QUERY))


def functions() -> kshot.Episodes:
    """Lines of different slopes."""

    def part(n: int) -> kshot.Examples:
        x = torch.rand(TASKS, n, 1) * 2 - 1
        slopes = torch.arange(1.0, TASKS + 1)[:, None, None]
        return kshot.Examples(
            x, slopes * x, torch.ones(TASKS, n, dtype=torch.bool), torch.ones(TASKS, 0, dtype=torch.bool)
        )

    return episodes(part(5), part(8))


def described() -> kshot.Episodes:
    """One description of 5 attributes a class; the queries have 8 features."""
    examples = vectors().query
    y = torch.arange(WAY).expand(TASKS, WAY)
    support = kshot.Examples(torch.eye(5)[y], y, torch.ones_like(y, dtype=torch.bool), examples.classes)
    return episodes(support, examples)


def photos() -> kshot.Episodes:
    """Images of 16 x 16 with one box and a free slot each."""

    def part(n: int) -> kshot.Examples:
        kind = torch.arange(n) % WAY
        box = torch.rand(TASKS, n, 1, 4) * 0.8 + 0.1
        real = torch.cat([kind.expand(TASKS, n)[..., None, None].float(), box], -1)
        y = torch.cat([real, torch.full_like(real, -1)], 2)
        mask = torch.ones(TASKS, n, dtype=torch.bool)
        return kshot.Examples(torch.randn(TASKS, n, 3, 16, 16), y, mask, torch.ones(TASKS, WAY, dtype=torch.bool))

    return episodes(part(3), part(6))


def network() -> MLP:
    return MLP(8, hidden=(16,), out_features=WAY)


def backbone() -> MLP:
    return MLP(8, hidden=(16,))


LEARNERS: dict[str, tuple[Callable[[Any], kshot.Learner], Callable[[], kshot.Episodes]]] = {
    "MetaSGD": (lambda cls: cls(network()), vectors),
    "Reptile": (lambda cls: cls(network(), steps=4), vectors),
    "IMAML": (lambda cls: cls(network()), vectors),
    "LearnedOptimizer": (lambda cls: cls(network()), vectors),
    "Ridge": (lambda cls: cls(backbone()), vectors),
    "LoRA": (lambda cls: cls(network()), vectors),
    "Matching": (lambda cls: cls(backbone()), vectors),
    "Siamese": (lambda cls: cls(backbone()), vectors),
    "OnlineLearner": (lambda cls: cls(backbone(), WAY), vectors),
    "CNP": (lambda cls: cls(), functions),
    "Attributes": (lambda cls: cls(8, 5), described),
    "Detector": (lambda cls: cls(), photos),
    "Stream": (lambda cls: cls(backbone(), WAY), vectors),
}


def gradients(learner: kshot.Learner, losses: Tensor) -> list[Tensor]:
    parameters = [p for p in learner.parameters() if p.requires_grad]
    found = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def test_every_learner_of_the_page_is_tested(page: dict[str, Any]) -> None:
    defined = {name for name, value in page.items() if isinstance(value, type) and issubclass(value, kshot.Learner)}
    assert defined == {*LEARNERS, "PolicyMAML", "Prompted"}


@pytest.mark.parametrize("name", LEARNERS)
def test_losses_and_meta_gradients(page: dict[str, Any], name: str) -> None:
    make, sample = LEARNERS[name]
    with seeded(0):
        learner, batch = make(page[name]), sample()
    losses = {mode: learner(batch, mode=mode) for mode in ("loop", "vmap")}
    assert losses["loop"].shape == (TASKS,)
    assert torch.isfinite(losses["loop"]).all()
    torch.testing.assert_close(losses["vmap"], losses["loop"], rtol=1e-4, atol=1e-5)
    ours = gradients(learner, losses["loop"])
    torch.testing.assert_close(gradients(learner, losses["vmap"]), ours, rtol=1e-3, atol=1e-5)
    assert all(torch.isfinite(g).all() for g in ours)
    assert any(g.abs().max() > 0 for g in ours)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_outer_loop_lowers_the_loss(page: dict[str, Any], name: str) -> None:
    make, sample = LEARNERS[name]
    with seeded(0):
        learner, batch = make(page[name]), sample()
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=3e-3)
    first = learner(batch, mode="loop").mean().item()
    for _ in range(30):
        optimizer.zero_grad()
        losses = learner(batch, mode="vmap")
        losses.mean().backward()
        optimizer.step()
    assert losses.mean().item() < first


def test_implicit_gradient_against_the_closed_form(page: dict[str, Any]) -> None:
    """On linear regression the inner optimum is linear in theta, so its exact gradient is known."""

    class Regression(page["IMAML"]):  # type: ignore[misc,name-defined]
        outputs = "values"
        iterations = 10

    with seeded(0):
        learner = Regression(torch.nn.Linear(3, 1, bias=False).double())
        x, y = torch.randn(6, 3, dtype=torch.float64) / 2, torch.randn(6, 1, dtype=torch.float64)
        z, t = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    learner.objective(kshot.Examples.of(x, y), kshot.Examples.of(z, t)).backward()
    theta = learner.network.weight.detach().T
    hessian, identity = 2 * x.T @ x / len(x), torch.eye(3, dtype=torch.float64)
    # phi by the same 20 steps as the learner's, then (I + H / lambda)^-1 times the query gradient there.
    phi = theta
    for _ in range(20):
        phi = phi - 0.1 * (hessian @ phi - 2 * x.T @ y / len(x) + 2.0 * (phi - theta))
    expected = torch.linalg.solve(identity + hessian / 2.0, 2 * z.T @ (z @ phi - t) / len(z))
    torch.testing.assert_close(learner.network.weight.grad.T, expected, rtol=1e-8, atol=1e-10)


def test_a_stream_read_in_pieces_is_the_same_stream(page: dict[str, Any]) -> None:
    with seeded(0):
        learner, support = page["Stream"](backbone(), WAY), vectors().support[0]
        support = support.replace_x(learner.features(support.x))
    whole = learner.adapt(support)
    pieces = [
        kshot.Examples(support.x[s], support.y[s], support.mask[s], support.classes) for s in (slice(2), slice(2, 6))
    ]
    torch.testing.assert_close(learner.adapt(pieces[1], start=learner.adapt(pieces[0])), whole)


def test_reinforcement_learning(page: dict[str, Any]) -> None:
    with seeded(0):
        learner = page["PolicyMAML"]()
        batch = page["explore_adapt_act"](learner, torch.rand(TASKS, 2) - 0.5)
    losses = {mode: learner(batch, mode=mode) for mode in ("loop", "vmap")}
    torch.testing.assert_close(losses["vmap"], losses["loop"], rtol=1e-4, atol=1e-5)
    assert any(g.abs().max() > 0 for g in gradients(learner, losses["loop"]))


def test_a_prompted_model(page: dict[str, Any]) -> None:
    """A model that answers with the label of the shown example that shares a word with the question."""

    def complete(prompt: str) -> str:
        *shown, question = prompt.splitlines()
        words = set(question.removesuffix(" -> ").split())
        return next(label for text, label in (line.split(" -> ") for line in shown) if words & set(text.split()))

    def texts(*lines: str) -> Tensor:
        return torch.tensor([list(line.encode().ljust(20, b"\0")) for line in lines])

    learner = page["Prompted"](complete, ["money", "weather"])
    support = kshot.Examples.of(texts("my bank card", "rain tomorrow"), torch.tensor([0, 1]))
    query = kshot.Examples.of(texts("will rain fall", "card lost"), torch.tensor([1, 0]))
    batch = kshot.Episodes(support, query, torch.tensor([0, 1])).map(lambda t: t[None])
    output = engine.predict_queries(learner, batch, "loop")
    assert output.argmax(-1).tolist() == [[1, 0]]
    assert learner.adapt(support)["examples"][0] == {"text": "my bank card", "label": "money"}
