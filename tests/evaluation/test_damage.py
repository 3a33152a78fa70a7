"""Damage where the answer is known: songs whose only difference is put there, and networks that are bent by degrees."""

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from acestep.errors import InputError
from acestep.evaluation.damage import Damage, EdgeOutcome, binomial_interval, measure_damage
from acestep.evaluation.held_out import clip_losses, compare_losses, training_levels
from acestep.evaluation.probes import make_probes
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.suite import EdgePrompt, read_suite
from acestep.evaluation.suite_songs import SuiteSong, hear_song, play_edge, play_suite, spectral_slope_db
from acestep.lora import attach, detach, set_weights
from evaluation.fake_pipeline import BrightnessPipeline
from evaluation.random_adapter import random_adapter
from evaluation.songs import RATE, clicks, coloured_noise
from small_family import SmallFamily

TEMPOS = (70, 92, 118, 155)
SLOPES = (-9.0, -6.0, -4.0, -2.0)
PROMPTS = [Prompt(prompt=f"song at {bpm} bpm") for bpm in TEMPOS]
SEEDS = (1, 2)
SECONDS = 5.0
Audio = NDArray[np.float64]


def make(number: int, seed: int) -> Audio:
    """Coloured clicks over quiet noise of the same colour: colour and tempo are the prompt's, the noise the seed's."""
    own, slope_db = seed * 100 + number, SLOPES[number] + 0.2 * (seed - 1.5)
    noise = coloured_noise(slope_db, seed=own, seconds=SECONDS)
    return 0.02 * noise + 0.3 * brighter(clicks(TEMPOS[number], seed=own, seconds=SECONDS), slope_db)


def songs(change: Callable[[Audio, int, int], Audio] = lambda audio, _number, _seed: audio) -> list[SuiteSong]:
    return [
        hear_song(change(make(number, seed), number, seed), RATE, prompt, seed)
        for number, prompt in enumerate(PROMPTS)
        for seed in SEEDS
    ]


def brighter(audio: Audio, slope_db: float) -> Audio:
    """The same with a spectrum that rises by so much more an octave, at equal loudness."""
    spectrum = np.fft.rfft(audio)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(audio.shape[-1], 1 / RATE), 100) / 100)
    turned = np.fft.irfft(spectrum * 10 ** (slope_db * octaves / 20), audio.shape[-1])
    return np.asarray(turned * audio.std() / turned.std())


@pytest.fixture(scope="module")
def base() -> list[SuiteSong]:
    return songs()


def test_an_adapter_of_zeros_damages_nothing(base: list[SuiteSong]) -> None:
    damage = measure_damage(base, songs())
    assert damage.harms == ()
    assert damage.moved is not None
    assert damage.moved.value == damage.moved.high == 0.0
    assert damage.variety is not None
    assert damage.variety.value == 1.0
    assert damage.told_apart is not None
    assert damage.told_apart.base == damage.told_apart.adapted > 0.9
    assert damage.recognised is not None
    assert damage.recognised.change.value == 0.0
    assert damage.brightness_db is not None
    assert damage.brightness_db.value == 0.0
    assert "No damage" in damage.summary


@pytest.mark.parametrize("slope_db", [-2.0, 3.0])
def test_a_known_brightness_is_found_and_so_is_its_sign(base: list[SuiteSong], slope_db: float) -> None:
    damage = measure_damage(base, songs(lambda audio, *_: brighter(audio, slope_db)))
    assert damage.brightness_db is not None
    assert damage.brightness_db.value == pytest.approx(slope_db, abs=0.1)
    assert damage.brightness_db.low < damage.brightness_db.value < damage.brightness_db.high


def test_the_slope_of_coloured_noise_is_the_one_it_was_given() -> None:
    for slope in (-8.0, 0.0, 4.0):
        assert spectral_slope_db(coloured_noise(slope, seed=3), RATE) == pytest.approx(slope, abs=0.2)


def test_damage_grows_with_strength(base: list[SuiteSong]) -> None:
    moved = []
    for strength in (0.1, 2.0):
        damage = measure_damage(base, songs(lambda audio, *_, s=strength: brighter(audio, 6 * s)))
        assert damage.moved is not None
        moved.append(damage.moved)
    assert [one.value for one in moved] == sorted(one.value for one in moved)
    assert moved[0].value < 1.0 < moved[-1].low


