"""Writing what was found out about an adapter into its folder: the strength to use it with, and files beside it.

Only the file's header changes; every tensor keeps its bytes. The folder is swapped whole, so a reader or a full disk
never meets half of either.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from acestep.errors import AdapterError
from acestep.lora.locating import WEIGHTS_FILE
from acestep.lora.metadata import HEADER_KEY, metadata_from_header
from acestep.lora.tensor_file import open_tensor_file
from acestep.lora.whole_folder import written_whole

MAX_STRENGTH = 10.0
_ALIGNMENT = 8
_CARD = "README.md"
_CARD_WEIGHT = re.compile(r"(?<=lora_weight=)[-+.\deE]+(?=\))")


def is_own_folder(path: str | Path) -> bool:
    """Whether it is an adapter folder on this machine that acestep wrote: others' files are not ours to change."""
    weights = Path(path) / WEIGHTS_FILE
    return weights.is_file() and HEADER_KEY in open_tensor_file(weights).metadata


def write_findings(
    folder: str | Path, *, recommended_strength: float | None, files: Callable[[Path], Mapping[str, str]]
) -> Path:
    """Put text files beside an adapter of ours and, unless None, a recommended strength into its header and card.

    files: given the weights as they will lie there, text by name, which replaces files of the same name. Raises
    AdapterError for a folder that is not ours or a strength outside (0, 10], OSError where the disk does not take it;
    the folder is then as it was.
    """
    folder = Path(folder).resolve()
    if not is_own_folder(folder):
        raise AdapterError(f"{folder} is no adapter folder that acestep wrote; nothing is written into it")
    if recommended_strength is not None and not 0 < recommended_strength <= MAX_STRENGTH:
        raise AdapterError(f"the recommended strength is {recommended_strength:g}; give more than 0 and at most 10")
    with written_whole(folder) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True, symlinks=True)
        if recommended_strength is not None:
            _write_strength(folder / WEIGHTS_FILE, partial / WEIGHTS_FILE, recommended_strength)
            _update_card(partial / _CARD, recommended_strength)
        for name, text in files(partial / WEIGHTS_FILE).items():
            (partial / name).unlink(missing_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
    return folder


def _write_strength(source: Path, target: Path, strength: float) -> None:
    """The file again with another header (eight bytes of length, JSON padded with blanks, the tensors' bytes)."""
    metadata = metadata_from_header(open_tensor_file(source).metadata)
    if metadata.recommended_strength == strength:
        return
    with source.open("rb") as old:
        header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        own = json.loads(header["__metadata__"][HEADER_KEY])
        header["__metadata__"][HEADER_KEY] = json.dumps({**own, "recommended_strength": strength})
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        # A new file: a link that was copied must not lead to what it points at.
        target.unlink()
        with target.open("wb") as new:
            new.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(old, new, 1 << 20)


def _update_card(card: Path, strength: float) -> None:
    """The weight in the card's example; what its author wrote elsewhere is left alone."""
    if card.is_file() and not card.is_symlink():
        text = card.read_text(encoding="utf-8")
        card.write_text(_CARD_WEIGHT.sub(f"{strength:g}", text, count=1), encoding="utf-8")
