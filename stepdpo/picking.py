"""Draw a token from logits: temperature and top-p, and nothing else."""

LIKELIEST = (16, 256, 2048)  # tokens that top-p looks at, in turn, before it looks at all of them
HOPELESS = 0.1  # of top-p: where these have less, more of them will hardly do


def pick_tokens(logits, uniform, temperature, top_p):
    """One token a row by inverse CDF. logits: (B, V); uniform: (B,) in [0, 1). Greedy when temperature is 0.

    Each row brings its own random number, so what it draws does not depend on the rows around it.
    """
    import torch
    if temperature == 0:
        return logits.argmax(-1)
    probs = torch.softmax(logits.float() / temperature, -1)
    if top_p >= 1:
        return draw(probs, uniform)
    return pick_likely(probs, uniform, top_p)


def pick_likely(probs, uniform, top_p):
    """`draw(nucleus(probs, top_p), uniform)` without sorting the vocabulary: (B,) token ids.

        probs   .4 .3 .1 .1 .05 ... (49,152 of them)      top_p 0.75
        16 likeliest, in the order of their ids           the nucleus .4 .3 .1 ends among them: all others are 0
        a row whose nucleus does not end among them       more are looked at, at last all
    """
    import torch
    tokens = torch.empty_like(uniform, dtype=torch.long)
    left = torch.arange(len(probs), device=probs.device)  # rows without a token
    flat = left[:0]                                       # of them, those so flat that few tokens will not do
    for k in LIKELIEST:
        if len(left) and 16 * k <= probs.shape[-1]:
            of_left = probs if len(left) == len(probs) else probs[left]
            ids = of_left.topk(k, sorted=False).indices.sort(-1).values  # by id, as in the vocabulary: equal sums
            likely = of_left.gather(-1, ids)
            kept = nucleus(likely, top_p)
            # there, a token is left out that is likelier than all that were not looked at
            ends = ((kept == 0) & (likely > likely.min(-1, keepdim=True).values)).any(-1)
            tokens[left] = ids.gather(-1, draw(kept, uniform[left])[:, None])[:, 0]
            hopeless = ~ends & (likely.sum(-1) < HOPELESS * top_p)
            flat = torch.cat([flat, left[hopeless]])
            left = left[~ends & ~hopeless]
    left = torch.cat([left, flat])
    if len(left):
        tokens[left] = draw(nucleus(probs[left], top_p), uniform[left])
    return tokens


def nucleus(probs, top_p):
    """probs (B, V) with 0 for all but the likeliest tokens that together reach top_p; of equals the first are kept."""
    import torch
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    return torch.zeros_like(probs).scatter(-1, order, ordered)


def draw(weights, uniform):
    """The token where the cumulated weights (B, V) pass `uniform` of their sum."""
    import torch
    cdf = weights.double().cumsum(-1)
    at = torch.searchsorted(cdf, uniform.double().unsqueeze(1) * cdf[:, -1:], right=True).squeeze(1)
    return at.clamp(max=weights.shape[-1] - 1)
