"""Test that a model keeps the samples of a packed row apart."""

from typing import Any

import torch
from torch import nn

from lora_scaling.config import RunConfig
from lora_scaling.errors import UserError
from lora_scaling.training.batches import sample_bounds
from lora_scaling.training.device import Device

_LENGTH = 12
# Largest difference of a score, in standard deviations of the scores, by what the computing type rounds.
_FROM_NEIGHBOUR = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 1e-2}
_FROM_ALONE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1}


@torch.no_grad()
def refuse_mixing(
    network: nn.Module, config: RunConfig, device: Device, *, vocabulary: int, bounded: bool = False
) -> None:
    """Compute the scores of one sample alone and behind two other ones, as rows of a batch are packed.

    bounded: whether the attention of the model is told where samples begin.

    Raises:
        UserError: what stands before the sample changes its scores, or its place in the row does.
    """
    tokens = torch.arange(3 * _LENGTH, device=device.torch_device).mul(7).add(3) % min(vocabulary, 251)
    one, other, sample = tokens.view(3, _LENGTH)
    positions = torch.arange(_LENGTH, device=device.torch_device)
    packed = torch.stack([torch.cat([one, sample]), torch.cat([other, sample])])  # (2, 24)
    places = torch.cat([positions, positions]).expand(2, -1)
    trains = network.training
    network.eval()
    try:
        alone = network(input_ids=sample[None], position_ids=positions[None]).logits[0].float()
        size = min(config.batch_size, 2)
        bounds = _bounds(places[:size]) if bounded else {}
        behind = torch.cat(
            [
                network(input_ids=packed[i : i + size], position_ids=places[:size], **bounds).logits
                for i in range(0, 2, size)
            ]
        )
    except TypeError:  # it takes no positions
        raise _refusal(config, network, "takes no positions of tokens") from None
    finally:
        network.train(trains)
    first, second = behind[:, _LENGTH:].float()
    scale = float(alone.std()) or 1.0
    if float((first - second).abs().max()) > _FROM_NEIGHBOUR[device.precision] * scale:
        raise _refusal(config, network, "sees the sample before it in the row")
    if float((first - alone).abs().max()) > _FROM_ALONE[device.precision] * scale:
        raise _refusal(config, network, "counts positions on from the sample before it")


def _bounds(places: torch.Tensor) -> dict[str, Any]:
    found = sample_bounds(places.tolist(), places.shape[1])
    return {name: value.to(places.device) if torch.is_tensor(value) else value for name, value in found.items()}


def _refusal(config: RunConfig, network: nn.Module, why: str) -> UserError:
    name = getattr(getattr(network, "config", None), "model_type", type(network).__name__)
    return UserError(
        f"packing: got true; a sample in a packed row of {config.model.name} ({name}) {why}; "
        "use packing=false, with group_by_length=true for little padding"
    )
