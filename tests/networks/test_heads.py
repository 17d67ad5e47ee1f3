import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tensorrl.learning.schedules import linear
from tensorrl.networks.heads import categorical_losses, categorical_projection, dense_projection, huber_losses


def brute_force_projection(probabilities, returns, discounts, support):
    """Algorithm 1 of Bellemare et al. 2017, one atom at a time, in float64."""
    low, high, step = support[0], support[-1], support[1] - support[0]
    projected = np.zeros_like(probabilities)
    for row in range(len(probabilities)):
        for j, z in enumerate(support):
            shifted = min(max(returns[row] + discounts[row] * z, low), high)
            b = (shifted - low) / step
            nearest = round(b)
            if abs(b - nearest) < 1e-9:
                projected[row, nearest] += probabilities[row, j]
            else:
                lower = math.floor(b)
                projected[row, lower] += probabilities[row, j] * (lower + 1 - b)
                projected[row, lower + 1] += probabilities[row, j] * (b - lower)
    return projected


def project(probabilities, returns, discounts, support, how=categorical_projection):
    tensors = [torch.tensor(np.asarray(x), dtype=torch.float64) for x in (probabilities, returns, discounts, support)]
    ends = (float(support[0]), float(support[-1])) if how is dense_projection else ()
    return how(*tensors, *ends).numpy()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), atoms=st.integers(2, 51), scale=st.sampled_from([0.1, 1.0, 10.0, 100.0]))
def test_projection_equals_algorithm_1_on_random_distributions(seed, atoms, scale):
    rng = np.random.default_rng(seed)
    support = np.linspace(-10, 10, atoms)
    probabilities = rng.dirichlet(np.ones(atoms), size=8)
    returns, discounts = rng.normal(size=8) * scale, rng.uniform(0, 1, size=8)
    got = project(probabilities, returns, discounts, support)
    np.testing.assert_allclose(got, brute_force_projection(probabilities, returns, discounts, support), atol=1e-10)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(project(probabilities, returns, discounts, support, dense_projection), got, atol=1e-10)


@pytest.mark.parametrize(
    ("value", "discount"),
    [(0.0, 1.0), (0.4, 1.0), (10.0, 1.0), (-10.0, 1.0), (25.0, 0.9), (-25.0, 0.9), (3.2, 0.0), (10.0, 0.0),
     (-11.0, 0.0)],
    ids=["on an atom", "one atom on", "to the top", "to the bottom", "past the top", "past the bottom", "terminal",
         "terminal at the top", "terminal past the bottom"],
)  # fmt: skip
def test_projection_at_the_edges(value, discount):
    support = np.linspace(-10, 10, 51)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(51), size=1)
    expected = brute_force_projection(probabilities, [value], [discount], support)
    for how in (categorical_projection, dense_projection):
        np.testing.assert_allclose(project(probabilities, [value], [discount], support, how), expected, atol=1e-10)


def test_terminal_target_is_a_point_mass_at_the_return():
    support = np.linspace(-10, 10, 51)
    got = project(np.full((1, 51), 1 / 51), [2.0], [0.0], support)
    assert got[0, 30] == pytest.approx(1.0)


def test_projection_in_float32_loses_no_mass():
    support = torch.linspace(-10, 10, 51)
    probabilities = torch.rand(64, 51).softmax(1)
    got = categorical_projection(probabilities, torch.randn(64), torch.full((64,), 0.817), support)
    torch.testing.assert_close(got.sum(1), torch.ones(64), atol=1e-5, rtol=0)


def test_categorical_loss_is_torch_cross_entropy():
    logits, targets = torch.randn(16, 51), torch.rand(16, 51).softmax(1)
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(categorical_losses(logits, targets), expected)


def test_huber_loss_is_quadratic_inside_one_and_linear_outside():
    got = huber_losses(torch.tensor([0.5, -3.0]), torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(got, torch.tensor([0.125, 2.5]))


def test_linear_schedule_is_constant_outside_its_span():
    values = [linear(1.0, 0.01, step, begin=1600, duration=2000) for step in (0, 1600, 2600, 3600, 99_999)]
    assert values == pytest.approx([1.0, 1.0, 0.505, 0.01, 0.01])
    assert linear(0.4, 1.0, 5, begin=5, duration=0) == 1.0
