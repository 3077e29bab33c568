"""Which ranges of which parameters a worker's DeepSpeed engine owns, whatever its ZeRO stage.

DeepSpeed's own checkpoints fit one number of workers and one stage. What they hold is here taken
apart by parameter: the fp32 weights and AdamW's two moments, by the place in the parameter. Stage
and number of workers only decide who owns which range.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, assert_never

import torch
from torch import nn

from aligner_jobs.train.state_files import Fragment, Kind


def owned_fragments(engine: Any) -> list[Fragment]:
    """This worker's part of all trained parameters, for reading and writing.

    Where nothing is partitioned every worker owns everything. After writing,
    :func:`publish_weights` must be called.
    """
    _require_moments(engine)
    names = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    match engine.zero_optimization_stage():
        case 0:
            return list(_whole(engine, names))
        case 1 | 2:
            return list(_linked(names))
        case 3:
            return list(_partitioned(engine, names))
        case other:
            raise AssertionError(other)


def owns_all(engine: Any) -> bool:
    """Whether every worker owns the same: one of them is enough to write it."""
    return bool(engine.zero_optimization_stage() == 0)


def steps_taken(engine: Any) -> int:
    """Steps that AdamW's bias correction counts."""
    return max((int(state["step"]) for state in engine.basic_optimizer.state.values()), default=0)


def set_steps_taken(engine: Any, steps: int) -> None:
    """Continue the count from ``steps``."""
    for state in engine.basic_optimizer.state.values():
        state["step"].fill_(float(steps))


def publish_weights(engine: Any) -> None:
    """Bring the fp32 weights of all workers into the model; every worker must call this."""
    wrapper = engine.optimizer
    match engine.zero_optimization_stage():
        case 0:
            for low, master in _masters(engine):
                low.data.copy_(master.data)
        case 1 | 2:
            wrapper.update_lp_params()
        case 3:
            wrapper.checkpoint_event_prologue()
            for flat, partitions, master in zip(
                wrapper.fp16_partitioned_groups_flat,
                wrapper.fp16_partitioned_groups,
                wrapper.fp32_partitioned_groups_flat,
                strict=True,
            ):
                flat.data.copy_(master.data)
                for partition, value in zip(
                    partitions, wrapper.unflatten(flat, partitions), strict=True
                ):
                    partition.data = value.data
            wrapper.checkpoint_event_epilogue()


def _masters(engine: Any) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Without ZeRO: each trained parameter, and what the optimizer steps for it."""
    wrapper = engine.optimizer
    if wrapper is engine.basic_optimizer:
        return [(p, p) for group in wrapper.param_groups for p in group["params"]]
    pairs = zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
    return [pair for low, master in pairs for pair in zip(low, master, strict=True)]


def _require_moments(engine: Any) -> None:
    """Give the optimizer moments of zero where it has taken no step yet."""
    basic, wrapper = engine.basic_optimizer, engine.optimizer
    match engine.zero_optimization_stage():
        case 0:
            stepped = [master for _, master in _masters(engine)]
        case 1 | 2:
            stepped = list(wrapper.single_partition_of_fp32_groups)
        case _:
            stepped = list(wrapper.fp32_partitioned_groups_flat)
    for tensor in stepped:
        state = basic.state[tensor]
        if "exp_avg" in state:
            continue
        # Where PyTorch's fused AdamW looks for it.
        state["step"] = torch.zeros((), device=tensor.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(tensor), torch.zeros_like(tensor)
    if engine.zero_optimization_stage() in (1, 2):
        wrapper._lazy_init_hp_params_optimizer_state()


def _whole(engine: Any, names: dict[str, nn.Parameter]) -> Iterator[Fragment]:
    masters = {id(low): master for low, master in _masters(engine)}
    for name, parameter in names.items():
        master = masters[id(parameter)]
        state = engine.basic_optimizer.state[master]
        tensors = {"weight": master.detach(), **{k: state[k] for k in ("exp_avg", "exp_avg_sq")}}
        yield _in_place(name, 0, tensors)


def _linked(names: dict[str, nn.Parameter]) -> Iterator[Fragment]:
    """Stages 1 and 2: DeepSpeed links each parameter to its part in this worker's flat tensor."""
    for name, parameter in names.items():
        link = parameter._hp_mapping  # type: ignore[attr-defined]
        if link is None:
            continue
        tensors = {"weight": link.hp_fragment.detach(), **link.optim_fragment}
        yield _in_place(name, link.lp_fragment_address.start, tensors)


def _in_place(name: str, start: int, tensors: dict[str, torch.Tensor]) -> Fragment:
    def write(kind: Kind, values: torch.Tensor) -> None:
        tensors[kind].view(-1).copy_(values)

    return Fragment(
        name,
        start,
        tensors["weight"].numel(),
        read=lambda kind: tensors[kind].view(-1),
        write=write,
    )


def _partitioned(engine: Any, names: dict[str, nn.Parameter]) -> Iterator[Fragment]:
    """Stage 3: each parameter is cut into as many equal parts as workers, padded at the end."""
    from torch import distributed

    rank = distributed.get_rank()
    for name, parameter in names.items():
        part: Any = parameter
        padded = part.ds_tensor.ds_numel
        length = min(padded, part.ds_numel - rank * padded)
        if length > 0:
            yield Fragment(
                name,
                rank * padded,
                length,
                read=_reader(parameter, length),
                write=partial(_write_part, parameter, padded),
            )


def _reader(parameter: nn.Parameter, length: int) -> Callable[[Kind], torch.Tensor]:
    return lambda kind: _read_part(parameter, kind)[:length]


def _read_part(parameter: nn.Parameter, kind: Kind) -> torch.Tensor:
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    match kind:
        case "weight":
            found = safe_get_local_fp32_param(parameter)
        case "exp_avg" | "exp_avg_sq":
            found = safe_get_local_optimizer_state(parameter, kind)
        case other:
            assert_never(other)
    assert isinstance(found, torch.Tensor)
    return found.detach()


def _write_part(parameter: nn.Parameter, padded: int, kind: Kind, values: torch.Tensor) -> None:
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    whole = torch.zeros(padded)
    whole[: len(values)] = values
    match kind:
        case "weight":
            safe_set_local_fp32_param(parameter, whole)
        case "exp_avg" | "exp_avg_sq":
            safe_set_local_optimizer_state(parameter, whole, kind)
        case other:
            assert_never(other)
