"""What the stress tests do to a task, and what comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toy_sources import protonet, train

import kshot
from kshot import randomness
from kshot.evaluation import stress
from kshot.evaluation.corruptions import (
    IMAGE_CORRUPTIONS,
    TABLE_CORRUPTIONS,
    blur,
    corrupt_queries,
    imbalanced,
    occlude,
    unequal_shots,
    wrong_labels,
    wrong_targets,
)

KEYS = randomness.bits(0, np.arange(3)[:, None], np.arange(4))


@pytest.fixture(scope="module")
def image_learner(places):
    with randomness.seeded(0):
        learner = kshot.ProtoNet(kshot.models.Conv4(1, channels=8, image_size=16))
    return train(learner, places, steps=15)


@pytest.mark.parametrize("name", IMAGE_CORRUPTIONS)
def test_corrupted_images_differ_more_at_higher_levels(name, places):
    corruption, levels = IMAGE_CORRUPTIONS[name]
    x = places.test.sample(3, seed=0).query.x[:, :4]
    away = [float((corruption(x, level, KEYS) - x).abs().mean()) for level in levels]
    assert away == sorted(away)
    assert away[0] > 0
    assert corruption(x, levels[0], KEYS).shape == x.shape
    assert torch.equal(corruption(x, levels[0], KEYS), corruption(x, levels[0], KEYS))


@pytest.mark.parametrize("name", TABLE_CORRUPTIONS)
def test_corrupted_tables(name, clouds):
    corruption, levels = TABLE_CORRUPTIONS[name]
    x = clouds.test.sample(3, seed=0).query.x[:, :4]
    away = [float((corruption(x, level, KEYS) - x).abs().mean()) for level in levels]
    assert away == sorted(away)


def test_blur_keeps_a_flat_image_and_occlusion_hides_a_square():
    flat = torch.full((3, 4, 2, 16, 16), 0.7)
    assert torch.allclose(blur(flat, 1.0, KEYS), flat)
    x = torch.rand(3, 4, 1, 16, 16) + 1
    hidden = occlude(x, 0.5, KEYS) == x.amin((-3, -2, -1), keepdim=True)
    assert set(hidden.sum((-3, -2, -1)).flatten().tolist()) <= {64, 65}  # the darkest pixel itself may lie outside


def test_a_task_is_made_worse_alike_in_any_batch(clouds):
    change = wrong_labels(0.5, seed=3)
    split = clouds.test.replace(shot=4)
    together = change(split.sample(6, seed=1))
    alone = change(split.sample(1, seed=1, first=4))
    assert torch.equal(together.support.y[4], alone.support.y[0])
    change = corrupt_queries(TABLE_CORRUPTIONS["noise"][0], 0.5, seed=3)
    together, alone = change(split.sample(6, seed=1)), change(split.sample(1, seed=1, first=4))
    assert torch.allclose(together.query.x[4], alone.query.x[0])
    assert together.query_ids is None  # no cache may take them for the clean ones


def test_wrong_labels_are_other_classes_of_the_task(clouds):
    episodes = clouds.test.replace(way=(3, 5), shot=(2, 6)).sample(40, seed=0)
    changed = wrong_labels(0.3, seed=0)(episodes)
    hit = changed.support.y != episodes.support.y
    mask = episodes.support.mask
    assert float(hit[mask].float().mean()) == pytest.approx(0.3, abs=0.05)
    assert not bool(hit[~mask].any())
    assert bool(changed.support.classes.gather(1, changed.support.y)[mask].all())
    assert torch.equal(changed.query.y, episodes.query.y)


def test_noisy_targets(sinusoids):
    episodes = sinusoids.test.sample(50, seed=0)
    noise = wrong_targets(0.5, seed=0)(episodes).support.y - episodes.support.y
    relative = noise / episodes.query.y.flatten(1).std(1).view(-1, 1, 1)
    assert float(relative.std()) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(("shots", "ratio", "way"), [(3, 1, 5), (3, 2, 5), (3, 5, 5), (4, 5, 2), (3, 5, 7), (10, 5, 3)])
def test_imbalance_keeps_the_number_of_labels(shots, ratio, way):
    counts = imbalanced(shots, ratio, way)
    assert int(counts.sum()) == shots * way
    assert int(counts.min()) >= 1
    assert int(counts.max()) <= 2 * shots
    assert counts.tolist() == sorted(counts.tolist())


def test_unequal_shots(clouds):
    changed = unequal_shots(3, 5)(clouds.test.replace(shot=6).sample(4, seed=0))
    for y, mask in zip(changed.support.y, changed.support.mask, strict=True):
        assert torch.bincount(y[mask], minlength=5).tolist() == [1, 2, 3, 4, 5]


def test_stress_on_images(image_learner, places):
    found = stress(image_learner, places.test, tasks=30, seeds=3)
    names = {condition.name for condition in found.conditions}
    assert names >= {"wrong support labels", "noise", "blur", "occlusion", "contrast"}
    worst = next(c for c in found.conditions if c.name == "wrong support labels" and c.level == 0.4)
    assert worst.loss.mean == pytest.approx(found.clean.mean - worst.score.mean)
    assert worst.loss.mean > 0.1
    assert len(found.evaluation_seeds) == 3
    assert "Over 3 draws of 30 tasks" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_stress_on_tables_and_functions(trained, clouds, regressor, sinusoids):
    found = stress(trained, clouds.test, tasks=30, seeds=2)
    imbalance = [c for c in found.conditions if c.name.startswith("imbalance, 3 shots")]
    assert [c.level for c in imbalance] == [1, 2, 5]
    assert imbalance[0].loss.mean == 0, "the even one, that the others are worse than"
    for condition in imbalance[1:]:
        assert condition.loss.mean == pytest.approx(imbalance[0].score.mean - condition.score.mean)
    assert "how much worse it is than ratio 1" in str(found)
    found = stress(regressor, sinusoids.test, tasks=30, seeds=2)
    assert [c.level for c in found.conditions] == [0.1, 0.25, 0.5]
    assert {c.name for c in found.conditions} == {"noise on the support targets"}


def test_classes_too_small_for_imbalance(image_learner, places):
    few = stress(image_learner, places.test.replace(shot=5), tasks=5, seeds=1)
    assert "imbalance left out: it needs classes with 10 examples for the support" in few.notes[-1]


def test_other_training_seeds(trained, clouds, tmp_path):
    other = train(protonet(), clouds, steps=10)
    other.save_pretrained(tmp_path / "other")
    found = stress(trained, clouds.test, tasks=20, seeds=1, runs=[str(tmp_path / "other")])
    assert len(found.training_seeds) == 2
    assert "Over 2 runs of different training seeds" in str(found)
