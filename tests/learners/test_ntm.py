"""The Neural Turing Machine, and tasks of sequences from training to the artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kshot
from kshot import testing
from kshot.engine import choose
from kshot.errors import ConfigError, UnsupportedError
from kshot.functional import masked_binary_cross_entropy
from kshot.learners import NTM
from kshot.randomness import seeded
from kshot.testing import copy_episodes
from kshot.training.config import build_learner, parse_config
from kshot.training.validation import better


def tiny(**options: object) -> NTM:
    with seeded(0):
        return NTM(**{"in_features": 4, "out_features": 3, "hidden": 16, "slots": 6, "width": 5, **options})  # type: ignore[arg-type]


@testing.parametrize(
    lambda: NTM(4, 3, hidden=32, controller="feedforward", slots=8, width=8),
    lambda: NTM(4, 3, hidden=32, slots=0),
)
def test_other_forms_conform(check) -> None:
    check()


class SeesTheFuture(NTM):
    def predict(self, adapted, x, mask=None):
        return super().predict(adapted, x, mask) + x.mean(-2, keepdim=True).sum(-1, keepdim=True)


class CountsQueries(NTM):
    def predict(self, adapted, x, mask=None):
        return super().predict(adapted, x, mask) * x.shape[-2]


class NotDeclared(NTM):
    sequential = False


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (SeesTheFuture, "depends on later queries: sequential says that it does not"),
        (CountsQueries, "depends on later queries"),
        (NotDeclared, "depends on the other queries: declare transductive, or sequential where on earlier ones"),
    ],
)
def test_the_suite_finds_what_a_query_may_not_depend_on(cls, message) -> None:
    with pytest.raises(AssertionError, match=message):
        testing.CHECKS["transductive"](lambda: cls(4, 3, hidden=8, slots=4, width=4), "sequence")


@pytest.mark.parametrize("options", [{}, {"controller": "feedforward"}, {"slots": 0}, {"slots": 0, "layers": 2}])
def test_time_is_where_the_sequence_is(options: dict[str, object]) -> None:
    """A support cut in two, or padding between its steps, is the same sequence; so are queries that go on with it."""
    learner = tiny(**options).double()
    x = torch.rand(2, 7, 4, dtype=torch.float64)
    mask = torch.ones(2, 7, dtype=torch.bool)
    whole = kshot.Examples(x, x[..., :0], mask, mask.new_zeros(2, 0), padded=False)
    expected = learner.predict(learner.adapt(whole), x[:, :3])
    spread = torch.zeros(2, 9, 4, dtype=torch.float64)
    spread[:, [0, 1, 3, 4, 5, 7, 8]] = x
    real = torch.ones(2, 9, dtype=torch.bool)
    real[:, [2, 6]] = False
    padded = kshot.Examples(spread, spread[..., :0], real, mask.new_zeros(2, 0))
    torch.testing.assert_close(learner.predict(learner.adapt(padded), x[:, :3]), expected)
    first = replace(whole, x=x[:, :5], y=x[:, :5, :0], mask=mask[:, :5])
    rest = learner.predict(learner.adapt(first), torch.cat([x[:, 5:], x[:, :3]], 1))
    torch.testing.assert_close(rest[:, 2:], expected)
    assert learner.predict(learner.adapt(whole), x[:, :0]).shape == (2, 0, 3)


def test_the_loss_is_the_binary_cross_entropy_of_real_bits() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, 0.5], [9.0, 9.0]]])
    bits = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    query = kshot.Examples(bits, bits, torch.tensor([[True, True, False]]), torch.zeros(1, 0, dtype=torch.bool))
    p = logits[0, :2].sigmoid()
    expected = -torch.stack([p[0, 0].log(), (1 - p[0, 1]).log(), (1 - p[1, 0]).log(), p[1, 1].log()]).mean()
    torch.testing.assert_close(masked_binary_cross_entropy(logits, query), expected[None])
    torch.testing.assert_close(tiny().loss(logits, query), expected[None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "expected hidden to be at least 1, got 0"),
        ({"out_features": 0}, "expected out_features to be at least 1, got 0"),
        ({"controller": "gru"}, "expected a controller of lstm or feedforward, got 'gru'"),
        (
            {"controller": "feedforward", "slots": 0},
            "expected a feed-forward controller to have a memory and one layer",
        ),
        (
            {"controller": "feedforward", "layers": 2},
            "expected a feed-forward controller to have a memory and one layer",
        ),
        ({"slots": -1}, "expected slots of a memory to be at least 1, got -1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        tiny(**options)


def test_only_sequences() -> None:
    with pytest.raises(UnsupportedError, match="answers a sequence with a sequence: for classification use ProtoNet"):
        NTM.tiny()
    assert (NTM.tiny("sequence").kind, kshot.ProtoNet.tiny().kind) == ("sequence", "classification")
    assert kshot.MAML.tiny("regression").kind == "regression"


def test_auto_does_not_compile_what_is_unrolled() -> None:
    assert choose(tiny(), copy_episodes(2), steps=10**9, repeats=1) in ("native", "loop")


def source() -> kshot.tasks.TaskSource:
    return kshot.tasks.load("copy", width=3, length=(1, 3), test={"length": 5})


def test_a_training_selects_the_fewest_wrong_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learner = tiny(hidden=32)
    result = kshot.Trainer(
        learner, source(), steps=60, meta_batch=16, lr=1e-2, val_every=20, val_tasks=30, mode="native",
        out=tmp_path / "run",
    ).fit()  # fmt: skip
    rows = [row["val"] for row in result.history if row.get("val") is not None]
    assert result.val is not None
    assert result.val.mean == min(rows)
    assert result.val.mean < 0.45
    assert "val wrong bits" in capsys.readouterr().err
    assert better("sequence", 0.1, 0.2)
    assert not better("sequence", 0.2, 0.1)

    loaded = kshot.Learner.from_pretrained(tmp_path / "run")
    found = kshot.evaluate(loaded, source().test, tasks=20)
    assert found.metric == "bit_error"
    assert found.settings["tasks"] == "test, width 3, length 5 to 5"
    assert found.baselines == {}
    assert "Note: no baselines: the ordinary methods learn from labelled examples, and a sequence has none" in str(
        found
    )
    assert "wrong bits %" in str(found)
    assert "Guessing: 50" in str(found)
    card = (tmp_path / "run" / "learner" / "README.md").read_text()
    assert "- Predicts: sequences of bits, 3 a step" in card
    assert "kshot.adapt(learner, (sequence, None))" in card


def test_a_report_leaves_out_what_sequences_do_not_have(tmp_path: Path) -> None:
    from kshot.evaluation import full_report, stress

    report = full_report(tiny(), source(), tmp_path / "report", tasks=8, budget="quick")
    text = str(report)
    assert report.audit is not None
    assert set(report.audit.splits) == {"train", "val", "test"}
    assert report.audit.probes[0].name == "another task's support"
    assert "labels saved not measured: sequences have no labels" in text
    assert "conventional" not in text
    found = stress(tiny(), source().test, tasks=4, seeds=2)
    assert found.conditions == []
    assert any("neither labels nor classes to disturb" in note for note in found.notes)


def test_baselines_do_not_exist() -> None:
    from kshot.evaluation import scale
    from kshot.training.pretrain import pretrain

    with pytest.raises(ConfigError, match="expected no baselines for tasks of kind sequence, got ridge: .* plain LSTM"):
        kshot.evaluate(tiny(), source().test, tasks=2, baselines=["ridge"])
    with pytest.raises(UnsupportedError, match="the tasks of train are of kind sequence: compare with another learner"):
        pretrain(lambda: kshot.models.MLP(4), source().train, examples=10)
    with pytest.raises(UnsupportedError, match="the sequences of copy are drawn endlessly"):
        scale(tiny(), source())


def test_learners_and_tasks_have_to_fit() -> None:
    sines = kshot.tasks.load("sinusoids")
    with pytest.raises(
        UnsupportedError, match="this NTM does sequence, the tasks of train are regression: use a regre"
    ):
        kshot.Trainer(tiny(), sines, steps=1).fit()
    with pytest.raises(
        UnsupportedError, match="this MAML does regression, the tasks of test are sequence: use a learner of"
    ):
        kshot.evaluate(kshot.MAML(kshot.models.MLP(4, out_features=3)), source().test, tasks=2)
    with pytest.raises(
        UnsupportedError, match="answers with 2 bits a step, the tasks of test ask for 3: make it with out"
    ):
        kshot.evaluate(tiny(out_features=2), source().test, tasks=2)
    with pytest.raises(UnsupportedError, match=r"takes examples of shape \[5\], those of test have \[4\]"):
        kshot.evaluate(tiny(in_features=5), source().test, tasks=2)
    with pytest.raises(
        UnsupportedError, match=r"NTM was made for sequence: use kshot.adapt\(learner, \(sequence, None\)\)"
    ):
        kshot.FewShotClassifier(tiny()).fit(torch.rand(4, 4), [0, 0, 1, 1])


def test_adapting_to_a_sequence() -> None:
    learner = tiny()
    sequence = torch.eye(4)
    model = kshot.adapt(learner, (sequence, None))
    bits = model.predict(torch.zeros(2, 4))
    assert bits.shape == (2, 3)
    assert torch.equal(model.predict(torch.zeros(2, 4)), bits), "each prediction begins where the support ended"
    with pytest.raises(UnsupportedError, match="NTM was made for sequence: use predict"):
        model.probabilities(torch.zeros(2, 4))
    for labels in (torch.zeros(3, 1), [0, 1, 0], 3):
        with pytest.raises(UnsupportedError, match="expected None in place of labels"):
            kshot.adapt(learner, (sequence, labels))


def test_a_configuration_needs_no_sizes() -> None:
    config = parse_config({"learner": {"name": "ntm", "hidden": 8}, "data": {"name": "repeat_copy"}})
    learner = build_learner(config, kshot.tasks.load("repeat_copy"))
    assert isinstance(learner, NTM)
    assert (learner.in_features, learner.out_features) == (10, 9)
