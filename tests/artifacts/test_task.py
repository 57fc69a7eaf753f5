"""save_adapted and load_adapted."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import kshot
from kshot import artifacts, models
from kshot.artifacts import learner as learner_module
from kshot.artifacts.task import KIND
from kshot.errors import ArtifactError


class Prompted(kshot.Learner):
    """Calls out: its adapted state is a JSON document."""

    def adapt(self, support):
        return {"json": {"prompt": "which is it?", "labels": support.y.tolist(), "temperature": 0.5}}

    def predict(self, adapted, x):
        return torch.ones(len(x), len(set(adapted["json"]["labels"])))


@pytest.fixture
def task(protonet, tmp_path):
    """A saved learner, a task of it, and the task's file."""
    protonet.save_pretrained(tmp_path / "learner")
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.1, 0.9]])
    model = kshot.adapt(protonet, (x, ["up", "right", "up"]))
    return model, model.save(tmp_path / "tasks" / "task.safetensors")


def header(path, **changes):
    """The task's file again, with other strings in its header."""
    tensors, metadata = artifacts.load_tensors(path)
    metadata.update(changes)
    artifacts.save_tensors(path, tensors, {key: value for key, value in metadata.items() if value is not Ellipsis})


def test_predictions_are_bit_identical(task):
    model, path = task
    x = torch.randn(50, 2)
    again = artifacts.load_adapted(path)
    assert torch.equal(again.predict(x), model.predict(x))
    assert again.labels == ["right", "up"]
    assert again.classify(x) == model.classify(x)


def test_parameters_and_statistics(maml, images, tmp_path):
    model = kshot.adapt(maml, (images, [0, 1] * 4 + [0]), steps=3)
    again = artifacts.load_adapted(model.save(tmp_path / "t.safetensors"), run=maml)
    assert torch.equal(again.predict(images), model.predict(images))
    assert again.classes.tolist() == [True, True, False]
    assert any(name.startswith("adapted.parameters.") for name in artifacts.load_tensors(tmp_path / "t.safetensors")[0])


def test_regression(tmp_path):
    learner = kshot.MAML(models.MLP(1, out_features=1))
    model = kshot.adapt(learner, (torch.randn(5, 1), torch.randn(5)))
    again = artifacts.load_adapted(model.save(tmp_path / "t.safetensors"), run=learner)
    assert again.labels == []
    assert torch.equal(again.predict(torch.ones(3, 1)), model.predict(torch.ones(3, 1)))


def test_a_learner_that_calls_out(tmp_path):
    learner = Prompted()
    learner.save_pretrained(tmp_path / "learner")
    model = kshot.adapt(learner, (torch.zeros(4, 2), ["a", "b", "a", "b"]))
    again = artifacts.load_adapted(model.save(tmp_path / "t.safetensors"))
    assert again.adapted == model.adapted
    assert again.predict(torch.zeros(1, 2)).tolist() == [[1, 1]]


def test_labels_and_metadata_travel(task):
    model, path = task
    model.labels = [np.int64(3), np.str_("grün")]
    model.metadata = {"files": ["a.png"], "shots": {"grün": 2}}
    again = artifacts.load_adapted(model.save(path))
    assert again.labels == [3, "grün"]
    assert again.metadata == model.metadata


def test_the_learner_may_move_with_the_task(task, tmp_path):
    model, _ = task
    shutil.move(tmp_path / "tasks", tmp_path / "new" / "tasks")
    shutil.move(tmp_path / "learner", tmp_path / "new" / "learner")
    again = artifacts.load_adapted(tmp_path / "new" / "tasks" / "task.safetensors")
    assert torch.equal(again.predict(torch.ones(1, 2)), model.predict(torch.ones(1, 2)))


