import torch
from recipes.nano.transformer import HalfPrecisionAttention, HalfPrecisionPatch, build_nano

_VOCABULARY = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{str(tempo): tempo - 37 for tempo in range(40, 221)}}


def test_the_working_copys_layers_compute_what_the_models_own_compute():
    transformer = build_nano(_VOCABULARY, 50).transformer.eval()
    torch.nn.init.normal_(transformer.final_layer.linear.weight, std=0.05)
    latents, timesteps = torch.randn(2, 8, 16, 24), torch.tensor([100.0, 900.0])
    conditioning = transformer.encode_conditioning(
        torch.randn(2, 5, 128),
        torch.ones(2, 5),
        torch.zeros(2, 512),
        torch.ones(2, 4, dtype=torch.long),
        torch.ones(2, 4),
    )
    with torch.no_grad():
        expected = transformer(latents, timesteps, conditioning)
        transformer.proj_in.__class__ = HalfPrecisionPatch
        for block in transformer.transformer_blocks:
            block.attn.__class__ = HalfPrecisionAttention
        torch.testing.assert_close(transformer(latents, timesteps, conditioning), expected, rtol=1e-4, atol=1e-4)


def test_neighbouring_tempos_start_alike_and_distant_ones_do_not():
    embedding = build_nano(_VOCABULARY, 50).text_encoder.shared.weight
    likeness = torch.nn.functional.cosine_similarity(embedding[120 - 37], embedding[[121 - 37, 170 - 37]], dim=-1)
    assert likeness[0] > likeness[1] + 0.1
