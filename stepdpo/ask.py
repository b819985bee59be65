"""Ask for an answer to a problem and grade it: what collect.py and evaluate.py do alike."""
from stepdpo.policy import sample_seed
from stepdpo.task import extract_answer, is_right


async def answer_row(row, policy):
    """The row with a graded completion, asked for where it has none. Its id is (problem's id)#j."""
    if "completion" not in row:
        args = policy.args
        key, j = row["id"].rsplit("#", 1)
        reply = await policy.ask(row["prompt"], args.prefix, sample_seed(args.seed, key, j))
        row = {**row, "completion": args.prefix + reply.text, "finish_reason": reply.finish_reason,
               "sampling": policy.sampling_record()}
    completion, cut = row["completion"], row.get("finish_reason") == "length"
    return {**row, "pred": extract_answer(completion, cut), "correct": is_right(row, completion, cut)}


def answer_units(samples):
    """What is asked of a problem: `samples` answers, or nothing when the row brings its completion."""
    def units(row):
        if row.get("completion") is not None:
            return [row]
        problem = {name: value for name, value in row.items() if name != "completion"}
        return [{**problem, "id": f"{row['id']}#{j}"} for j in range(samples)]
    return units
