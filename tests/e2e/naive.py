"""The agent that everybody writes first: paho, json and subprocess. What limpet is held against.

It does what careful people do in sixty lines: a session that the broker keeps, QoS 1 both ways,
subscriptions made anew at each connect, a timeout for each step, and an answer for each failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

TASKS = "fleet/kitchen/task"
RESULTS = "fleet/kitchen/result"


def run_step(step: dict[str, Any]) -> dict[str, Any]:
    """Run one step and return what came of it."""
    try:
        done = subprocess.run(
            step["argv"], capture_output=True, text=True, timeout=step.get("timeout", 60)
        )
    except subprocess.TimeoutExpired:
        return {"name": step["name"], "outcome": "timed_out"}
    except OSError as error:
        return {"name": step["name"], "outcome": "failed", "detail": str(error)}
    outcome = "succeeded" if done.returncode == 0 else "failed"
    return {"name": step["name"], "outcome": outcome, "stdout": done.stdout}


def on_message(client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
    """Run a task's steps in order until one fails, and tell."""
    try:
        task = json.loads(message.payload)
    except ValueError as error:
        print(f"not a task: {error}", file=sys.stderr)
        return
    steps = []
    for step in task["steps"]:
        steps.append(run_step(step))
        if steps[-1]["outcome"] != "succeeded":
            break
    result = {"id": task["id"], "outcome": steps[-1]["outcome"], "steps": steps}
    client.publish(RESULTS, json.dumps(result), qos=1)


def on_connect(client: mqtt.Client, *_: Any) -> None:
    """Subscribe at each connect, as one should."""
    client.subscribe(TASKS, qos=1)


def main() -> None:
    """Serve the broker on a port of this machine."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="kitchen", clean_session=False)
    client.on_connect = on_connect
    client.on_message = on_message
    client.reconnect_delay_set(1, 5)
    client.connect("127.0.0.1", int(sys.argv[1]), keepalive=5)
    client.loop_forever()


if __name__ == "__main__":
    main()
