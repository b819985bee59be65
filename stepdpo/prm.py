"""Score the steps of an answer with a process reward model (PRM), one forward pass an answer.

    prm = load_prm("FOLDER", device=None, step_token=None, dtype=None)
    prm.score([prm.render("What is 1 + 1?", ["Step 1: 1 + 1 = 2."])])   ->   [[0.98]]

Three shapes of PRM are known by their folder. What they read, with | where the score of a step is read:

    classifier   two labels a token, as TRL's PRMTrainer made them     problem step 1\\n| step 2\\n|
    causal       a language model that says + or - after a step
        tag      Math-Shepherd, arXiv 2312.08935                       problem step 1 ки|\\nstep 2 ки|
        chat     RLHFlow: each step is a user's message                user: problem step 1, assistant:| + …
    head         two layers behind a step token, Qwen2.5-Math-PRM      user: problem, assistant: step 1<extra_0>| …

No code of a folder is ever run: backbones are transformers' own, and `score.*` is a few matrices.
"""
import functools
import json
import os
from collections import namedtuple

from stepdpo.command import UserError
from stepdpo.prompts import encodable, load_tokenizer
from stepdpo.reply import SPENT, Refused
from stepdpo.task import INSTRUCTION

# render(problem, steps) -> (token ids, the place of each step's score among them); score([(ids, places), …]) ->
# a list of P(right) for each answer. room: the most tokens.
Prm = namedtuple("Prm", "shape render score room")
PLUS_MINUS = (("+", "-"), (" +", " -"))
TAG, STEP_TOKEN, SEPARATOR = "ки", "<extra_0>", "\n"  # of Math-Shepherd, of Qwen, TRL's default
PROBE = ("What is 2 plus 3?", ["Step 1: 2 + 3 = 5.", "Step 2: The answer is: 5"])
LIKELY = 0.5  # a language model that says + or - less often than this after a step was not trained to


def load_prm(folder, device=None, step_token=None, dtype=None):
    """The Prm in a folder. UserError (exit 2) for a folder that is none, or whose tokenizer lacks the step token."""
    architecture, names = read_folder(folder)
    tokenizer = load_tokenizer(folder)
    load = functools.partial(load_backbone, folder=folder, device=device, dtype=dtype)
    score = [name for name in names if name.startswith("score.")]
    if architecture.endswith("ForTokenClassification"):
        return load_classifier(load, folder, tokenizer, step_token or SEPARATOR)
    whole = architecture.endswith(("ForSequenceClassification", "ForRewardModel"))  # these score whole answers
    if score and not whole:
        return load_head(load, folder, tokenizer, step_token or STEP_TOKEN, names)
    if architecture.endswith("ForCausalLM"):
        return load_causal(load, folder, tokenizer, step_token)
    raise UserError(f"{folder}: {architecture or 'an unnamed architecture'} is no PRM; known are token classifiers, "
                    "language models that say + or -, and backbones with `score.*` behind a step token", 2)


def read_folder(folder):
    """(architecture, {name of a weight: its file}) of a model folder."""
    from safetensors import SafetensorError, safe_open
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            architectures = json.load(file).get("architectures") or [""]
        index = os.path.join(folder, "model.safetensors.index.json")
        if os.path.isfile(index):
            with open(index, encoding="utf-8") as file:
                return architectures[0], json.load(file)["weight_map"]
        name = "model.safetensors"
        with safe_open(os.path.join(folder, name), "pt") as file:
            return architectures[0], dict.fromkeys(file.keys(), name)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: no model there ({' '.join(str(error).split())[:160]}); name a PRM's folder, with "
                        "config.json and safetensors", 2) from error


def load_backbone(kind, folder, device, dtype):
    """A model of transformers' class `kind` with all its weights, in evaluation mode, on its device."""
    import torch
    import transformers
    from transformers.utils import logging
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # `score.*` is no weight of the backbone's: that is known
    try:
        model, info = getattr(transformers, kind).from_pretrained(
            folder, dtype=dtype or ("float32" if device == "cpu" else "bfloat16"), use_safetensors=True,
            trust_remote_code=False, output_loading_info=True)
    except Exception as error:  # every kind of broken folder raises another class
        raise UserError(f"{folder}: no model could be loaded ({' '.join(str(error).split())[:160]}); name a PRM's "
                        "folder", 2) from error
    finally:
        logging.set_verbosity(level)
    if info["missing_keys"]:
        raise UserError(f"{folder}: lacks the weights {', '.join(sorted(info['missing_keys'])[:3])}; name a PRM's "
                        "folder", 2)
    return model.eval().to(device)


# ---------------------------------------------------------------------------- what a PRM reads

