"""The trainer on a checkpoint of the released layout, from its folder to songs' worth of latents and back to a file."""

from pathlib import Path

import pytest

from acestep.families.checkpoint import fingerprint
from acestep.families.loading import load_family
from acestep.lora import module_shapes, read_adapter
from acestep.training import LoRATrainer, TrainingConfig
from acestep.training.config import DataSection, LoopSection, LoraSection, SampleSection
from small_checkpoint import make_checkpoint
from small_family import write_dataset


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_v1_checkpoint_trains_with_the_default_targets(tmp_path: Path, precision: str):
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    config = TrainingConfig(
        base_model=str(checkpoint),
        output_dir=str(tmp_path / "run"),
        lora=LoraSection(rank=2, alpha=2.0, dropout=0.0),
        training=LoopSection(epochs=6, gradient_accumulation=1, learning_rate=3e-3, warmup_steps=0),
        data=DataSection(max_duration=2.0, validation_split=0.3),
        samples=SampleSection(prompts=("a waltz",), duration=5.0),
        precision=precision,  # type: ignore[arg-type]
    )
    family = load_family(checkpoint)
    before = fingerprint(family.network)
    trainer = LoRATrainer(family, config)
    dataset = trainer.prepare_dataset(write_dataset(tmp_path / "data", tracks=4, duration_s=3.0))
    summary = trainer.train(dataset)
    assert summary.first_validation is not None
    assert summary.last_validation is not None
    assert summary.last_validation.val_loss < summary.first_validation.val_loss
    assert fingerprint(family.network) == before
    adapter = read_adapter(trainer.save_lora(tmp_path / "mine"), module_shapes(family.network))
    assert len(adapter.factors) == 4 * (4 + 4 + 2)
    assert not adapter.report.unmatched


def test_a_base_named_to_the_trainer_is_the_one_in_the_runs_config(tmp_path: Path):
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    config = TrainingConfig(output_dir=str(tmp_path / "run"), lora=LoraSection(target_modules=("to_q",)))
    trainer = LoRATrainer(checkpoint, config, device="cpu")
    assert trainer.config.base_model == str(checkpoint)
    assert trainer.family.device.type == "cpu"
