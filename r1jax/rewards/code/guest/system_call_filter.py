"""A filter of system calls (seccomp) for the process that runs a candidate program."""

from __future__ import annotations

import ctypes
import os
import struct

from .system_calls import NAMESPACES, PR_SET_PDEATHSIG, PR_SET_SECCOMP, prctl

# Numbers on (x86_64, aarch64); None where a call does not exist.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # New processes. Threads are allowed: the limits of memory and time apply to all threads together.
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    # Other sessions and groups, which a kill of the group would not reach.
    "setpgid": (109, 154),
    "setsid": (112, 157),
    # Network and sockets; io_uring could open them without these calls.
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # The kernel's own interfaces.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "syslog": (103, 116),
    # Files without a size limit of the folder.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # Shared memory, queues and semaphores; those that exist are used by their ids alone.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
}
_OTHERS = {  # calls that act on any process of the same user
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "ioprio_set": (251, 30),
}
_PRCTL = (157, 167)
_TGKILL, _PRLIMIT, _FCNTL, _IOCTL = (234, 131), (302, 261), (72, 25), (16, 29)
_SOCKETPAIR = (53, 199)
_STREAMS = tuple(1 | flags for flags in (0, 0x800, 0x80000, 0x80800))  # SOCK_STREAM, non-blocking or closed on exec
_CLONE, _CLONE3 = (56, 220), 435
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE_THREAD = 0x00010000
# Of fcntl and ioctl: the process that a file signals, and input for a terminal.
_SET_OWNER = (8, 15), (0x8901, 0x8902, 0x5412, 0x541C)

_LOAD, _EQUAL, _GREATER, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


def _instruction(code: int, true: int, false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, true, false, value)


def _by_argument(number: int, argument: int, values: tuple[int, ...], listed: int, others: int) -> list[bytes]:
    """Returns ``listed`` if an argument of the call is among ``values``, else ``others``."""
    code = [_instruction(_LOAD, 0, 0, _ARGUMENTS + 8 * argument)]
    for value in values:
        code += [_instruction(_EQUAL, 0, 1, value), _instruction(_RETURN, 0, 0, listed)]
    code.append(_instruction(_RETURN, 0, 0, others))
    return [_instruction(_EQUAL, 0, len(code), number), *code]


def program(machine: str, own: int | None) -> bytes:
    """The filter in BPF; refused calls return EPERM, and calls of another architecture end the process.

    own: the id of this process, which alone it may signal; None if no other process is visible.
    """
    column, refuse = list(MACHINES).index(machine), _ERROR | _EPERM
    refused = _REFUSED | ({} if own is None else _OTHERS)
    numbers = sorted(number for row in refused.values() if (number := row[column]) is not None)
    code = [
        _instruction(_LOAD, 0, 0, _MACHINE),
        _instruction(_EQUAL, 1, 0, MACHINES[machine]),
        _instruction(_RETURN, 0, 0, _KILL),
        _instruction(_LOAD, 0, 0, _NUMBER),
        _instruction(_GREATER, 0, 1, 0x40000000),  # the x32 calls of x86_64, which have other numbers
        _instruction(_RETURN, 0, 0, refuse),
        # The flags of clone3 are in memory, which a filter cannot read: the C library uses clone instead.
        _instruction(_EQUAL, 0, 1, _CLONE3),
        _instruction(_RETURN, 0, 0, _ERROR | _ENOSYS),
    ]
    for number in numbers:
        code += [_instruction(_EQUAL, 0, 1, number), _instruction(_RETURN, 0, 0, refuse)]
    # A program that clears the signal of its parent's death could outlive a worker that is killed.
    code += _by_argument(_PRCTL[column], 0, (PR_SET_PDEATHSIG,), refuse, _ALLOW)
    # A pair of datagram sockets could send to any other socket. asyncio needs a pair of streams, which cannot.
    code += _by_argument(_SOCKETPAIR[column], 1, _STREAMS, _ALLOW, refuse)
    if own is not None:
        code += _by_argument(_TGKILL[column], 0, (own,), _ALLOW, refuse)
        code += _by_argument(_PRLIMIT[column], 0, (0, own), _ALLOW, refuse)
        code += _by_argument(_FCNTL[column], 1, _SET_OWNER[0], refuse, _ALLOW)
        code += _by_argument(_IOCTL[column], 1, _SET_OWNER[1], refuse, _ALLOW)
    code += [
        _instruction(_EQUAL, 0, 5, _CLONE[column]),
        _instruction(_LOAD, 0, 0, _ARGUMENTS),
        _instruction(_BITS, 1, 0, NAMESPACES),
        _instruction(_BITS, 1, 0, _CLONE_THREAD),
        _instruction(_RETURN, 0, 0, refuse),
        _instruction(_RETURN, 0, 0, _ALLOW),
        _instruction(_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(code)


def install(alone: bool) -> bool:
    """Filters the system calls of this process and its threads from now on; False if the system cannot do it.

    alone: no process outside the sandbox is visible, so that signals need no filter.
    """
    machine = os.uname().machine
    if os.uname().sysname != "Linux" or machine not in MACHINES:
        return False
    code = program(machine, None if alone else os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    try:
        prctl(PR_SET_SECCOMP, 2, header)
    except OSError:
        return False
    return True
