"""A tokenizer whose tokens are the words of the grammar."""

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace, Sequence
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from .language import vocabulary

SPECIAL: tuple[str, ...] = ("<pad>", "<unk>", "</s>", "<image>", "USER:", "ASSISTANT:")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""LLaVA-1.5's shape: "USER: <image>\\n{question} ASSISTANT:"."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: special tokens, then the words in the order of `vocabulary()`.

    Capitals are lowered and "color" is read as "colour"; an unknown word becomes <unk>. Decoding joins the
    tokens with single spaces, so what each further token adds to the text starts with a space.
    """
    words = {word: index for index, word in enumerate((*SPECIAL, *vocabulary()))}
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.normalizer = Sequence([Lowercase(), Replace(Regex(r"\bcolor\b"), "colour")])
    core.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        extra_special_tokens={
            "image_token": "<image>",
            "user_token": "USER:",
            "assistant_token": "ASSISTANT:",
        },
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )
