"""A tokenizer whose tokens are the words of the grammar."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from .language import vocabulary

IMAGE = "<image>"


def chat_template(image: str = IMAGE) -> str:
    """LLaVA-1.5's shape: "USER: {image}\\n{question} ASSISTANT:"."""
    return (
        "{% for message in messages %}"
        "{{ message['role'].upper() + ': ' }}"
        "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
        "{% for part in message['content'] if part['type'] == 'image' %}{{ '" + image + "\n' }}{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
        "{% endif %}"
        "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )


CHAT_TEMPLATE = chat_template()


def build_tokenizer(
    words: Sequence[str] | None = None, *, image: str = IMAGE, others: Sequence[str] = (), **names: str
) -> PreTrainedTokenizerFast:
    """The tokenizer: special tokens, then `words` in their order, by default those of `vocabulary()`.

    Capitals are lowered and "color" is read as "colour"; an unknown word becomes <unk>. Decoding joins the
    tokens with single spaces, so what each further token adds to the text starts with a space.

    Args:
        words: every word of the language once.
        image: the token that stands for an image in a prompt of the chat template, or for a part of it.
        others: more special tokens.
        names: attributes of the tokenizer that hold special tokens, besides `image_token`.
    """
    special = ("<pad>", "<unk>", "</s>", image, "USER:", "ASSISTANT:", *others)
    words = vocabulary() if words is None else words
    core = Tokenizer(WordLevel({word: i for i, word in enumerate((*special, *words))}, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([Lowercase(), Replace(Regex(r"\bcolor\b"), "colour")])
    core.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        extra_special_tokens={
            "image_token": image,
            "user_token": "USER:",
            "assistant_token": "ASSISTANT:",
            **names,
        },
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )
