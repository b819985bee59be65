"""A chat template, rendered as transformers renders it. It is a program of the model folder, run in a sandbox."""
import datetime
import functools
import json


def render_template(template, messages, special_tokens, add_generation_prompt, date):
    """The text that a Jinja chat template makes of messages [{"role", "content"}, ...].

    special_tokens: {"bos_token": text, ...}, which templates name. date: a datetime.date, what `strftime_now` shows
    (transformers' own rendering shows the time of the call and takes no other). Raises what the template raises.
    """
    def strftime_now(format):
        return datetime.datetime(date.year, date.month, date.day).strftime(format)

    return compile_template(template).render(
        **special_tokens, messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt,
        strftime_now=strftime_now)


@functools.lru_cache(8)
def compile_template(template):
    """A template in the environment that transformers gives it (utils/chat_template_utils.py there)."""
    import jinja2.sandbox
    from jinja2.ext import Extension

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %}: marks what an assistant said; here only the text counts."""
        tags = {"generation"}

        def parse(self, parser):
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template)
