"""The transformer against the released implementation's numbers, and the promises of its interface."""

import copy
import dataclasses
import json

import pytest
import torch

from acestep.diffusion.alignment import alignment_losses, mean_alignment_losses
from acestep.errors import CheckpointError
from acestep.models.v1.alignment_heads import AlignmentHeads
from acestep.models.v1.config import TransformerConfig
from acestep.models.v1.encoded import CrossAttentionCache, EncodedConditioning
from acestep.models.v1.transformer import ACEStepTransformer, PatchConv, timestep_features, unread_names
from reference_data import load_golden, load_json
from tiny_checkpoints import GRADIENTS, assert_close, encode, load_alignment_heads, load_transformer

FORWARDS = ["forward_full_mask", "forward_padded_mask"]


@pytest.fixture(scope="module")
def tiny():
    return load_transformer()


@pytest.fixture(scope="module")
def golden():
    return load_golden("tiny/goldens/forward_full_mask.safetensors")


def small_model() -> ACEStepTransformer:
    torch.manual_seed(0)
    config = TransformerConfig(
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        patch_hidden_channels=32,
        text_embedding_dim=12,
        lyric_encoder_vocab_size=20,
        lyric_hidden_size=16,
        lyric_encoder_output_size=16,
        lyric_encoder_attention_heads=2,
        lyric_encoder_linear_units=24,
        lyric_encoder_num_blocks=2,
    )
    return ACEStepTransformer(config).eval()


def small_prompt(model: ACEStepTransformer, *, text: int = 5, lyrics: int = 4, batch: int = 1) -> EncodedConditioning:
    return model.encode_conditioning(
        torch.randn(batch, text, 12),
        torch.ones(batch, text),
        torch.zeros(batch, 512),
        torch.randint(1, 20, (batch, lyrics)),
        torch.ones(batch, lyrics),
    )


@pytest.mark.parametrize("name", FORWARDS)
def test_every_part_gives_the_released_states(name):
    model, golden = load_transformer(), load_golden(f"tiny/goldens/{name}.safetensors")
    block = model.transformer_blocks[0]
    parts = {
        "proj_in": model.proj_in,
        "proj_in_conv0": model.proj_in.early_conv_layers[0],
        "proj_in_groupnorm": model.proj_in.early_conv_layers[1],
        "embedded_timestep": model.timestep_embedder,
        "temb": model.t_block,
        "block0_attn": block.attn,
        "block0_cross_attn": block.cross_attn,
        "block0_ff": block.ff,
        "block0_ff_inverted_conv": block.ff.inverted_conv.conv,
        "block0_ff_depth_conv": block.ff.depth_conv,
        **{f"block{index}": model.transformer_blocks[index] for index in range(4)},
    }
    seen = {}
    for part, module in parts.items():
        module.register_forward_hook(lambda _, __, output, part=part: seen.update({part: output}))
    model(
        golden["in.hidden_states"], golden["in.timestep"], encode(model, golden), frame_mask=golden["in.attention_mask"]
    )
    seen["block0_ff_inverted_conv"] = torch.nn.functional.silu(seen["block0_ff_inverted_conv"])
    for part in parts:
        assert_close(seen[part], golden[f"mid.{part}"])
    assert_close(timestep_features(golden["in.timestep"]), golden["mid.time_proj"])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("folder", "name"),
    [*(("tiny/checkpoint/ace_step_transformer", name) for name in FORWARDS), ("tiny/transformer_deep", "forward_deep")],
)
def test_the_velocity_is_the_released_one(folder, name, cached):
    model, golden = load_transformer(folder), load_golden(f"tiny/goldens/{name}.safetensors")
    encoded = encode(model, golden)
    assert_close(encoded.states, golden["out.encoder_hidden_states"])
    assert torch.equal(encoded.mask.float(), golden["out.encoder_hidden_mask"])
    conditioning = model.cross_attention_cache(encoded) if cached else encoded
    velocity = model(
        golden["in.hidden_states"], golden["in.timestep"], conditioning, frame_mask=golden["in.attention_mask"]
    )
    assert_close(velocity, golden["out.sample"])


def test_no_frame_mask_means_all_frames(tiny, golden):
    arguments = (golden["in.hidden_states"], golden["in.timestep"], encode(tiny, golden))
    assert torch.equal(tiny(*arguments), tiny(*arguments, frame_mask=golden["in.attention_mask"]))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_released_ones(checkpointing):
    model = load_transformer()
    model.gradient_checkpointing = checkpointing
    golden = load_golden("tiny/goldens/grad.safetensors")
    norms = load_json("tiny/goldens/grad_norms.json")["grad_l2_norm"]
    for name in ("in.hidden_states", "in.encoder_text_hidden_states"):
        golden[name].requires_grad_()
    velocity = model(
        golden["in.hidden_states"], golden["in.timestep"], encode(model, golden), frame_mask=golden["in.attention_mask"]
    )
    loss = (velocity * golden["in.weight"]).mean() + 0.1 * velocity.square().mean()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_close(loss, golden["out.loss"])
    for name in (name for name in golden if name.startswith("grad.")):
        assert_close(gradients[name.removeprefix("grad.")], golden[name], GRADIENTS)
    for name in ("hidden_states", "encoder_text_hidden_states"):
        assert_close(golden[f"in.{name}"].grad, golden[f"grad_input.{name}"], GRADIENTS)
    rows = gradients["lyric_embs.weight"][golden["grad_rows.lyric_embs.weight.index"]]
    assert_close(rows, golden["grad_rows.lyric_embs.weight.value"], GRADIENTS)
    for name, gradient in gradients.items():
        assert gradient.norm().item() == pytest.approx(norms[name], rel=GRADIENTS, abs=4e-9)


