"""What a server is asked for beside the text, and what it takes of it: parameters are negotiated."""
import json
import re

from stepdpo.command import UserError, inform

# A server applies its model's generation_config.json to a request that does not name these. top_k -1 is "all" for
# vLLM, SGLang and llama.cpp; newer ones, and transformers, say 0.
NEUTRAL = {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
# Left out first where a refusal names several; what stands here costs an answer the least
DISPENSABLE = (*NEUTRAL, "generation_config", "stop_token_ids", "seed", "stop", "top_p", "temperature")
WORDS_TOO = ("n", "stop", "seed", "user")  # names that are words, too: only believed where they are quoted
OWN = ("model", "prompt", "messages", "stream", "n", "max_tokens", "max_completion_tokens")  # not for --extra-body
# "This model's maximum context length is 4096 tokens. However, you requested ..." and how SGLang, llama.cpp say it
CONTEXT = re.compile(r"(?:context[ _]?(?:length|size|window)|model length|tokens allowed|max_new_tokens` must be)"
                     r"\D{0,40}(\d[\d,]*)|(\d[\d,]*) maximum context length|context limit: [\d +]+> (\d[\d,]*)", re.I)
# "your prompt contains 1500 input tokens", "(3000 in the messages", "3000 tokens from the input messages"
PROMPT_TOKENS = re.compile(r"(\d[\d,]*) (?:input tokens|(?:tokens )?(?:in|from) the (?:input|messages|prompt))"
                           r"|(?:prompt|request) (?:contains|has)(?: at least)? (\d[\d,]*)", re.I)
TOO_LONG = re.compile(r"context[ _]?(?:length|size|window|limit)|too long|too many (?:input |prompt )?tokens"
                      r"|above_max_length|longer than the m(?:odel|ax)|max_new_tokens` must be|input length"
                      r"|input token count|reduce the length", re.I)
FILTERED = re.compile(r"content[ _]?(?:filter|policy|management)|moderation|flagged|safety|invalid_prompt", re.I)


class Refusal(Exception):
    """A 400 or 422. words: what the server said, in one line; message, parameters, code: read from it."""
    def __init__(self, words, text):
        super().__init__(words)
        self.words = words
        self.message, self.parameters, self.code = read_refusal(text)

    def is_about_length(self):
        return bool(TOO_LONG.search(f"{self.message} {self.code}"))

    def is_about_content(self):
        return bool(FILTERED.search(f"{self.message} {self.code}"))


def read_refusal(text):
    """(message, parameters at fault, code) of the body of a 400 or 422.

    {"error": {"message": "…", "param": "seed", "code": "unsupported_parameter"}}     OpenAI, vLLM
    {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}  FastAPI
    {"detail": "Unexpected fields in the request: {'top_k'}"}                         transformers serve
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text, [], ""
    if not isinstance(body, dict):
        return text, [], ""
    error = body.get("error", body)
    if not isinstance(error, dict):
        return str(error), [], ""
    detail = error.get("detail")
    if isinstance(detail, list):
        faults = [fault for fault in detail if isinstance(fault, dict)]
        places = [str(place) for fault in faults for place in fault.get("loc") or ()]
        return "; ".join(str(fault.get("msg")) for fault in faults), places, ""
    parameters = [error["param"]] if isinstance(error.get("param"), str) else []
    return str(error.get("message") or detail or text), parameters, f"{error.get('code')} {error.get('type')}"


def parse_extra_body(text, flag="--extra-body"):
    """The JSON object of --extra-body, {} where there is none. UserError for anything else."""
    try:
        extra = {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{flag} {text[:60]!r}: not JSON ({error}); give an object, e.g. "
                        """'{"reasoning_effort": "low"}'""", 2) from error
    if not isinstance(extra, dict):
        raise UserError(f"{flag} {text[:60]!r}: not a JSON object; give e.g. "
                        """'{"reasoning_effort": "low"}'""", 2)
    for name in OWN:
        if name in extra:
            raise UserError(f"{flag}: {name!r} has a flag or place of its own; leave it out there", 2)
    return extra


class Settings:
    """The parameters that each request names, less what the server refused.

        max_tokens refused           -> said as max_completion_tokens (chat)
        top_k -1 refused             -> 0
        a neutral value refused      -> all of them in `generation_config` (transformers serve), then left out
        anything else refused        -> left out
        a name of --extra-body       -> the run ends: it was asked for by name

    values: {name: value} that the next request names. left_out: names that are not asked for any more. said_as:
    {name: the name under which it is said instead}. version: how often that changed. accepted: whether the server
    has answered a request with these values.
    """
    def __init__(self, where, values, extra_body, flag="--extra-body", chat=False):
        self.where, self.extra, self.flag, self.chat = where, extra_body, flag, chat
        self.values = {**NEUTRAL, **values, **extra_body}
        self.left_out, self.said_as, self.version, self.accepted = [], {}, 0, False

    def body(self, seed, max_tokens):
        """What one request says beside its text."""
        own = {"seed": seed, "max_tokens": max_tokens, "max_completion_tokens": max_tokens}
        return {name: own.get(name, value) if name not in self.extra else value for name, value in self.values.items()}

    def record(self):
        """What a sampled row says of it; {} where the server took everything."""
        return {name: value for name, value in (("left_out", self.left_out), ("said_as", self.said_as)) if value}

    def give_way(self, refusal, version):
        """Name other parameters after a Refusal; whether there is anything to try again with.

        version: self.version when the request was sent; another request may have been refused meanwhile.
        UserError where what is refused cannot be left out.
        """
        if version != self.version:
            return True
        name = self.blamed(refusal)
        if name is None:
            return False
        if name in self.extra:
            raise UserError(f"{self.where}: refuses {name!r} of {self.flag}: {refusal.words}")
        self.version += 1
        known = not re.search("unexpected|unrecogni[sz]ed|unknown|unsupported_param|not permitted",
                              f"{refusal.message} {refusal.code}", re.I)
        if name == "max_tokens" and self.chat:
            self.say_as([name], "max_completion_tokens", self.values["max_tokens"], refusal)
        elif name in ("max_tokens", "max_completion_tokens"):
            raise UserError(f"{self.where}: refuses --max-tokens {self.values[name]}: {refusal.words}")
        elif name == "top_k" and self.values[name] == -1 and known:
            self.values[name] = 0
        elif name in NEUTRAL and "generation_config" not in self.said_as.values():
            names = [name for name in NEUTRAL if name in self.values and name not in self.extra]
            neutral = {name: 0 if name == "top_k" else NEUTRAL[name] for name in names}
            config = {"do_sample": self.values.get("temperature", 1) > 0, **neutral}
            self.say_as(names, "generation_config", json.dumps(config), refusal)
        else:
            self.leave_out(name, refusal)
        return True

    def blamed(self, refusal):
        """The name among ours that a Refusal points to, None where it points to none."""
        names = [name for name in self.values if name in refusal.parameters]
        if not refusal.parameters:
            names = [name for name in self.values if is_named(name, refusal.message)]
        places = {name: place for place, name in enumerate(DISPENSABLE)}
        return min(names, key=lambda name: places.get(name, len(places)), default=None)

    def say_as(self, names, instead, value, refusal):
        for name in names:
            del self.values[name]
            self.said_as[name] = instead
        self.values[instead] = value
        self.tell(f"{', '.join(names)} said as {instead} from now on", refusal)

    def leave_out(self, name, refusal):
        del self.values[name]
        names = [old for old, instead in self.said_as.items() if instead == name] or [name]
        for name in names:
            self.said_as.pop(name, None)
            self.left_out.append(name)
        unsure = set(names) & {*NEUTRAL}
        self.tell(f"{', '.join(names)} left out from now on" + (
            "; if the model's generation_config.json sets them there, they apply and cannot be neutralised"
            if unsure else ""), refusal)

    def tell(self, what, refusal):
        inform(f"{self.where}: {what} ({refusal.words})")


def is_named(name, message):
    """Whether a server's message names a parameter. A name that is a word, too, has to stand in quotes."""
    quoted = rf"['\"`]{name}['\"`]"
    return bool(re.search(quoted if name in WORDS_TOO else rf"(?<!\w){name}(?!\w)", message))
