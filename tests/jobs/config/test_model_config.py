import pytest

from aligner.config import validate
from aligner.errors import ConfigError
from aligner_jobs.config.model import ScratchModel, Shape

LLAMA_7B = Shape(
    hidden_size=4096, layers=32, heads=32, intermediate_size=11008, vocab_size=32000,
    tied_embeddings=False,
)  # fmt: skip
LLAMA_13B = Shape(
    hidden_size=5120, layers=40, heads=40, intermediate_size=13824, vocab_size=32000,
    tied_embeddings=False,
)  # fmt: skip
GEMMA_2B = Shape(
    family="gemma", hidden_size=2048, layers=18, heads=8, kv_heads=1, head_dim=256,
    intermediate_size=16384, vocab_size=256000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "published"),
    [(LLAMA_7B, 6_738_415_616), (LLAMA_13B, 13_015_864_320), (GEMMA_2B, 2_506_172_416)],
)
def test_a_shape_has_as_many_parameters_as_the_published_model(
    shape: Shape, published: int
) -> None:
    assert shape.parameters == published


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": 3}, "must be an even multiple of heads=3; try hidden_size=96"),
        ({"hidden_size": 12, "heads": 4}, "here a head is 3 wide; try head_dim=4"),
        ({"kv_heads": 3}, "heads=4 must be a multiple of kv_heads=3; try kv_heads=1"),
    ],
)
def test_heads_that_do_not_divide_are_refused(changes: dict[str, int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        validate(ScratchModel, {"kind": "scratch", **changes}, where="test.yaml")


def test_a_head_may_have_a_width_of_its_own() -> None:
    assert (GEMMA_2B.head_size, GEMMA_2B.key_value_heads) == (256, 1)
    assert (LLAMA_7B.head_size, LLAMA_7B.key_value_heads) == (128, 32)
