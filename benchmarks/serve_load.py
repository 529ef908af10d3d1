"""Load on a server of this machine: many clients at once, some of whom leave before their answer.

Every answer must be the text that the file gets alone, or 429 (which --again asks for again); none
may be missing. The memory of the server is read before, after each quarter, and at the end.

    python benchmarks/serve_load.py http://127.0.0.1:8000 MODEL FILE... --pid PID
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np


async def ask(
    client: httpx.AsyncClient, model: str, file: Path, timeout_s: float
) -> httpx.Response:
    """Ask for a file's text."""
    return await client.post(
        "/v1/audio/transcriptions",
        files={"file": (file.name, file.read_bytes())},
        data={"model": model},
        timeout=timeout_s,
    )


async def one(
    client: httpx.AsyncClient,
    asked: argparse.Namespace,
    texts: dict[Path, str],
    number: int,
    seen: Counter[str],
    seconds: list[float],
) -> None:
    """Make one request, and judge its answer."""
    file = asked.files[number % len(asked.files)]
    leaves = random.random() < asked.leave_share
    began_s = time.perf_counter()
    try:
        while True:
            patience_s = random.uniform(0.05, 2) if leaves else 1800
            answer = await ask(client, asked.model, file, patience_s)
            if answer.status_code != 429 or not asked.again:
                break
            await asyncio.sleep(random.uniform(0.1, 1))
    except httpx.TimeoutException:
        seen["left" if leaves else "LOST"] += 1
        return
    except httpx.HTTPError as error:
        seen["left" if leaves else f"LOST: {type(error).__name__}"] += 1
        return
    if answer.status_code == 200:
        is_right = answer.json()["text"] == texts[file]
        seen["right" if is_right else "WRONG"] += 1
        seconds.append(time.perf_counter() - began_s)
    else:
        seen[str(answer.status_code)] += 1


async def load(asked: argparse.Namespace) -> None:
    """Print what became of all requests."""
    random.seed(1)
    limits = httpx.Limits(max_connections=asked.clients)
    async with httpx.AsyncClient(base_url=asked.url, limits=limits) as client:
        texts = {}
        for file in asked.files:
            answer = await ask(client, asked.model, file, 1800)
            texts[file] = answer.raise_for_status().json()["text"]
        seen: Counter[str] = Counter()
        seconds: list[float] = []
        memory_mb, began_s = [_memory_mb(asked.pid)], time.perf_counter()
        free = asyncio.Semaphore(asked.clients)

        async def limited(number: int) -> None:
            async with free:
                await one(client, asked, texts, number, seen, seconds)

        for quarter in range(4):
            numbers = range(quarter * asked.requests // 4, (quarter + 1) * asked.requests // 4)
            await asyncio.gather(*(limited(number) for number in numbers))
            memory_mb.append(_memory_mb(asked.pid))
        took_s = time.perf_counter() - began_s
        health = (await client.get("/health")).status_code
    print(f"{asked.requests} requests of {asked.clients} clients in {took_s:.1f} s: {dict(seen)}")
    if seconds:
        median, late = np.quantile(seconds, [0.5, 0.95])
        print(f"answers after {median:.2f} s (median), {late:.2f} s (95 %)")
    print(f"memory, MB: {', '.join(f'{mb:.0f}' for mb in memory_mb)}; health {health}")


def _memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--leave-share", type=float, default=0.1)
    parser.add_argument("--again", action="store_true")
    asyncio.run(load(parser.parse_args()))


if __name__ == "__main__":
    main()
