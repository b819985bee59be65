"""What a model remembers of the rows of a running batch. Rows leave it and join it while they are sampled.

    column   0 1 2 3 4 5        the rows are aligned at the right, where all of them grow by one column a token
    row A    . a a a a a        .: nothing; the attention mask hides it
    row B    b b b b b b

    join: B has ended, C (2 columns, just read) comes:      column   0 1 2 3 4      as wide as the longest row is
                                                            row A    a a a a a
                                                            row C    . . . c c
"""
import copy
import functools
import math

GROUPS = 4  # of rows, which attend apart on a CPU
SPARE = 64  # columns that a full cache grows by: a copy for every token took 40 % of the time


def make_cache(config):
    """transformers' cache for a model, with room to grow in its layers of full attention."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer
    cache = DynamicCache(config=config)
    growing = growing_layer()
    cache.layers = [growing() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@functools.lru_cache(1)
def growing_layer():
    """The class of a layer that keeps its keys and values in a buffer with room for further columns."""
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):
        def update(self, keys, values, *args, **kwargs):
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
                self.keys, self.values = keys[:, :, :0], values[:, :, :0]
            self.append("keys", keys)
            self.append("values", values)
            return self.keys, self.values

        def append(self, name, new):
            """Put columns behind those that are there; `whole_keys` is the buffer that `keys` is a view of."""
            old, whole = getattr(self, name), getattr(self, f"whole_{name}", None)
            length, end = old.shape[-2], old.shape[-2] + new.shape[-2]
            if whole is None or whole.data_ptr() != old.data_ptr() or whole.shape[-2] < end:
                whole = old.new_empty(*new.shape[:2], end + SPARE, new.shape[-1])
                whole[:, :, :length] = old
                setattr(self, f"whole_{name}", whole)
            whole[:, :, length:end] = new
            setattr(self, name, whole[:, :, :end])

    return GrowingLayer


def has_state(layer):
    """Whether a layer keeps a state of all that it has read, as recurrent and convolutional ones do, beside columns."""
    return hasattr(layer, "conv_states")


def join(config, parts, width, spent=None):
    """A cache with rows of other caches, in the order of `parts`, `width` columns wide.

    parts: [(cache, which of its rows: (n,) long, how many of its last columns), ...]. spent: one that is not needed
    afterwards; its layers are freed as they are copied, so that memory stays flat.
    """
    joined = make_cache(config)
    for number in range(len(joined.layers)):
        sources = [(cache.layers[number], rows, columns) for cache, rows, columns in parts]
        joined.layers[number] = join_layer(sources, width)
        if spent is not None:
            spent.layers[number] = None
    return joined


def join_layer(sources, width):
    """One layer of the joined cache. sources: [(layer, rows, columns), ...]."""
    import torch
    layer = copy.copy(sources[0][0])  # its kind, window, and so on
    if has_state(layer):
        for name in ("conv_states", "recurrent_states"):
            states = {}
            for number, state in getattr(layer, name).items():
                states[number] = None if state is None else torch.cat(
                    [getattr(source, name)[number].index_select(0, rows) for source, rows, _ in sources])
            setattr(layer, name, states)
    if getattr(layer, "keys", None) is None:  # no attention, or it looks at another layer's keys
        return layer
    stored = width
    if getattr(layer, "is_sliding", False):
        layer.cumulative_length = width
        stored = min(width, layer.sliding_window - 1)
    for name in ("keys", "values", "indexer_keys"):
        if getattr(layer, name, None) is not None:
            whole = join_columns([(getattr(source, name), rows, min(columns, stored))
                                  for source, rows, columns in sources], stored)
            setattr(layer, name, whole[:, :, :stored])
            if isinstance(layer, growing_layer()):
                setattr(layer, f"whole_{name}", whole)
    return layer


def join_columns(sources, width):
    """Rows of several (B, H, W, D) tensors as one (N, H, width + SPARE, D): aligned at column `width`, zeros before."""
    like, n = sources[0][0], sum(len(rows) for _, rows, _ in sources)
    whole = like.new_empty(n, like.shape[1], width + SPARE, like.shape[3])
    begin = 0
    for tensor, rows, columns in sources:
        end = begin + len(rows)
        whole[begin:end, :, :width - columns] = 0
        whole[begin:end, :, width - columns:width] = tensor[:, :, tensor.shape[2] - columns:].index_select(0, rows)
        begin = end
    return whole


def attend_in_groups(module, query, key, value, attention_mask, **how):
    """transformers' attention ("sdpa"), in which a token reads no columns that none of its neighbours has.

        row A    a a a a a a a a      rows A B, from column 0
        row B    . b b b b b b b
        row C    . . . . . . c c      rows C D, from column 5: what is left of it is not read from memory,
        row D    . . . . . d d d      and that is what takes the time where one token a row attends

    Registered with transformers as "groups" (see attention_in_groups). Shapes are those of transformers.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as attend
    mask, size, (_, _, tokens, _) = attention_mask, len(key), query.shape
    if tokens > 1 or mask is None or mask.dtype != torch.bool or len(mask) != size:
        return attend(module, query, key, value, mask, **how)
    firsts = mask[:, 0, 0].byte().argmax(-1).tolist()  # the first column that a row has
    if sum(firsts) < 0.2 * mask.numel():
        return attend(module, query, key, value, mask, **how)
    out, group = [], math.ceil(size / GROUPS)
    for begin in range(0, size, group):
        rows, columns = slice(begin, begin + group), slice(min(firsts[begin:begin + group]), None)
        out.append(attend(module, query[rows], key[rows, :, columns], value[rows, :, columns],
                          mask[rows, :, :, columns], **how)[0])
    return torch.cat(out), None


def attention_in_groups(model):
    """Let a model on a CPU attend by attend_in_groups, if its attention is transformers' own "sdpa"."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa" \
            and model._can_set_attn_implementation():
        AttentionInterface.register("groups", attend_in_groups)
        AttentionMaskInterface.register("groups", sdpa_mask)
        model.set_attn_implementation("groups")
