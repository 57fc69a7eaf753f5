"""The outer loop: what is computed, what is selected, what comes out."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn
from training_toys import FEATURES, Noisy, fit, gaussians, maml, protonet, same, sinusoids

import kshot
from kshot import metrics, models
from kshot.randomness import seeded
from kshot.training import Callback
from kshot.training.validation import SEED, validate


def test_it_learns() -> None:
    source = gaussians()
    before = validate(protonet(), source.val, 200, mode="native").mean
    learner = protonet()
    result = fit(learner, source, steps=150, meta_batch=8, lr=0.01, val_tasks=200)
    assert result.val.mean > before + 0.1
    assert result.learner is learner
    assert result.steps == 150
    assert not result.stopped


def test_regression_is_selected_by_the_smallest_error() -> None:
    source = sinusoids()
    result = fit(maml(), source, steps=40, lr=0.01, val_every=10, mode="vmap", val_tasks=50)
    errors = {row["step"]: row["val"] for row in result.history if "val" in row}
    assert list(errors) == [10, 20, 30, 40]
    assert result.val.mean == min(errors.values())
    assert errors[result.best_step] == result.val.mean


def test_the_same_as_the_loop_by_hand() -> None:
    source, learner, by_hand = gaussians(val=False), protonet(), protonet()
    fit(learner, source, steps=5, lr=0.01, schedule="constant")
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01, fused=True)
    for episodes in source.train.batches(4, steps=5, seed=0):
        losses = by_hand(episodes, mode="native")
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    for a, b in zip(learner.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


class Gradients(Callback):
    """Keeps the gradients of the first step, and the losses."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.losses: list[float] = []

    def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
        self.losses.append(metrics["loss"])
        if step == 1:
            self.gradients = [p.grad.clone() for p in trainer.learner.parameters()]


@pytest.mark.parametrize("pieces", [{"meta_batch": 12, "chunk": 5}, {"meta_batch": 4, "accumulate": 3},
                                    {"meta_batch": 6, "accumulate": 2, "chunk": 4}])  # fmt: skip
def test_pieces_give_the_gradient_of_the_whole(pieces: dict[str, int]) -> None:
    """Also with batch normalisation, whose running statistics move once an outer step."""
    source = gaussians()

    def run(**options: int) -> tuple[Gradients, nn.Module]:
        seen, learner = Gradients(), protonet(noisy=True)
        learner.backbone.layers[3].p = 0.0
        fit(learner, gaussians(), steps=2, callbacks=[seen], optimizer="sgd", lr=0.01, **options)
        return seen, learner

    whole, one = run(meta_batch=12)
    parts, other = run(**pieces)
    for a, b in zip(whole.gradients, parts.gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert whole.losses == pytest.approx(parts.losses, rel=1e-5)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    moved = one.backbone.layers[1].running_mean
    assert not torch.equal(moved, torch.zeros_like(moved))
    assert source.train.way == 3


def test_clip() -> None:
    class Norms(Callback):
        largest = 0.0
        told = 0.0

        def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.learner.parameters()])
            self.largest, self.told = max(self.largest, float(norm)), max(self.told, metrics["grad_norm"])

    norms = Norms()
    fit(protonet(), gaussians(), clip=0.01, callbacks=[norms])
    assert norms.largest <= 0.01 * 1.001
    assert norms.told > 0.02  # what is reported is the norm before clipping


def test_the_same_seed_gives_the_same_weights() -> None:
    runs = [protonet(noisy=True) for _ in range(3)]
    for learner, seed in zip(runs, (5, 5, 6), strict=True):
        fit(learner, gaussians(), seed=seed)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_random_state_is_given_back_and_not_read() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, other = protonet(noisy=True), protonet(noisy=True)
    fit(one, gaussians())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    fit(other, gaussians())
    assert same(one, other)


def test_validation_changes_nothing_in_the_training() -> None:
    one, other = protonet(noisy=True), protonet(noisy=True)
    fit(one, gaussians(), val_every=1, val_tasks=20, steps=5)
    kept = one.backbone.layers[1].running_mean
    fit(other, gaussians(), val_every=5, val_tasks=5, steps=5)
    losses = [
        [row["loss"] for row in fit(protonet(noisy=True), gaussians(), val_every=n, steps=5).history] for n in (1, 5)
    ]
    assert losses[0] == losses[1]
    assert kept.shape == other.backbone.layers[1].running_mean.shape


