from aligner.generation import Sampling, chat_messages, openai_parameters
from aligner.records import Turn


def test_the_question_comes_last_after_the_history() -> None:
    history = (Turn("user", "Hi."), Turn("assistant", "Hello."))
    assert chat_messages("Why?", history) == [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why?"},
    ]


def test_extensions_of_the_api_are_sent_only_where_given() -> None:
    assert "extra_body" not in openai_parameters(Sampling())
    assert "seed" not in openai_parameters(Sampling())
    given = openai_parameters(Sampling(top_k=10, repetition_penalty=1.1, seed=3))
    assert given["extra_body"] == {"top_k": 10, "repetition_penalty": 1.1}
    assert given["seed"] == 3
