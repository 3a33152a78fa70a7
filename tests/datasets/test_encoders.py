from pathlib import Path

from acestep.datasets.encoders import identify_encoders
from acestep.datasets.latent_cache import LatentCache
from small_family import SmallFamily


def scaled(factor: float) -> SmallFamily:
    family = SmallFamily()
    family.basis = family.basis * factor
    return family


def test_an_encoder_is_known_again_though_its_last_bits_differ(tmp_path: Path):
    cache = LatentCache(tmp_path)
    first = identify_encoders(SmallFamily(), cache)
    assert identify_encoders(scaled(1 + 1e-5), cache) == first


def test_another_autoencoder_is_another_and_leaves_the_text_encoder_the_same(tmp_path: Path):
    cache = LatentCache(tmp_path)
    first, second = identify_encoders(SmallFamily(), cache), identify_encoders(scaled(1.01), cache)
    assert first.audio != second.audio
    assert first.text == second.text
    assert identify_encoders(SmallFamily(), cache) == first


def test_a_damaged_entry_is_left_aside(tmp_path: Path):
    cache = LatentCache(tmp_path)
    identify_encoders(SmallFamily(), cache)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"broken")
    assert identify_encoders(SmallFamily(), cache) == identify_encoders(SmallFamily(), LatentCache(tmp_path / "new"))
