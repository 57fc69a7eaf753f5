"""`evaluate`: what it scores, what it prints, what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from toy_sources import protonet, train, vector_source

import kshot
from kshot.errors import ConfigError, UnsupportedError
from kshot.evaluation import BASELINES, evaluate, iter_scores, score_tasks
from kshot.metrics import interval


@pytest.fixture(scope="module")
def evaluation(trained, clouds):
    return evaluate(trained, clouds.test, tasks=60, baseline_tasks=20)


def test_the_scores_are_those_of_a_plain_loop(trained, clouds, evaluation):
    right = []
    for episodes in clouds.test.sample(60, seed=1):
        model = kshot.adapt(trained, episodes.support)
        right.append(float((model.predict(episodes.query.x).argmax(-1) == episodes.query.y).double().mean()))
    assert evaluation.scores.tolist() == pytest.approx(right)
    assert evaluation.interval == interval(right)
    assert evaluation.interval.mean > 0.5


def test_the_baselines_are_paired_on_the_first_episodes(evaluation):
    assert list(evaluation.baselines) == list(BASELINES["classification"])
    for baseline in evaluation.baselines.values():
        assert len(baseline.scores) == 20
        difference = evaluation.scores[:20] - baseline.scores
        assert baseline.advantage.mean == pytest.approx(float(difference.mean()))
        assert baseline.wins == pytest.approx(float((difference < 0).double().mean()))
        assert baseline.settings or baseline.name == "nearest_centroid"
        assert baseline.scores.mean() > 0.2


def test_it_prints_a_table(evaluation):
    lines = str(evaluation).splitlines()
    assert lines[0] == "ProtoNet on 60 unseen tasks of clouds (test, 5-way 1-shot, 5 queries a class)"
    assert lines[2].split() == ["accuracy", "%", "first", "20", "tasks", "learner", "better", "by"]
    assert lines[3].startswith("ProtoNet ")
    assert " ± " in lines[3]
    assert any(line.startswith("nearest centroid on its features") for line in lines)
    assert "Guessing: 20.00." in lines
    assert any(line.startswith("Expected calibration error:") for line in lines)


def test_it_goes_into_json(evaluation):
    found = json.loads(json.dumps(evaluation.to_dict(per_task=True), allow_nan=False))
    assert found["mean"] == evaluation.interval.mean
    assert found["settings"]["seed"] == 1
    assert len(found["per_task"]) == 60
    assert len(found["per_task"][0]["classes"]) == 5
    assert found["baselines"]["from_scratch"]["n"] == 20
    assert "per_task" not in evaluation.to_dict()


def test_the_seed_decides(trained, clouds):
    first, again, other = (evaluate(trained, clouds.test, 20, seed=seed, baselines=False) for seed in (3, 3, 4))
    assert torch.equal(first.scores, again.scores)
    assert not torch.equal(first.scores, other.scores)


def test_batches_do_not_matter(trained, clouds):
    whole = score_tasks(trained, clouds.test, 17, seed=1)
    parts = list(iter_scores(trained, clouds.test, 17, seed=1, batch=5))
    assert [part.first for part in parts] == [0, 5, 10, 15]
    assert torch.equal(torch.cat([part.values for part in parts]), whole)
    assert torch.equal(score_tasks(trained, clouds.test, 4, seed=1, first=10), whole[10:14])


def test_the_learner_is_left_as_it_was(trained, clouds):
    trained.train()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    evaluate(trained, clouds.test, 10, baselines=["nearest_centroid"])
    assert trained.training
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    trained.eval()


def test_the_conventional_network_is_trained_once(trained, clouds, monkeypatch):
    from kshot.evaluation import conventional

    evaluate(trained, clouds.test, 10, baselines="nearest_centroid", baseline_tasks=5)
    monkeypatch.setattr(conventional, "pretrain", None)
    assert evaluate(trained, clouds.test, 10, baselines=["linear_probe"], baseline_tasks=5).baselines


def test_a_long_training_says_that_it_begins(monkeypatch, capsys):
    from kshot.evaluation import conventional

    learner, source = protonet(), vector_source()
    learner.provenance = {"examples": 600}
    evaluate(learner, source.test, 4, baselines="linear_probe", baseline_tasks=2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(conventional, "SILENT_EXAMPLES", 500)
    learner.provenance = {"examples": 700}
    evaluate(learner, source.test, 4, baselines="linear_probe", baseline_tasks=2)
    said = capsys.readouterr().err
    assert (
        "Training the baselines' conventional network once, on 700 examples as the learner had; it is kept in memory"
        in said
    )


def test_regression(regressor, sinusoids):
    found = evaluate(regressor, sinusoids.test, 60, baseline_tasks=20, options={"steps": 3})
    assert found.metric == "mse"
    assert list(found.baselines) == list(BASELINES["regression"])
    assert found.calibration is None
    assert found.settings["options"] == {"steps": 3}
    text = str(found)
    assert "MSE" in text.splitlines()[2]
    assert "5 support and 10 query points" in text
    # Positive is better for the learner, though less error is better.
    mean = found.baselines["mean"]
    assert mean.advantage.mean == pytest.approx(float((mean.scores - found.scores[:20]).mean()))


def test_a_larger_head_takes_smaller_tasks(clouds):
    learner = train(kshot.ANIL(kshot.models.MLP(8, hidden=(16,)), way=7, inner_lr=0.1), clouds, steps=1)
    found = evaluate(learner, clouds.test, 10, baseline_tasks=4)
    assert found.class_ids.shape == (10, 7)
    assert (found.class_ids[:, 5:] == -1).all()
    assert len(found.names_of(0)) == 5
    assert set(found.baselines) == set(BASELINES["classification"])


def test_uneven_tasks(trained, clouds):
    found = evaluate(trained, clouds.test.replace(way=(3, 6), shot=(1, 3), query=(2, 5)), 20, baseline_tasks=5)
    assert "3 to 6-way 1 to 3-shot, 2 to 5 queries a class" in str(found)
    assert set(found.baselines) == set(BASELINES["classification"])


def test_a_transductive_learner_is_labelled(places):
    backbone = kshot.models.Conv4(1, channels=4, image_size=16)
    learner = kshot.MAML(backbone, way=3, inner_lr=0.1, norm="batch")
    found = evaluate(learner, places.test, 4, baselines=False)
    assert found.transductive
    assert "MAML, transductive" in str(found)
    assert "Transductive: predictions depend on the other queries" in str(found)


def test_an_unknown_training_is_noted(clouds):
    learner = protonet()
    notes = evaluate(learner, clouds.test, 4, baselines=["nearest_centroid"], baseline_tasks=2).notes
    assert "what this learner was trained on is not recorded" in notes[0]
    assert any(
        "training budget is not recorded; the baselines' network was trained on 20,000" in note for note in notes
    )


def test_a_learner_of_ones_own_with_a_plain_backbone(clouds):
    class NearestMean(kshot.Learner):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone

        def features(self, x):
            return self.backbone(x)

        def adapt(self, support):
            return {"means": kshot.class_means(support)}

        def predict(self, adapted, z):
            return -kshot.squared_distance(z, adapted["means"])

    learner = NearestMean(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()))
    learner.provenance = {"examples": 500}
    found = evaluate(learner, clouds.test, 6, baseline_tasks=3)
    assert set(found.baselines) == set(BASELINES["classification"])


def test_what_is_refused(trained, regressor, clouds, sinusoids):
    with pytest.raises(UnsupportedError, match="does classification, the tasks of test are regression"):
        evaluate(trained, sinusoids.test)
    with pytest.raises(UnsupportedError, match="has a head of 3 classes, the tasks of test have up to 5"):
        evaluate(kshot.ANIL(kshot.models.MLP(8), way=3), clouds.test)
    with pytest.raises(UnsupportedError, match=r"examples of shape \[9\], those of test have \[8\]"):
        evaluate(protonet(9), clouds.test)
    with pytest.raises(UnsupportedError, match=r"MAML.adapt takes no option 'step'. Did you mean 'steps'"):
        evaluate(regressor, sinusoids.test, options={"step": 3})
    with pytest.raises(ConfigError, match="at least 2 tasks for an interval, got 1"):
        evaluate(trained, clouds.test, 1)
    with pytest.raises(ConfigError, match="unknown baseline 'fine_tune' for classification. Did you mean 'fine_tuned'"):
        evaluate(trained, clouds.test, baselines=["fine_tune"])
