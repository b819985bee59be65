"""Sample from a model behind any OpenAI-compatible server, and ask judges there.

ask(text, seed) -> Reply. It finds out what the server takes (settings.py) and outlives its faults (connection.py).
"""
import asyncio

from stepdpo.command import UserError
from stepdpo.connection import connect
from stepdpo.prompts import bos, encodable, encode
from stepdpo.reply import FILTERED, REFUSED, TOO_LONG, Refused, Reply, trim
from stepdpo.settings import CONTEXT, PROMPT_TOKENS, Refusal, Settings

ROUNDS = 40  # that one request is changed and sent again; each round leaves something out or shortens something


def completion_server(base_url, model, tokenizer, stop, limits, how, end=()):
    """ask() for /v1/completions: the one form that continues a prefix on every server.

    how: temperature, top_p, max_tokens. limits: has concurrency, timeout, extra_body. stop: strings at which an
    answer is over. end: ids of tokens at which it is, beside the model's own (stop_token_ids of vLLM and SGLang).
    The text already holds the beginning-of-sequence token. So token ids are sent where the server takes them, else
    the text with add_special_tokens off, else (a server that knows neither) the text less that token.
    """
    start = bos(tokenizer)  # what the server's tokenizer puts there itself, not what merely has the name
    # ids in the extra body, for the client looks at each id of its own `prompt`: 18 ms for 500 of them
    forms = [lambda text, ids: {"prompt": ids},
             lambda text, ids: {"prompt": encodable(text), "add_special_tokens": False},
             lambda text, ids: {"prompt": encodable(text).removeprefix(start)}]
    request, client, where = connect(base_url, model, limits)
    values = {**how, "seed": 0}
    if stop:
        values["stop"] = list(stop)
    if end:
        values["stop_token_ids"] = list(end)
    settings = Settings(where, values, getattr(limits, "extra_body", None) or {})

    def read(reply):
        return read_choice(reply.choices[0], reply.choices[0].text)

    def send(body):
        return request(lambda client: client.completions.create(model=model, prompt="", extra_body=body), read)

    negotiated = negotiator(send, settings, forms, how["max_tokens"], lambda: listed_length(client, model))

    async def ask(text, seed):
        answer, why = await negotiated(text, encode(tokenizer, text), seed)
        return trim(answer, stop, "length" if why == "length" else "stop")

    ask.settings = settings
    return ask


def chat_server(base_url, model, limits, how, key="OPENAI_API_KEY", extra_body=None):
    """ask() for /v1/chat/completions: the text is one user message. For judges.

    extra_body: {name: value} that each request names beside; None is that of limits. ask.settings.record() says what
    the server did not take.
    """
    request, _, where = connect(base_url, model, limits, key)
    flag = "--judge-extra-body" if key == "JUDGE_API_KEY" else "--extra-body"
    extra_body = getattr(limits, "extra_body", None) if extra_body is None else extra_body
    settings = Settings(where, {**how, "seed": 0}, extra_body or {}, flag, chat=True)

    def read(reply):
        message = reply.choices[0].message
        if message.content is None and message.refusal:
            raise Refused("refused by the model", message.refusal)
        return read_choice(reply.choices[0], message.content)  # never the reasoning, which has fields of its own

    def send(body):
        return request(lambda client: client.chat.completions.create(model=model, messages=[], extra_body=body), read)

    forms = [lambda text, ids: {"messages": [{"role": "user", "content": encodable(text)}]}]
    negotiated = negotiator(send, settings, forms, how["max_tokens"])

    async def ask(text, seed):
        answer, why = await negotiated(text, None, seed)
        return Reply(answer, "length" if why == "length" else "stop")

    ask.settings = settings
    return ask


def read_choice(choice, text):
    """(text, finish_reason) of a choice. Where all tokens went into reasoning the text was cut before it began."""
    if choice.finish_reason == "content_filter":
        raise Refused(FILTERED, "the server's finish_reason")
    if text is None and choice.finish_reason == "length":
        text = ""
    return text, choice.finish_reason


