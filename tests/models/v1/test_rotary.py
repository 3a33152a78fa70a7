"""The released rotary tables, quirk and all."""

import torch

from acestep.models.v1.rotary import apply_rotary, rotary_tables
from reference_data import load_golden

CPU = torch.device("cpu")


def test_the_tables_are_the_released_ones():
    golden = load_golden("tiny/goldens/rope.safetensors")
    cos, sin = rotary_tables(64, 16, 1e6, CPU)
    torch.testing.assert_close(cos, golden["out.cos"], rtol=0, atol=2e-6)
    torch.testing.assert_close(sin, golden["out.sin"], rtol=0, atol=2e-6)


def test_partners_are_neighbours_though_the_angles_come_in_halves():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = rotary_tables(5, 8, 1e6, CPU)
    expected = torch.empty_like(x)
    for k in range(8):
        partner = -x[..., k + 1] if k % 2 == 0 else x[..., k - 1]
        expected[..., k] = x[..., k] * cos[:, k] + partner * sin[:, k]
    torch.testing.assert_close(apply_rotary(x, (cos, sin)), expected)


def test_tables_first_asked_for_while_generating_still_serve_in_training():
    with torch.inference_mode():
        rotary_tables(7, 4, 1e6, CPU)
    x = torch.randn(7, 4, requires_grad=True)
    apply_rotary(x, rotary_tables(7, 4, 1e6, CPU)).sum().backward()
    assert x.grad is not None


def test_gradients_are_those_of_the_formula():
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
    cos, sin = (table.double() for table in rotary_tables(5, 8, 1e6, CPU))
    assert torch.autograd.gradcheck(lambda x: apply_rotary(x, (cos, sin)), (x,))


def test_states_in_bfloat16_turn_in_float32_and_get_their_gradient_in_bfloat16():
    x = torch.randn(5, 8).bfloat16().requires_grad_()
    turned = apply_rotary(x, rotary_tables(5, 8, 1e6, CPU))
    torch.testing.assert_close(turned, apply_rotary(x.float(), rotary_tables(5, 8, 1e6, CPU)))
    turned.sum().backward()
    assert turned.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
