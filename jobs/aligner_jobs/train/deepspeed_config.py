"""DeepSpeed's settings as a pure function of ours; golden files hold the result."""

from typing import Any

from aligner_jobs.config.train import TrainConfig

_NEVER = 2**31 - 1


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """The dictionary for ``deepspeed.initialize``.

    The optimizer is not in it: a client ``torch.optim.AdamW`` needs no compiler at run time,
    where DeepSpeed's own would be built at the first start.
    """
    return {
        "train_batch_size": config.global_batch_size,
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.passes_per_step,
        "gradient_clipping": config.optimizer.gradient_clipping,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_optimization": _zero(config),
        "zero_allow_untested_optimizer": True,
        "steps_per_print": _NEVER,
        "wall_clock_breakdown": False,
    }


def _zero(config: TrainConfig) -> dict[str, Any]:
    zero = config.zero
    if zero.stage < 3:
        return {"stage": zero.stage}
    return {
        "stage": 3,
        "stage3_param_persistence_threshold": zero.persistence_threshold,
        "stage3_max_live_parameters": zero.max_live_parameters,
        "stage3_prefetch_bucket_size": zero.prefetch_bucket_size,
        # The export gathers parameter by parameter; DeepSpeed's own gathering is not used.
        "stage3_gather_16bit_weights_on_model_save": False,
    }
