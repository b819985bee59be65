"""Requests to an OpenAI-compatible server that fails now and then."""
import asyncio
import json
import os
import random
import re

from stepdpo.command import UserError, inform
from stepdpo.reply import SPENT, GaveUp
from stepdpo.settings import Refusal

TRIES = 8  # times the client's own 3
# what "insufficient_quota" and its like say; a plain rate limit names the billing page, too
SPENT_OUT = re.compile(r"insufficient[_ ](?:quota|balance|credits?|funds)|exceeded your current quota|out of credits"
                       r"|billing_(?:hard_limit_reached|not_active)|credit balance is too low", re.I)


def read_key(name):
    """The API key in the environment variable `name`, else in OPENAI_API_KEY, without the white space around it."""
    for variable in (name, "OPENAI_API_KEY"):
        key = os.environ.get(variable, "").strip()
        if not key:
            continue
        if not all("!" <= letter <= "~" for letter in key):
            raise UserError(f"{variable}: no API key: it holds white space or letters that no header can carry; "
                            "set it again", 2)
        return key
    return "none"


def redact(text, secret):
    """`text` without any eight characters in a row of the secret: servers repeat what they refuse."""
    n = min(8, len(secret))
    pieces = {secret[i:i + n] for i in range(len(secret) - n + 1)} if secret != "none" else set()
    shown, hidden = [], 0  # hidden: how many letters from here on belong to a piece
    for i, letter in enumerate(text):
        if text[i:i + n] in pieces:
            hidden = n
        shown.append("*" if hidden else letter)
        hidden = max(0, hidden - 1)
    return "".join(shown)


def open_client(base_url, secret, timeout):
    """The openai client. UserError, in one line, for an address or a proxy that it cannot use."""
    import openai
    how = {"base_url": base_url, "api_key": secret, "max_retries": 2, "timeout": timeout}
    try:
        openai.OpenAI(**how).close()  # a trial: an AsyncOpenAI that fails half-way fails again in its destructor
        return openai.AsyncOpenAI(**how)
    except Exception as error:  # a proxy without its package is an ImportError, a bad address one of httpx's own
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{base_url or 'the OpenAI server'}: no client for it ({reason}); see to the address, or unset "
                        "ALL_PROXY, HTTPS_PROXY and HTTP_PROXY", 2) from error


def connect(base_url, model, limits, key="OPENAI_API_KEY"):
    """(request, client, where) of a server. request(call, read) makes a call and reads (text, finish_reason) of it.

    limits: has `concurrency`, requests in flight, and `timeout`, seconds for a reply (three of them end the tries).
    The client itself retries refused connections, 408, 409, 429 and 5xx; a 200 with HTML, an error object, no
    choices or no text passes it unnoticed. Raises Refusal for a 400 or 422, GaveUp, or UserError for what ends the
    run. where: the server's address, for messages.
    """
    import openai
    secret = read_key(key)
    client = open_client(base_url, secret, limits.timeout)
    where = re.sub(r"//[^/@]*@", "//", str(client.base_url))  # a password stands there
    free = asyncio.Semaphore(limits.concurrency)
    seen = {"answered": False, "odd": False}

    def accept(reply):
        if not seen["answered"] and not str(reply.model or model).startswith(model):
            inform(f"{where}: asked for {model!r}, {reply.model!r} answers")
        seen["answered"] = True
        SPENT.update(replies=1, tokens=getattr(reply.usage, "total_tokens", None) or 0)

    def tell_odd(fault):
        if not seen["odd"]:
            inform(f"{where}: answers 200 with something that is no reply ({fault}); tried again")
        seen["odd"] = True

    async def request(call, read):
        late = 0
        for attempt in range(TRIES):
            last = attempt + 1 == TRIES or attempt and not seen["answered"]
            try:
                async with free, asyncio.timeout(limits.timeout):  # of the whole: a server may drip for ever
                    reply = await call(client)
                text, why = read(reply)
                if isinstance(text, str):
                    accept(reply)
                    return text, why
                fault = "a reply without text"
                tell_odd(fault)
            except openai.APIStatusError as error:
                fault = explain_status(error, where, model, key, secret)
            except (TimeoutError, openai.APITimeoutError):
                late += 1
                fault = f"no reply in {limits.timeout:g} seconds (--timeout)"
            except openai.APIConnectionError as error:
                fault = short(error, secret)
                if last:
                    raise no_answer(where, fault, key, seen["answered"]) from error
            except (openai.APIError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
                fault = short(error, secret)
                tell_odd(fault)
            if late == 3:
                break
            await asyncio.sleep(min(30, 2 ** attempt) * random.uniform(0.5, 1))
        raise GaveUp(f"{where}: {attempt + 1} tries failed, the last with: {fault}; this row is left for --resume")
    return request, client, where


def explain_status(error, where, model, key, secret):
    """What a status other than 200 says, for the next try; raises what no further try will mend."""
    words, code = short(error, secret), error.status_code
    if code in (400, 402, 403, 429) and (code == 402 or SPENT_OUT.search(error.response.text)):
        raise UserError(f"{where}: {code}, the account has nothing left ({words}); what was saved is kept, go on with "
                        "--resume when it has") from error
    if code in (401, 403):
        raise UserError(f"{where}: {code}, the API key is refused; set {key}") from error
    if code == 404:
        raise UserError(f"{where}: 404, no model {model!r} there ({words}); see {where.rstrip('/')}/models, or "
                        "is /v1 missing at the end?") from error
    if code in (400, 422):
        raise Refusal(words, redact(error.response.text[:20_000], secret)) from error
    return words


def no_answer(where, fault, key, answered):
    """The UserError of a server that is not there, or not any more."""
    flag = "--judge-url" if key == "JUDGE_API_KEY" else "--base-url"
    later = "; rows that were saved are kept, go on with --resume" if answered else ""
    return UserError(f"{where}: no answer ({fault}); start the server, wait until it serves, or mend {flag}{later}")


def short(error, secret):
    """An exception in one line, with what the server or the network said of it, and without the key."""
    said = error.response.text if hasattr(error, "response") else error.__cause__ or error
    try:  # the words of an error object, without what stands around them
        said = json.loads(said)["error"]["message"] if hasattr(error, "response") else said
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return redact(" ".join(f"{type(error).__name__}: {said}"[:20_000].split())[:200 + len(secret)], secret)[:200]
