"""What a LoRA did, heard side by side and measured."""

from acestep.evaluation.advice import Advice, advise
from acestep.evaluation.curves import TrainingCurves, read_curves
from acestep.evaluation.evaluation import Evaluation, HeldOut, evaluate_lora, verdict
from acestep.evaluation.held_out import HeldOutClip, clip_losses, compare_losses, training_levels
from acestep.evaluation.page import write_page
from acestep.evaluation.prompts import Prompt, read_prompts
from acestep.evaluation.recordings import held_out_part, read_held_out
from acestep.evaluation.side_by_side import Comparison, Take, generate_comparisons
from acestep.evaluation.uncertainty import Estimate

__all__ = [
    "Advice",
    "Comparison",
    "Estimate",
    "Evaluation",
    "HeldOut",
    "HeldOutClip",
    "Prompt",
    "Take",
    "TrainingCurves",
    "advise",
    "clip_losses",
    "compare_losses",
    "evaluate_lora",
    "generate_comparisons",
    "held_out_part",
    "read_curves",
    "read_held_out",
    "read_prompts",
    "training_levels",
    "verdict",
    "write_page",
]
