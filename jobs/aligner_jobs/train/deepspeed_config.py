"""DeepSpeed's settings as a pure function of ours; golden files hold the result."""

from typing import Any

from aligner_jobs.config.train import TrainConfig

_NEVER = 2**31 - 1


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """The dictionary for ``deepspeed.initialize``.

    The optimizer is not in it: PyTorch's fused AdamW needs no compiler at run time, where
    DeepSpeed's own would be built at the first start; on a CPU, offloaded states included, both
    take the same time. Nor are activations: Transformers recomputes them layer by layer.
    """
    return {
        # A step has as many passes as its rows need: the training loop says which is the last.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.gradient_clipping,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_optimization": _zero(config),
        "zero_allow_untested_optimizer": True,
        # With offload DeepSpeed would insist on the Adam that it has to compile.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": _NEVER,
        "wall_clock_breakdown": False,
    }


def _zero(config: TrainConfig) -> dict[str, Any]:
    zero = config.zero
    settings: dict[str, Any] = {"stage": zero.stage}
    # Pinned memory lets copies to a GPU run beside its work; without one there is nothing to copy.
    offloaded = {"device": "cpu", "pin_memory": config.use_gpu}
    if zero.offload_optimizer:
        settings["offload_optimizer"] = offloaded
    if zero.offload_parameters:
        settings["offload_param"] = offloaded
    if zero.stage == 3:
        settings |= {
            "stage3_param_persistence_threshold": zero.persistence_threshold,
            "stage3_max_live_parameters": zero.max_live_parameters,
            "stage3_prefetch_bucket_size": zero.prefetch_bucket_size,
            # The export gathers parameter by parameter; DeepSpeed's own gathering is not used.
            "stage3_gather_16bit_weights_on_model_save": False,
        }
    return settings
