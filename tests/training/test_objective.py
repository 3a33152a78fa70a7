import pytest
import torch
from torch import Tensor

from acestep.diffusion.flow_matching import logit_normal_sigmas
from acestep.diffusion.schedules import training_sigmas
from acestep.families.base import Conditioning, TrainingNoise
from acestep.lora import attach_trainable, find_targets, module_shapes
from acestep.models.v1.transformer import ACEStepTransformer
from acestep.training.objective import denoising_losses, draw, losses_under
from reference_data import load_golden
from small_family import SmallFamily
from tiny_checkpoints import GRADIENTS, assert_close, load_transformer

NOTHING_DROPPED = TrainingNoise(text_dropout=0, speaker_dropout=0, lyric_dropout=0)


def golden_conditioning(step: dict[str, Tensor]) -> Conditioning:
    return Conditioning(
        text_states=step["in.encoder_text_hidden_states"],
        text_mask=step["in.text_attention_mask"],
        speaker=step["in.speaker_embeds"],
        lyric_ids=step["in.lyric_token_idx"],
        lyric_mask=step["in.lyric_mask"],
    )


LORA_TARGETS = ("speaker_embedder", "linear_q", "linear_k", "linear_v", "to_q", "to_k", "to_v", "to_out.0")


def losses_of(network: ACEStepTransformer, step: dict[str, Tensor]) -> Tensor:
    """The golden training step through our objective."""

    def velocity(latents: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
        encoded = network.encode_conditioning(*conditioning.tensors().values())
        predicted: Tensor = network(latents, 1000 * sigmas, encoded)
        return predicted

    sigmas = logit_normal_sigmas(step["in.u_normal"], training_sigmas())
    return denoising_losses(velocity, step["in.target_latents"], step["in.noise"], sigmas, golden_conditioning(step))


def test_the_loss_is_that_of_the_released_training_step():
    step = load_golden("tiny/goldens/training_step.safetensors")
    losses = losses_of(load_transformer(), step)
    assert_close(losses, step["out.full_mask.per_sample_loss"])
    assert_close(losses.mean(), step["out.full_mask.denoising_loss"])


def test_an_adapters_gradients_are_those_of_the_reference():
    network = load_transformer()
    step = load_golden("tiny/goldens/training_step.safetensors")
    expected = load_golden("tiny/goldens/lora_train_grads.safetensors")
    adapter = attach_trainable(network, find_targets(module_shapes(network), LORA_TARGETS), rank=4, alpha=8)
    adapter.load_parameters(load_golden("tiny/lora/plain_no_metadata/pytorch_lora_weights.safetensors"))
    loss = losses_of(network, step).mean()
    loss.backward()
    assert_close(loss, expected["out.denoising_loss"])
    parameters = adapter.parameters()
    assert {f"grad.{name}" for name in parameters} == {name for name in expected if name.startswith("grad.")}
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        assert_close(parameter.grad, expected[f"grad.{name}"], GRADIENTS)


def test_an_examples_numbers_depend_on_what_they_are_for_and_not_on_its_batch():
    shape = (8, 16, 5)
    together = draw(0, 3, [4, 9], shape, TrainingNoise())
    alone = draw(0, 3, [9], shape, TrainingNoise())
    for name in ("noise", "sigmas", "drops"):
        assert torch.equal(getattr(together, name)[1:], getattr(alone, name))
    for other in (draw(1, 3, [9], shape, TrainingNoise()), draw(0, 4, [9], shape, TrainingNoise())):
        assert not torch.equal(other.noise, alone.noise)


def test_conditioning_is_dropped_as_often_as_the_family_says():
    drops = draw(0, 0, range(4000), (1, 1, 1), TrainingNoise()).drops.float().mean(0)
    assert drops.tolist() == pytest.approx([0.15, 0.5, 0.15], abs=0.03)
    assert not draw(0, 0, range(50), (1, 1, 1), NOTHING_DROPPED).drops.any()


def test_noise_is_standard_and_levels_follow_the_logit_normal():
    draws = draw(0, 0, range(3000), (1, 1, 8), NOTHING_DROPPED)
    assert float(draws.noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(draws.noise.std()) == pytest.approx(1, abs=0.02)
    assert float(draws.sigmas.median()) == pytest.approx(0.75, abs=0.02)  # 3 * 0.5 / (1 + 2 * 0.5)


def test_uniform_levels_are_even_where_nothing_is_shifted():
    noise = TrainingNoise(shift=1.0)
    sigmas = draw(0, 0, range(4000), (1, 1, 1), noise, distribution="uniform").sigmas
    parts = torch.histc(sigmas, bins=10, min=0, max=1) / 4000
    assert parts.tolist() == pytest.approx([0.1] * 10, abs=0.02)


def test_dropped_lyrics_and_text_change_the_loss_that_keeps_them():
    family = SmallFamily()
    conditioning = family.encode_prompt(["a b c"], ["la la"])
    clean = torch.randn(1, 8, 16, 6)
    kept = draw(0, 0, [0], clean.shape[1:], NOTHING_DROPPED)
    dropped = draw(0, 0, [0], clean.shape[1:], TrainingNoise(text_dropout=1, speaker_dropout=1, lyric_dropout=1))
    assert torch.equal(kept.noise, dropped.noise)
    losses = [losses_under(family.velocity, clean, conditioning, draws) for draws in (kept, dropped)]
    assert not torch.equal(losses[0], losses[1])


def test_the_loss_is_the_velocitys_error_times_sigma_squared():
    family = SmallFamily()
    clean, noise = torch.randn(2, 8, 16, 6), torch.randn(2, 8, 16, 6)
    sigmas = torch.tensor([0.3, 0.9])
    conditioning = family.encode_prompt(["a", "b"], ["", ""])
    level = sigmas.view(-1, 1, 1, 1)
    velocity = family.velocity(level * noise + (1 - level) * clean, sigmas, conditioning)
    expected = sigmas.square() * (velocity - (noise - clean)).square().flatten(1).mean(1)
    torch.testing.assert_close(denoising_losses(family.velocity, clean, noise, sigmas, conditioning), expected)
