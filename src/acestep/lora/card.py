"""The model card of an adapter folder: front matter for the hub, then how it was made and how to use it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from acestep.lora.metadata import AdapterMetadata

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def model_card(title: str, metadata: AdapterMetadata, *, modules: int, rank: int, prompts: Sequence[str] = ()) -> str:
    """Markdown under YAML front matter. `prompts` are examples that the adapter answers well."""
    front: dict[str, Any] = {
        "library_name": "acesteps",
        "pipeline_tag": "text-to-audio",
        "tags": ["lora", "music-generation", "ace-step", *([metadata.family] if metadata.family else [])],
    }
    base = metadata.base_model or ""
    if _HUB_ID.fullmatch(base):  # the hub refuses a card whose base is no repository
        front |= {"base_model": base, "base_model_relation": "adapter"}
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    sections = [f"# {title}", _made(metadata, modules, rank), _use(base or "BASE", title, metadata, prompts)]
    return f"---\n{header}---\n\n" + "\n\n".join(sections) + "\n"


def _made(metadata: AdapterMetadata, modules: int, rank: int) -> str:
    lines = ["## How it was made", "", f"- Method: {metadata.method}"]
    if trained := metadata.trained:
        kind = ("rank-stabilised " if trained.rslora else "") + ("DoRA" if trained.dora else "LoRA")
        others = sorted({*trained.ranks.values()})
        more = f" (rank {', '.join(map(str, others))} in {len(trained.ranks)} modules)" if others else ""
        lines.append(f"- Trained as {kind} of rank {trained.rank} with alpha {trained.alpha:g}{more}")
    lines.append(f"- In the file: {modules} modules, rank {rank}, alpha {rank} (the scale is in the B factors)")
    details = {
        "Base model": metadata.base_model,
        "Base fingerprint": metadata.base_fingerprint,
        "Training config, sha256": metadata.training_config_sha256,
    }
    lines += [f"- {label}: {value}" for label, value in details.items() if value]
    lines += [f"- Parent {parent.name or parent.sha256[:12]}, weight {parent.weight:g}" for parent in metadata.parents]
    return "\n".join(lines)


def _use(base: str, title: str, metadata: AdapterMetadata, prompts: Sequence[str]) -> str:
    prompt = prompts[0] if prompts else "your prompt"
    code = (
        "from acestep import ACEStepPipeline\n\n"
        f'pipe = ACEStepPipeline.from_pretrained({base!r}, lora_path="./{title}", '
        f"lora_weight={metadata.recommended_strength:g})\n"
        f'pipe(prompt={prompt!r}, duration=30, seed=42).save("song.mp3")'
    )
    examples = ["", "Prompts to try:", "", *(f"- {prompt}" for prompt in prompts)] if prompts else []
    return "\n".join(["## How to use it", "", f"```python\n{code}\n```", *examples])
