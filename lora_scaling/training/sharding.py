"""Shard one model over the processes of a run (FSDP2).

Each process keeps a part of every weight and gathers a layer to compute it. Accelerate shards only at `train()`, and on
CPUs silently not at all. Here PyTorch's own `fully_shard` shards the model when it is set up, so that evaluation,
warm-up and training use the same sharded model on any device.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lora_scaling.config import RunConfig
from lora_scaling.errors import UserError
from lora_scaling.ranks import rank, world_size
from lora_scaling.training.device import Device
from lora_scaling.training.ranks import broadcast_from_rank0

# Where a module keeps a tensor: its dictionary of parameters or buffers, and the name in it.
_Place = tuple[dict[str, Any], str]


def refuse_impossible_sharding(config: RunConfig) -> None:
    """Refuse a configuration that cannot be sharded.

    Raises:
        UserError: its weights are in bitsandbytes' own format, only one process is running, or the launcher would
            shard by itself, unseen.
    """
    if config.sharding == "fsdp" and config.method.name == "qlora":
        raise UserError(
            "sharding: got fsdp with method=qlora, whose 4-bit weights this program estimates but does not split; "
            "use method=lora or full, or sharding=none, where each device holds the 4-bit model"
        )
    if config.sharding == "fsdp" and world_size() == 1:
        raise UserError(
            "sharding: got fsdp with one process; it splits a model over 2 or more: start it with "
            "torchrun --nproc-per-node N -m lora_scaling …, or say sharding=none"
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise UserError(
            "--use_fsdp: given to accelerate launch (or in its configuration file); "
            "drop that and say sharding=fsdp, which evaluates and measures the sharded model"
        )


def loads_weights(config: RunConfig) -> bool:
    """Return whether this process has to load the model's weights. For a sharded model, only the first one does."""
    return config.sharding == "none" or rank() == 0


def shard(network: nn.Module, base: PreTrainedModel, device: Device, *, gathered: torch.dtype | None = None) -> None:
    """Split all weights of a network over all processes, layer by layer; the first process sends the parts.

    network: `base`, or `base` with adapters; in host memory on the first process, on the meta device on the others.
        No device ever holds more than its shards and one layer.
    gathered: the type in which a layer's weights are gathered to be computed with, None for their own. Gradients are
        added up over the processes in 32 bits.
    """
    types = (
        MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32) if gathered else MixedPrecisionPolicy()
    )
    mesh = init_device_mesh(device.kind, (world_size(),))
    names = set(base._no_split_modules or ())
    layers = [module for module in network.modules() if type(module).__name__ in names]
    for unit in (*layers, network):
        _give_to_all(unit, device.torch_device)
        # Otherwise the outermost unit would stay gathered after an evaluation, and the optimizer would get the copy.
        sharded = fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=types)
        if device.kind == "cpu":
            sharded.set_force_sum_reduction_for_comms(True)  # because gloo has no average
    # Trainer leaves a sharded model as it is; it would wrap any other in DDP.
    base._is_distributed_loading_by_transformers = True


def held_params(network: nn.Module) -> int:
    """Count the parameters in this process's memory, adapters included; for a sharded network, its share."""
    return sum(local_part(parameter).numel() for parameter in network.parameters())


def is_sharded(network: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in network.parameters())


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor, in the same memory; of one that is not sharded, all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shards(states: Mapping[str, Any]) -> dict[str, Any]:
    """Return the states of an optimizer with this process's part of each, in a form that torch.load takes."""
    return {
        "param_groups": states["param_groups"],
        "state": {
            index: {
                name: {"shard": local_part(value)} if isinstance(value, DTensor) else value
                for name, value in state.items()
            }
            for index, state in states["state"].items()
        },
    }


def load_shards(optimizer: torch.optim.Optimizer, states: Mapping[str, Any]) -> None:
    """Give an optimizer the states that `shards` returned in this process, of a launch of as many."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def whole(index: int, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        parameter = parameters[index]
        return DTensor.from_local(
            value["shard"],
            parameter.device_mesh,
            parameter.placements,
            shape=parameter.shape,
            stride=parameter.stride(),
        )

    state = {
        index: {name: whole(index, value) for name, value in values.items()}
        for index, values in states["state"].items()
    }
    optimizer.load_state_dict({"param_groups": states["param_groups"], "state": state})


def _give_to_all(unit: nn.Module, device: torch.device) -> None:
    """Copy the tensors of a unit from the first process to all processes. Tied tensors stay tied."""
    places: dict[int, list[_Place]] = {}
    tensors: list[torch.Tensor] = []
    for table, name in _places(unit):
        tensor: torch.Tensor = table[name]
        if id(tensor) not in places:
            tensors.append(tensor)  # keep it alive, so that no other tensor gets its id
        places.setdefault(id(tensor), []).append((table, name))
    described = broadcast_from_rank0([(tensor.shape, tensor.dtype) for tensor in tensors])
    for tensor, (shape, dtype) in zip(tensors, described, strict=True):
        if rank() == 0:
            given = tensor.detach().to(device).contiguous()
        else:
            given = torch.empty(shape, dtype=dtype, device=device)
        torch.distributed.broadcast(given, 0)
        if isinstance(tensor, nn.Parameter):
            given = nn.Parameter(given, requires_grad=tensor.requires_grad)
        for table, name in places[id(tensor)]:
            table[name] = given


def _places(unit: nn.Module) -> Iterator[_Place]:
    """Yield where the unit keeps the tensors that are not sharded yet."""
    for module in unit.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and not isinstance(tensor, DTensor):
                    yield table, name
