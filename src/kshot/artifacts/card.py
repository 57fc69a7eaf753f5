"""The `README.md` card of a saved learner: what it is, how to use it, what it was trained on, how good it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kshot.learners.base import Learner


def card(learner: Learner, config: Mapping[str, Any]) -> str:
    """The card, Markdown with the front matter that model hubs read."""
    name = type(learner).__name__
    sections = [
        "---\nlibrary_name: kshot\ntags:\n- meta-learning\n- few-shot\n---",
        f"# {name}",
        _summary(learner, config),
        "## Use\n\n" + _use(learner),
        "## Training\n\n" + _training(config["provenance"]),
        "## How good it is\n\n" + _numbers(learner, config["provenance"]),
        "## Construction\n\n```json\n" + json.dumps(config["config"], indent=2, ensure_ascii=False) + "\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _summary(learner: Learner, config: Mapping[str, Any]) -> str:
    way = learner.way
    kinds = {
        "logits": f"classes, {'at most ' + str(way) if way else 'any number of them'} a task",
        "bits": f"sequences of bits, {learner.bits or 'any number of them'} a step",
    }
    tells = kinds.get(learner.outputs, "numbers (regression)")
    parameters = sum(p.numel() for p in learner.parameters())
    lines = [
        f"A {type(learner).__name__} of kshot {config['kshot']}: it learns a new task from a few labelled examples.",
        "",
        f"- Predicts: {tells}",
        f"- Inputs: {_inputs(learner)}",
        f"- Parameters: {parameters:,}",
        f"- Digest: `{config['digest'][:16]}`",
    ]
    if learner.transductive:
        lines.append("- Transductive: a prediction depends on the examples that are predicted with it")
    return "\n".join(lines)


def _inputs(learner: Learner) -> str:
    description = {} if learner.transform is None else learner.transform.to_dict()
    shape = learner.input_shape
    plain = "arrays" + (f" of shape [n, {', '.join(map(str, shape))}]" if shape else "")
    if description.get("kind") == "image":
        height, width = description["size"]
        colour = "grey" if description["channels"] == 1 else "RGB"
        return f"images of any size, read as {colour} {height} x {width} (polarity: {description['polarity']})"
    if description.get("kind") == "table":
        return f"rows of {len(description['columns'])} features"
    return plain


def _use(learner: Learner) -> str:
    if learner.kind == "sequence":
        return (
            "```python\nimport kshot\n\n"
            'learner = kshot.Learner.from_pretrained("path/of/this/folder")\n'
            "model = kshot.adapt(learner, (sequence, None))  # [steps, channels]\n"
            "bits = model.predict(blank_steps) > 0           # an answer to each of the steps after it\n```"
        )
    images = learner.transform is not None and learner.transform.to_dict().get("kind") == "image"
    estimator = "FewShotClassifier" if learner.outputs == "logits" else "FewShotRegressor"
    text = (
        "```python\nimport kshot\n\n"
        f'model = kshot.{estimator}.from_pretrained("path/of/this/folder").fit(examples, labels)\n'
        "model.predict(new_examples)\n```"
    )
    if images and learner.outputs == "logits":
        text += (
            "\n\n```sh\nkshot adapt path/of/this/folder --support a_subfolder_per_class/ --out task.safetensors\n"
            "kshot predict task.safetensors photo.jpg\n```"
        )
    return text


def _training(provenance: Mapping[str, Any]) -> str:
    lines = []
    source = provenance.get("source")
    if source:
        spec = source if isinstance(source, dict) else {"name": source}
        options = {
            key: value for key, value in spec.items() if key not in ("name", "name_or_path") and value is not None
        }
        detail = f" ({', '.join(f'{key}={value}' for key, value in options.items())})" if options else ""
        lines.append(f"- Tasks: {spec.get('name', spec.get('name_or_path', 'unknown'))}{detail}")
    if provenance.get("steps") is not None:
        batch = provenance.get("meta_batch")
        lines.append(f"- Outer steps: {provenance['steps']:,}" + (f" of {batch} tasks" if batch else ""))
    if provenance.get("examples") is not None:
        lines.append(f"- Examples seen: {provenance['examples']:,}")
    if provenance.get("seconds") is not None:
        lines.append(f"- Time: {provenance['seconds']:.0f} s")
    if provenance.get("seed") is not None:
        lines.append(f"- Seed: {provenance['seed']}")
    return (
        "\n".join(lines) if lines else "Not recorded: this learner was not trained by `kshot.Trainer`, or not at all."
    )


def _numbers(learner: Learner, provenance: Mapping[str, Any]) -> str:
    lines = []
    if provenance.get("val") is not None:
        score = f"{provenance['val']:.4f}" if isinstance(provenance["val"], (int, float)) else str(provenance["val"])
        lines.append(
            f"- Validation tasks: {score}. It was chosen by this number, which therefore flatters it: it is no "
            "estimate for new tasks."
        )
    if provenance.get("test") is not None:
        lines.append(f"- Unseen tasks: {provenance['test']}")
    else:
        lines.append(
            "- Unseen tasks: not measured. Measure it on tasks like yours, beside the baselines: `kshot evaluate "
            "path/of/this/folder --data your_data/`"
        )
    return "\n".join(lines)
