"""Sample from a model behind any OpenAI-compatible server, and ask judges there."""
import asyncio
import os
import random
import sys

from stepdpo.command import UserError
from stepdpo.prompts import encodable, encode
from stepdpo.reply import REFUSED, SPENT, GaveUp, Refused, Reply, trim

TRIES = 8  # times the client's own 3


def completion_server(base_url, model, tokenizer, stop, limits, how):
    """ask() for /v1/completions: the one form that continues a prefix on every server.

    The text already holds the beginning-of-sequence token. So token ids are sent where the server takes them, else
    the text with add_special_tokens off, else (a server that knows neither) the text less that token.
    """
    start = tokenizer.bos_token or ""
    # ids in the extra body, for the client looks at each id of its own `prompt`: 18 ms for 500 of them
    forms = [lambda text: dict(prompt="", extra_body={"prompt": encode(tokenizer, text)}),
             lambda text: dict(prompt=encodable(text), extra_body={"add_special_tokens": False}),
             lambda text: dict(prompt=encodable(text).removeprefix(start))]
    request = requester(base_url, model, limits)

    def read(reply):
        return reply.choices[0].text, reply.choices[0].finish_reason

    async def ask(text, seed):
        for form in list(forms):
            try:
                answer, why = await request(lambda client: client.completions.create(
                    model=model, seed=seed, n=1, stop=list(stop) or None, **how, **form(text)), read)
            except Refused as error:
                refused = error
                continue
            forms[:] = [form]  # what was answered once is what this server speaks
            return trim(answer, stop, "length" if why == "length" else "stop")
        raise refused
    return ask


def chat_server(base_url, model, limits, how, key="OPENAI_API_KEY"):
    """ask() for /v1/chat/completions: the text is one user message. For judges."""
    request = requester(base_url, model, limits, key)

    def read(reply):
        message = reply.choices[0].message
        if message.content is None and message.refusal:
            raise Refused("refused by the model", message.refusal)
        return message.content, reply.choices[0].finish_reason

    async def ask(text, seed):
        answer, why = await request(lambda client: client.chat.completions.create(
            model=model, seed=seed, n=1, messages=[{"role": "user", "content": encodable(text)}], **how), read)
        return Reply(answer, "length" if why == "length" else "stop")
    return ask


def requester(base_url, model, limits, key="OPENAI_API_KEY"):
    """request(call, read): make a call, read (text, finish_reason) from its reply, try again when either fails.

    limits: has `concurrency`, requests in flight, and `timeout`, seconds for a reply (three of them end the tries).
    The client itself retries refused connections, 408, 409, 429 and 5xx; a 200 with HTML, an error object, no
    choices or no text passes it unnoticed. Raises Refused, GaveUp, or UserError for what ends the run.
    """
    import openai
    secret = os.environ.get(key) or os.environ.get("OPENAI_API_KEY") or "none"
    client = openai.AsyncOpenAI(base_url=base_url, api_key=secret, max_retries=2, timeout=limits.timeout)
    where, free, answered = str(client.base_url), asyncio.Semaphore(limits.concurrency), False

    def accept(reply):
        nonlocal answered
        if not answered and not str(reply.model or model).startswith(model):
            print(f"{where}: asked for {model!r}, {reply.model!r} answers", file=sys.stderr)
        answered = True
        SPENT.update(replies=1, tokens=getattr(reply.usage, "total_tokens", None) or 0)

    async def request(call, read):
        late = 0
        for attempt in range(TRIES):
            try:
                async with free, asyncio.timeout(limits.timeout):  # of the whole: a server may drip for ever
                    reply = await call(client)
                text, why = read(reply)
                if isinstance(text, str):
                    accept(reply)
                    return text, why
                fault = "a reply without text"
            except (openai.APIError, ValueError, TypeError, AttributeError, IndexError, RecursionError,
                    TimeoutError) as error:
                fault = explain(error, where, model, key, limits.timeout, first=not answered,
                                last=attempt + 1 == TRIES or attempt and not answered)
                late += isinstance(error, (TimeoutError, openai.APITimeoutError))
            if late == 3:
                break
            await asyncio.sleep(min(30, 2 ** attempt) * random.uniform(0.5, 1))
        raise GaveUp(f"{where}: {attempt + 1} tries failed, the last with: {fault}; this row is left for --resume")
    return request


def explain(error, where, model, key, timeout, first, last):
    """What a failed try says, for the next one; raises what no further try will mend.

    first: nothing was answered yet, so the settings may be wrong. last: no further try is meant.
    """
    import openai
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        raise UserError(f"{where}: {error.status_code}, the API key is refused; set {key}") from error
    if isinstance(error, openai.NotFoundError):
        raise UserError(f"{where}: 404, no model {model!r} there ({short(error)}); see {where.rstrip('/')}/models, or "
                        "is /v1 missing at the end?") from error
    if isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError)):
        if first and model in short(error):
            raise UserError(f"{where}: refuses model {model!r} ({short(error)})") from error
        raise Refused(REFUSED, short(error)) from error
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return f"no reply in {timeout:g} seconds (--timeout)"
    if isinstance(error, openai.APIConnectionError) and last:
        flag = "--judge-url" if key == "JUDGE_API_KEY" else "--base-url"
        raise UserError(f"{where}: no answer ({short(error)}); start the server, wait until it serves, or mend "
                        f"{flag}") from error
    return short(error)


def short(error):
    """An exception in one line, with what the server or the network said of it."""
    said = error.response.text if hasattr(error, "response") else error.__cause__ or error
    return " ".join(f"{type(error).__name__}: {said}".split())[:200]