def test_what_the_reference_never_gave_a_gradient_is_what_we_leave_out():
    norms = load_json("tiny/goldens/grad_norms.json")["grad_l2_norm"]
    without_gradient = {name for name, norm in norms.items() if norm is None}
    config = load_transformer().config
    assert without_gradient == unread_names(config)


def test_the_alignment_heads_give_the_released_losses_and_gradients():
    model, heads, golden = load_transformer(), load_alignment_heads(), load_golden("tiny/goldens/ssl.safetensors")
    velocity, states = model.forward_with_states(
        golden["in.hidden_states"],
        golden["in.timestep"],
        encode(model, golden),
        depths=heads.depths,
        frame_mask=golden["in.attention_mask"],
    )
    assert_close(velocity, golden["out.sample"])
    predictions = heads(states)
    targets = [[golden[f"in.ssl.{name}.{item}"] for item in range(2)] for name in model.config.ssl_names]
    for name, prediction, target in zip(model.config.ssl_names, predictions, targets, strict=True):
        assert_close(alignment_losses(prediction, target).mean(), golden[f"out.proj_loss.{name}"])
    mean = mean_alignment_losses(predictions, targets).mean()
    mean.backward()
    assert_close(mean, golden["out.proj_loss_mean"])
    parameters = {**dict(model.named_parameters()), **dict(heads.named_parameters())}
    for name in (name for name in golden if name.startswith("grad.")):
        assert_close(parameters[name.removeprefix("grad.")].grad, golden[name], GRADIENTS)


def test_the_full_size_model_and_its_heads_own_every_released_tensor_but_the_unread():
    config = TransformerConfig.from_dict(load_json("manifests/configs/ace_step_transformer/config.json"))
    with torch.device("meta"):
        model, heads = ACEStepTransformer(config), AlignmentHeads(config)
    owned, apart = (
        {name: list(tensor.shape) for name, tensor in module.state_dict().items()} for module in (model, heads)
    )
    manifest = load_json("manifests/ace_step_transformer.json")["tensors"]
    unread = unread_names(config)
    assert not unread & owned.keys()
    assert unread | owned.keys() == manifest.keys()
    assert apart.keys() < unread
    assert {**owned, **apart} == {name: manifest[name]["shape"] for name in {**owned, **apart}}


def test_batching_two_prompts_of_different_length_changes_neither():
    model = small_model()
    latents, timesteps = torch.randn(1, 8, 16, 9), torch.tensor([500.0])
    short, long = small_prompt(model, text=3), small_prompt(model, text=6)
    apart = torch.cat([model(latents, timesteps, short), model(latents, timesteps, long)])
    together = model(latents.expand(2, -1, -1, -1), timesteps, EncodedConditioning.cat([short, long]))
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    caches = [model.cross_attention_cache(prompt) for prompt in (short, long)]
    together = model(latents.expand(2, -1, -1, -1), timesteps, CrossAttentionCache.cat(caches))
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_query_factors_may_differ_within_a_batch():
    model = small_model()
    prompt = small_prompt(model, batch=2)
    latents, timesteps = torch.randn(2, 8, 16, 9), torch.tensor([500.0, 500.0])
    plain = model(latents, timesteps, prompt)
    weak = model(latents, timesteps, prompt, query_scale={1: 0.01})
    mixed = model(latents, timesteps, prompt, query_scale={1: torch.tensor([1.0, 0.01])})
    torch.testing.assert_close(mixed, torch.stack([plain[0], weak[1]]))
    assert not torch.allclose(plain, weak)


