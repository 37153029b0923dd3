"""Packed convolutions answer as their modules do, are packed once for a shape, and only where that is sound."""

import copy

import pytest
import torch
from torch import nn

from ip2p_lib.editing.memory import Memory
from ip2p_lib.editing.packing import PackedConvolution, packable, packed_convolutions
from ip2p_lib.editing.reuse import SharedWork

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")

CONVOLUTIONS = {
    "three by three": lambda: nn.Conv2d(8, 16, 3, padding=1),
    "strided": lambda: nn.Conv2d(8, 16, 3, stride=2, padding=1),
    "one by one": lambda: nn.Conv2d(8, 16, 1),
    "no bias": lambda: nn.Conv2d(8, 16, 3, bias=False),
    "groups": lambda: nn.Conv2d(8, 16, 3, padding=1, groups=4),
    "dilated": lambda: nn.Conv2d(8, 16, 3, padding=(2, 1), dilation=(2, 1)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@torch.no_grad()
def test_the_answer_is_the_modules_at_every_shape(name):
    conv = CONVOLUTIONS[name]()
    packed = PackedConvolution(conv)
    for shape in ((2, 8, 12, 10), (5, 8, 6, 7), (2, 8, 12, 10)):
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))
        torch.testing.assert_close(packed(inputs), conv(inputs), rtol=1e-5, atol=1e-5)
        across = inputs.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(packed(across), conv(inputs), rtol=1e-5, atol=1e-5)


def test_gradients_still_flow():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    inputs = torch.randn(1, 4, 8, 8)
    packed = PackedConvolution(conv)
    with torch.no_grad():
        packed(inputs)
    packed(inputs).sum().backward()
    assert conv.weight.grad is not None


@pytest.fixture
def packings(monkeypatch):
    """Shapes that weights have been packed for, as it happens."""
    pack, shapes = torch._C._nn.mkldnn_reorder_conv2d_weight, []

    def counting(*args):
        shapes.append(args[-1])
        return pack(*args)

    monkeypatch.setattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", counting)
    return shapes


def test_weights_are_packed_once_for_a_shape(packings):
    packed = PackedConvolution(nn.Conv2d(4, 4, 3))
    with torch.no_grad():
        for side in (8, 8, 8, 6, 6):
            packed(torch.randn(1, 4, side, side))
    assert [tuple(shape[2:]) for shape in packings] == [(8, 8), (6, 6)]


@torch.no_grad()
def test_a_memory_keeps_packed_weights_from_one_edit_to_the_next(editor, packings):
    inputs, states = torch.randn(3, 8, 8, 8), torch.randn(3, 16, editor.unet.config.cross_attention_dim)
    memory, answers = Memory(), []
    for _ in range(2):
        work = SharedWork(editor.unet, alike=0, packed=memory.packed)
        answers.append(work(inputs, torch.tensor(300.0), states, 0))
    assert len(packings) == sum(map(packable, editor.unet.modules()))
    once = SharedWork(editor.unet, alike=0, packed=packed_convolutions)(
        inputs, torch.tensor(300.0), states, 0
    )
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], once)


def test_only_plain_float32_convolutions_are_packed():
    class Own(nn.Conv2d):
        pass

    replaced = nn.Conv2d(4, 4, 3)
    replaced.forward = lambda inputs: inputs
    assert packable(nn.Conv2d(4, 4, 3))
    others = (
        Own(4, 4, 3), nn.Conv2d(4, 4, 3, padding_mode="reflect", padding=1), nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, dtype=torch.bfloat16), nn.Conv2d(4, 4, 3, device="meta"), nn.Linear(4, 4), replaced,
    )  # fmt: skip
    assert not any(map(packable, others))


@torch.no_grad()
def test_weights_changed_between_two_edits_are_seen(editor):
    unet = copy.deepcopy(editor.unet)
    inputs, states = torch.randn(3, 8, 8, 8), torch.randn(3, 16, unet.config.cross_attention_dim)
    timestep, memory = torch.tensor(300.0), Memory()
    before = SharedWork(unet, alike=0, packed=memory.packed)(inputs, timestep, states, 0)
    for conv in filter(packable, unet.modules()):
        conv.weight.mul_(1.5)
    after = SharedWork(unet, alike=0, packed=memory.packed)(inputs, timestep, states, 0)
    torch.testing.assert_close(after, unet(inputs, timestep, states).sample, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, after, rtol=1e-2)
