"""How hard the stories are for a pretrained model, which slips by itself.

It learns from true solutions to stories of all scales of its study. Then it answers validation problems of each scale.
The study is made on the scale where its share of right answers is nearest to AIM: not so hard that it has no right
answers to learn from, not so easy that there is nothing to gain.
"""
import json

import evaluate
from demo import world as generator
from demo.files import load_rows

AIM = 0.65  # of final answers in the number world, greedy


def make_world(path, world, sizes, scale):
    """Write the files of a world. sizes: {split: problems}; scale: {"steps": (2, 3), "values": (10, 99)}, or None."""
    words = ["--world", world, "--out", str(path)]
    for split, size in sizes.items():
        words += [f"--{split}", str(size)]
    if scale:
        words.append("--true")
        for name, (least, most) in scale.items():
            words += [f"--{name}", str(least), str(most)]
    generator.main(words)


def scale_world(lab, number, world):
    """The folder of a world of scale `number`: solutions to learn from, validation problems."""
    sizes = {"sft": lab.study.solutions, "train": 1, "validation": lab.study.scale_problems, "test": 1}
    return lab.made(lab.out / "scales", f"{number}-{world}", lambda path: make_world(
        path, world, sizes, lab.study.scales[number]))


def scale_scores(lab):
    """[share of validation problems of the number world with the final answer right] of each scale, first SFT seed."""
    def make(path):
        scores = []
        for number in range(len(lab.study.scales)):
            answers = path.parent / f"{number}-answers.jsonl"
            lab.call("evaluate, scales", evaluate, scale_world(lab, number, "number") / "validation.jsonl",
                     model=lab.policy(0), max_tokens=lab.study.max_tokens, batch_size=lab.study.at_once, out=answers)
            rows = load_rows(answers)
            scores.append(sum(row["correct"] for row in rows) / len(rows))
        path.write_text(json.dumps(scores))
    return json.loads(lab.made(lab.out / "scales", "scores.json", make).read_text())


def chosen_scale(lab):
    """The number of the scale to make the study on."""
    scores = scale_scores(lab)
    return min(range(len(scores)), key=lambda number: abs(scores[number] - AIM))