def test_songs_that_all_sound_alike_are_damage(base: list[SuiteSong]) -> None:
    def same_for_all(_audio: Audio, _number: int, seed: int) -> Audio:
        return clicks(84, seed=seed, seconds=SECONDS)  # no prompt's tempo, nor half or double of one

    damage = measure_damage(base, songs(same_for_all))
    assert damage.variety is not None
    assert damage.variety.value < 0.5
    assert damage.told_apart is not None
    assert damage.told_apart.adapted <= 0.5
    assert damage.told_apart.change.falls
    assert damage.recognised is not None
    assert damage.recognised.change.falls
    told = " ".join(damage.harms)
    for part in ("as far apart", "told apart", "tempo in prompts is kept less", "resemble"):
        assert part in told


def test_a_wrecking_adapter_is_told_by_its_broken_songs(base: list[SuiteSong]) -> None:
    def wreck(audio: Audio, number: int, _seed: int) -> Audio:
        return (np.full_like(audio, np.nan), 0 * audio, np.sign(audio), audio)[number]

    damage = measure_damage(base, songs(wreck))
    rates = {rate.flaw: rate for rate in damage.rates}
    assert [rates[flaw].fresh for flaw in ("not finite", "silent", "clipped", "failed")] == [2, 2, 2, 0]
    assert all(rate.base == 0 for rate in damage.rates)
    assert rates["not finite"].fresh_rate.low > 0.02
    assert rates["failed"].fresh_rate.high > 0.3
    assert {"2 of 8 songs hold NaN", "2 of 8 songs fall silent", "2 of 8 songs clip"} <= set(damage.harms)
    json.dumps(damage.as_dict(), allow_nan=False)


def test_what_was_broken_before_is_not_the_adapter_s_doing(base: list[SuiteSong]) -> None:
    silent = [replace(base[0], outcome="silent", windows=None), *base[1:]]
    damage = measure_damage(silent, silent)
    assert damage.harms == ()
    assert {rate.flaw: rate.base for rate in damage.rates}["silent"] == 1
    assert measure_damage(silent, base).harms == ()


def test_all_songs_broken_leaves_the_rest_out_and_says_so(base: list[SuiteSong]) -> None:
    damage = measure_damage(base, songs(lambda audio, *_: np.full_like(audio, np.nan)))
    assert damage.moved is damage.variety is damage.adherence is None
    assert ("distance from the base", "no pair of songs") in damage.left_out
    assert "8 of 8 songs hold NaN" in damage.harms
    json.dumps(damage.as_dict(), allow_nan=False)


def test_one_seed_or_one_prompt_leaves_out_what_needs_two(base: list[SuiteSong]) -> None:
    one_seed = measure_damage(base[::2], base[::2])
    assert one_seed.moved is None
    assert one_seed.told_apart is None
    assert one_seed.variety is not None
    assert ("distance from the base", "it needs two seeds a prompt") in one_seed.left_out
    one_prompt = measure_damage(base[:2], base[:2])
    assert one_prompt.moved is not None
    assert one_prompt.variety is None
    assert math.isinf(one_prompt.moved.high)
    for damage in (one_seed, one_prompt, measure_damage([], [])):
        json.dumps(damage.as_dict(), allow_nan=False)


def test_the_same_songs_give_the_same_figures(base: list[SuiteSong]) -> None:
    changed = [*base[2:], *base[:2]]
    changed = [replace(song, prompt=own.prompt, seed=own.seed) for song, own in zip(changed, base, strict=True)]
    first, second = (json.dumps(measure_damage(base, changed).as_dict()) for _ in range(2))
    assert first == second


def test_songs_must_be_pairs(base: list[SuiteSong]) -> None:
    for other in (base[:-1], list(reversed(base))):
        with pytest.raises(InputError, match="pair them"):
            measure_damage(base, other)


