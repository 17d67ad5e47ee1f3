import pytest
import torch
from torch.nn import functional as F

from tensorrl.networks.spec import NetworkSpec
from tensorrl.networks.torsos import DataEfficientTorso, NatureTorso, PatchConv, ScatteringTorso


def frames(count=8, seed=0):
    return torch.randint(0, 256, (count, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_patches_give_what_strided_convolutions_give():
    torso = DataEfficientTorso().double()
    images = frames(8)
    expected = F.relu(
        F.conv2d(images.view(2, 4, 84, 84).double() / 255, torso.conv1.kernel, torso.conv1.bias, stride=5)
    )
    expected = F.relu(F.conv2d(expected, torso.conv2.kernel, torso.conv2.bias, stride=5))
    got = torso(torso.prepare(torso.encode(images).view(2, 4, 225, 25)))
    assert got.shape == expected.shape == (2, 64, 3, 3)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_patches_give_the_gradients_of_strided_convolutions():
    torso = DataEfficientTorso().double()
    images = frames(8)
    weights = [torso.conv1.kernel, torso.conv2.kernel]
    copies = [w.detach().clone().requires_grad_() for w in weights]
    x = F.relu(F.conv2d(images.view(2, 4, 84, 84).double() / 255, copies[0], torso.conv1.bias.detach(), stride=5))
    x = F.relu(F.conv2d(x, copies[1], torso.conv2.bias.detach(), stride=5))
    upstream = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (x * upstream).sum().backward()
    (torso(torso.prepare(torso.encode(images).view(2, 4, 225, 25))) * upstream).sum().backward()
    for layer, copy in ((torso.conv1, copies[0]), (torso.conv2, copies[1])):
        k, c = layer.kernel_size, layer.channels
        grad = layer.weight.grad
        grad = grad.view(-1, k, k, c).permute(0, 3, 1, 2) if layer.channels_last else grad.view(-1, c, k, k)
        torch.testing.assert_close(grad, copy.grad, rtol=1e-9, atol=1e-12)


def test_pixels_that_no_output_sees_are_not_stored():
    torso = DataEfficientTorso()
    images = frames(4)
    other = images.clone()
    other[:, 75:] = 0
    other[:, :, 75:] = 0
    assert torch.equal(torso.encode(images), torso.encode(other))
    assert torso.encode(images).shape == (4, *torso.stored_shape)


@pytest.mark.parametrize("channels_last", [False, True])
def test_patch_convolution_has_the_coefficients_and_initial_scale_of_a_convolution(channels_last):
    ours, conv = PatchConv(32, 64, 5, channels_last=channels_last), torch.nn.Conv2d(32, 64, 5)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in conv.parameters())
    assert ours.weight.std().item() == pytest.approx(conv.weight.std().item(), rel=0.05)


def test_nature_torso_shape():
    torso = NatureTorso()
    assert torso(torso.prepare(torso.encode(frames(8)).view(2, 4, 84, 84))).shape == (2, *torso.out_shape)


def test_scattering_torso_is_a_convolution_over_the_stems_features():
    torso = ScatteringTorso(J=2, L=2)
    images = frames(8)
    features = torso.stem.encode(images).float().view(2, -1, 21, 21)
    kernel = torso.conv2.kernel
    expected = F.relu(F.conv2d(features, kernel, torso.conv2.bias, stride=5))
    stored = torso.encode(images).view(2, 4, *torso.stored_shape)
    assert stored.dtype == torch.float16
    torch.testing.assert_close(torso(torso.prepare(stored)), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (2, *torso.out_shape)


@pytest.mark.parametrize(
    ("fields", "torso"),
    [
        ({}, DataEfficientTorso()),
        ({"torso": "nature"}, NatureTorso()),
        *(
            ({"stem": "scattering", "scattering_j": J, "scattering_l": L}, ScatteringTorso(J=J, L=L))
            for J, L in ((1, 4), (2, 3), (3, 1))
        ),
    ],
)
def test_a_stored_frame_is_as_large_as_its_description_says(fields, torso):
    told = NetworkSpec(actions=4, **fields).stored_frame
    (frame,) = torso.encode(frames(1))
    assert frame.shape == torso.stored_shape == told.shape
    assert frame.numel() * frame.element_size() == told.nbytes
