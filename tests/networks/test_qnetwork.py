import math

import pytest
import torch
from pydantic import ValidationError

from tensorrl.networks.noisy import NoisyLinear, scaled_noise
from tensorrl.networks.qnetwork import QNetwork
from tensorrl.networks.spec import DENSE_LAYERS, NetworkSpec
from tensorrl.trial.settings import network_spec
from tensorrl.trial.variants import VARIANTS, resolve


def stacks(network, batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (batch * 4, 84, 84), dtype=torch.uint8, generator=generator)
    stored = network.torso.encode(frames)
    return stored.view(batch, 4, *stored.shape[1:])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("actions", [3, 18])
def test_counts_from_the_description_are_those_of_the_built_network(variant, actions):
    spec = network_spec(resolve(variant), actions)
    network = QNetwork(spec)
    built = {}
    for name, parameter in network.named_parameters():
        layer = name.removeprefix("torso.").split(".")[0]
        built[layer] = built.get(layer, 0) + parameter.numel()
    assert built == spec.coefficients()


@pytest.mark.parametrize(
    ("actions", "noisy", "dense"),
    [
        (3, 750_200, 402_348),
        (4, 776_414, 415_455),
        (6, 828_842, 441_669),
        (9, 907_484, 480_990),
        (18, 1_143_410, 598_953),
    ],
)
def test_published_sizes(actions, noisy, dense):
    assert network_spec(resolve("rainbow"), actions).total_coefficients() == noisy
    assert network_spec(resolve("denoised"), actions).total_coefficients() == dense


@pytest.mark.parametrize("variant", ["rainbow", "denoised", "trl-10x"])
def test_value_stream_changes_the_distribution_and_gets_gradient(variant):
    network = QNetwork(network_spec(resolve(variant), 6))
    x = stacks(network)
    before = network(x).softmax(2)
    with torch.no_grad():
        for parameter in network.value_output.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert (network(x).softmax(2) - before).abs().max() > 0.05
    network(x)[:, 2].log_softmax(1)[:, 7].sum().backward()
    for parameter in network.value_hidden.parameters():
        if not parameter.grad.any():
            assert variant == "rainbow"  # sigma gets none until noise is drawn
    assert any(parameter.grad.abs().sum() > 0 for parameter in network.value_output.parameters())


def test_advantages_are_centred_over_actions_not_over_atoms():
    network = QNetwork(network_spec(resolve("denoised"), 6))
    x = stacks(network)
    features = network.torso(network.prepare(x)).flatten(1)
    value = network.value_output(network.value_hidden(features).relu())
    # Averaged over actions only the value stream is left, atom by atom.
    torch.testing.assert_close(network(x).mean(1), value, atol=1e-5, rtol=1e-4)
    assert value.std(1).min() > 0


def test_plain_head_is_dueling_too():
    network = QNetwork(network_spec(resolve("pong-dqn"), 6))
    x = stacks(network)
    q = network(x)
    assert q.shape == (4, 6)
    value = network.value_output(network.value_hidden(network.torso(network.prepare(x)).flatten(1)).relu())
    torch.testing.assert_close(q.mean(1, keepdim=True), value, atol=1e-5, rtol=1e-4)
    assert network.q_values(q) is q


def test_expected_values_are_sums_over_the_support():
    network = QNetwork(network_spec(resolve("denoised"), 6))
    logits = network(stacks(network))
    probabilities = logits.exp() / logits.exp().sum(2, keepdim=True)
    expected = sum(probabilities[:, :, i] * (-10 + 20 * i / 50) for i in range(51))
    torch.testing.assert_close(network.q_values(logits), expected, atol=1e-4, rtol=1e-4)


def test_noise_changes_actions_and_evaluation_is_its_mean():
    network = QNetwork(network_spec(resolve("rainbow", {"noisy_sigma": 0.5}), 6))
    x, generator = stacks(network), torch.Generator().manual_seed(0)
    values, choices = [], set()
    for _ in range(20):
        network.draw_noise(generator)
        q = network.q_values(network(x))
        values.append(q)
        choices.add(tuple(q.argmax(1).tolist()))
    assert len(choices) > 1
    assert torch.stack(values).std(0).min() > 0
    network.eval()
    still = network(x)
    network.draw_noise(generator)
    assert torch.equal(network(x), still)


def test_noisy_weights_follow_the_formula():
    layer = NoisyLinear(5, 3, sigma=0.5)
    e = torch.randn(8, generator=torch.Generator().manual_seed(0))
    noise = torch.tensor([math.copysign(math.sqrt(abs(v)), v) for v in e.tolist()])
    layer.set_noise(noise)
    x = torch.randn(2, 5)
    expected = torch.empty(2, 3)
    for row in range(2):
        for out in range(3):
            total = layer.bias_mu[out] + layer.bias_sigma[out] * noise[5 + out]
            for i in range(5):
                total = (
                    total
                    + (layer.weight_mu[out, i] + layer.weight_sigma[out, i] * noise[5 + out] * noise[i]) * x[row, i]
                )
            expected[row, out] = total
    torch.testing.assert_close(layer(x), expected)
    layer.forget_draw()
    torch.testing.assert_close(layer(x), expected)
    assert layer.weight_sigma[0, 0].item() == pytest.approx(0.5 / math.sqrt(5))


def test_scaled_noise_is_signed_square_roots_of_normals():
    draw = scaled_noise(200_000, torch.Generator().manual_seed(0))
    # E f(e)² = E |e| = √(2/π)
    assert draw.mean().item() == pytest.approx(0, abs=0.01)
    assert draw.square().mean().item() == pytest.approx(math.sqrt(2 / math.pi), rel=0.01)


def test_a_network_is_rebuilt_from_its_serialised_description():
    spec = network_spec(resolve("trl-5x"), 9)
    again = NetworkSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert [p.shape for p in QNetwork(again).parameters()] == [p.shape for p in QNetwork(spec).parameters()]


def test_inconsistent_descriptions_are_refused():
    with pytest.raises(ValidationError, match="noisy"):
        NetworkSpec(actions=4, noisy=True, factorization="tucker", ranks=dict.fromkeys(DENSE_LAYERS, (1, 1)))
    with pytest.raises(ValidationError, match="ranks"):
        NetworkSpec(actions=4, factorization="cp", ranks={"value_hidden": (3,)})