def test_a_task_of_a_shipped_learner_names_it(protonet, tmp_path, monkeypatch):
    monkeypatch.setattr(learner_module, "_shipped", lambda: tmp_path / "shipped")
    protonet.save_pretrained(tmp_path / "shipped" / "characters")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "characters").mkdir()  # the user's data, say
    model = kshot.adapt(artifacts.from_pretrained("characters"), (torch.randn(2, 2), ["a", "b"]))
    path = model.save("task.safetensors")
    assert artifacts.load_tensors(path)[1]["learner_places"] == '["characters"]'
    assert artifacts.load_adapted(path).labels == ["a", "b"]


def test_the_learner_may_be_given(task, tmp_path, protonet):
    _, path = task
    shutil.move(tmp_path / "learner", tmp_path / "elsewhere")
    with pytest.raises(ArtifactError) as info:
        artifacts.load_adapted(path)
    assert str(info.value) == (
        f"{path} belongs to a ProtoNet which is not found: it is no longer at {tmp_path / 'learner'}. Say where it is: "
        "--run FOLDER, or run=FOLDER in Python"
    )
    assert artifacts.load_adapted(path, run=tmp_path / "elsewhere").labels == ["right", "up"]
    assert artifacts.load_adapted(path, run=protonet).learner is protonet


def test_a_learner_that_was_never_saved(protonet, tmp_path):
    model = kshot.adapt(protonet, (torch.randn(2, 2), ["a", "b"]))
    path = model.save(tmp_path / "t.safetensors")
    with pytest.raises(
        ArtifactError, match=r"had not been saved when the task was. Save it \(learner.save_pretrained\)"
    ):
        artifacts.load_adapted(path)


def test_another_learner_is_refused(task, tmp_path, protonet):
    _, path = task
    with torch.no_grad():
        next(protonet.parameters())[0, 0] += 1
    message = r"was adapted from another learner than .*: expected the ProtoNet with digest \w{12}..., got \w{12}"
    with pytest.raises(ArtifactError, match=message):
        artifacts.load_adapted(path, run=protonet)
    protonet.save_pretrained(tmp_path / "learner")  # trained on, in place
    with pytest.raises(ArtifactError, match=message):
        artifacts.load_adapted(path)
    with pytest.raises(ArtifactError, match=message):
        artifacts.load_adapted(path, run=tmp_path / "learner")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "other"}, r"holds no adapted task: expected a file that kshot adapt"),
        ({"format": "2", "kshot": "3.0"}, r"has format 2, expected 1, .* kshot 3.0 wrote it. Upgrade"),
        ({"format": "x"}, r"has format x, expected 1"),
        ({"tree": ...}, r"is damaged: its header lacks or garbles 'tree'"),
        ({"labels": "["}, r"is damaged: its header lacks or garbles"),
        ({"labels": '["a", "b"]'}, r"is damaged: its content is not what was saved"),
    ],
)
def test_what_cannot_be_loaded(task, changes, message):
    _, path = task
    header(path, **changes)
    with pytest.raises(ArtifactError, match=message):
        artifacts.load_adapted(path)


def test_a_flipped_bit_and_a_lost_end(task):
    _, path = task
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is damaged: its content is not what was saved"):
        artifacts.load_adapted(path)
    path.write_bytes(content[:-3])
    with pytest.raises(ArtifactError, match="is truncated: it ends after"):
        artifacts.load_adapted(path)
    path.unlink()
    with pytest.raises(ArtifactError, match="there is no file"):
        artifacts.load_adapted(path)


def test_a_learners_tensors_are_no_task(task, tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no adapted task: .*from_pretrained\(folder\)"):
        artifacts.load_adapted(tmp_path / "learner" / "model.safetensors")
    assert KIND in artifacts.load_tensors(task[1])[1]["kind"]


def test_what_cannot_be_saved(task):
    model, path = task
    model.labels = [("a", 1), "b"]
    with pytest.raises(
        ArtifactError, match=r"expected labels that are strings or numbers .* \('a', 1\) \(tuple\): use str"
    ):
        model.save(path)
    model.labels, model.metadata = ["a", "b"], {"file": path}
    with pytest.raises(ArtifactError, match=r"the task's metadata cannot be written as JSON \(.*Path"):
        model.save(path)
    assert artifacts.load_adapted(path).labels == ["right", "up"]