def negotiator(send, settings, forms, max_tokens, find_length=None):
    """ask(text, ids, seed) -> (text, finish_reason): send the text until it is answered, with what the server takes.

    send(body): a coroutine that raises Refusal. forms: functions (text, ids) -> the part of the body that holds the
    text; the first that is answered is kept. ids: the text's tokens, None where only the server knows them.
    find_length(): a coroutine, the model's context in tokens or None.

        refusal is about ...      what happens
        the length                a shorter answer; no room for one: the row is dropped
        content                   the row is dropped
        a parameter               settings give way, all later requests with them
        the form of the text      the next form, as long as none was answered
        nothing of these          a plain sum is asked in the same way: if it is refused, the run ends, else the row
                                  is dropped
    Raises Refused for what drops the row, UserError for what ends the run.
    """
    context = Context(max_tokens, find_length)
    check_settings = settings_checker(send, settings, forms, max_tokens)

    async def ask(text, ids, seed):
        limit = await context.room(ids)
        for _ in range(ROUNDS):
            if limit < 1:
                raise Refused(TOO_LONG)
            form, version = forms[0], settings.version
            try:
                answer = await send({**settings.body(seed, limit), **form(text, ids)})
                settings.accepted = True
                return answer
            except Refusal as error:
                refusal = error
            if refusal.is_about_length():
                context.length = stated_length(refusal) or context.length
                limit = shorter(refusal, limit, ids)
            elif refusal.is_about_content():
                raise Refused(FILTERED, refusal.words)
            elif settings.give_way(refusal, version) or forms[0] is not form:
                continue
            elif len(forms) > 1 and not settings.accepted:
                forms.pop(0)
            else:
                await check_settings(refusal, ids)
                raise Refused(REFUSED, refusal.words)
        raise Refused(REFUSED, refusal.words)
    return ask


class Context:
    """How long an answer may be: max_tokens, or what the model's context leaves of it where that is known.

    find_length(): a coroutine, asked once, for the length of the context or None.
    """
    def __init__(self, max_tokens, find_length=None):
        self.max_tokens, self.find_length = max_tokens, find_length
        self.length, self.looking = None, None

    async def room(self, ids):
        """The most tokens of an answer to these, which may be None where only the server knows them."""
        if self.find_length and self.looking is None:
            self.looking = asyncio.ensure_future(self.find_length())
        listed = await asyncio.shield(self.looking) if self.looking else None
        length = self.length or listed
        return self.max_tokens if length is None or ids is None else min(self.max_tokens, length - len(ids))


def settings_checker(send, settings, forms, max_tokens):
    """check(refusal, ids): UserError if the server refuses a plain sum as well; then it is not the row's fault."""
    one_at_a_time = asyncio.Lock()

    async def check(refusal, ids):
        async with one_at_a_time:
            limit = 16 if settings.accepted else max_tokens
            try:
                await send({**settings.body(0, limit), **forms[0]("1 + 1 =", ids and ids[:1])})
                settings.accepted = True
            except Refusal:
                raise UserError(f"{settings.where}: refuses what it is asked, whatever the row: {refusal.words}; "
                                "change the settings and go on with --resume") from refusal
    return check


def stated_length(refusal):
    """The context, in tokens, that a Refusal names; None where it names none."""
    found = CONTEXT.search(refusal.message)
    return int(found[found.lastindex].replace(",", "")) if found else None


def shorter(refusal, limit, ids):
    """How long an answer may be after a Refusal about length; < 1 where no answer has room.

    limit: what was asked for. Our own count of the prompt's tokens is better than the server's, which may only say
    "at least 2049"; where neither helps, half as much is tried.
    """
    length, stated = stated_length(refusal), PROMPT_TOKENS.search(refusal.message)
    if length is None:
        return 0
    if ids is not None:
        left = length - len(ids)
    elif stated and "at least" not in refusal.message:
        left = length - int((stated[1] or stated[2]).replace(",", ""))
    else:
        left = limit // 2
    return left if left < limit else limit // 2


async def listed_length(client, model):
    """max_model_len of the model in the server's list (vLLM, SGLang); None where it does not say."""
    try:
        async with asyncio.timeout(10):
            models = await client.with_options(max_retries=0).models.list()
        listed = [entry for entry in models.data if entry.id == model]
        length = getattr(listed[0], "max_model_len", None)
        return length if isinstance(length, int) and length > 0 else None
    except Exception:  # many servers have no such list; what is wrong with this one shows when it is asked
        return None
