"""Requests that come one at a time, worked on together."""
import asyncio


def batched(work, batch_size, over):
    """put(item, seed): a coroutine whose result is what `work` makes of the item.

    work([(item, seed), ...]) -> results, in the same order. It runs in a thread, on at most `batch_size` items, those
    of about one length. An error of `work` reaches everyone who waits for this batch.
    over: a threading.Event, set when the program ends, so that `work` can stop in the middle.

        put(aaa) put(b) put(cc) put(dddd)     waiting, sorted by length: b cc aaa dddd
                                              batch_size 2: work([b, cc]), then work([aaa, dddd])
    """
    arrivals = asyncio.Queue()
    consumer = None

    async def put(item, seed):
        nonlocal consumer
        if consumer is None:
            consumer = asyncio.create_task(consume())
        answer = asyncio.get_running_loop().create_future()
        arrivals.put_nowait((item, seed, answer))
        return await answer

    async def consume():
        waiting = []
        while True:
            if not waiting:
                waiting.append(await arrivals.get())
            await asyncio.sleep(0)  # let every unit that is ready put its item in
            while not arrivals.empty():
                waiting.append(arrivals.get_nowait())
            waiting.sort(key=lambda request: len(request[0]))
            batch, waiting = waiting[:batch_size], waiting[batch_size:]
            await serve(batch)

    async def serve(batch):
        try:
            results = await asyncio.to_thread(work, [(item, seed) for item, seed, _ in batch])
        except asyncio.CancelledError:
            over.set()
            raise
        except Exception as error:
            for _, _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, _, answer), result in zip(batch, results):
            if not answer.done():  # whoever asked may have been cancelled meanwhile
                answer.set_result(result)
    return put
