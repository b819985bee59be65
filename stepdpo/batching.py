"""Many coroutines ask for one thing each; what they ask for is worked on in batches, in a thread."""
import asyncio


def batched(work, batch_size, over):
    """put(*request) -> result, by way of work([request, ...]) -> [result, ...], which runs in a thread.

    Each request begins with something that has a length. Waiting requests are sorted by it, so that a batch holds
    requests of about one length. `over` is set when nobody waits any more, for the thread to stop.
    """
    waiting, worker = [], None

    async def serve():
        while waiting:
            await asyncio.sleep(0)  # let every unit that is ready put its request in
            waiting.sort(key=lambda entry: len(entry[0][0]))
            batch = waiting[:batch_size]
            del waiting[:batch_size]
            try:
                results = await asyncio.to_thread(work, [request for request, _ in batch])
            except asyncio.CancelledError:
                over.set()
                raise
            for (_, future), result in zip(batch, results):
                if not future.cancelled():
                    future.set_result(result)
            await asyncio.sleep(0)

    async def put(*request):
        nonlocal worker
        future = asyncio.get_running_loop().create_future()
        waiting.append((request, future))
        if worker is None or worker.done():
            worker = asyncio.create_task(serve())
        done, _ = await asyncio.wait({future, worker}, return_when=asyncio.FIRST_COMPLETED)
        if future not in done:
            worker.result()  # an error in the work must not leave everyone waiting
        return await future
    return put
