import copy

import pytest
import torch
from torch import nn

from tensorrl.optimizers.adam import FusedAdam


def models():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return first, copy.deepcopy(first)


def step(model, optimizer, seed):
    inputs = torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(inputs).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(("weight_decay", "decoupled"), [(0.0, False), (0.1, False), (0.1, True)])
def test_steps_are_those_of_pytorchs_adam_to_the_bit(weight_decay, decoupled):
    ours, theirs = models()
    options = {"lr": 1e-2, "eps": 1.5e-4, "weight_decay": weight_decay}
    fast = FusedAdam(ours.parameters(), decoupled_weight_decay=decoupled, **options)
    plain = (torch.optim.AdamW if decoupled else torch.optim.Adam)(theirs.parameters(), fused=True, **options)
    for seed in range(12):
        if seed == 4:
            # A scheduler changes the rate between steps.
            fast.param_groups[0]["lr"] = plain.param_groups[0]["lr"] = 1e-3
        if seed == 8:
            # A frozen layer has no gradient.
            for model in (ours, theirs):
                model[0].weight.requires_grad_(False)
                model[0].weight.grad = None
        step(ours, fast, seed)
        step(theirs, plain, seed)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_parameter_begun_anew_steps_as_with_a_new_adam_and_the_others_go_on():
    ours, theirs = models()
    optimizer, whole = (FusedAdam(model.parameters(), lr=1e-2) for model in (ours, theirs))
    for seed in range(5):
        step(ours, optimizer, seed)
        step(theirs, whole, seed)
    anew = copy.deepcopy(ours[2])
    optimizer.restart(ours[2].parameters())
    new = torch.optim.Adam(anew.parameters(), lr=1e-2)
    for seed in range(5, 8):
        step(ours, optimizer, seed)
        step(theirs, whole, seed)
        for mine, his in zip(anew.parameters(), ours[2].parameters(), strict=True):
            mine.grad = his.grad.clone()
        new.step()
        for p, q in zip(ours[2].parameters(), anew.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        if seed == 5:
            assert all(map(torch.equal, ours[0].parameters(), theirs[0].parameters()))


def test_state_put_back_goes_on_to_the_same_bits():
    ours, other = models()
    optimizer = FusedAdam(ours.parameters(), lr=1e-2)
    for seed in range(5):
        step(ours, optimizer, seed)
    again = FusedAdam(other.parameters(), lr=1e-2)
    step(other, again, 99)
    other.load_state_dict(ours.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in range(5, 9):
        step(ours, optimizer, seed)
        step(other, again, seed)
    for a, b in zip(ours.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("threads", [1, 2])
def test_moments_of_dead_units_end_at_zero_and_parameters_are_as_without(threads):
    """Averages of gradients that have stopped decay by 0.9 a step; PyTorch's own stay at a subnormal for ever."""
    ours, theirs = (nn.Linear(400, 400, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = [
        FusedAdam(ours.parameters(), lr=1e-3, eps=1.5e-4),
        torch.optim.Adam(theirs.parameters(), lr=1e-3, eps=1.5e-4, fused=True),
    ]
    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for count in range(1100):
            gradient = torch.full((400, 400), 1e-3 if count == 0 else 0.0)
            gradient[:200] = 1e-3
            for model, optimizer in zip((ours, theirs), optimizers, strict=True):
                model.weight.grad = gradient
                optimizer.step()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(used)
    assert torch.equal(ours.weight, theirs.weight)
    averages = [o.state[m.weight]["exp_avg"] for m, o in zip((ours, theirs), optimizers, strict=True)]
    assert torch.equal(averages[0][:200], averages[1][:200])
    assert (averages[1][200:] > 0).all()
    assert (averages[0][200:] == 0).all()
    assert (torch.tensor(1e-40) * 1 > 0).all()
