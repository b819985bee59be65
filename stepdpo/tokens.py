"""A tokenizer.json without transformers, whose import takes longer than all else of a stage that asks a server."""
import json
import os

# What transformers' classes do with a tokenizer.json, looked up in 5.24: the first two read it as it is, Qwen2's
# rebuilds it around its vocabulary, with this normalizer, pre-tokenizer and decoder.
AS_IT_IS = ("TokenizersBackend", "PreTrainedTokenizerFast")
QWEN2 = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
QWEN2_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+")
MODELS = {"llama": AS_IT_IS, "qwen2": QWEN2 + AS_IT_IS, "qwen3": QWEN2}  # model_type: classes it is known of
HARMLESS = {"tokenizer_class", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "backend",
            "bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token", "chat_template",
            "model_max_length", "clean_up_tokenization_spaces", "model_input_names", "padding_side", "is_local",
            "truncation_side", "errors", "local_files_only"}
HARMLESS_IF_FALSE = {"split_special_tokens", "add_bos_token", "add_eos_token", "add_prefix_space"}
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Coded(dict):
    """{"input_ids": ...}, also as coded.input_ids, as transformers returns it."""
    __getattr__ = dict.__getitem__


class PlainTokenizer:
    """What rendering and encoding a prompt need of a transformers tokenizer, under its names."""
    is_fast = True

    def __init__(self, folder, core, special_tokens, template):
        self.name_or_path, self.core, self.chat_template = folder, core, template
        self.special_tokens_map = special_tokens
        self.bos_token, self.eos_token = special_tokens.get("bos_token"), special_tokens.get("eos_token")
        self.bos_token_id = core.token_to_id(self.bos_token) if self.bos_token else None
        self.eos_token_id = core.token_to_id(self.eos_token) if self.eos_token else None

    def __call__(self, text, add_special_tokens=True, return_offsets_mapping=False):
        if isinstance(text, str):
            return Coded(input_ids=self.core.encode(text, add_special_tokens=add_special_tokens).ids)
        coded = self.core.encode_batch(text, add_special_tokens=add_special_tokens)
        return Coded(input_ids=[one.ids for one in coded], offset_mapping=[one.offsets for one in coded])

    def get_added_vocab(self):
        return {token.content: number for number, token in self.core.get_added_tokens_decoder().items()}


def read_json(folder, name):
    """The object in a folder's JSON file; {} where there is none."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            found = json.load(file)
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def plain_tokenizer(folder):
    """The PlainTokenizer of a folder, or None where transformers might read its files otherwise."""
    config, whole = read_json(folder, "tokenizer_config.json"), read_json(folder, "tokenizer.json")
    name, kind = config.get("tokenizer_class"), read_json(folder, "config.json").get("model_type")
    odd = {key for key, value in config.items()
           if key not in HARMLESS and not (key in HARMLESS_IF_FALSE and value in (False, None))}
    if odd or name not in MODELS.get(kind, ()) or kind != "llama" and not is_qwen2(whole):
        return None
    added = {token.get("id"): token.get("content") for token in whole.get("added_tokens", ())}
    decoder = config.get("added_tokens_decoder") or {}
    if any(added.get(int(number)) != token.get("content") for number, token in decoder.items()):
        return None
    special = {}
    for key in SPECIAL:
        token = config.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None and token not in added.values():
            return None
        if token is not None:
            special[key] = token
    from tokenizers import Tokenizer
    core = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    core.no_truncation()
    core.no_padding()
    return PlainTokenizer(folder, core, special, read_template(folder, config))


def is_qwen2(whole):
    """Whether a tokenizer.json has the normalizer, pre-tokenizer, decoder and model that Qwen2Tokenizer builds."""
    split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    pieces = (whole.get("pre_tokenizer") or {}).get("pretokenizers") or ()
    model = whole.get("model") or {}
    return (whole.get("normalizer") == {"type": "NFC"} and (whole.get("decoder") or {}).get("type") == "ByteLevel"
            and len(pieces) == 2 and pieces[0] == split and bytes_.items() <= pieces[1].items()
            and model.get("type") == "BPE" and not any(model.get(key) for key in (
                "byte_fallback", "dropout", "fuse_unk", "unk_token", "ignore_merges", "end_of_word_suffix",
                "continuing_subword_prefix")))


def read_template(folder, config):
    """The chat template of a folder: a file of its own, or a field of tokenizer_config.json."""
    try:
        with open(os.path.join(folder, "chat_template.jinja"), encoding="utf-8") as file:
            return file.read()
    except OSError:
        pass
    template = config.get("chat_template")
    if isinstance(template, list):  # [{"name", "template"}, ...]
        template = {entry.get("name"): entry.get("template") for entry in template}
    return template
