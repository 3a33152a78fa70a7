"""Encoders of music and speech whose states a base's alignment heads foretell: MERT and mHuBERT, from local weights.

Both are HuBERT networks (Hsu et al. 2021, arXiv:2106.07447). MERT (Li et al. 2023, arXiv:2306.00107) comes with code of
its own, which is never run: what it adds for the released v1 model changes no output, and a checkpoint that asks for
more is refused. Nothing is fetched here; who wants these losses gets the weights first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from acestep.errors import AudioError, CheckpointError, MissingWeightsError
from acestep.families.base import RepresentationSource
from acestep.families.checkpoint import fingerprint, read_config
from acestep.families.hub import REPRESENTATION_FILES

_PICKLE = "pytorch_model.bin"
_RELEASED_GB = {"m-a-p/MERT-v1-330M": 1.3, "utter-project/mHuBERT-147": 0.4}
_CHUNKS_AT_ONCE = 4
_NORMS = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
"""What weight norm's tensors were called in checkpoints of before 2023."""
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim", "conv_kernel")


class RepresentationEncoder:
    """A frozen encoder in float32, with the released trainer's way of cutting and levelling recordings."""

    def __init__(self, source: RepresentationSource, model: HubertModel) -> None:
        self.source = source
        # transformers' own annotations are partial; here it is a module with a config.
        network: nn.Module = model
        self._model = network.eval().requires_grad_(False)
        config: Any = model.config
        self._hop = math.prod(config.conv_stride)
        self._chunk = round(source.chunk_s * source.sample_rate)
        frames = self._chunk
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            frames = (frames - kernel) // stride + 1
        self.frame_rate = frames / source.chunk_s
        """States a second. The first layers keep a little less of each chunk than a state every hop."""

    @classmethod
    def load(
        cls, source: RepresentationSource, *, folder: Path | None = None, device: torch.device | str = "cpu"
    ) -> RepresentationEncoder:
        """From `folder`, or from the hub's cache on this machine.

        Raises MissingWeightsError with what to do where they are not here, CheckpointError where they are of another
        network.
        """
        found = find_weights(source, folder=folder)
        encoder = cls(source, _network(source, found))
        encoder._model.to(device)
        return encoder

    @property
    def device(self) -> torch.device:
        return next(self._model.parameters()).device

    def fingerprint(self) -> str:
        """sha256 over the weights."""
        return fingerprint(self._model)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """audio: (samples,) mono float32 at the source's rate, a whole recording -> states (frames, width) float32

        Levelled over the recording, heard in chunks, the last one filled with zeros. AudioError where there are fewer
        than two samples.
        """
        if len(audio) < 2:
            raise AudioError(f"{len(audio)} samples are too few for {self.source.name} to hear")
        levelled = (audio - audio.mean()) / torch.sqrt(audio.var() + 1e-7)
        states = []
        for group in torch.split(levelled, self._chunk * _CHUNKS_AT_ONCE):
            chunks = torch.nn.functional.pad(group, (0, -len(group) % self._chunk)).view(-1, self._chunk)
            heard = self._model(chunks.to(self.device)).last_hidden_state.cpu()
            for chunk, whole in zip(torch.split(group, self._chunk), heard, strict=True):
                states.append(whole[: math.ceil(len(chunk) / self._hop)])
        return torch.cat(states)


def find_weights(source: RepresentationSource, *, folder: Path | None = None) -> Path:
    """The folder of an encoder's config and weights: the one given, or the hub's cache, which is all that is searched.

    Raises MissingWeightsError.
    """
    # Importing huggingface_hub takes a third of a second.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if folder is None:
        try:
            folder = Path(snapshot_download(source.hub_id, local_files_only=True))
        except LocalEntryNotFoundError:
            size = f" ({_RELEASED_GB[source.hub_id]} GB)" if source.hub_id in _RELEASED_GB else ""
            raise MissingWeightsError(
                f"{source.hub_id}{size} is not on this machine; get it with: hf download {source.hub_id}"
            ) from None
    missing = [name for name in REPRESENTATION_FILES if not (folder / name).is_file()]
    if missing and (folder / _PICKLE).is_file():
        raise MissingWeightsError(
            f"{folder} has its weights as a pickle ({_PICKLE}), which can run code when read and is refused; "
            f"write them to model.safetensors beside it, as docs/representation-alignment.md shows"
        )
    if missing:
        raise MissingWeightsError(f"{folder} lacks {', '.join(missing)}; get all of {source.hub_id} again")
    return folder


def _network(source: RepresentationSource, folder: Path) -> HubertModel:
    values = read_config(folder / "config.json")
    _check_config(source, values, folder)
    known = HubertConfig().to_dict().keys() - {"model_type", "architectures", "dtype", "transformers_version"}
    # Masking is for pre-training; without it the network needs no tensor for it.
    unmasked = {"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    try:
        config = HubertConfig(**{**{name: values[name] for name in known & values.keys()}, **unmasked})
        with torch.device("meta"):
            model = HubertModel(config)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} describes no HuBERT network: {error}") from error
    path = folder / "model.safetensors"
    try:
        tensors = {_name(name): tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file ({error}); get the file again") from error
    tensors.pop("masked_spec_embed", None)
    _check_names(tensors, model.state_dict(), path)
    model.load_state_dict(tensors, assign=True)
    return model


def _check_config(source: RepresentationSource, values: Mapping[str, Any], folder: Path) -> None:
    path = folder / "config.json"
    if absent := [name for name in _SIZES if name not in values]:
        raise CheckpointError(f"{path} lacks {', '.join(absent)}; it is not that of {source.hub_id}")
    # Two things that MERT's own code can do and HuBERT cannot; its attention_relax cancels out in the softmax.
    if extras := [name for name in ("feature_extractor_cqt", "deepnorm") if values.get(name)]:
        raise CheckpointError(
            f"{path} asks for {', '.join(extras)}, which a HuBERT network has not; use {source.hub_id}"
        )
    if values["hidden_size"] != source.width:
        raise CheckpointError(
            f"{path} has states of width {values['hidden_size']}, the base foretells {source.width}; "
            f"use {source.hub_id}"
        )


def _name(name: str) -> str:
    """As transformers calls it now: without the prefix of fine-tuned models, with weight norm's present names."""
    parent, _, last = name.removeprefix("hubert.").rpartition(".")
    return f"{parent}.{_NORMS.get(last, last)}" if parent else last


def _check_names(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    problems = {
        "missing": sorted(wanted.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - wanted.keys()),
        "misshapen": sorted(
            name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape
        ),
    }
    told = [f"{len(names)} {kind} ({', '.join(names[:5])})" for kind, names in problems.items() if names]
    if told:
        raise CheckpointError(f"{path} does not fit its config.json: {'; '.join(told)}. Get the file again.")
