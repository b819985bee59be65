"""Train a small process reward model on answers whose first wrong step is known, for `locate.py --judge prm:FOLDER`.

    python demo/world.py --label answers.jsonl > labelled.jsonl
    python -m demo.prm labelled.jsonl --out runs/prm                 # a few CPU-minutes

in:  {"prompt", "completion", "bad_step"}: the first wrong step, from 1, or null
out: a folder with a token classifier, in TRL's way: problem, then each step and a new line, where the label stands.
     Steps before the wrong one are right; what follows it has no label, for it is neither.
"""
import argparse
import json
import random
import sys

from judges.prm import step_texts
from stepdpo.prm import SEPARATOR, render_pieces
from stepdpo.steps import split_steps


def read_examples(path, tokenizer):
    """[(token ids, [(place, 1 right or 0 wrong), …])] of the rows in a file."""
    render, examples = render_pieces(tokenizer, SEPARATOR), []
    with open(path, encoding="utf-8") as file:
        for row in map(json.loads, file):
            preamble, steps = step_texts(split_steps(row["completion"]), "classifier")
            if (row["bad_step"] or 0) > len(steps) or not steps:
                continue  # who labelled it counted steps in another way
            if preamble:
                steps[0] = f"{preamble}\n{steps[0]}"
            ids, places = render(row["prompt"], steps)
            first_wrong = row["bad_step"] or len(steps) + 1
            examples.append((ids, [(place, int(k < first_wrong)) for k, place in enumerate(places, 1)
                                   if k <= first_wrong]))
    return examples


def batch_loss(model, batch):
    """Mean cross-entropy over the labelled steps of a batch of examples."""
    import torch
    longest = max(len(ids) for ids, _ in batch)
    ids, labels = torch.zeros(len(batch), longest, dtype=torch.long), torch.full((len(batch), longest), -100)
    mask = torch.zeros_like(ids)
    for row, (tokens, steps) in enumerate(batch):
        ids[row, :len(tokens)] = torch.tensor(tokens)
        mask[row, :len(tokens)] = 1
        for place, label in steps:
            labels[row, place] = label
    logits = model(input_ids=ids, attention_mask=mask).logits
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100)


def train(model, examples, epochs, batch_size, lr):
    """AdamW with a linear decay; examples in another order each epoch."""
    import torch
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    total = epochs * -(-len(examples) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 50) * (1 - step / total))
    dice, order = random.Random(0), list(examples)
    model.train()
    for epoch in range(epochs):
        dice.shuffle(order)
        losses = []
        for begin in range(0, len(order), batch_size):
            loss = batch_loss(model, order[begin:begin + batch_size])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {epochs}: loss {sum(losses) / len(losses):.4f}", file=sys.stderr)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("rows", help="answers with their bad_step, as demo/world.py --label writes them")
    parser.add_argument("--model", default="demo/policy", help="folder of the model to start from")
    parser.add_argument("--out", default="runs/prm", help="folder to write")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the rows")
    parser.add_argument("--batch-size", type=int, default=32, help="answers an optimizer step")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate")
    args = parser.parse_args(argv)

    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer
    from transformers.utils import logging
    logging.set_verbosity_error()  # "some weights were newly initialized": the classifier's, of course
    logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForTokenClassification.from_pretrained(args.model, num_labels=2, dtype=torch.float32)
    train(model, read_examples(args.rows, tokenizer), args.epochs, args.batch_size, args.lr)
    model.eval().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
