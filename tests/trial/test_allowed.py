from __future__ import annotations

import math
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, StrictInt

from tensorrl.errors import InputError
from tensorrl.networks.spec import NetworkSpec
from tensorrl.sweeps.grid.spec import Evaluation, Resources, SweepSpec
from tensorrl.trial.allowed import allowed
from tensorrl.trial.settings import Settings, make_settings
from tensorrl.trial.spec import TrialSpec, make_spec
from tensorrl.trial.variants import VARIANTS, resolve


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_listed_values_or_bounds_on_both_sides_and_is_held_to_them(name: str) -> None:
    found = allowed(Settings, name)
    assert found.bounded
    outside: list[Any]
    if found.kind in ("choice", "true or false"):
        outside = ["no such value", 7, [], {}]
    elif found.kind == "mapping":
        outside = [
            5,
            {"value_hidden": [0]},
            {"value_hidden": [10**9]},
            {"value_hidden": []},
            {f"l{i}": [1] for i in range(9)},
        ]
    elif found.kind == "text":
        outside = ["", "x" * (int(found.maximum or 0) + 1), 5]
    else:
        assert found.minimum is not None
        assert found.maximum is not None
        low = (
            found.minimum if found.open_below else found.minimum - max(1e-13, found.minimum / 2, found.kind != "number")
        )
        high = found.maximum if found.open_above else found.maximum * 2
        outside = [low, high, -1, math.inf, -math.inf, math.nan, 1e308, -1e308, 10**400, "x", [1], "1" * 5_000]
        inside = [found.minimum] if not found.open_below else []
        inside += [found.maximum] if not found.open_above else []
        for value in inside:
            assert getattr(make_settings({name: value}), name) == value
    for value in outside:
        with pytest.raises(InputError, match=rf"setting {name}.*allowed: ") as caught:
            make_settings({name: value})
        assert len(str(caught.value)) < 500


def test_bounds_admit_every_variant_and_lie_within_those_of_a_network() -> None:
    for variant in VARIANTS:
        resolve(variant)
    for ours, theirs in {"hidden": "hidden", "atoms": "atoms", "stem_l": "scattering_l", "v_max": "v_max"}.items():
        inner, outer = allowed(Settings, ours), allowed(NetworkSpec, theirs)
        assert inner.minimum is not None
        assert inner.maximum is not None
        assert outer.minimum is not None
        assert outer.maximum is not None
        assert outer.minimum <= inner.minimum < inner.maximum <= outer.maximum


@pytest.mark.parametrize(
    ("model", "name"),
    [(TrialSpec, name) for name in ("seed", "steps", "threads", "checkpoint_every", "device")]
    + [(SweepSpec, name) for name in ("steps", "checkpoint_every", "retries", "max_concurrent")]
    + [(Resources, "cpus"), (Evaluation, "final_episodes"), (Evaluation, "epsilon")],
)
def test_every_number_of_a_trial_and_of_a_sweep_has_bounds_on_both_sides(model: type[BaseModel], name: str) -> None:
    assert allowed(model, name).bounded


def test_what_is_allowed_is_said_in_words() -> None:
    class Model(BaseModel):
        half: float = Field(0, ge=0, lt=1)
        share: Annotated[float, Field(gt=0, le=0.5)] | None = None
        count: Annotated[StrictInt, Field(ge=1, le=4_000)] = 1
        free: int = 0

    assert [allowed(Model, name).text for name in Model.model_fields] == [
        "a number of at least 0 and below 1",
        "a number above 0 and at most 0.5; or null",
        "a whole number from 1 to 4,000",
        "a whole number",
    ]
    assert not allowed(Model, "free").bounded


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"seed": -1}, "--seed -1 (allowed: a whole number from 0 to 2,147,483,647)"),
        ({"steps": 10**30}, "--steps 1000000000000000000000000000000 (allowed: a whole number from 1 to 100,000,000)"),
        ({"threads": 10**6}, "--threads 1000000 (allowed: a whole number from 1 to 256; or null)"),
        ({"device": "tpu" * 2_000}, "(allowed: auto, cpu, cuda)"),
    ],
)
def test_a_trial_that_no_machine_can_run_is_refused_in_one_line(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        make_spec(game="pong", **fields)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300
