"""What a LoRA did, heard side by side and measured."""

from acestep.evaluation.advice import Advice, advise
from acestep.evaluation.curves import TrainingCurves, read_curves
from acestep.evaluation.evaluation import Evaluation, HeldOut, Listener, evaluate_lora, verdict
from acestep.evaluation.findings import Finding, Pair, Passage
from acestep.evaluation.held_out import HeldOutClip, clip_losses, compare_losses, training_levels
from acestep.evaluation.page import write_page
from acestep.evaluation.prompts import Prompt, read_prompts
from acestep.evaluation.recordings import DatasetParts, held_out_part, read_dataset_parts, read_held_out
from acestep.evaluation.report_card import ReportCard, publish_card, read_card, report_card, save_card
from acestep.evaluation.side_by_side import Comparison, Take, generate_comparisons
from acestep.evaluation.song_cache import SongCache
from acestep.evaluation.strengths import AtStrength, StrengthCurve, judge_strengths
from acestep.evaluation.uncertainty import Estimate

__all__ = [
    "Advice",
    "AtStrength",
    "Comparison",
    "DatasetParts",
    "Estimate",
    "Evaluation",
    "Finding",
    "HeldOut",
    "HeldOutClip",
    "Listener",
    "Pair",
    "Passage",
    "Prompt",
    "ReportCard",
    "SongCache",
    "StrengthCurve",
    "Take",
    "TrainingCurves",
    "advise",
    "clip_losses",
    "compare_losses",
    "evaluate_lora",
    "generate_comparisons",
    "held_out_part",
    "judge_strengths",
    "publish_card",
    "read_card",
    "read_curves",
    "read_dataset_parts",
    "read_held_out",
    "read_prompts",
    "report_card",
    "save_card",
    "training_levels",
    "verdict",
    "write_page",
]