def one_token(tokenizer, folder, text):
    """The id of a text that is one token. UserError where the tokenizer has none such."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise UserError(f"{folder}: its tokenizer has no step token {text!r}; name the PRM's own with --step-token", 2)
    return ids[0]


def ends_at(tokenizer, text, ends, special=False):
    """(token ids of a text, for each end, a place among its characters, the last token that does not go beyond it)."""
    coded = tokenizer(encodable(text), add_special_tokens=special, return_offsets_mapping=True)
    places, token = [], -1
    for end in ends:
        while token + 1 < len(coded.input_ids) and coded.offset_mapping[token + 1][1] <= end:
            token += 1
        places.append(token)
    return coded.input_ids, places


def render_pieces(tokenizer, separator):
    """TRL's way: problem, steps and separators are encoded one by one, and a step's label is at its last token."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    between = tokenizer(separator, add_special_tokens=False).input_ids

    def render(problem, steps):
        ids, places = start + tokenizer(encodable(problem), add_special_tokens=False).input_ids, []
        for step in steps:
            ids += tokenizer(encodable(step), add_special_tokens=False).input_ids + between
            places.append(len(ids) - 1)
        return ids, places
    return render


def render_tagged(tokenizer, tag):
    """Math-Shepherd's way: problem, then lines of a step and its tag."""
    def render(problem, steps):
        text, ends = problem, []
        for k, step in enumerate(steps):
            text += f"{' ' if k == 0 else chr(10)}{step} {tag}"
            ends.append(len(text))
        return ends_at(tokenizer, text, ends, special=True)
    return render


def render_messages(tokenizer):
    """RLHFlow's way: each step is a user's message, to which the assistant says + (as if all before were right)."""
    def chat(messages, **how):
        return tokenizer.apply_chat_template(messages, tokenize=False, **how)

    def render(problem, steps):
        messages, ends = [], []
        for k, step in enumerate(steps):
            messages.append({"role": "user", "content": step if k else f"{problem} {step}"})
            ends.append(chat(messages, add_generation_prompt=True))
            messages.append({"role": "assistant", "content": "+"})
        text = chat(messages)
        if not all(text.startswith(end) for end in ends):
            raise ValueError("the chat template puts something before an answer that is not there afterwards")
        return ends_at(tokenizer, text, [len(end) for end in ends])
    return render


def render_answer(tokenizer, folder, step_token):
    """Qwen's way: the answer is one message, with the step token after each step."""
    def render(problem, steps):
        messages = [{"role": "system", "content": INSTRUCTION.strip()}, {"role": "user", "content": problem},
                    {"role": "assistant", "content": "".join(step + step_token for step in steps)}]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # a template is a program; jinja2's errors are of many classes
            raise UserError(f"{folder}: its chat template fails ({' '.join(str(error).split())[:160]})", 2) from error
        end, ends = text.rfind(messages[2]["content"]), []
        if end < 0:
            raise Refused("the PRM's chat template changes the answer")
        for step in steps:
            end += len(step + step_token)
            ends.append(end)
        return ends_at(tokenizer, text, ends)
    return render


# ---------------------------------------------------------------------------- how its scores are read

def make_scorer(model, states, read):
    """score() of a Prm. states(ids, mask): (B, T, C) of a batch; read((N, C)) -> (N,) chances that steps are right."""
    import torch
    vocabulary = model.get_input_embeddings().num_embeddings

    def score(answers):
        most = max(max(ids) for ids, _ in answers)
        if most >= vocabulary:
            raise UserError(f"{model.name_or_path}: its {vocabulary} token embeddings do not cover the tokenizer's "
                            f"{most}; name a folder with the tokenizer that belongs to the model", 2)
        longest = max(len(ids) for ids, _ in answers)
        ids = torch.zeros(len(answers), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)  # answers are padded on the right: what is causal does not see it
        for row, (tokens, _) in enumerate(answers):
            ids[row, :len(tokens)] = torch.tensor(tokens)
            mask[row, :len(tokens)] = 1
        rows = [row for row, (_, places) in enumerate(answers) for _ in places]
        columns = [place for _, places in answers for place in places]
        with torch.inference_mode():
            found = states(ids.to(model.device), mask.to(model.device))[rows, columns]
            right = iter(read(found).float().tolist())
        SPENT["tokens"] += sum(len(tokens) for tokens, _ in answers)
        return [[next(right) for _ in places] for _, places in answers]
    return score


def chance_of_right(logits):
    """P(right) of logits (N, 2), wrong first, or (N, 1)."""
    logits = logits.float()
    return logits.softmax(-1)[:, 1] if logits.shape[-1] == 2 else logits[:, 0].sigmoid()


