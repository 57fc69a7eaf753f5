"""The code of README and docs runs as it stands, with fewer steps and tasks put in.

What is fenced as `python` runs, a page's blocks one after another in one namespace and an empty folder, and so do the
`kshot` lines of README's shell blocks. The >>> examples are collected by pytest; docs/families.md has its own tests.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pages import ROOT, python_blocks, run

SMALLER = {f"steps={n}, ": "steps=2, val_tasks=4, " for n in (2000, 500)}  # a Trainer's
SMALLER |= {"steps=200": "steps=2", "steps=100": "steps=2", "meta_batch=16": "meta_batch=2", "batches(16": "batches(2"}
SMALLER |= {"tasks=1000": "tasks=4", "tasks=600": "tasks=4", "budget_seconds=60": "budget_seconds=0.2, val_tasks=4"}
SMALLER |= {"--steps 500": "--steps 2 --set training.val_tasks=4 --set training.meta_batch=2"}

OMNIGLOT_BY_GLYPHS = {'"omniglot"': '"glyphs"'}
"""Where the real data is not at hand, letters stand in for it."""


def pictures(folder: str, classes: int, examples: int) -> None:
    """A folder of images with a subfolder per class: polygons of as many corners."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        place = Path(folder, f"polygon_{c + 3:02d}")
        place.mkdir(parents=True)
        for i in range(examples):
            image = Image.new("L", (28, 28), 255)
            centre = tuple(float(v) for v in rng.uniform(12, 16, 2))
            ImageDraw.Draw(image).regular_polygon((centre, float(rng.uniform(6, 10))), c + 3, fill=0)
            image.save(place / f"{i:02d}.png")


README_ENGINEER = """
episodes = source.test.sample(1, seed=0)
images, labels = episodes.support.x[0], [f"character {int(i)}" for i in episodes.support.y[0]]
new_images = episodes.query.x[0]
"""
"""What an engineer has at hand: a few labelled images, and new ones."""

RUN_ON_GLYPHS = """
import kshot
source = kshot.tasks.load("glyphs", way=5, shot=1, query=15)
learner = kshot.ProtoNet(kshot.models.Conv4(in_channels=1))
kshot.Trainer(learner, source, steps=1, meta_batch=2, val_tasks=4, out="runs/glyphs").fit()
"""


@pytest.fixture(autouse=True)
def _few_tasks_to_choose_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of an evaluation's baselines."""
    monkeypatch.setattr("kshot.evaluation.methods.SELECTION_TASKS", 2)


@dataclass(frozen=True)
class Page:
    """How a page is run.

    Attributes:
        replace: texts, and what is put in their place, besides `SMALLER`.
        before: what happens in the empty folder first.
        first: code that runs before the blocks.
        engineer: code that runs before the block (or the part of it) that uses `images`.
    """

    replace: dict[str, str] | None = None
    before: Callable[[], object] | None = None
    first: str = ""
    engineer: str = ""


PAGES = {
    "README.md": Page(engineer=README_ENGINEER),
    "docs/quickstart.md": Page(),
    "docs/howto/own-images.md": Page(before=lambda: (pictures("my_images", 25, 6), pictures("new_classes", 3, 4))),
    "docs/howto/tables.md": Page(),
    "docs/howto/own-algorithm.md": Page(),
    "docs/howto/evaluate.md": Page(first=RUN_ON_GLYPHS),
    "docs/howto/resume.md": Page(),
    "docs/howto/serve.md": Page(),
    "docs/howto/unsupervised.md": Page(replace={'"glyphs",': '"glyphs", examples=4,', "query=15": "query=3"}),
    "docs/howto/compare.md": Page(),
    "docs/howto/reproduce.md": Page(),
}


def substitute(code: str, replace: dict[str, str]) -> str:
    for old, new in replace.items():
        code = code.replace(old, new)
    return code


def test_every_page_with_code_is_here() -> None:
    pages = ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")))]
    assert {page for page in pages if python_blocks(page)} == {*PAGES, "docs/families.md"}


def run_page(name: str, replace: dict[str, str]) -> None:
    page = PAGES[name]
    if page.before:
        page.before()
    replace = SMALLER | replace | (page.replace or {})
    code = "\n".join([page.first, *(substitute(block, replace) for block in python_blocks(name))])
    if page.engineer:
        before, line, after = code.partition("# an engineer with a few labelled images\n")
        assert line, f"{name} has no engineer any more"
        code = before + page.engineer + after
    # Classes of the page belong to a module of their own, as those of a script do.
    run(name, [code], {"__name__": f"page_{re.sub(r'[^a-z]', '_', name.lower())}"})


@pytest.mark.parametrize("name", PAGES)
def test_the_python_of_a_page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(name, OMNIGLOT_BY_GLYPHS)


def test_the_readme_on_omniglot(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page("README.md", {})


def shell_lines(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("kshot ")]


def test_the_shell_lines_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures("my_images", 25, 16)
    pictures("new_classes", 3, 4)
    Path("new_classes/polygon_05/00.png").rename("photo.jpg")
    lines = shell_lines("README.md")
    asked = ["train", "evaluate", "adapt", "predict", "compare", "reproduce", "reproduce"]
    assert [line.split()[1] for line in lines] == asked
    shorter = SMALLER | {
        "evaluate runs/mine": "evaluate runs/mine --tasks 4 --no-baselines",  # with 1,000 and them a minute and a half
        "--budget 2m": "--budget 0.2 --tasks 4 --learner protonet",
        "reproduce omniglot-protonet": "reproduce",  # Omniglot and ten minutes: here it says what there is
    }
    said = {}
    for line in lines:
        words = shlex.split(substitute(line, shorter), comments=True)[1:]
        command = [sys.executable, "-c", "from kshot.cli import main; main()", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said[words[0]] = done.stdout
    assert "polygon_05" in said["predict"]
    assert "ProtoNet" in said["compare"]


def test_the_links_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