def test_the_loss_on_the_base_s_own_songs_rises_with_strength() -> None:
    family = SmallFamily()
    clips = make_probes(family, PROMPTS, duration_s=1.0, steps=8)
    sigmas = training_levels(family)
    before = clip_losses(family, clips, sigmas)
    rises = []
    attach(family.network, random_adapter(family.network, size=1.0), name="bent", weight=0.0)
    for strength in (0.0, 0.5, 1.0, 3.0):
        set_weights(family.network, {"bent": strength})
        losses = compare_losses(before, clip_losses(family, clips, sigmas), sigmas, clips)
        damage = measure_damage([], [], losses=losses)
        assert damage.loss_rise is not None
        rises.append(damage.loss_rise)
    detach(family.network, "bent")
    assert rises[0].value == rises[0].high == 0.0
    assert [rise.value for rise in rises] == sorted(rise.value for rise in rises)
    wrecked = measure_damage([], [], losses=losses)
    assert (rises[-1].low > 0.5) == any("predicted" in harm for harm in wrecked.harms)
    assert rises[-1].value > 4 * rises[1].value > 0


def test_edge_prompts_break_where_the_base_did_not() -> None:
    for base, adapted, expected, broke in (
        ("song", "song", "song", False),
        ("song", "silent", "song", True),
        ("refused", "refused", "refused", False),
        ("refused", "song", "refused", True),
        ("song", "refused", "refused", False),
        ("silent", "silent", "song", False),
        ("silent", "song", "song", False),
        ("silent", "not finite", "song", True),
    ):
        assert EdgeOutcome("x", expected, base, adapted).broke is broke, (base, adapted)


def test_edge_prompts_are_played_and_refusals_kept() -> None:
    suite = read_suite()
    family_limit = 2000

    class Limited(BrightnessPipeline):
        def __call__(self, prompt: str, lyrics: str = "", **settings: object) -> object:  # type: ignore[override]
            if len(prompt) > family_limit:
                raise InputError(f"the prompt has {len(prompt)} letters; {family_limit} are the limit")
            if not prompt and self.loras["lora"]:
                raise RuntimeError("shape mismatch")
            return super().__call__(prompt, lyrics, **settings)  # type: ignore[arg-type]

    pipeline = Limited(1.0)
    lora = pipeline.load_lora("lora")
    edge = [prompt for prompt in suite.edge if prompt.id in ("empty", "one-word", "too-long")]
    played = play_edge(pipeline, lora, edge, strengths=(1.0,))  # type: ignore[arg-type]
    damage = measure_damage([], [], edge_base=played[0.0], edge_adapted=played[1.0])
    outcomes = {edge.id: edge for edge in damage.edge}
    assert list(outcomes) == [prompt.id for prompt in edge]
    assert outcomes["too-long"].base == outcomes["too-long"].adapted == "refused"
    assert {edge.id for edge in damage.broken_edges} == {"empty"}
    assert outcomes["empty"].said == "RuntimeError: shape mismatch"
    assert "the edge prompt 'empty' gives failed, not song" in damage.harms
    song = SuiteSong(PROMPTS[0], 1, "song")
    with pytest.raises(InputError, match="no edge prompt"):
        measure_damage([], [], edge_base=[song], edge_adapted=[song])


def test_the_suite_is_played_in_pairs_and_only_the_base_s_latents_are_kept() -> None:
    pipeline = BrightnessPipeline(3.0)
    heard: list[tuple[int, int]] = []
    played = play_suite(
        pipeline,  # type: ignore[arg-type]
        pipeline.load_lora("lora"),
        [*read_suite().first(1), EdgePrompt(id="empty")],
        strengths=(0.0, 1.0),
        duration_s=5.0,
        progress=lambda done, total: heard.append((done, total)),
    )
    assert list(played) == [0.0, 1.0]
    assert heard[-1] == (8, 8)
    assert [weight for _, _, weight in pipeline.calls] == [0.0, 1.0] * 4
    assert all(song.latents is not None for song in played[0.0])
    assert all(song.latents is None for song in played[1.0])
    damage: Damage = measure_damage(played[0.0], played[1.0])
    assert damage.brightness_db is not None
    assert damage.brightness_db.value == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize(
    ("found", "count", "low", "high"), [(0, 20, 0.0, 0.1684), (20, 20, 0.8316, 1.0), (3, 10, 0.0667, 0.6525)]
)
def test_binomial_intervals_are_the_exact_ones(found: int, count: int, low: float, high: float) -> None:
    interval = binomial_interval(found, count)
    assert interval.low == pytest.approx(low, abs=1e-4)
    assert interval.high == pytest.approx(high, abs=1e-4)
    assert interval.value == found / count
