"""FewShotClassifier and FewShotRegressor."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.covariance import oas
from sklearn.datasets import load_digits, load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.kernel_ridge import KernelRidge as ReferenceRidge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import kshot
from kshot import FewShotClassifier, FewShotRegressor, models
from kshot.datasets import Column, ImageTransform, TableTransform
from kshot.errors import ArtifactError, ConfigError, DataError, ImageError, SupportError, UnsupportedError
from kshot.estimators.discriminant import Discriminant, approximating_shrinkage
from kshot.estimators.kernel import KernelRidge
from kshot.randomness import seeded


@parametrize_with_checks([FewShotClassifier(), FewShotRegressor()])
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture
def images_learner():
    with seeded(0):
        learner = kshot.ProtoNet(models.Conv4(1, channels=4, image_size=16))
    learner.transform = ImageTransform((16, 16), polarity="auto", mean=(0.2,), std=(0.4,))
    return learner.eval()


@pytest.fixture
def regressor():
    with seeded(0):
        return kshot.MAML(models.MLP(1, out_features=1), inner_lr=0.05, inner_steps=2).eval()


@pytest.fixture
def pictures():
    """uint8 [8, 20, 15]."""
    return np.random.default_rng(0).integers(0, 256, (8, 20, 15), dtype=np.uint8)


LABELS = ["b", "a", "b", "a", "c", "c", "c", "b"]


def test_examples_without_labels_are_for_learners_that_make_use_of_them(images_learner, pictures):
    with seeded(0):
        soft = kshot.SoftKMeansProtoNet(models.Conv4(1, channels=4, image_size=16))
    soft.transform = images_learner.transform
    new, more = pictures[:2], pictures[::-1]
    without = FewShotClassifier(soft).fit(pictures, LABELS).predict_proba(new)
    together = FewShotClassifier(soft).fit(pictures, LABELS, unlabeled=more).predict_proba(new)
    assert not np.allclose(without, together)
    bit_by_bit = FewShotClassifier(soft).fit(pictures[:6], LABELS[:6], unlabeled=more[:3])
    bit_by_bit.partial_fit(pictures[6:7], LABELS[6:7]).partial_fit(pictures[7:], LABELS[7:], unlabeled=more[3:])
    assert np.allclose(bit_by_bit.predict_proba(new), together, atol=1e-5)
    assert np.allclose(bit_by_bit.fit(pictures, LABELS).predict_proba(new), without, atol=1e-6), "fit forgets them"
    with pytest.raises(UnsupportedError, match="ProtoNet makes no use of unlabelled examples"):
        FewShotClassifier(images_learner).fit(pictures, LABELS, unlabeled=more)
    few = FewShotClassifier(images_learner)
    with pytest.raises(UnsupportedError, match="ProtoNet makes no use of unlabelled examples"):
        few.partial_fit(pictures[:2], list("aa"), unlabeled=more)
    assert few.partial_fit(pictures[:2], list("aa")).partial_fit(pictures[2:4], list("bb")).predict(new).shape == (2,)
    with pytest.raises(UnsupportedError, match="without a run there is only a closed-form head, which makes no use"):
        FewShotClassifier().fit(np.eye(4), list("abab"), unlabeled=np.eye(4))


# ---------------------------------------------------------------- the closed-form heads


def test_labels_of_any_kind_come_back():
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    rows = np.r_[0:3, 50:58, 100:102]
    few = FewShotClassifier().fit(x[rows], names[rows])
    assert few.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert few.score(x, names) > 0.9
    probabilities = few.predict_proba(x)
    assert probabilities.shape == (150, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    for labels in ([10, 2, 2, 10], [True, False, False, True], ["x", "y", "y", "x"]):
        assert FewShotClassifier().fit([[0.0], [1.0], [1.1], [0.1]], labels).predict([[1.0]]) == [labels[1]]


def test_it_beats_the_euclidean_metric_on_digits():
    x, y = load_digits(return_X_y=True)
    draw = np.random.default_rng(0)
    rows = np.concatenate([draw.choice(np.flatnonzero(y == k), 10, replace=False) for k in range(10)])
    rest = np.setdiff1d(np.arange(len(y)), rows)
    score = FewShotClassifier().fit(x[rows], y[rows]).score(x[rest], y[rest])
    assert score > FewShotClassifier(shrinkage=1.0).fit(x[rows], y[rows]).score(x[rest], y[rest]) + 0.02
    assert score > 0.85


@pytest.mark.parametrize(("shrinkage", "d"), [(0.0, 3), (0.3, 3), (1.0, 3), (0.3, 30), (1.0, 30)])
def test_the_metric_is_the_shrunken_covariance(shrinkage, d):
    """Also with more dimensions than examples, where the head never forms the covariance."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, d)), np.arange(12) % 3
    x += y[:, None]
    head = Discriminant.fit(x, y, shrinkage)
    z = (x - x.mean(0)) / x.std(0)
    covariance = _scatter(z, y) / 9
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    query = (rng.normal(size=(5, d)) - x.mean(0)) / x.std(0)
    differences = query[:, None] - head.means
    expected = np.einsum("nkd,de,nke->nk", differences, np.linalg.inv(covariance), differences)
    np.testing.assert_allclose(head._distances(query), expected, rtol=1e-6)


