"""What a GPU needs beside a CPU: numbers that come without a wait, and how fast it could be.

    ids = put([5, 7, 7], device)                                     # a tensor there
    flops = product_flops(model, tokens, scored)                     # of a step
    mfu = flops / seconds / peak_flops(device)                       # where the peak is known
"""
PEAKS = {  # dense bfloat16 products of a GPU a second, by its maker; the first name that torch's name has in it counts
    "A100": 312e12,
    "A800": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
}


def put(numbers, device, dtype=None):
    """A tensor of numbers, or a CPU tensor, on a device, without waiting for what the device is doing.

    A plain `torch.tensor(numbers, device="cuda")` waits until the GPU has done all that it was given: a sync point.
    """
    import torch
    tensor = torch.as_tensor(numbers, dtype=dtype)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def peak_flops(device) -> float | None:
    """Floating-point operations a second that this device could do in bfloat16; None where that is not known."""
    import torch
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def product_flops(model, tokens: int, scored: int) -> int | None:
    """Floating-point operations that a step cannot do without, of a Scorer: its matrix products, forward and backward.

    Two a weight and token forward, two for the gradient by the input, two for that by the weight where it is trained.
    tokens: distinct ones, computed by the layers; scored: those of which the head is asked. Attention's own products,
    and what is computed twice, do not count. None for a model that not every token takes all of (experts).
    """
    layers = [p for layer in model.layers for p in layer.parameters()]
    if not layers or any(p.ndim > 2 for p in layers) or model.head is None:
        return None
    total = 0
    for parameters, rows in (layers, tokens), (model.head.parameters(), scored):
        total += sum(rows * p.numel() * (6 if p.requires_grad else 4) for p in parameters if p.ndim == 2)
    return total