def test_a_song_then_a_training_step_share_one_model():
    model = small_model()
    latents, timesteps = torch.randn(1, 8, 16, 11), torch.tensor([300.0])
    with torch.inference_mode():
        model(latents, timesteps, small_prompt(model))
    model(latents, timesteps, small_prompt(model)).sum().backward()
    assert model.final_layer.linear.weight.grad is not None


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_pass_compiles_as_one_graph():
    model = small_model()
    latents, timesteps, prompt = torch.randn(1, 8, 16, 9), torch.tensor([300.0]), small_prompt(model)
    with torch.no_grad():
        cache = model.cross_attention_cache(prompt)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(latents, timesteps, cache), model(latents, timesteps, cache))


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16_stays_close_to_float32(how):
    model = small_model()
    prompt, latents, timesteps = small_prompt(model), torch.randn(1, 8, 16, 40), torch.tensor([500.0])
    expected = model(latents, timesteps, prompt)
    if how == "weights":
        model, prompt = copy.deepcopy(model).bfloat16(), prompt.to(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        velocity = model(latents, timesteps, prompt)
    assert velocity.dtype == torch.float32
    assert (velocity - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    "target", ["to_q", "to_out.0", "linear_q", "speaker_embedder", "inverted_conv.conv", "point_conv.conv"]
)
def test_a_lora_on_any_layer_moves_the_velocity_and_learns(target):
    peft = pytest.importorskip("peft")
    model = small_model()
    latents, timesteps, speaker = torch.randn(1, 8, 16, 9), torch.tensor([500.0]), torch.randn(1, 512)
    prompt = (torch.randn(1, 3, 12), torch.ones(1, 3), speaker, torch.randint(1, 20, (1, 4)), torch.ones(1, 4))
    before = model(latents, timesteps, model.encode_conditioning(*prompt))
    config = peft.LoraConfig(r=2, target_modules=[target], init_lora_weights=False)
    adapted = peft.inject_adapter_in_model(config, model)
    adapted.gradient_checkpointing = True
    velocity = adapted(latents, timesteps, adapted.encode_conditioning(*prompt))
    assert not torch.allclose(velocity, before)
    velocity.square().sum().backward()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            assert parameter.grad.abs().sum() > 0, name


def runs_of_blocks(trained_block: int) -> list[int]:
    """How often each of three blocks runs in a step that trains one of them, checkpointed."""
    config = dataclasses.replace(load_transformer().config, num_layers=3)
    model = ACEStepTransformer(config).requires_grad_(False)
    model.gradient_checkpointing = True
    model.transformer_blocks[trained_block].attn.to_q.weight.requires_grad_()
    runs = [0, 0, 0]
    for index, block in enumerate(model.transformer_blocks):
        block.attn.register_forward_pre_hook(lambda *_, index=index: runs.__setitem__(index, runs[index] + 1))
    encoded = EncodedConditioning(torch.randn(1, 5, config.width), torch.ones(1, 5, dtype=torch.bool))
    model(torch.randn(1, 8, 16, 6), torch.tensor([500.0]), encoded).square().sum().backward()
    assert model.transformer_blocks[trained_block].attn.to_q.weight.grad.abs().sum() > 0
    return runs


def test_checkpointing_computes_again_only_what_the_gradient_passes_and_is_not_at_hand():
    assert runs_of_blocks(0) == [2, 2, 1]
    assert runs_of_blocks(1) == [1, 2, 1]
    assert runs_of_blocks(2) == [1, 1, 1]


def test_checkpointing_draws_the_dropout_of_a_step_once():
    config = dataclasses.replace(load_transformer().config, num_layers=3)
    model = ACEStepTransformer(config).eval()
    prompt = EncodedConditioning(torch.randn(1, 5, config.width), torch.ones(1, 5, dtype=torch.bool))
    for block in model.transformer_blocks:
        block.attn.to_q.register_forward_hook(lambda _, __, output: torch.nn.functional.dropout(output, 0.5))
    latents, gradients = torch.randn(1, 8, 16, 6), []
    for checkpointing in (False, True):
        model.gradient_checkpointing = checkpointing
        model.zero_grad()
        torch.manual_seed(0)
        model(latents, torch.tensor([500.0]), prompt).square().sum().backward()
        gradients.append(model.transformer_blocks[0].attn.to_q.weight.grad)
    assert torch.equal(*gradients)


def test_a_config_survives_its_own_json():
    config = small_model().config
    assert TransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_sizes_missing_from_the_config_come_from_the_tensors_then_from_the_release():
    config = load_json("tiny/checkpoint/ace_step_transformer/config.json")
    for key in [key for key in config if key.startswith("lyric_encoder_") and key != "lyric_encoder_vocab_size"]:
        del config[key]
    shapes = {name: tuple(tensor.shape) for name, tensor in load_transformer().state_dict().items()}
    small, released = TransformerConfig.from_dict(config, shapes), TransformerConfig.from_dict(config)
    assert (small.lyric_encoder_output_size, small.lyric_encoder_attention_heads) == (32, 2)
    assert (small.lyric_encoder_linear_units, small.lyric_encoder_num_blocks) == (64, 6)
    assert (released.lyric_encoder_output_size, released.lyric_encoder_attention_heads) == (1024, 16)
    assert (released.lyric_encoder_linear_units, released.lyric_encoder_num_blocks) == (4096, 6)


def test_a_config_without_its_depth_is_refused_by_name():
    with pytest.raises(CheckpointError, match="num_layers"):
        TransformerConfig.from_dict({"num_attention_heads": 2, "attention_head_dim": 8})


@pytest.mark.parametrize("channels", [64, 512])
def test_the_patch_convolution_is_right_in_bfloat16_too(channels):
    patch = PatchConv(8, channels, kernel_size=(16, 1), stride=(16, 1)).bfloat16()
    latents = torch.randn(2, 8, 16, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        half = patch(latents).float()
        whole = patch.float()(latents.float())
        expected = torch.nn.functional.conv2d(latents.float(), patch.weight, patch.bias, stride=(16, 1))
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-5)
    assert (half - whole).norm() < 0.01 * whole.norm()
