from pathlib import Path

import pytest
from pydantic import ValidationError

from acestep.errors import ConfigError
from acestep.training.config import LoopSection, LoraSection, SampleSection, TrainingConfig

AS_USERS_KNOW_IT = """\
base_model: "ACE-Step/ACE-Step-v1-3.5B"
output_dir: "./lora_output"
lora: {rank: 32, alpha: 64, dropout: 0.1, target_modules: [q_proj, k_proj, v_proj, out_proj, fc1, fc2]}
training: {epochs: 50, batch_size: 1, gradient_accumulation: 8, learning_rate: 1e-4, lr_scheduler: cosine, \
warmup_steps: 100, max_grad_norm: 1.0}
data: {train_dir: ./training_data, validation_split: 0.1, max_duration: 60, augmentation: {pitch_shift: true, \
time_stretch: true, add_noise: false}}
precision: bf16
gradient_checkpointing: true
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        TrainingConfig.from_yaml(write(folder, text))
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_the_file_that_users_know_is_what_the_defaults_are(tmp_path: Path):
    assert TrainingConfig.from_yaml(write(tmp_path, AS_USERS_KNOW_IT)) == TrainingConfig()


def test_an_empty_file_is_all_defaults(tmp_path: Path):
    assert TrainingConfig.from_yaml(write(tmp_path, "")) == TrainingConfig()


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", ".0001"])
def test_a_learning_rate_is_a_number_however_it_is_written(tmp_path: Path, text: str):
    config = TrainingConfig.from_yaml(write(tmp_path, f"training: {{learning_rate: {text}}}"))
    assert config.training.learning_rate == 1e-4


def test_all_problems_come_at_once_with_their_lines_and_what_would_be_right(tmp_path: Path):
    text = """\
base_model: nano
lora:
  rnak: 8
  alpha: -1
  dropout: yes
training:
  epochs: 2.5
  learning_rate: fast
  lr_scheduler: cosin
  batch_size: true
data:
  max_duration: 500
  augmentation: [pitch_shift]
  train_dir:
precison: bf16
"""
    assert problems(tmp_path, text) == [
        "train.yaml:3: lora.rnak is no setting; did you mean rank?",
        "train.yaml:4: lora.alpha is -1; expected a number above 0",
        "train.yaml:5: lora.dropout is 'yes'; expected a number",
        "train.yaml:7: training.epochs is 2.5; expected a whole number",
        "train.yaml:8: training.learning_rate is 'fast'; expected a number",
        "train.yaml:9: training.lr_scheduler is 'cosin'; expected cosine, linear or constant",
        "train.yaml:10: training.batch_size is true; expected a whole number",
        "train.yaml:12: data.max_duration is 500; expected a number at most 240",
        "train.yaml:13: data.augmentation is ['pitch_shift']; expected a section of settings",
        "train.yaml:14: data.train_dir is empty; expected text",
        "train.yaml:15: precison is no setting; did you mean precision?",
    ]


def test_a_list_item_is_found_by_its_own_line(tmp_path: Path):
    text = "lora:\n  target_modules:\n    - q_proj\n    - 7\n"
    assert problems(tmp_path, text) == ["train.yaml:4: lora.target_modules[1] is 7; expected text"]


def test_a_key_written_twice_is_a_problem(tmp_path: Path):
    text = "precision: bf16\nprecision: fp32\n"
    assert problems(tmp_path, text) == ["train.yaml:2: precision is set a second time, first in line 1"]


def test_infinity_is_no_learning_rate(tmp_path: Path):
    assert "expected a finite number" in problems(tmp_path, "training: {learning_rate: .inf}")[0]


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "lora: {rank: 3", "a: &x 1\nb: *x\n"])
def test_what_is_no_settings_file_says_so(tmp_path: Path, text: str):
    with pytest.raises(ConfigError):
        TrainingConfig.from_yaml(write(tmp_path, text))


def test_a_missing_file_is_a_config_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        TrainingConfig.from_yaml(tmp_path / "none.yaml")


def test_what_is_written_reads_back_equal(tmp_path: Path):
    config = TrainingConfig(
        base_model="nano",
        lora=LoraSection(rank=8, alpha=12.5, target_modules=("to_q",)),
        training=LoopSection(learning_rate=3e-5, max_steps=7),
    )
    assert TrainingConfig.from_yaml(write(tmp_path, config.to_yaml())) == config


def test_the_hash_follows_the_settings_and_not_their_spelling(tmp_path: Path):
    one = TrainingConfig.from_yaml(write(tmp_path, "precision: fp32\ntraining: {learning_rate: 1e-4}"))
    two = TrainingConfig.from_yaml(write(tmp_path, "training:\n  learning_rate: 0.0001\nprecision: 'fp32'"))
    assert one.sha256() == two.sha256()
    assert one.sha256() != TrainingConfig().sha256()


def test_sections_in_code_take_lists_and_refuse_what_files_may_not_say():
    assert LoraSection(target_modules=["to_q"]).target_modules == ("to_q",)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        LoopSection(epochs=0)


def test_a_mistake_in_a_section_that_may_be_left_out_is_found_like_any_other(tmp_path: Path):
    assert problems(tmp_path, "training:\n  early_stopping:\n    patient: 3\n") == [
        "train.yaml:3: training.early_stopping.patient is no setting; did you mean patience?"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lora: {rank_pattern: [1]}", "lora.rank_pattern is [1]; expected a section of names with a value each"),
        ("lora: {target_modules: []}", "lora.target_modules is []; expected a list of at least 1"),
        ("samples: {seeds: [a]}", "samples.seeds[0] is 'a'; expected a whole number"),
        ("training: {epochs: '8'}", "training.epochs is '8'; expected a whole number without quotes"),
        ("training: {learning_rate: '1e-4'}", "training.learning_rate is '1e-4'; expected a number without quotes"),
        ("loggers: [csv, tensorboard, csv]", "loggers is ['csv', 'tensorboard', 'csv']; expected each name once"),
        ("output_dir: ' '", "output_dir is ' '; expected the name of a folder"),
        ("data: {train_dir: ''}", "data.train_dir is ''; expected the name of a folder"),
        ("base_model: ''", "base_model is ''; expected a hub id, a folder or nano"),
        ("? [a, b]\n: 3", "a name of a setting is to be a word; found a list or a section"),
    ],
)
def test_what_would_be_right_is_said_in_words_and_once(tmp_path: Path, text: str, expected: str):
    assert problems(tmp_path, text) == [f"train.yaml:1: {expected}"]


def test_a_number_of_thousands_of_digits_is_no_number(tmp_path: Path):
    [problem] = problems(tmp_path, f"training: {{seed: {'9' * 5000}}}")
    assert problem.startswith("train.yaml:1: training.seed is '999")
    assert problem.endswith("expected a whole number")


@pytest.mark.parametrize("text", ["1e5", "-3e2", "5", "null", "yes", "~", "a: b", "#x", "x\ny", "\x85", "🎵"])
def test_text_that_looks_like_something_else_is_read_back_as_text(tmp_path: Path, text: str):
    config = TrainingConfig(base_model="nano", samples=SampleSection(lyrics=text))
    assert TrainingConfig.from_yaml(write(tmp_path, config.to_yaml())) == config
