"""Learners that read the support: recurrent, convolutional, attentive, averaged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import kshot
from kshot import models, testing
from kshot.errors import UnsupportedError
from kshot.models.attention import MultiHeadAttention
from kshot.models.recurrent import LSTMCell
from kshot.training.config import build_learner, parse_config


def task(seed=0, way=5):
    return testing.gaussian_episodes(1, seed=seed, way=way)[0]


def first(examples, n):
    return kshot.Examples(examples.x[:n], examples.y[:n], examples.mask[:n], examples.classes)


# ---------------------------------------------------------------- parts


def test_the_lstm_cell_is_torchs():
    torch.manual_seed(0)
    ours, theirs = LSTMCell(3, 4), nn.LSTMCell(3, 4)
    order = [0, 1, 3, 2]  # torch's rows are input, forget, cell, output; ours input, forget, output, cell
    with torch.no_grad():
        for ours_part, parts in ((ours.gates.weight, (theirs.weight_ih, theirs.weight_hh)),):
            ours_part.copy_(torch.cat([torch.cat([p.chunk(4)[i] for i in order]) for p in parts], 1))
        ours.gates.bias.copy_(torch.cat([(theirs.bias_ih + theirs.bias_hh).chunk(4)[i] for i in order]))
    x, state = torch.randn(2, 3), (torch.randn(2, 4), torch.randn(2, 4))
    for a, b in zip(ours(x, state), theirs(x, state), strict=True):
        torch.testing.assert_close(a, b)


def test_attention_is_torchs_and_leaves_out_what_is_masked():
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        parts = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x, z = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    mask = torch.tensor([[True, True, False, True, False]])
    expected, _ = theirs(x, z, z, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, ours.remember(z, z), mask), expected)
    assert torch.isfinite(ours(x, ours.remember(z, z), torch.zeros(1, 5, dtype=torch.bool))).all()


def test_heads_have_to_divide_the_size():
    with pytest.raises(UnsupportedError, match="divides the size 10, got 4"):
        MultiHeadAttention(10, 4)


# ---------------------------------------------------------------- recurrent


@pytest.fixture
def lstm():
    torch.manual_seed(0)
    return kshot.LSTMLearner(models.MLP(8, hidden=(16,)), way=5, hidden=12, layers=2).eval()


def featured(learner, examples):
    return examples.replace_x(learner.features(examples.x).detach())


def test_an_online_answer_does_not_know_its_own_label_nor_what_comes_later(lstm):
    support = featured(lstm, task().support)
    answers = lstm.online(support)
    i = 7
    changed = support.y.clone()
    changed[i:] = (changed[i:] + 1) % 5
    other = lstm.online(kshot.Examples(support.x, changed, support.mask, support.classes))
    torch.testing.assert_close(other[: i + 1], answers[: i + 1])
    assert not torch.allclose(other[i + 1], answers[i + 1])


def test_a_query_is_one_more_step(lstm):
    support = featured(lstm, task().support)
    n = support.size - 1
    query = support.x[n:]
    torch.testing.assert_close(lstm.predict(lstm.adapt(first(support, n)), query)[0], lstm.online(support)[n])


class Shifted(models.Backbone):
    """Features that have much in common."""

    def __init__(self, scale=1.0, shift=0.0):
        super().__init__()
        self.scale, self.shift, self.out_features = scale, shift, 8

    def forward(self, x):
        return x * self.scale + self.shift


@pytest.mark.parametrize("cls", [kshot.LSTMLearner, kshot.MANN])
def test_what_all_features_have_in_common_is_not_read(cls):
    outputs = []
    for backbone in (Shifted(), Shifted(3.0, 50.0)):
        torch.manual_seed(0)
        learner = cls(backbone, way=5).train()
        learner(testing.gaussian_episodes(4, seed=1), mode="native")  # its mean is known after a step
        support = task().support
        outputs.append(learner.eval().online(featured(learner, support)))
    torch.testing.assert_close(*outputs, atol=1e-3, rtol=1e-3)


def test_the_objective_is_the_mean_over_support_and_queries(lstm):
    episode = task()
    support, query = featured(lstm, episode.support), featured(lstm, episode.query)
    outputs = torch.cat([lstm.online(support), lstm.predict(lstm.adapt(support), query.x)])
    expected = nn.functional.cross_entropy(outputs, torch.cat([support.y, query.y]))
    torch.testing.assert_close(lstm.objective(support, query), expected)


# ---------------------------------------------------------------- SNAIL


def test_snails_cached_support_gives_what_the_whole_sequence_gives():
    torch.manual_seed(0)
    learner = kshot.SNAIL(models.MLP(8, hidden=(16,)), way=5, max_support=25, filters=6, sizes=((4, 5),) * 3).eval()
    episode = task()
    support, query = featured(learner, episode.support), featured(learner, episode.query)
    found = learner.predict(learner.adapt(support), query.x)
    for i in (0, 3):
        labels = nn.functional.one_hot(support.y, 5).float()
        h = torch.cat([torch.cat([support.x, labels], 1), torch.cat([query.x[i], torch.zeros(5)])[None]])
        for block in learner.blocks:
            h, _ = block.read(h, torch.ones(26, dtype=torch.bool))
        torch.testing.assert_close(found[i], learner.head(h[-1]))


def snail_of_ten():
    torch.manual_seed(0)
    return kshot.SNAIL(models.MLP(8, hidden=(16,)), way=5, max_support=10, filters=4, sizes=((4, 4),) * 3)


@pytest.mark.parametrize("cls", [kshot.LSTMLearner, kshot.MANN])
def test_who_reads_in_order_refuses_more_than_it_was_trained_for(cls):
    """By a configuration, which knows the longest of its tasks; who makes it by hand may leave it open."""
    source = kshot.tasks.load("glyphs", way=5, shot=1, query=1, train={"shot": 2})
    config = parse_config({"learner": cls.__name__, "backbone": {"name": "conv4", "channels": 4}, "data": "glyphs"})
    trained = build_learner(config, source)
    assert trained.max_support == 10
    made = cls(models.MLP(8, hidden=(16,)), way=5, max_support=10)
    message = f"this {cls.__name__} was made or trained for at most 10 support examples, the support set has 11: give"
    with pytest.raises(UnsupportedError, match=message):
        kshot.adapt(made, (torch.randn(11, 8), [i % 5 for i in range(11)]))
    left_open = cls(models.MLP(8, hidden=(16,)), way=5)
    assert (
        kshot.adapt(left_open, (torch.randn(11, 8), [i % 5 for i in range(11)])).predict(torch.randn(3, 8)) is not None
    )
    with pytest.raises(UnsupportedError, match="max_support of at least 1, or None for any, got 0"):
        cls(models.MLP(8, hidden=(16,)), way=5, max_support=0)


@pytest.mark.parametrize("labels", ["abcde", "abc"])
def test_snail_says_how_much_support_it_was_made_for(labels):
    """Fewer classes than its head has leave room, and room is padding: its examples are counted all the same."""
    x, y = torch.randn(11, 8), (list(labels) * 4)[:11]
    message = (
        "this SNAIL was made or trained for at most 10 support examples, the support set has 11: give fewer, train one "
        r"with max_support=11 on tasks as long, or use a learner without such a limit \(InContextTransformer\)"
    )
    with pytest.raises(UnsupportedError, match=message):
        kshot.adapt(snail_of_ten(), (x, y))


def test_snail_counts_the_real_examples_of_a_padded_support():
    x, y = torch.randn(16, 8), torch.arange(16) % 5
    query, classes, learner = torch.randn(4, 8), torch.ones(5, dtype=torch.bool), snail_of_ten()
    eleven = torch.arange(16) % 3 > 0
    eleven[0] = True
    with pytest.raises(
        UnsupportedError, match="at most 10 support examples, the support set has 11: give fewer, train one with max_s"
    ):
        kshot.adapt(learner, kshot.Examples(x, y * eleven, eleven, classes))
    ten = eleven & (torch.arange(16) > 0)
    found = kshot.adapt(learner, kshot.Examples(x, y * ten, ten, classes)).predict(query)
    torch.testing.assert_close(found, kshot.adapt(learner, kshot.Examples.of(x[ten], y[ten])).predict(query))


# ---------------------------------------------------------------- in context, neural processes


def test_a_split_with_more_support_than_snail_was_made_for():
    source = kshot.tasks.load("glyphs", way=5, shot=3, query=1)
    learner = kshot.SNAIL(models.Conv4(1, channels=4), way=5, max_support=10, filters=4, sizes=((4, 4),) * 3)
    with pytest.raises(UnsupportedError, match="at most 10 support examples, the tasks of train have 15"):
        kshot.Trainer(learner, source, steps=1, progress=False).fit()


def test_a_longer_prompt_than_in_training_is_read():
    torch.manual_seed(0)
    learner = kshot.InContextTransformer(models.MLP(8, hidden=(16,)), way=5, size=16, layers=2, heads=2)
    model = kshot.adapt(learner, (torch.randn(60, 8), [i % 5 for i in range(60)]))
    assert model.predict(torch.randn(4, 8)).shape == (4, 5)


def test_a_cnp_sees_its_support_as_a_mean_of_encoded_pairs():
    torch.manual_seed(0)
    learner = kshot.CNP(models.MLP(1, hidden=()), size=16).eval()
    support = testing.sinusoid_episodes(1)[0].support
    pairs = torch.cat([support.x, support.y], -1)
    torch.testing.assert_close(learner.adapt(support)["representation"], learner.encoder(pairs).mean(0))
    twice = kshot.Examples(*(torch.cat([t, t]) for t in (support.x, support.y, support.mask)), support.classes)
    torch.testing.assert_close(learner.adapt(twice)["representation"], learner.adapt(support)["representation"])


@pytest.mark.parametrize("make", [kshot.CNP, kshot.ANP])
def test_a_neural_process_says_how_sure_it_is(make):
    """sigma = 0.1 + 0.9 softplus(.), and a log-variance is what the loss takes."""
    torch.manual_seed(0)
    learner = make(models.MLP(1, hidden=()), size=16).eval()
    support = testing.sinusoid_episodes(1)[0].support
    mean, log_variance = learner.predict(learner.adapt(support), torch.linspace(-9, 9, 7)[:, None]).chunk(2, -1)
    assert mean.shape == log_variance.shape == (7, 1)
    assert bool((log_variance > 2 * torch.log(torch.tensor(0.1))).all())


@pytest.mark.parametrize("name", ["LSTMLearner", "SNAIL", "InContextTransformer", "CNP", "ANP", "MAML", "ANIL"])
def test_a_fixed_head_refuses_more_classes_than_it_has(name):
    learner = getattr(kshot, name).tiny()
    with pytest.raises(UnsupportedError, match=f"this {name} has a head of 5 classes, the support set has 6"):
        kshot.adapt(learner, (torch.randn(12, 8), list("abcdef") * 2))
    with pytest.raises(UnsupportedError, match=f"this {name} has a head of 5 classes, these episodes have 6"):
        learner(testing.gaussian_episodes(2, way=6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: kshot.LSTMLearner(models.MLP(8), way=5, layers=0),
            "at least one layer of at least one unit, got 0 of 200",
        ),
        (lambda: kshot.InContextTransformer(models.MLP(8), way=5, layers=0), "at least one layer, got 0"),
        (
            lambda: kshot.SNAIL(models.MLP(8), way=5, max_support=0),
            "max_support of at least 1 example and an attention block, got 0",
        ),
    ],
)
def test_what_cannot_be_built(make, message):
    with pytest.raises(UnsupportedError, match=message):
        make()


# ---------------------------------------------------------------- MANN


def test_a_mann_writes_to_fresh_places_until_its_memory_is_full():
    """The least recently used place is another one at each step, so that no example writes over another."""
    torch.manual_seed(0)
    learner = kshot.MANN(models.MLP(8, hidden=(16,)), way=5, hidden=16, slots=32, width=8, heads=1).eval()
    with torch.no_grad():
        learner.memory.heads.bias[-1] = -30.0  # the gate: never where it has just read
        learner.memory.heads.weight[-1] = 0.0
    support = featured(learner, task().support)
    memory = learner.adapt(support)["state"]["memory"]["memory"]
    assert memory.shape == (32, 8)
    written = (memory.abs().sum(-1) > 1e-3).sum()
    assert int(written) == support.size
    assert torch.isfinite(learner.online(support)).all()


def test_a_mann_has_a_controller():
    with pytest.raises(UnsupportedError, match="controller of at least one unit, got 0"):
        kshot.MANN(models.MLP(8), way=5, hidden=0)


# ---------------------------------------------------------------- what a learner cannot do


def test_regression_with_a_prototype_is_refused():
    learner = kshot.ProtoNet(models.MLP(2, hidden=(4,)))
    with pytest.raises(
        UnsupportedError, match=r"expected class labels, got the number 0.5: this ProtoNet does classification.*MAML"
    ):
        kshot.adapt(learner, (torch.randn(4, 2), torch.tensor([1.0, 0.5, 2.0, 1.0])))
    assert kshot.adapt(learner, (torch.randn(4, 2), [1.0, 2.0, 1.0, 2.0])).labels == [
        1.0,
        2.0,
    ]  # whole numbers are names
    source = kshot.tasks.load("sinusoids", shot=5, query=5)
    with pytest.raises(
        UnsupportedError, match="does classification, the tasks of train are regression: use a regressor"
    ):
        kshot.Trainer(kshot.ProtoNet(models.MLP(1)), source, steps=1, progress=False).fit()


@pytest.mark.parametrize(
    "name", ["CNP", "ANP", "LSTMLearner", "SNAIL", "InContextTransformer", "MAML", "RidgeNet", "ANIL"]
)
def test_classes_with_a_regressor_and_targets_of_another_width_are_refused(name):
    learner = getattr(kshot, name).tiny("regression")
    with pytest.raises(UnsupportedError, match=f"this {name} predicts values, got 'a'. For classes use a classifier"):
        kshot.adapt(learner, (torch.randn(4, 1), list("abab")))
    message = (
        rf"this {name} predicts 1 value for an example, %s targets of 2: make it \(or its network, where that gives "
        r"the values\) with out_features=2, or give"
    )
    for given in ((torch.randn(4, 1), torch.randn(4, 2)), kshot.Examples.of(torch.randn(4, 1), torch.randn(4, 2))):
        with pytest.raises(UnsupportedError, match=message % "the support set has"):
            kshot.adapt(learner, given)
    wide = testing.sinusoid_episodes(2)
    wide = replace(wide, support=replace(wide.support, y=wide.support.y.expand(-1, -1, 2)))
    with pytest.raises(UnsupportedError, match=message % "these episodes have"):
        learner(wide)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: kshot.adapt(kshot.MAML.tiny(), x, steps=-3), "at least 0 inner steps, got -3"),
        (lambda x: kshot.adapt(kshot.ANIL.tiny(), x, steps=-1), "at least 0 inner steps, got -1"),
        (lambda x: kshot.adapt(kshot.FineTuning.tiny(), x, steps=-1), "at least 0 steps, got -1"),
        (lambda x: kshot.adapt(kshot.SoftKMeansProtoNet.tiny(), x, steps=-1), "at least 0 steps of refinement, got -1"),
        (lambda x: kshot.adapt(kshot.LinearProbe.tiny(), x, l2=-1.0), "positive penalty l2, got -1.0"),
        (lambda x: kshot.IMAML(models.MLP(8), way=5, cg_steps=-1), "at least 0 conjugate gradients, got -1"),
        (lambda x: kshot.RelationNet(models.MLP(8), hidden=0), "at least one hidden unit, got 0"),
        (lambda x: kshot.CNP(models.MLP(8), size=0), "a size of at least 1 and at least 0 layers, got 0 and 2"),
        (
            lambda x: kshot.LSTMLearner(models.MLP(8), way=0),
            "at least 2 classes, got way=0; way=None makes a regressor",
        ),
        (lambda x: models.Conv4(1, image_size=0, pools=0), "halves the image never: expected image_size of at least 1"),
    ],
)
def test_numbers_that_make_no_sense(make, message):
    with pytest.raises(UnsupportedError, match=message):
        make((torch.randn(10, 8), list("abcde") * 2))


def test_a_padded_task_is_no_longer_than_it_is():
    learner = kshot.SNAIL.tiny().eval()
    support = task().support
    room = torch.zeros(10, 8), torch.zeros(10, dtype=torch.int64), torch.zeros(10, dtype=torch.bool)
    padded = kshot.Examples(
        *(torch.cat([a, b]) for a, b in zip((support.x, support.y, support.mask), room, strict=True)), support.classes
    )
    short, long = (featured(learner, part) for part in (support, padded))
    query = learner.features(task().query.x)
    torch.testing.assert_close(
        learner.predict(learner.adapt(long), query), learner.predict(learner.adapt(short), query)
    )


def test_a_conventional_learner_has_a_place_for_every_training_class():
    source = kshot.tasks.load("glyphs", way=5, shot=1, query=1)
    learner = kshot.SimpleShot(models.Conv4(1, channels=4), classes=3)
    with pytest.raises(UnsupportedError, match="tells 3 training classes apart, those of train are"):
        kshot.Trainer(learner, source, steps=1, progress=False).fit()
