#!/usr/bin/env python3
"""
What nvidia-smi says on a server; the file that FAKE_GPUS names is its hardware.

    {"driver": "550.54.14", "fault": null,
     "gpus": [{"uuid": "GPU-..", "name": "..", "memory_mib": 24576, "used_mib": 0,
               "mode": "Default", "fault": null, "slices": {"MIG-..": "1g.10gb"}}],
     "processes": [{"uuid": "GPU-..", "pid": 4711, "memory_mib": 12000}]}

The driver's fault may be ``hang`` (until the file says otherwise), ``garbage``, ``flood`` or
``failed``; a GPU's ``lost`` (it fell off the bus, Xid 79) or ``error`` (it answers with nothing of
use). Standard library only; each call is noted in a file beside the hardware.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HARDWARE = Path(os.environ["FAKE_GPUS"])
FAILED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running."
)
LOST = (
    "Unable to determine the device handle for GPU0000:{:02x}:00.0: GPU is lost.  "
    "Reboot the system to recover this GPU"
)


def read() -> dict[str, Any]:
    hardware: dict[str, Any] = json.loads(HARDWARE.read_text())
    return hardware


def main(arguments: list[str]) -> int:
    with HARDWARE.with_suffix(".asked").open("a") as asked:
        asked.write(" ".join(arguments) + "\n")
    hardware = read()
    fault = hardware.get("fault")
    while fault == "hang":
        time.sleep(0.05)
        hardware = read()
        fault = hardware.get("fault")
    if fault == "failed":
        print(FAILED)
        return 9
    if fault == "garbage":
        sys.stdout.buffer.write(bytes(range(256)) * 64 + b"\n,,,,,,\n0,0,0,0,0,0,0\n")
        return 0
    if fault == "flood":
        while True:
            sys.stdout.buffer.write(b"GPU-0, " * 10_000)
    if not hardware["gpus"]:
        print("No devices were found")
        return 6
    return answer(hardware, arguments)


def answer(hardware: dict[str, Any], arguments: list[str]) -> int:
    for argument in arguments:
        name, _, fields = argument.partition("=")
        if name in ("-L", "--list-gpus"):
            return list_gpus(hardware)
        if name == "--query-gpu":
            return query_gpus(hardware, fields.split(","))
        if name == "--query-compute-apps":
            return query_processes(hardware, fields.split(","))
    print(f"Option {arguments} is not recognized.")
    return 2


def list_gpus(hardware: dict[str, Any]) -> int:
    code = 0
    for index, gpu in enumerate(hardware["gpus"]):
        if gpu.get("fault") == "lost":
            print(LOST.format(index + 1))
            code = 15
            continue
        print(f"GPU {index}: {gpu['name']} (UUID: {gpu['uuid']})")
        for number, (uuid, profile) in enumerate(gpu.get("slices", {}).items()):
            print(f"  MIG {profile}     Device  {number}: (UUID: {uuid})")
    return code


def query_gpus(hardware: dict[str, Any], fields: list[str]) -> int:
    code = 0
    for index, gpu in enumerate(hardware["gpus"]):
        if gpu.get("fault") == "lost":
            print(LOST.format(index + 1))
            code = 15
            continue
        known = {
            "index": index,
            "name": gpu["name"],
            "uuid": gpu["uuid"],
            "driver_version": hardware["driver"],
            "memory.total": gpu["memory_mib"],
            "memory.used": gpu.get("used_mib", 0),
            "compute_mode": gpu.get("mode", "Default"),
        }
        if gpu.get("fault") == "error":
            known |= dict.fromkeys(
                ("memory.total", "memory.used", "compute_mode"), "[Unknown Error]"
            )
        if unknown := [field for field in fields if field not in known]:
            print(f'Field "{unknown[0]}" is not a valid field to query.')
            return 2
        print(", ".join(str(known[field]) for field in fields))
    return code


def query_processes(hardware: dict[str, Any], fields: list[str]) -> int:
    for process in hardware.get("processes", []):
        known = {
            "gpu_uuid": process["uuid"],
            "pid": process["pid"],
            "used_memory": process.get("memory_mib", "[N/A]"),
        }
        print(", ".join(str(known[field]) for field in fields))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
