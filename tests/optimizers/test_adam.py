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