def test_it_agrees_with_scikit_learns_discriminant_analysis():
    x, y = load_iris(return_X_y=True)
    z = StandardScaler().fit_transform(x)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(z, y)
    assert FewShotClassifier(shrinkage=0.0).fit(x, y).predict(x).tolist() == theirs.predict(z).tolist()


def test_the_shrinkage_is_near_scikit_learns():
    # Theirs leaves the terms 2 / d out, which vanish as the dimension grows.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 50)) * np.linspace(1, 4, 50)
    _, expected = oas(x, assume_centered=True)
    values = np.linalg.eigvalsh(x.T @ x / 20)
    assert approximating_shrinkage(values, 50, 20) == pytest.approx(expected, abs=0.01)


def test_the_leave_one_out_of_the_discriminant():
    """Against leaving out one example after the other, with the shrinkage and the divisor kept."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(11, 4)), np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    head, shrinkage = Discriminant.fit(x, y, 0.4), 0.4
    z = (x - head.centre) / head.scale
    mean_variance = np.trace(_scatter(z, y)) / 8 / 4
    logits = []
    for i in range(11):
        keep = np.arange(11) != i
        covariance = (1 - shrinkage) * _scatter(z[keep], y[keep]) / 8 + shrinkage * mean_variance * np.eye(4)
        difference = z[i] - np.stack([z[keep][y[keep] == k].mean(0) for k in range(3)])
        logits.append(np.einsum("kd,de,ke->k", difference, np.linalg.inv(covariance), difference))
    from kshot.estimators.discriminant import _TEMPERATURES, log_softmax

    losses = [-log_softmax(-0.5 * t * np.array(logits))[np.arange(11), y].sum() for t in _TEMPERATURES]
    assert head.temperature == _TEMPERATURES[int(np.argmin(losses))]


def _scatter(z, y):
    residuals = z - np.stack([z[y == k].mean(0) for k in range(3)])[y]
    return residuals.T @ residuals


def test_one_shot_and_constant_features():
    few = FewShotClassifier().fit([[0.0, 5.0], [1.0, 5.0]], ["a", "b"])
    assert few.head_.shrinkage == 1.0
    assert few.predict([[0.1, 5.0], [0.8, 5.0]]).tolist() == ["a", "b"]
    assert 0.5 < few.predict_proba([[0.0, 5.0]]).max() < 1
    same = FewShotClassifier().fit([[1.0], [1.0]], ["a", "b"])
    np.testing.assert_allclose(same.predict_proba([[1.0]]), [[0.5, 0.5]])


def test_kernel_ridge_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 3))
    y = rng.normal(size=(9, 2))
    query = rng.normal(size=(4, 3))
    head = KernelRidge.fit(x, y, alpha=0.1)
    z, q = (x - x.mean(0)) / x.std(0), (query - x.mean(0)) / x.std(0)

    def kernel(a, b):
        return np.exp(-((a[:, None] - b) ** 2).sum(-1) / 6)

    # Theirs has no mean: it is given the centred kernel.
    h = np.eye(9) - 1 / 9
    reference = ReferenceRidge(alpha=0.1, kernel="precomputed").fit(h @ kernel(z, z) @ h, y - y.mean(0))
    centred = (kernel(q, z) - kernel(z, z).mean(0)) @ h
    np.testing.assert_allclose(head.predict(query), reference.predict(centred) + y.mean(0), rtol=1e-8)


def test_the_leave_one_out_of_kernel_ridge(monkeypatch):
    from kshot.estimators import kernel

    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 2))
    y = x[:, :1] + 0.3 * rng.normal(size=(8, 1))
    z = (x - x.mean(0)) / x.std(0)
    gram = kernel._kernel(z, z, 1.0)

    def error(alpha):
        """Ridge with a free mean, solved anew without each example."""
        total = 0.0
        for i in range(8):
            keep = np.arange(8) != i
            n = keep.sum()
            system = np.block([[gram[np.ix_(keep, keep)] + alpha * np.eye(n), np.ones((n, 1))], [np.ones((1, n)), 0]])
            solution = np.linalg.solve(system, np.vstack([y[keep], [[0]]]))
            total += float((gram[i, keep] @ solution[:-1] + solution[-1] - y[i])[0] ** 2)
        return total

    best = min(kernel._ALPHAS, key=error)
    assert KernelRidge.fit(x, y).alpha == best


def test_regression_of_a_curve():
    x = np.linspace(-5, 5, 15)[:, None]
    few = FewShotRegressor().fit(x, 3 * np.sin(x[:, 0]))
    assert few.score(x + 0.3, 3 * np.sin(x[:, 0] + 0.3)) > 0.9
    one = FewShotRegressor().fit([[1.0]], [7.0])
    assert one.predict([[5.0]]).tolist() == [7.0]
    two = FewShotRegressor().fit(x, np.column_stack([x[:, 0], -x[:, 0]]))
    np.testing.assert_allclose(two.predict(x)[:, 0], -two.predict(x)[:, 1], atol=1e-8)


@pytest.mark.parametrize("estimator", [FewShotClassifier(), FewShotRegressor()])
def test_partial_fit_is_fit_on_all_shots(estimator):
    x, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(150)[:30]
    x, y = x[order], y[order]
    whole = clone(estimator).fit(x, y)
    parts = clone(estimator).partial_fit(x[:10], y[:10]).partial_fit(x[10:11], y[10:11]).partial_fit(x[11:], y[11:])
    np.testing.assert_array_equal(parts.predict(x), whole.predict(x))
    np.testing.assert_array_equal(getattr(parts, "predict_proba", parts.predict)(x),
                                  getattr(whole, "predict_proba", whole.predict)(x))  # fmt: skip


def test_partial_fit_from_a_single_class_on():
    few = FewShotClassifier().partial_fit([[0.0]], ["a"])
    assert few.predict([[3.0]]).tolist() == ["a"]
    assert few.predict_proba([[3.0]]).tolist() == [[1.0]]
    few.partial_fit([[1.0]], ["b"])
    assert few.predict([[0.9]]).tolist() == ["b"]
    few.partial_fit([[5.0]], ["c"])
    assert few.predict([[4.9], [0.1]]).tolist() == ["c", "a"]
    declared = FewShotClassifier().partial_fit([[0.0], [1.0]], ["a", "b"], classes=["a", "aa", "b"])
    assert declared.classes_.tolist() == ["a", "aa", "b"]
    assert declared.predict_proba([[0.0]])[0, 1] == 0


def test_shots_that_cannot_be_learned_are_not_kept():
    few = FewShotClassifier().fit([[0.0], [1.0]], ["a", "b"])
    with pytest.raises(ValueError, match="NaN"):
        few.partial_fit([[np.nan]], ["a"])
    with pytest.raises(ValueError, match="is expecting 1 features"):
        few.partial_fit([[1.0, 2.0]], ["a"])
    assert few.predict([[0.9]]).tolist() == ["b"]
    assert len(few._shots[1]) == 2
    with pytest.raises(SupportError, match="expected targets of 1 values, as before, got 2"):
        FewShotRegressor().fit([[1.0]], [1.0]).partial_fit([[1.0]], [[1.0, 2.0]])


def test_bad_input_without_a_run():
    with pytest.raises(
        SupportError, match=r"at least 2 classes, got 1 class \(a\). Add examples of what it is to be told"
    ):
        FewShotClassifier().fit([[0.0], [1.0]], ["a", "a"])
    with pytest.raises(ConfigError, match=r"expected shrinkage in \[0, 1\] or None, got 2"):
        FewShotClassifier(shrinkage=2).fit([[0.0], [1.0]], ["a", "b"])
    with pytest.raises(ConfigError, match=r"expected alpha above 0 or None, got -1"):
        FewShotRegressor(alpha=-1).fit([[0.0], [1.0]], [1.0, 2.0])
    with pytest.raises(NotFittedError):
        FewShotClassifier().predict([[0.0]])
    failed = FewShotClassifier()
    with pytest.raises(SupportError):
        failed.fit([[0.0]], ["a"])
    with pytest.raises(NotFittedError):
        failed.predict([[0.0]])


def test_in_pipelines_and_searches():
    x, y = load_iris(return_X_y=True)
    assert cross_val_score(make_pipeline(StandardScaler(), FewShotClassifier()), x, y, cv=3).mean() > 0.9
    search = GridSearchCV(FewShotClassifier(), {"shrinkage": [0.0, 0.1, 1.0]}, cv=3).fit(x, y)
    assert search.best_params_["shrinkage"] < 1


# ---------------------------------------------------------------- over a learner


def test_from_pretrained_is_fit_and_clonable(images_learner, pictures, tmp_path):
    path = images_learner.save_pretrained(tmp_path / "learner")
    few = FewShotClassifier.from_pretrained(path).fit(pictures, LABELS)
    assert few.run == str(path)
    assert few.classes_.tolist() == ["a", "b", "c"]
    assert few.n_features_in_ == 256
    probabilities = few.predict_proba(pictures)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    again = clone(few).fit(pictures, LABELS)
    np.testing.assert_array_equal(again.predict_proba(pictures), probabilities)
    by_learner = FewShotClassifier(images_learner).fit(pictures, LABELS)
    np.testing.assert_array_equal(by_learner.predict_proba(pictures), probabilities)
    assert clone(by_learner).fit(pictures, LABELS).predict(pictures).tolist() == few.predict(pictures).tolist()


def test_its_task_can_be_saved(images_learner, pictures, tmp_path):
    images_learner.save_pretrained(tmp_path / "learner")
    few = FewShotClassifier(tmp_path / "learner").fit(pictures, LABELS)
    few.model_.save(tmp_path / "task.safetensors")
    again = kshot.artifacts.load_adapted(tmp_path / "task.safetensors")
    x = torch.stack([images_learner.transform.read(image) for image in pictures])
    assert again.labels == ["a", "b", "c"]
    assert again.classify(x) == few.predict(pictures).tolist()


def test_every_form_of_an_image_is_the_same(images_learner, pictures, tmp_path):
    few = FewShotClassifier(images_learner).fit(pictures, LABELS)
    expected = few.predict_proba(pictures)
    opened = [Image.fromarray(picture) for picture in pictures]
    files, contents = [], []
    for i, image in enumerate(opened):
        files.append(tmp_path / f"{i}.png")
        image.save(files[-1])
        content = io.BytesIO()
        image.save(content, "png")
        contents.append(content.getvalue())
    read = torch.stack([images_learner.transform.read(picture) for picture in pictures])
    forms = {
        "channels last": pictures[..., None],
        "colour": np.repeat(pictures[..., None], 3, axis=3),
        "channels first": pictures[:, None],
        "colour first": np.repeat(pictures[:, None], 3, axis=1),
        "a list of arrays": list(pictures),
        "Pillow images": opened,
        "paths": files,
        "strings": [str(file) for file in files],
        "an array of strings": np.array([str(file) for file in files]),
        "bytes": contents,
        "a mixture": [files[0], opened[1], contents[2], *pictures[3:]],
        "a tensor that was read": read,
        "a list of tensors": list(read),
        "normalised floats": images_learner.transform.normalise(read).numpy(),
        "floats without a channel": images_learner.transform.normalise(read)[:, 0].numpy(),
        "flat floats": images_learner.transform.normalise(read).reshape(8, -1).numpy(),
    }
    for name, form in forms.items():
        np.testing.assert_array_equal(few.predict_proba(form), expected, err_msg=name)
    np.testing.assert_array_equal(
        FewShotClassifier(images_learner).fit(files, np.array(LABELS)).predict_proba(opened), expected
    )
    different_sizes = [pictures[0], pictures[1][:10], pictures[2][:, :9]]
    assert few.predict(different_sizes).shape == (3,)


def test_flat_bytes_of_the_learners_size(images_learner):
    raw = np.random.default_rng(0).integers(0, 256, (4, 256), dtype=np.uint8)
    few = FewShotClassifier(images_learner).fit(raw, [0, 1, 0, 1])
    np.testing.assert_array_equal(few.predict_proba(raw), few.predict_proba(raw.reshape(4, 16, 16)))


def test_a_pandas_column_of_paths(images_learner, pictures, tmp_path):
    pandas = pytest.importorskip("pandas")
    files = []
    for i, picture in enumerate(pictures):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(picture).save(files[-1])
    frame = pandas.DataFrame({"file": files, "label": LABELS})
    few = FewShotClassifier(images_learner).fit(frame["file"], frame["label"])
    np.testing.assert_array_equal(few.predict_proba(frame["file"]), few.predict_proba(pictures))


def test_partial_fit_over_a_learner(images_learner, pictures):
    whole = FewShotClassifier(images_learner).fit(pictures, LABELS)
    parts = FewShotClassifier(images_learner).partial_fit(pictures[:1], LABELS[:1])
    assert parts.predict(pictures).tolist() == ["b"] * 8
    parts.partial_fit(pictures[1:4], LABELS[1:4]).partial_fit(pictures[4:], LABELS[4:])
    np.testing.assert_array_equal(parts.predict_proba(pictures), whole.predict_proba(pictures))


def test_a_fixed_head_keeps_what_it_could_learn(pictures):
    with seeded(0):
        learner = kshot.MAML(models.MLP(2), way=2, inner_lr=0.1)
    few = FewShotClassifier(learner, steps=3).fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"])
    before = few.predict_proba([[0.0, 1.0]])
    with pytest.raises(UnsupportedError, match="a head of 2 classes, the support set has 3"):
        few.partial_fit([[2.0, 2.0]], ["c"])
    np.testing.assert_array_equal(few.predict_proba([[0.0, 1.0]]), before)
    assert few.classes_.tolist() == ["a", "b"]
    zero = FewShotClassifier(learner, steps=0).fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"])
    assert not np.array_equal(zero.predict_proba([[0.0, 1.0]]), before)


def test_many_queries_go_in_chunks(images_learner, pictures, monkeypatch):
    few = FewShotClassifier(images_learner).fit(pictures, LABELS)
    whole = few.predict_proba(pictures)
    monkeypatch.setattr("kshot.estimators.base.PREDICT_CHUNK", 3)
    np.testing.assert_allclose(few.predict_proba(pictures), whole, rtol=1e-4)


def test_a_device(images_learner, pictures):
    few = FewShotClassifier(images_learner, device="cpu").fit(pictures, LABELS)
    assert few.model_.learner is images_learner
    assert FewShotClassifier(images_learner, device="auto").fit(pictures, LABELS).predict(pictures).shape == (8,)
    moved = FewShotClassifier(images_learner, device="meta")._resolve()
    assert moved is not images_learner
    assert next(images_learner.parameters()).device.type == "cpu"


def test_regression_over_a_learner(regressor):
    x, y = np.linspace(-2, 2, 6)[:, None], np.linspace(0, 1, 6)
    few = FewShotRegressor(regressor, steps=4).fit(x, y)
    expected = kshot.adapt(regressor, (x.astype(np.float32), y), steps=4).predict(x.astype(np.float32))[:, 0]
    np.testing.assert_allclose(few.predict(x), expected, rtol=1e-6)
    np.testing.assert_array_equal(few.predict(x[:, 0]), few.predict(x))
    parts = FewShotRegressor(regressor, steps=4).partial_fit(x[:2], y[:2]).partial_fit(x[2:], y[2:])
    np.testing.assert_array_equal(parts.predict(x), few.predict(x))
    assert FewShotRegressor(regressor).fit(x, y[:, None]).predict(x).shape == (6, 1)
    with pytest.raises(UnsupportedError, match="MAML predicts no variance: leave out return_std, or use the run of a"):
        FewShotRegressor(regressor).fit(x, y).predict(x, return_std=True)
    with pytest.raises(UnsupportedError, match="The closed-form head predicts no variance"):
        FewShotRegressor().fit(x, y).predict(x, return_std=True)


@pytest.mark.parametrize("make", [kshot.CNP, kshot.ANP])
def test_a_neural_process_says_how_sure_it_is(make):
    torch.manual_seed(0)
    learner = make(models.MLP(1, hidden=()), size=16).eval()
    x, y = np.linspace(-1, 1, 6)[:, None], np.linspace(0, 2, 6)
    outputs = kshot.adapt(learner, (x.astype(np.float32), y)).predict(x.astype(np.float32)).double().numpy()
    few = FewShotRegressor(learner).fit(x, y)
    mean, deviation = few.predict(x, return_std=True)
    assert mean.shape == deviation.shape == (6,)
    np.testing.assert_allclose(mean, outputs[:, 0], rtol=1e-5)
    np.testing.assert_allclose(deviation**2, np.exp(outputs[:, 1]), rtol=1e-5)
    np.testing.assert_array_equal(few.predict(x), mean)
    mean, deviation = FewShotRegressor(learner).fit(x, y[:, None]).predict(x, return_std=True)
    assert mean.shape == deviation.shape == (6, 1)


def test_a_learner_of_tables_takes_a_data_frame():
    pandas = pytest.importorskip("pandas")
    columns = (Column("length"), Column("colour", "red"), Column("colour", "green"))
    with seeded(0):
        learner = kshot.ProtoNet(models.MLP(3, hidden=(8,)))
    learner.transform = TableTransform(columns, (10.0, 0.5, 0.5), (2.0, 0.5, 0.5))
    frame = pandas.DataFrame({"note": ["", "x"], "colour": ["red", "green"], "length": [8, 12.5]})
    few = FewShotClassifier(learner).fit(frame, ["a", "b"])
    np.testing.assert_array_equal(few.predict_proba(frame), few.predict_proba([[-1.0, 1, -1], [1.25, -1, 1]]))
    with pytest.raises(DataError, match="the data frame has no column 'length'. Did you mean 'lengths'"):
        few.predict(frame.rename(columns={"length": "lengths"}))
    with pytest.raises(
        DataError, match="expected one of green, red in line 0, column 'colour' of the data frame, got 'blue"
    ):
        few.predict(frame.replace("red", "blue"))


def test_bad_input_over_a_learner(images_learner, regressor, pictures, tmp_path):
    few = FewShotClassifier(images_learner).fit(pictures, LABELS)
    (tmp_path / "x.png").write_bytes(b"no image")
    for bad, error, message in [
        ([tmp_path / "x.png"], ImageError, "x.png is not an image"),
        ([pictures[0], np.zeros((5, 5, 2), np.uint8)], ImageError, "image 1: expected an array"),
        ([], SupportError, "the query set is empty"),
        ("x.png", SupportError, "expected a list of images, got one str"),
        (
            pictures.astype(np.int64),
            SupportError,
            r"uint8 arrays of 3 or 4 dimensions.* dtype int64 .*: \.astype\('uint8'\)",
        ),
        (np.zeros((2, 5, 5), np.float32), SupportError, r"query examples of shape \[n, 1, 16, 16\], got \[2, 5, 5\]"),
        (np.full((2, 16, 16), np.nan), SupportError, "query examples hold NaN"),
        ([{"a": 1}], SupportError, r"as images \(paths, Pillow images, uint8 arrays\) or as a numeric array, got list"),
    ]:
        with pytest.raises(error, match=message):
            few.predict(bad)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        few.fit(pictures, LABELS[:3])
    with pytest.raises(SupportError, match="at least 2 classes, got 1 class"):
        few.fit(pictures[:2], ["a", "a"])
    with pytest.raises(UnsupportedError, match="takes no option 'steps'"):
        FewShotClassifier(images_learner, steps=2).fit(pictures, LABELS)
    with pytest.raises(UnsupportedError, match=r"this MAML was made for regression: use kshot.FewShotRegressor"):
        FewShotClassifier(regressor).fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(
        UnsupportedError, match=r"this ProtoNet was made for classification: use kshot.FewShotClassifier"
    ):
        FewShotRegressor(images_learner).fit(pictures, np.arange(8.0))
    with pytest.raises(ArtifactError, match="there is no folder nowhere"):
        FewShotClassifier.from_pretrained("nowhere")
    with pytest.raises(ArtifactError, match="there is no folder nowhere"):
        FewShotClassifier("nowhere").fit(pictures, LABELS)
    plain = kshot.ProtoNet(models.MLP(2))
    with pytest.raises(SupportError, match="saved without an image transform, so nothing says how it reads them"):
        FewShotClassifier(plain).fit(pictures, LABELS)
    with pytest.raises(SupportError, match=r"of shape \[n, 2\], got \[2, 3\]"):
        FewShotClassifier(plain).fit([[0.0, 1, 2], [1, 2, 3]], [0, 1])
