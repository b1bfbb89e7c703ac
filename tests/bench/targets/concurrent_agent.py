"""The agent that people write second: aiomqtt, orjson and asyncio's subprocesses.

As careful as `naive.py` of the end-to-end tests, whose documents it takes, but tasks run beside one
another. A step that runs out of time is killed, and its report says how late that was. Nothing is
durable: what it holds when it dies is lost, or repeated by the broker.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from typing import Any

import aiomqtt
import orjson

TASKS = "fleet/kitchen/task"
RESULTS = "fleet/kitchen/result"


async def run_step(step: dict[str, Any]) -> dict[str, Any]:
    """Run one step and return what came of it."""
    process = await asyncio.create_subprocess_exec(*step["argv"], stdout=PIPE, stderr=PIPE)
    clock = asyncio.get_running_loop().time
    timeout = step.get("timeout", 60)
    due = clock() + timeout
    try:
        stdout, _ = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError:
        process.kill()
        late_us = round((clock() - due) * 1e6)
        await process.wait()
        return {"name": step["name"], "outcome": "timed_out", "late_us": late_us}
    outcome = "succeeded" if process.returncode == 0 else "failed"
    return {"name": step["name"], "outcome": outcome, "stdout": stdout.decode()}


async def run(client: aiomqtt.Client, payload: Any) -> None:
    """Run a task's steps in order until one fails, and tell."""
    try:
        task = orjson.loads(payload)
        steps: list[dict[str, Any]] = []
        for step in task["steps"]:
            steps.append(await run_step(step))
            if steps[-1]["outcome"] != "succeeded":
                break
        outcome = steps[-1]["outcome"] if steps else "succeeded"
        result = {"id": task["id"], "outcome": outcome, "steps": steps}
    except (ValueError, KeyError, TypeError, OSError) as error:
        print(f"not a task: {error}", file=sys.stderr)
        return
    await client.publish(RESULTS, orjson.dumps(result), qos=1)


async def serve(port: int) -> None:
    """Serve the broker on a port of this machine."""
    running: set[asyncio.Task[None]] = set()
    async with aiomqtt.Client("127.0.0.1", port, identifier="kitchen") as client:
        await client.subscribe(TASKS, qos=1)
        async for message in client.messages:
            task = asyncio.create_task(run(client, message.payload))
            running.add(task)
            task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
