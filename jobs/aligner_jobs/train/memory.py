"""Memory of one training worker as a pure function of the settings: nothing is built or loaded.

What is counted is what PyTorch and DeepSpeed allocate, tensor by tensor; tests compare it with what
they do allocate. Letters: b = bytes of a weight, h = width, T = tokens of a pass, K = its targets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aligner_jobs.config.adapter import Lora
from aligner_jobs.config.model import Shape
from aligner_jobs.config.train import TrainConfig

GIB: Final = 1024**3

CPU_PROCESS_BYTES: Final = int(0.72 * GIB)
"""A worker on cores before it holds a model: Python, torch, DeepSpeed, Transformers and Ray as they
are loaded, resident. Measured, and the one number here that is."""
GPU_PROCESS_BYTES: Final = int(1.5 * GIB)
"""Of a GPU: CUDA's context and kernels, cuBLAS's workspace and NCCL's channels."""

_BUCKET: Final = 500_000_000
"""Elements of a bucket of gradients: DeepSpeed's default, which we leave."""
_STEP_GROUP: Final = 1_000_000_000
"""Elements that stage 3 updates at once: DeepSpeed's default."""
_FP32: Final = 4
_MOMENTS: Final = 8
"""Two moments in fp32."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The largest forward-backward pass of one worker."""

    tokens: int
    """Padding included."""
    targets: int
    """Tokens with loss; only these have logits."""
    longest: int
    """Tokens of the longest row; what is generated is about as long."""
    per_step: float = 1.0
    """Passes of one optimiser step."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Most that one worker ever holds, in bytes, by what it is for."""

    parts: Mapping[str, int]
    moment: str
    """When that is: ``start`` (the model is there, nothing is spread yet), ``backward`` (all
    activations are held), ``step`` (the update), ``evaluation`` (corrections are generated); on
    cores ``all``, see :func:`estimate`."""
    host: int
    """Bytes of the machine's memory that a worker on a GPU needs besides."""

    @property
    def peak(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def trained_parameters(shape: Shape, adapter: Lora | None) -> int:
    """Parameters that the optimizer updates."""
    if adapter is None:
        return shape.parameters
    return shape.layers * sum(
        adapter.rank * (inputs + outputs)
        for name, (inputs, outputs) in _linear_layers(shape).items()
        if not adapter.targets or name in adapter.targets
    )


def estimate(config: TrainConfig, shape: Shape, largest: Pass) -> Estimate:
    """Memory of one worker that trains a model of ``shape`` by passes like ``largest``.

    A GPU's freed memory is used again, and the worst moment counts. On cores the allocator gives
    back little of it, and what is needed at different moments adds up.
    """
    states = _States(config, shape)
    moments = _moments(config, shape, largest, states)
    if not config.use_gpu:
        names = {name for parts in moments.values() for name in parts}
        together = {
            name: max(parts.get(name, 0) for parts in moments.values()) for name in sorted(names)
        }
        return Estimate(together, "all", host=0)
    worst = max(moments, key=lambda name: sum(moments[name].values()))
    return Estimate(moments[worst], worst, host=states.host)


def _moments(
    config: TrainConfig, shape: Shape, largest: Pass, states: "_States"
) -> dict[str, dict[str, int]]:
    process = GPU_PROCESS_BYTES if config.use_gpu else CPU_PROCESS_BYTES
    always = {
        "process": process,
        "weights": states.weights,
        "optimizer": 0 if states.optimizer_away else states.optimizer,
    }
    held, working = _held(config, shape, largest), _working(config, shape, largest)
    activations = {"activations": held, "loss or layer at work": working}
    beside = states.gradients
    if config.use_gpu and largest.per_step <= 1 and states.stage < 3:
        # In a step's only pass gradients come as activations go: the larger of both counts.
        beside = max(0, beside - held - working)
    return {
        "start": {"process": process, "weights": states.whole},
        "backward": {
            **always,
            **activations,
            "gathered weights": states.gathered,
            "gradients": beside,
            "gradient at work": states.newest_gradient,
            "communication buckets": states.buckets,
        },
        "step": {**always, "gradients": states.gradients, "copies for the step": states.copies},
        "evaluation": {
            **always,
            "gathered weights": states.gathered,
            "keys and values": _generated(config, shape, largest),
        },
    }


def layer_bytes(config: TrainConfig, shape: Shape) -> int:
    """What the backward pass needs of one layer and one token, nothing recomputed."""
    b = _bytes_of(config)
    queries = shape.heads * shape.head_size
    keys_values = 2 * shape.key_value_heads * shape.head_size
    # Query, output and log-sum-exp of the attention; keys and values are shared by groups.
    attention = b * (2 * queries + keys_values) + _FP32 * shape.heads
    # On cores documents are laid side by side, and the result is put together again.
    attention += 0 if config.use_gpu else b * queries
    # Gate, up, the activated gate and their product; Liger recomputes the last two.
    feed_forward = (2 if _liger(config) else 4) * b * shape.intermediate_size
    return 2 * _norm_bytes(config, shape) + attention + feed_forward


def _norm_bytes(config: TrainConfig, shape: Shape) -> int:
    """A norm's input in fp32, its result before the weight, and the input of the next layer."""
    b = _bytes_of(config)
    if _liger(config):
        return 2 * b * shape.hidden_size
    before_weight = _FP32 if shape.family == "gemma" else b
    return (_FP32 + before_weight + b) * shape.hidden_size + _FP32


def _held(config: TrainConfig, shape: Shape, largest: Pass) -> int:
    """Activations that wait for the backward pass."""
    b = _bytes_of(config)
    each = b * shape.hidden_size if config.gradient_checkpointing else layer_bytes(config, shape)
    # Beside the layers: the last norm, and sines and cosines of the positions.
    rest = _norm_bytes(config, shape) + 2 * b * shape.head_size
    return largest.tokens * (shape.layers * each + rest)


def _working(config: TrainConfig, shape: Shape, largest: Pass) -> int:
    """The larger of what the loss and what one layer's backward pass needs for the time being."""
    # Log-probabilities and two gradients of theirs, in fp32 whatever the weights are.
    loss = 3 * _FP32 * shape.vocab_size * largest.targets
    gradients = 3 * _bytes_of(config) * shape.intermediate_size
    recomputed = layer_bytes(config, shape) if config.gradient_checkpointing else 0
    return max(loss, largest.tokens * (recomputed + gradients))


def _generated(config: TrainConfig, shape: Shape, largest: Pass) -> int:
    """Keys and values of the rows that are corrected at once when a run is evaluated."""
    rows = -(-2 * config.heldout.generate_rows // config.num_workers)
    each = 2 * shape.layers * shape.key_value_heads * shape.head_size * _bytes_of(config)
    return min(rows, config.heldout.generate_batch_size) * largest.longest * each


@dataclass(frozen=True, slots=True)
class _States:
    """Weights, gradients and optimizer states under one ZeRO stage."""

    config: TrainConfig
    shape: Shape

    @property
    def stage(self) -> int:
        return self.config.zero.stage

    @property
    def _b(self) -> int:
        return _bytes_of(self.config)

    @property
    def _trained(self) -> int:
        return trained_parameters(self.shape, self.config.adapter)

    @property
    def _all(self) -> int:
        added = self._trained if self.config.adapter else 0
        return self.shape.parameters + added

    @property
    def _own_trained(self) -> int:
        """Trained parameters that this worker updates."""
        return self._trained if self.stage == 0 else -(-self._trained // self.config.num_workers)

    @property
    def optimizer_away(self) -> bool:
        """Whether optimizer states lie in the machine's memory and not in the GPU's."""
        return self.config.zero.offload_optimizer and self.config.use_gpu

    @property
    def whole(self) -> int:
        """The model as it is when DeepSpeed takes it over: whole on each device."""
        return self._b * self._all

    @property
    def weights(self) -> int:
        if self.stage < 3:
            return self.whole
        if self.config.zero.offload_parameters and self.config.use_gpu:
            return 0
        return -(-self.whole // self.config.num_workers)

    @property
    def gathered(self) -> int:
        """Of stage 3: what is put together for the layer at work and the next ones."""
        if self.stage < 3 or (
            self.config.num_workers == 1 and not self.config.zero.offload_parameters
        ):
            return 0
        zero = self.config.zero
        largest = max(self.shape.embedding_parameters, self.shape.layer_parameters)
        live = max(zero.max_live_parameters, largest) + zero.prefetch_bucket_size
        return self._b * min(live, self._all)

    @property
    def gradients(self) -> int:
        if self.optimizer_away and self.stage >= 2:
            return 0
        return self._b * (self._trained if self.stage < 2 else self._own_trained)

    @property
    def optimizer(self) -> int:
        """Moments, and master weights where those of the model are no such."""
        # In stages 1 and 2 DeepSpeed keeps a copy of fp32 weights, too.
        copied = self._b < _FP32 or self.stage in (1, 2)
        return self._own_trained * (_MOMENTS + (_FP32 if copied else 0))

    @property
    def newest_gradient(self) -> int:
        """The largest gradient, before it is added to the earlier passes'."""
        if self.config.adapter is not None:
            return 0
        return self._b * max(self.shape.embedding_parameters, self._largest_matrix)

    @property
    def _largest_matrix(self) -> int:
        return max(inputs * outputs for inputs, outputs in _linear_layers(self.shape).values())

    @property
    def copies(self) -> int:
        """Gradients as the update takes them: in one piece and in fp32."""
        if self.optimizer_away:
            return 0
        in_fp32 = _FP32 if self._b < _FP32 else 0
        if self.stage == 0:
            return self._b * min(_BUCKET, self._trained) + in_fp32 * self._trained
        at_once = min(self._own_trained, _STEP_GROUP) if self.stage == 3 else self._own_trained
        return (self._b + in_fp32) * at_once

    @property
    def buckets(self) -> int:
        """Where gradients are put together before they are reduced; made in full on a GPU.

        On cores only the pages that are written to count.
        """
        if self.stage == 0:
            return 0
        filled = min(_BUCKET, self._trained)
        # Stage 3 puts what it has gathered into another order, in a copy.
        copied = filled if self.stage == 3 else 0
        return self._b * ((_BUCKET if self.config.use_gpu else filled) + copied)

    @property
    def host(self) -> int:
        """The model is built there; afterwards there lies what is offloaded."""
        offloaded = 0
        if self.optimizer_away:
            offloaded += self.optimizer + (_FP32 + self._b) * self._own_trained
        if self.config.zero.offload_parameters:
            offloaded += -(-self.whole // self.config.num_workers)
        return CPU_PROCESS_BYTES + max(self.whole, offloaded)


def _linear_layers(shape: Shape) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a layer's linear maps, by the names that Transformers gives them."""
    h, inner = shape.hidden_size, shape.intermediate_size
    queries = shape.heads * shape.head_size
    keys = shape.key_value_heads * shape.head_size
    return {
        "q_proj": (h, queries),
        "k_proj": (h, keys),
        "v_proj": (h, keys),
        "o_proj": (queries, h),
        "gate_proj": (h, inner),
        "up_proj": (h, inner),
        "down_proj": (inner, h),
    }


def _bytes_of(config: TrainConfig) -> int:
    return 2 if config.precision == "bf16" else _FP32


def _liger(config: TrainConfig) -> bool:
    """Asked for by name; where it is merely allowed it may not be installed."""
    return config.kernels == "liger"