class Scripted(kshot.Learner):
    """Its accuracy on val is what the script says, whatever the training does: its one parameter counts the steps."""

    native = True

    def __init__(self, right: list[bool], way: int = 3) -> None:
        super().__init__()
        self.count = nn.Parameter(torch.zeros(()))
        self.right = right

    def adapt(self, support: Any) -> Any:
        return {"means": kshot.class_means(support)}

    def predict(self, adapted: Any, x: Any) -> Any:
        if self.training:
            return -kshot.squared_distance(x, adapted["means"]) * 0 - self.count
        step = round(-float(self.count) / 1.0)
        logits = -kshot.squared_distance(x, adapted["means"])
        return logits if self.right[min(step, len(self.right) - 1)] else -logits

    def loss(self, output: Any, query: Any) -> Any:
        return self.count.expand(output.shape[0]) if output.ndim == 3 else self.count


def test_selection_is_by_val_tasks_and_the_best_weights_come_back(tmp_path: Any) -> None:
    learner = Scripted([False, False, True, False, False])
    result = fit(learner, gaussians(), steps=4, val_every=1, optimizer="sgd", lr=1.0, schedule="constant",
                 out=tmp_path / "run")  # fmt: skip
    assert result.best_step == 2
    assert float(learner.count.detach()) == -2.0
    assert learner.provenance["best_step"] == 2
    loaded = kshot.Learner.from_pretrained(tmp_path / "run")
    assert float(loaded.count.detach()) == -2.0
    last = kshot.training.checkpoint.load_last(tmp_path / "run" / "checkpoints")
    assert float(last.learner["count"]) == -4.0, "the last weights stay in the checkpoint"
    assert float(last.best["count"]) == -2.0


def test_ties_keep_the_earlier_weights() -> None:
    result = fit(Scripted([True]), gaussians(), steps=4, val_every=1, optimizer="sgd", lr=1.0)
    assert result.best_step == 1


def test_early_stop() -> None:
    learner = Scripted([False, True, False])
    result = fit(learner, gaussians(), steps=50, val_every=1, patience=3, optimizer="sgd", lr=1.0, schedule="constant")
    assert result.stopped
    assert result.steps == 4
    assert result.best_step == 1


def test_test_tasks_are_never_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    source = gaussians()
    monkeypatch.setattr(source.test, "_draw", lambda *_: pytest.fail("test tasks were sampled"))
    fit(protonet(), source)


def test_the_score_is_that_of_the_val_tasks() -> None:
    source, learner = gaussians(), protonet()
    result = fit(learner, source, val_tasks=30)
    assert not learner.training
    episodes = source.val.sample(30, seed=SEED)
    outputs = kshot.engine.predict_queries(learner, episodes, "native")
    assert result.val.mean == pytest.approx(float(metrics.score(outputs, episodes.query).mean()))
    assert result.val.half_width == pytest.approx(metrics.interval(metrics.score(outputs, episodes.query)).half_width)


def test_without_val_the_last_weights_are_taken(tmp_path: Any) -> None:
    learner = protonet()
    result = fit(learner, gaussians(val=False), out=tmp_path / "run")
    assert result.val is None
    assert result.best_step == 6
    assert same(kshot.Learner.from_pretrained(tmp_path / "run"), learner)


def test_a_learner_without_parameters(tmp_path: Any) -> None:
    class Nearest(kshot.Learner):
        native = True

        def adapt(self, support: Any) -> Any:
            return {"means": kshot.class_means(support)}

        def predict(self, adapted: Any, x: Any) -> Any:
            return -kshot.squared_distance(x, adapted["means"])

    for _ in range(2):
        result = fit(Nearest(), gaussians(), out=tmp_path / "run", resume=True)
        assert result.steps == 0
        assert result.val.mean > 0.3
    assert kshot.Learner.from_pretrained(tmp_path / "run").provenance["examples"] == 0


def test_what_a_learner_knows_of_its_training(tmp_path: Any) -> None:
    source, learner = gaussians(), protonet()
    result = fit(learner, source, out=tmp_path / "run", accumulate=2, seed=3)
    known = learner.provenance
    assert learner.transform is source.transform
    assert known["run"] == str(tmp_path / "run")
    assert known["steps"] == 6
    assert known["meta_batch"] == 8
    assert known["examples"] == result.examples == 6 * 8 * 3 * (2 + 3)
    assert known["val"] == result.val.mean
    assert known["mode"] == result.mode == "native"
    assert known["seed"] == 3
    assert known["seconds"] > 0
    assert known["train_classes"] == 12
    assert known["splits"]["val"] == list(source.val.pool.names)
    loaded = kshot.Learner.from_pretrained(tmp_path / "run")
    assert loaded.provenance["examples"] == known["examples"]
    assert same(loaded, learner)


