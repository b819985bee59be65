"""Rows of a JSONL file as what is trained on: sequences of tokens, of which the last ones are scored.

    texts = [Text(" Step 1:", " 1 + 1 = 2."), Text(" Step 1:", " 1 + 1 = 3.", side=-1)]      # a pair's, train.row_texts
    example, _ = make_example(row, texts, tokenizer, "chat", limit=4096)
"""
import itertools
import json
import math
from array import array
from collections import Counter
from typing import Any, NamedTuple

from stepdpo.command import UserError
from stepdpo.processes import first_process, say
from stepdpo.progress import progress_bar
from stepdpo.prompts import encode_steps, end_of_turn, render_prompt
from stepdpo.rows import count_rows, read_rows

TOGETHER = 256  # rows that are encoded together


class Text(NamedTuple):
    """A text of a row that is scored after the problem and the solution so far."""
    before: str          # the solution so far
    scored: str
    ends: bool = False   # whether EOS is scored behind it
    side: int = 1        # +1 chosen, -1 rejected
    weight: float = 1.0  # in its row


class Sequence(NamedTuple):
    """Tokens of which those from `start` on are scored."""
    ids: array
    start: int
    side: int = 1        # +1 chosen, -1 rejected
    weight: float = 1.0  # in its row


class Example(NamedTuple):
    """A row that is trained on: any number of sequences. A pair has two, chosen before rejected."""
    id: str
    sequences: list[Sequence]
    weight: float = 1.0    # of the row
    reference: Any = None  # a tensor: log-probs of the scored tokens under the reference, once it was asked


def scored_sequences(examples: list[Example]) -> list[tuple[array, int]]:
    """[(token ids, index of the first target)] of all sequences of some examples, as sequence_logps takes them."""
    return [(sequence.ids, sequence.start) for example in examples for sequence in example.sequences]


def count_tokens(*sequences: Sequence) -> int:
    """How many tokens of some sequences are scored."""
    return sum(len(sequence.ids) - sequence.start for sequence in sequences)


def text_field(row: dict, name: str) -> str:
    """A row's text of this name, "" where it has none. ValueError for what is no text."""
    text = row.get(name, "")
    if not isinstance(text, str):
        raise ValueError(f"'{name}' is {json.dumps(text)[:40]}, not a string")
    return text


def row_weight(row: dict) -> float:
    """A row's weight, 1 where it has none. ValueError for what is no weight."""
    weight = row.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise ValueError(f"'weight' is {json.dumps(weight)[:40]}, not a number of at least 0")
    return float(weight)


def make_example(row: dict, texts: list[Text] | str, tokenizer, prompt: str, limit: int):
    """(Example, None), or (None, the reason why this row is dropped).

    texts: what of the row is scored, or already such a reason. limit: of tokens in a sequence.
    """
    return assemble_example(row, texts, encode_rows([row], [texts], tokenizer, prompt)[0], tokenizer, prompt, limit)


def encode_rows(rows: list[dict], texts: list[list[Text] | str], tokenizer, prompt: str) -> list[list[tuple]]:
    """For each row, (token ids, how many come before the scored ones) of each of its Texts; all encoded together."""
    steps = []
    for row, texts_of_row in zip(rows, texts):
        if not isinstance(texts_of_row, str):
            for text in texts_of_row:
                whole = render_prompt(tokenizer, row["prompt"], prompt, text.before + text.scored)
                steps.append((whole, text.scored))
    encoded = iter(encode_steps(tokenizer, steps) if steps else [])
    return [[] if isinstance(texts_of_row, str) else [next(encoded) for _ in texts_of_row] for texts_of_row in texts]


def assemble_example(row: dict, texts: list[Text] | str, encoded: list[tuple], tokenizer, prompt: str, limit: int):
    """`make_example` of a row whose Texts are encoded."""
    if isinstance(texts, str):
        return None, texts
    sequences = []
    for text, (ids, start) in zip(texts, encoded):
        if start == len(ids):
            return None, "nothing to score"
        if start == 0:
            return None, "nothing to score it after"
        end = end_of_turn(tokenizer, prompt) if text.ends else []
        if end and ids[-1] != end[-1]:
            ids = [*ids, *end]
        if len(ids) > limit:
            return None, f"longer than {limit} tokens"
        sequences.append(Sequence(array("i", ids), start, text.side, text.weight))
    chosen, rejected = ([(s.ids, s.start) for s in sequences if s.side == side] for side in (1, -1))
    if chosen == rejected:
        return None, "chosen equals rejected"
    return Example(row["id"], sequences, row_weight(row)), None


def read_encoded(path, required, row_texts, tokenizer, prompt):
    """Yield (row, its Texts or the reason why it is dropped, these encoded) of a JSONL file; TOGETHER rows at once."""
    rows = read_rows(path, required)
    with progress_bar(path, count_rows(path), quiet=not first_process()) as bar:
        some = list(itertools.islice(rows, TOGETHER))
        while some:
            texts = [checked_texts(path, row, row_texts) for row in some]
            yield from zip(some, texts, encode_rows(some, texts, tokenizer, prompt))
            bar.update(len(some))
            some = list(itertools.islice(rows, TOGETHER))


def checked_texts(path, row, row_texts):
    """row_texts(row), or UserError for a row that is not to be trained on."""
    where = f"{path}: row {row['id']}"
    if "drop" in row:
        raise UserError(f"{where} was dropped by an earlier stage ({row['drop']}); name a file of kept rows")
    try:
        return row_texts(row)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def load_examples(path, required, row_texts, tokenizer, prompt, limit, vocabulary):
    """(examples, dropped rows with their `drop` reason) of a JSONL file. UserError when nothing is left.

    required: fields that a row must have. row_texts(row): its Texts, or the reason why it is dropped, or ValueError.
    limit: of tokens in a sequence. vocabulary: how many tokens the model knows.
    """
    examples, dropped = [], []
    for row, texts, encoded in read_encoded(path, required, row_texts, tokenizer, prompt):
        where = f"{path}: row {row['id']}"
        try:
            example, reason = assemble_example(row, texts, encoded, tokenizer, prompt, limit)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        if reason:
            dropped.append({**row, "drop": reason})
        elif max(max(sequence.ids) for sequence in example.sequences) >= vocabulary:
            raise UserError(f"{where} has a token beyond the model's {vocabulary}; the tokenizer is another model's", 2)
        else:
            examples.append(example)
    reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(row["drop"] for row in dropped).most_common())
    tally = f"{len(examples) + len(dropped)} in, {len(examples)} kept, {len(dropped)} dropped"
    tally += f" ({reasons})" if reasons else ""
    if not sum(example.weight for example in examples):
        raise UserError(f"{path}: no row to train on: " + ("every 'weight' is 0" if examples else tally))
    say(f"{path}: {tally}")
    return examples, dropped
