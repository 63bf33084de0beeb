"""What the driver says of GPUs is read within bounds, and who else uses one is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from fakes.gpus import RTX, FakeGpus, make_gpu, make_gpus
from touchstone_agent.adapters import gpu as adapter
from touchstone_agent.adapters.gpu import MAX_BYTES, detect_gpus, look_at_gpus
from touchstone_agent.core.gpus import (
    GpuLook,
    GpuProcess,
    find_unusable,
    is_gpu_id,
    parse_gpus,
    parse_processes,
    split_gpus,
)
from touchstone_agent.protocol.messages import MAX_GPUS

GOOD = f"0, {RTX}, 24576, GPU-a, 550.54.14, Default, 312"
A100 = make_gpu(uuid="GPU-4c", name="NVIDIA A100-SXM4-80GB", memory_mib=81920)


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """Two GPUs, of which every program on the PATH can be asked."""
    found = FakeGpus(tmp_path)
    monkeypatch.setenv("PATH", f"{found.bin}:{os.environ['PATH']}")
    # A busy machine is no driver that hangs.
    monkeypatch.setattr(adapter, "LOOK_SECONDS", 600)
    return found


# --- what it prints ---------------------------------------------------------------------------


def test_a_gpu_is_read_with_all_that_is_asked_of_it() -> None:
    ((found,), others) = parse_gpus(f"{GOOD}\n")

    assert found == make_gpu(uuid="GPU-a", used_mib=312)
    assert others == ()


@pytest.mark.parametrize(
    "line",
    [
        f"1, {RTX}, [Unknown Error], GPU-b, 550.54.14, Default, 0",
        f"1, {RTX}, 24576, GPU-b, 550.54.14, ERR!, 0",
        f"1, {RTX}, 24576, GPU-b, 550.54.14, [GPU requires reset], 0",
        f"1, {RTX}, 24576, GPU-b, 550.54.14, Default, [Unknown Error]",
        "1, [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost], 0",
        f"1, {RTX}, [N/A], GPU-b, 550.54.14, Default, 0",
        f"1, {RTX}, 24576, [N/A], 550.54.14, Default, 0",
        f"1, {RTX}, 24576, GPU-b, [N/A], Default, 0",
        f"1, {RTX}, 24576, GPU-b;rm, 550.54.14, Default, 0",
        f"²1, {RTX}, 24576, GPU-b, 550.54.14, Default, 0",
        f"1001, {RTX}, 24576, GPU-b, 550.54.14, Default, 0",
        f"1, {RTX}, 0, GPU-b, 550.54.14, Default, 0",
        f"1, {RTX}, {'9' * 5000}, GPU-b, 550.54.14, Default, 0",
        f"1, {RTX}, 24576, GPU-b",
        "Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.  Reboot",
    ],
)
def test_a_broken_gpu_is_left_out_and_told_of(line: str) -> None:
    found, others = parse_gpus(f"{GOOD}\n{line}\n")

    assert [gpu.uuid for gpu in found] == ["GPU-a"]
    (told,) = others
    assert told[:10] == line[:10]
    assert len(told) <= 160


@pytest.mark.parametrize("used", ["[N/A]", "[Not Supported]", "[Insufficient Permissions]"])
def test_what_a_good_gpu_does_not_tell_makes_it_no_broken_one(used: str) -> None:
    ((found,), others) = parse_gpus(f"0, {RTX}, 24576, GPU-a, 550.54.14, [N/A], {used}")

    assert (found.compute_mode, found.used_mib, others) == ("", None, ())


def test_a_gpu_on_which_nothing_may_compute_is_not_handed_over() -> None:
    found, others = parse_gpus(f"0, {RTX}, 24576, GPU-a, 550.54.14, Prohibited, 0")

    assert found == ()
    assert others == ("GPU 0 is in compute mode Prohibited",)


def test_no_more_gpus_and_lines_are_kept_than_anybody_has() -> None:
    text = "".join(GOOD.replace("GPU-a", f"GPU-{n}") + "\n" for n in range(5000))

    found, _ = parse_gpus(text)
    _, others = parse_gpus("\x1b[2Jgarbage\n" * 5000)

    assert len(found) == MAX_GPUS
    assert others == ("[2Jgarbage",) * 8


def test_slices_stand_in_the_place_of_their_gpu() -> None:
    text = (
        "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-4c)\n"
        "  MIG 3g.40gb     Device  0: (UUID: MIG-11)\n"
        "  MIG 1c.2g.20gb  Device  1: (UUID: MIG-GPU-4c/7/0)\n"
        "  MIG 1g.10gb+me  Device  2: (UUID: MIG-33)\n"
        "  MIG enormous    Device  3: (UUID: MIG-44)\n"
        f"GPU 1: {RTX} (UUID: GPU-1)\n"
        "GPU 7: of nobody (UUID: GPU-7)\n"
        "  MIG 1g.10gb     Device  0: (UUID: MIG-77)\n"
        f"GPU 1: {RTX} (UUID: GPU-1)\n"
        "Unable to determine the device handle for GPU0000:02:00.0\n"
        "  MIG 1g.10gb     Device  0: (UUID: MIG-88)\n"
    )

    found = split_gpus((A100, make_gpu(1)), text)

    assert [(gpu.uuid, gpu.index, gpu.memory_mib, gpu.parent) for gpu in found] == [
        ("MIG-11", 0, 40960, "GPU-4c"),
        ("MIG-GPU-4c/7/0", 0, 20480, "GPU-4c"),
        ("MIG-33", 0, 10240, "GPU-4c"),
        ("GPU-1", 1, 24576, None),
    ]
    assert found[0].name == "NVIDIA A100-SXM4-80GB MIG 3g.40gb"


def test_gpus_that_nobody_has_split_are_whole() -> None:
    assert split_gpus(make_gpus(2), "GPU 0: x (UUID: GPU-0)\nwhatever\n") == make_gpus(2)


def test_processes_are_read_also_where_the_driver_hides_their_figures() -> None:
    text = (
        "GPU-0, 4711, 12000\n"
        "GPU-0, 4712, [N/A]\n"
        "MIG-11, [Insufficient Permissions], [Insufficient Permissions]\n"
        "No running processes found\n"
    )

    found, others = parse_processes(text)

    assert found == (
        GpuProcess(uuid="GPU-0", pid=4711, memory_mib=12000),
        GpuProcess(uuid="GPU-0", pid=4712),
        GpuProcess(uuid="MIG-11", pid=None),
    )
    assert others == ("No running processes found",)


@pytest.mark.parametrize("text", ["0", "17", "GPU-5b1f", "MIG-GPU-5b1f/7/0"])
def test_what_can_be_the_id_of_a_gpu_is_known(text: str) -> None:
    assert is_gpu_id(text)


@pytest.mark.parametrize("text", ["", "all", "0,1", "GPU-", "GPU-a b", "-1", "GPU-" + "a" * 200])
def test_what_cannot_be_the_id_of_a_gpu_is_none(text: str) -> None:
    assert not is_gpu_id(text)


# --- who uses which ---------------------------------------------------------------------------

STRANGER = GpuProcess(uuid="GPU-0", pid=4711, memory_mib=12000)


TWO = make_gpus(2)


def judge(*processes: GpuProcess, known=TWO, own_pids=(), unseen=(), **look):
    shown = GpuLook(**{"gpus": known, "processes": processes, **look})
    return find_unusable(known, shown, own_pids=own_pids, unseen=unseen)


def test_a_gpu_that_somebody_else_uses_is_not_free_and_it_is_told_who_does() -> None:
    assert judge(STRANGER) == {
        "GPU-0": "another process uses GPU 0 (pid 4711, 12000 MiB); end it, or leave this GPU out "
        "of the agent's setting gpu"
    }


def test_of_many_that_use_a_gpu_the_largest_is_named() -> None:
    small = GpuProcess(uuid="GPU-0", pid=1)

    assert "(pid 4711, 12000 MiB and 2 more)" in judge(small, STRANGER, small)["GPU-0"]


def test_an_attempts_own_process_is_nobody_else() -> None:
    assert judge(STRANGER, own_pids={4711}) == {}


def test_a_process_that_hides_its_number_is_somebody_else() -> None:
    told = judge(GpuProcess(uuid="GPU-1", pid=None), own_pids={4711})

    assert "another process uses GPU 1 (a process that it does not name)" in told["GPU-1"]


def test_where_nobody_can_look_at_an_attempt_what_is_on_its_gpu_is_believed_to_be_its() -> None:
    elsewhere = GpuProcess(uuid="GPU-1", pid=4712)

    assert set(judge(STRANGER, elsewhere, unseen={"GPU-0"})) == {"GPU-1"}


def test_a_process_of_which_only_the_gpu_is_told_may_be_on_any_of_its_slices() -> None:
    slices = (
        make_gpu(uuid="MIG-1", parent="GPU-0"),
        make_gpu(uuid="MIG-2", parent="GPU-0"),
        make_gpu(1),
    )

    assert set(judge(STRANGER, known=slices)) == {"MIG-1", "MIG-2"}
    assert set(judge(GpuProcess(uuid="MIG-2", pid=1), known=slices)) == {"MIG-2"}
    assert judge(STRANGER, known=slices, unseen={"MIG-1"}) == {}


def test_a_gpu_that_was_lost_since_it_was_detected_is_not_handed_over() -> None:
    told = judge(gpus=(make_gpu(1),), broken=("GPU is lost",))

    assert told == {"GPU-0": "GPU 0 does not answer any more: GPU is lost"}


def test_while_the_driver_does_not_answer_no_gpu_is_handed_over() -> None:
    assert judge(gpus=(), problem="it hangs") == {"GPU-0": "it hangs", "GPU-1": "it hangs"}


# --- asking -----------------------------------------------------------------------------------


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    assert look_at_gpus() == GpuLook()
    assert detect_gpus("auto") == ()


def test_gpus_and_what_computes_on_them_are_seen_at_once(gpus: FakeGpus) -> None:
    gpus.use(1, pid=4711)

    look = look_at_gpus()

    assert look.gpus == make_gpus(2)
    assert look.processes == (GpuProcess(uuid="GPU-1", pid=4711, memory_mib=12000),)
    assert (look.broken, look.problem) == ((), None)


def test_gpus_are_chosen_as_the_settings_say(gpus: FakeGpus) -> None:
    assert detect_gpus("auto") == make_gpus(2)
    assert detect_gpus((1, 7)) == (make_gpu(1),)
    asked = len(gpus.asked)
    assert detect_gpus("none") == ()
    assert len(gpus.asked) == asked


def test_a_split_gpu_is_detected_as_its_slices(gpus: FakeGpus) -> None:
    gpus.change_gpu(0, slices={"MIG-1": "1g.10gb", "MIG-2": "1g.10gb"})

    assert [gpu.uuid for gpu in detect_gpus("auto")] == ["MIG-1", "MIG-2", "GPU-1"]
    assert [gpu.uuid for gpu in detect_gpus((0,))] == ["MIG-1", "MIG-2"]


@pytest.mark.parametrize("fault", ["lost", "error"])
def test_a_gpu_with_a_fault_hides_no_other(gpus: FakeGpus, fault: str) -> None:
    gpus.change_gpu(0, fault=fault)

    look = look_at_gpus()

    assert look.gpus == (make_gpu(1),)
    assert look.problem is None
    assert any("lost" in line or "Unknown Error" in line for line in look.broken)


def test_a_machine_of_which_all_gpus_were_taken_out_has_none(gpus: FakeGpus) -> None:
    gpus.change(gpus=[])

    assert look_at_gpus() == GpuLook()


def test_a_driver_that_has_failed_is_told_in_its_own_words(gpus: FakeGpus) -> None:
    gpus.change(fault="failed")

    look = look_at_gpus()

    assert look.gpus == ()
    assert look.problem is not None
    assert look.problem.startswith("nvidia-smi ended with 9: NVIDIA-SMI has failed because")


def test_garbage_is_no_gpu(gpus: FakeGpus) -> None:
    gpus.change(fault="garbage")

    look = look_at_gpus()

    assert (look.gpus, look.problem) == ((), None)
    assert all(line.isprintable() for line in look.broken)
    assert detect_gpus("auto") == ()


def test_a_driver_that_does_not_stop_talking_is_not_listened_to(gpus: FakeGpus) -> None:
    gpus.change(fault="flood")

    assert look_at_gpus() == GpuLook(problem=f"nvidia-smi says more than {MAX_BYTES} bytes")


def find_children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_a_driver_that_hangs_is_left_alone_after_a_while(
    gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "LOOK_SECONDS", 0.2)
    gpus.change(fault="hang")
    before = find_children()

    look = look_at_gpus()

    assert look.gpus == ()
    assert look.problem is not None
    assert look.problem.startswith("nvidia-smi does not answer within")
    assert find_children() <= before


def test_a_process_that_cannot_be_killed_is_not_waited_for(
    gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hangs in the kernel ends when the driver does, and with it whoever waits."""
    monkeypatch.setattr(adapter, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(adapter, "_KILL_SECONDS", 0.1)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
    gpus.change(fault="hang")

    look = look_at_gpus()

    assert look.problem is not None
    monkeypatch.undo()
    gpus.change(fault=None)


def test_a_program_that_cannot_be_run_is_told_as_such(gpus: FakeGpus) -> None:
    (gpus.bin / "nvidia-smi").write_text("#!/nowhere/interpreter\n")

    assert look_at_gpus().problem == "nvidia-smi cannot be run: No such file or directory"