def room_of(model):
    """The most tokens that a model reads; some have no positions."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20


def load_classifier(load, folder, tokenizer, separator):
    """A token classifier: the label at the last token of a step and its separator."""
    model = load("AutoModelForTokenClassification")
    if model.config.num_labels > 2:
        raise UserError(f"{folder}: a classifier of {model.config.num_labels} labels is no PRM; two are wrong and "
                        "right", 2)

    def states(ids, mask):
        return model(input_ids=ids, attention_mask=mask).logits
    return Prm("classifier", render_pieces(tokenizer, separator), make_scorer(model, states, chance_of_right),
               room_of(model))


def load_head(load, folder, tokenizer, step_token, names):
    """A backbone and `score.*`: one linear layer (score.weight), or several with a ReLU between (score.0, score.2)."""
    import torch
    from safetensors import safe_open
    one_token(tokenizer, folder, step_token)
    model = load("AutoModel")
    layers = {}  # place -> {"weight": …, "bias": …}
    for name in sorted(name for name in names if name.startswith("score.")):
        *place, part = name.split(".")[1:]
        with safe_open(os.path.join(folder, names[name]), "pt") as file:
            layers.setdefault(int(place[0]) if place else 0, {})[part] = file.get_tensor(name).to(model.device,
                                                                                                 model.dtype)
    *inner, last = [layers[place] for place in sorted(layers)]
    outputs = last["weight"].shape[0]
    if outputs > 2:
        raise UserError(f"{folder}: a head of {outputs} outputs is no PRM's; two are wrong and right", 2)

    def states(ids, mask):
        return model(input_ids=ids, attention_mask=mask).last_hidden_state

    def read(hidden):
        for layer in inner:
            hidden = torch.nn.functional.linear(hidden, **layer).relu()
        return chance_of_right(torch.nn.functional.linear(hidden, **last))
    return Prm("head", render_answer(tokenizer, folder, step_token), make_scorer(model, states, read),
               room_of(model))


def load_causal(load, folder, tokenizer, step_token):
    """A language model that says + or - after a step; how it was asked in training shows in what it says now."""
    model = load("AutoModelForCausalLM")
    renders = {}
    if step_token:
        one_token(tokenizer, folder, step_token)
        renders["tag"] = render_tagged(tokenizer, step_token)
    else:
        if tokenizer.chat_template:
            renders["chat"] = render_messages(tokenizer)
        if len(tokenizer(TAG, add_special_tokens=False).input_ids) == 1:
            renders["tag"] = render_tagged(tokenizer, TAG)
        if not renders:
            one_token(tokenizer, folder, TAG)  # which says what is missing
    likely, shape, signs = max(probe(model, tokenizer, shape, render) for shape, render in renders.items())
    if likely < LIKELY:
        raise UserError(f"{folder}: a language model, but no PRM: after a step it says + or - with a chance of "
                        f"{likely:.2g}; name a PRM's folder, or its step token with --step-token", 2)

    def states(ids, mask):
        return model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state

    def read(hidden):
        plus_minus = model.get_output_embeddings()(hidden)[:, list(signs)]
        return chance_of_right(plus_minus.flip(-1))
    prm = Prm(shape, renders[shape], make_scorer(model, states, read), room_of(model))
    check_head(model, prm, signs, folder)
    return prm


def say_at(model, ids, places):
    """(N, V) probabilities of what a language model says next at these places."""
    import torch
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids], device=model.device)).logits[0, places].float().softmax(-1)


def probe(model, tokenizer, shape, render):
    """(how likely + or - is after a right step, the shape, their token ids): of the likelier spelling of the two."""
    try:
        said = say_at(model, *render(*PROBE))
    except Exception:  # a template that cannot be rendered so was not what this model was trained with
        return 0.0, shape, (0, 0)
    likely = []
    for pair in PLUS_MINUS:
        signs = tuple(tokenizer(sign, add_special_tokens=False).input_ids[-1] for sign in pair)
        likely.append((said[:, list(signs)].sum(-1).mean().item() if signs[0] != signs[1] else 0.0, shape, signs))
    return max(likely)


def check_head(model, prm, signs, folder):
    """UserError for a model whose logits are more than its output embeddings of its hidden states (a soft cap)."""
    ids, places = prm.render(*PROBE)
    said = say_at(model, ids, places)[:, list(signs)]
    whole = said[:, 0] / said.sum(-1)
    if max(abs(a - b) for a, b in zip(whole.tolist(), prm.score([(ids, places)])[0])) > 0.02:
        raise UserError(f"{folder}: its logits are not those of its hidden states, as in Gemma 2; not supported", 2)
