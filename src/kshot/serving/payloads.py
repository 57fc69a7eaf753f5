"""An example as bytes: its numbers and its label."""

from __future__ import annotations

import json

from torch import Tensor

from kshot.errors import ArtifactError


def seal_example(x: Tensor, label: str | None) -> bytes:
    """The bytes of an example, to be sealed."""
    from safetensors.torch import save

    return save({"x": x.detach().cpu().contiguous().clone()}, metadata={"label": json.dumps(label)})


def open_example(content: bytes) -> tuple[Tensor, str | None]:
    """What `seal_example` was given.

    Raises:
        ArtifactError: these are not its bytes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        length = int.from_bytes(content[:8], "little")
        label = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["label"])
        return load(content)["x"].clone(), label
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"a stored example is damaged ({type(error).__name__}: {error})") from error
