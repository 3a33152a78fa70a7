"""Fine-tune ACE-Step with LoRA, hear what it does, blend it and share it."""