def test_examples_of_uneven_tasks_are_counted_without_their_padding() -> None:
    from kshot.training.step import count_examples

    episodes = kshot.testing.toys.uneven(kshot.testing.toys.gaussian_episodes(4))
    assert count_examples(episodes) == int(episodes.support.mask.sum() + episodes.query.mask.sum())


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_a_larger_head_than_the_tasks_have_classes(mode: str) -> None:
    with seeded(0):
        learner = kshot.MAML(models.MLP(FEATURES, hidden=(8,)), way=5, inner_lr=0.1)
    assert fit(learner, gaussians(way=3), mode=mode).val is not None


def test_auto_chooses_once_and_says_what(tmp_path: Any) -> None:
    learner = maml()
    result = fit(learner, sinusoids(), mode="auto", out=tmp_path / "run")
    assert result.mode in ("loop", "vmap")
    assert learner.provenance["mode"] == result.mode
    assert f"mode: {result.mode}" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision(amp: str, tmp_path: Any) -> None:
    half = fit(protonet(), gaussians(), amp=amp, steps=20, lr=0.01, out=tmp_path / "run")
    full = fit(protonet(), gaussians(), steps=20, lr=0.01)
    assert all(p.dtype == torch.float32 for p in half.learner.parameters())
    assert not same(half.learner, full.learner)
    assert half.history[0]["loss"] == pytest.approx(full.history[0]["loss"], rel=0.1)
    second = fit(maml(), sinusoids(), amp=amp, mode="vmap")
    assert math.isfinite(second.val.mean)


def test_the_run_folder(tmp_path: Any) -> None:
    source = gaussians()
    fit(protonet(noisy=True), source, out=tmp_path / "run", val_every=2)
    run = tmp_path / "run"
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "env.json", "metrics.jsonl", "metrics.csv", "splits.json", "seen.safetensors",
        "checkpoints", "learner",
    }  # fmt: skip
    assert {p.name for p in (run / "checkpoints").glob("step-*")} == {"step-00000004", "step-00000006"}
    assert {p.name for p in (run / "learner").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    splits = json.loads((run / "splits.json").read_text())
    assert splits["train"] == list(source.train.pool.names)
    assert splits["test"] == list(source.test.pool.names)
    seen = kshot.artifacts.load_tensors(run / "seen.safetensors")[0]["hashes"]
    expected = torch.cat([source.train.pool.example_hashes(), source.val.pool.example_hashes()]).unique()
    assert torch.equal(seen, expected)
    env = json.loads((run / "env.json").read_text())
    assert env["packages"]["torch"] == torch.__version__
    assert env["device"] == "cpu"


def test_rows_of_metrics(tmp_path: Any) -> None:
    result = fit(protonet(), gaussians(), out=tmp_path / "run", val_every=3, steps=6, lr=0.01, schedule="constant")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.history
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "val" in row] == [3, 6]
    assert rows[-1]["tasks"] == 24
    assert all(row["lr"] == 0.01 for row in rows)
    table = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert table[0] == "step,loss,grad_norm,lr,val,val_half_width,tasks,seconds,tasks_per_second"
    assert len(table) == 7
    assert table[3].startswith(f"3,{rows[2]['loss']},")


def test_a_short_run_validates_on_no_more_tasks_than_it_trains_on() -> None:
    result = fit(protonet(), gaussians(), steps=60, meta_batch=4, val_tasks=80, val_every=None)
    assert sum("val" in row for row in result.history) == 3


def test_a_long_run_has_about_200_rows_and_20_validations() -> None:
    settings = kshot.Trainer(protonet(), gaussians(), steps=70_000).settings
    assert settings.val_every == settings.save_every == 3500
    assert settings.log_every == 350


def test_batch_normalised_maml_trains() -> None:
    with seeded(0):
        learner = kshot.MAML(Noisy(), way=3, inner_lr=0.1)
    assert math.isfinite(fit(learner, gaussians(), mode="vmap").val.mean)
