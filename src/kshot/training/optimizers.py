"""The optimizer and its learning-rate schedule, by name or as what the user made."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from kshot.errors import ConfigError, suggest

OptimizerChoice = str | Mapping[str, Any] | Optimizer | Callable[[list[nn.Parameter]], Optimizer]
ScheduleChoice = str | Mapping[str, Any] | Callable[[Optimizer, int], LRScheduler]

SCHEDULES = ("cosine", "linear", "constant", "step")


def optimizer_names() -> dict[str, type[Optimizer]]:
    """Every optimizer of `torch.optim` by its lower-case name.

    Those that want a closure (LBFGS) are left out: an outer step computes its gradient once.
    """
    found = {name.lower(): value for name, value in vars(torch.optim).items() if inspect.isclass(value)}
    return {
        name: c for name, c in found.items() if issubclass(c, Optimizer) and c not in (Optimizer, torch.optim.LBFGS)
    }


def make_optimizer(choice: OptimizerChoice, parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """The optimizer of an outer loop.

    Args:
        choice: a name (`"adam"`, `"adamw"`, `"sgd"`, any of `torch.optim` in lower case); a mapping with `name` and its
            options (`{"name": "sgd", "momentum": 0.9}`); a function of the parameters; or an optimizer, whose own
            learning rate counts.
        parameters: of the learner, those that are trained.
        lr: learning rate; not for what the user made.

    Raises:
        ConfigError: an unknown name or option, or an optimizer of other parameters.
    """
    own = list(parameters)
    if isinstance(choice, Optimizer):
        return _checked(choice, own)
    if callable(choice):
        made = choice(own)
        if not isinstance(made, Optimizer):
            raise ConfigError(
                f"expected optimizer(parameters) to return a torch.optim.Optimizer, got a {type(made).__name__}"
            )
        return _checked(made, own)
    name, options = _name_and_options("optimizer", choice)
    known = optimizer_names()
    if name.lower() not in known:
        raise ConfigError(f"unknown optimizer {name!r}. {suggest(name, known)}")
    cls = known[name.lower()]
    takes = [p for p in inspect.signature(cls).parameters if p != "params"]
    for option in options:
        if option not in takes:
            raise ConfigError(f"{cls.__name__} has no option {option!r}. {suggest(option, takes)}")
    try:
        return cls(own, **{"lr": lr, **_fused(cls, takes, own, options), **options})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{cls.__name__} does not take these options, {error}: {options}") from error


def _fused(
    cls: type[Optimizer], takes: list[str], parameters: list[nn.Parameter], options: Mapping[str, Any]
) -> dict[str, Any]:
    """`fused=True` where it can be: one call moves all parameters, where there are some five for each otherwise."""
    others = ("fused", "foreach", "differentiable", "capturable", "maximize")
    able = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return {"fused": True} if "fused" in takes and able and not any(options.get(name) for name in others) else {}


def _checked(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Optimizer:
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError("LBFGS evaluates the loss several times a step; an outer step does it once. Use adam or sgd")
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not given & {id(p) for p in parameters}:
        raise ConfigError(
            "expected an optimizer of this learner's parameters, got one of others: make it from learner.parameters(), "
            "or give a function: optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1)"
        )
    return optimizer


def make_schedule(choice: ScheduleChoice, optimizer: Optimizer, steps: int, warmup: int = 0) -> LRScheduler:
    """The learning-rate schedule of an outer loop, stepped once an outer step.

    Args:
        choice: `"cosine"` (from lr to 0 over the run), `"constant"`, `"step"` (a tenth at 1/2 and at 3/4 of the run; or
            `{"name": "step", "every": 2000, "factor": 0.5}`), or a function of the optimizer and the number of steps.
        warmup: outer steps over which the rate rises linearly; for the named ones.

    Raises:
        ConfigError: an unknown name or option, or a warm-up where it has no meaning.
    """
    if callable(choice):
        if warmup:
            raise ConfigError(
                f"expected no warmup={warmup} beside a schedule of your own: make it part of the schedule"
            )
        made = choice(optimizer, steps)
        if not isinstance(made, LRScheduler):
            raise ConfigError(
                f"expected schedule(optimizer, steps) to return a torch LRScheduler, got a {type(made).__name__}"
            )
        return made
    return LambdaLR(optimizer, schedule_factor(choice, steps, warmup))


def schedule_factor(choice: str | Mapping[str, Any], steps: int, warmup: int = 0) -> Callable[[int], float]:
    """What a named schedule multiplies the learning rate by, a function of the step.

    Raises:
        ConfigError: an unknown name or option.
    """
    factor = _factor(choice, steps, warmup)
    return lambda step: factor(step) * (min(1.0, (step + 1) / warmup) if warmup else 1.0)


def check_schedule(choice: ScheduleChoice, steps: int, warmup: int) -> None:
    """Raises ConfigError where `make_schedule` would, as far as that is known before there is an optimizer."""
    if not callable(choice):
        _factor(choice, steps, warmup)


def _factor(choice: str | Mapping[str, Any], steps: int, warmup: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by at a step, a function of the step alone: nothing to save."""
    name, options = _name_and_options("schedule", choice)
    takes = ("every", "factor") if name == "step" else ()
    if name not in SCHEDULES:
        raise ConfigError(f"unknown schedule {name!r}. {suggest(name, SCHEDULES)}")
    for option in options:
        if option not in takes:
            hint = suggest(option, takes) if takes else "It has none."
            raise ConfigError(f"the schedule {name!r} has no option {option!r}. {hint}")
    length = max(1, steps - warmup)
    if name == "cosine":
        return lambda step: 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0, step - warmup) / length)))
    if name == "linear":
        return lambda step: 1.0 - min(1.0, max(0, step - warmup) / length)
    if name == "constant":
        return lambda step: 1.0
    fall = float(options.get("factor", 0.1))
    if "every" in options:
        every = int(options["every"])
        if every < 1:
            raise ConfigError(f"expected the step schedule's every to be at least 1, got {every}")
        return lambda step: fall ** (step // every)
    half, late = math.ceil(steps / 2), math.ceil(3 * steps / 4)
    return lambda step: fall ** ((step >= half) + (step >= late))


def depends_on_steps(described: Any) -> bool:
    """Whether a schedule, as `describe` gives it, is laid over the length of the run."""
    name, options = _name_and_options("schedule", described)
    return not (name == "constant" or (name == "step" and "every" in options))


def describe(choice: Any) -> Any:
    """The choice of an optimizer or a schedule as JSON can say it: tells whether a resumed run has another one."""
    if isinstance(choice, Optimizer):
        options = {k: _plain(v) for k, v in choice.defaults.items()}
        return {"name": type(choice).__name__.lower(), **options, "instance": True}
    if callable(choice):
        return f"{getattr(choice, '__module__', '?')}.{getattr(choice, '__qualname__', type(choice).__name__)}"
    return {key: _plain(value) for key, value in choice.items()} if isinstance(choice, Mapping) else choice


def of_a_script(described: Any) -> bool:
    """Whether a choice, as `describe` gives it, is a function or an optimizer that only the script can make."""
    if isinstance(described, Mapping):
        return bool(described.get("instance"))
    return isinstance(described, str) and "." in described


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _name_and_options(what: str, choice: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(choice, str):
        return choice, {}
    if isinstance(choice, Mapping) and isinstance(choice.get("name"), str):
        return choice["name"], {key: value for key, value in choice.items() if key != "name"}
    raise ConfigError(f"expected {what} to be a name, or a mapping with a name and options, got {choice!r}")
