"""Inside the emulated machine: a whole agent, alone in a service's group, and a step that takes too
much memory. `agent.py GROUP LENT` prints one line as the test programs of cargo do.

Decides what the controller of such a device is told.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from brokers import Broker
from fleet import AGENT, Controller, Device, step, task

HOG = "kept = bytearray(b'x') * (256 << 20)"
TEST = "test a_step_that_takes_too_much_is_told ..."


def main() -> int:
    """Return 0 if all is as it must be."""
    group, lent = sys.argv[1:]
    enter = f"open('{group}/cgroup.procs', 'w').write('0')\n"
    with tempfile.TemporaryDirectory() as name:
        broker = Broker("iotcore", "5", Path(name))
        broker.start()
        device = Device(Path(name), broker, "5")
        device.start(enter + AGENT)
        controller = Controller(broker)
        try:
            containment, memory, *missing = lent.split()
            told = controller.wait_online()["facts"]
            assert (told["containment"], told["memory"]) == (containment, memory), told
            hog = step("hog", "/usr/bin/python3", "-c", HOG, limits={"memory": "64MiB"})
            controller.send(task("hog-1", [hog]))
            controller.send(task("next-1", [step("next", "/bin/true")]))
            (ended,) = controller.wait("result", "hog-1")["steps"]
            assert ended["outcome"] == "out_of_memory", ended
            assert (ended["memory"], ended["not_enforced"]) == (memory, missing), ended
            assert controller.wait("result", "next-1")["outcome"] == "succeeded"
            assert device.stop() == 0 and controller.faults == []
        except BaseException:
            print(device.log())
            print(TEST, "FAILED", flush=True)
            raise
        finally:
            device.stop()
            controller.close()
            broker.stop()
    print(TEST, "ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
