"""The inside of the sandbox: shuts itself in, then becomes the Python that runs the program.

Run as a script by ``sandbox``, never imported, so it needs nothing but the standard library and starts fast. Its one
argument is JSON: limits, the folder, and what of the file system stays readable. Exit codes say how far it got.

With namespaces (Linux, no privileges needed): new user, process, network, mount, host name and message-queue namespaces; a
root that holds Python and the system libraries read-only, an empty folder in memory and a few devices, nothing else; no /proc.
Without: a system-call filter that refuses sockets, signals and settings of others and every way of writing to a file.
Both: resource limits, no new privileges, no way out of the process group, root's privileges given up.

Processes: this one waits, and clears up at SIGTERM or when its parent dies; with namespaces one more is number 1 inside and
takes in orphans; then the program.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys

#: Exit code when the walls could not be built: the program was not run.
NOT_SHUT_IN = 97

# Numbers of <sched.h>, <sys/mount.h>, <sys/prctl.h>, <linux/seccomp.h>, <linux/bpf_common.h>.
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
CLONE_REST = 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
NOBODY = 65534
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 2, -100, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000

#: System calls: (x86_64, aarch64), None where the architecture has no such call.
CALLS = {
    # No program under test needs these; each is a way to reach beyond the walls or to look at other processes.
    "always": {
        "setsid": (112, 157),
        "setpgid": (109, 154),
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "mount": (165, 40),
        "umount2": (166, 39),
        "pivot_root": (155, 41),
        "chroot": (161, 51),
        "unshare": (272, 97),
        "setns": (308, 268),
        "bpf": (321, 280),
        "perf_event_open": (298, 241),
        "keyctl": (250, 219),
        "add_key": (248, 217),
        "request_key": (249, 218),
        "userfaultfd": (323, 282),
        "io_uring_setup": (425, 425),
        "open_by_handle_at": (304, 265),
        "fsopen": (430, 430),
        "move_mount": (429, 429),
        "open_tree": (428, 428),
        "mount_setattr": (442, 442),
        "kexec_load": (246, 104),
        "init_module": (175, 105),
        "finit_module": (313, 273),
        "reboot": (169, 142),
        "swapon": (167, 224),
        "acct": (163, 89),
        "quotactl": (179, 60),
    },
    # Without namespaces: nothing leaves, nobody else is signalled, no file changes.
    "bare": {
        "socket": (41, 198),
        "socketpair": (53, 199),
        "kill": (62, 129),
        "tkill": (200, 130),
        "tgkill": (234, 131),
        "rt_sigqueueinfo": (129, 138),
        "rt_tgsigqueueinfo": (297, 240),
        "pidfd_open": (434, 434),
        "pidfd_send_signal": (424, 424),
        "pidfd_getfd": (438, 438),
        "fork": (57, None),
        "vfork": (58, None),
        "creat": (85, None),
        "rename": (82, None),
        "renameat": (264, 38),
        "renameat2": (316, 276),
        "mkdir": (83, None),
        "mkdirat": (258, 34),
        "rmdir": (84, None),
        "unlink": (87, None),
        "unlinkat": (263, 35),
        "link": (86, None),
        "linkat": (265, 37),
        "symlink": (88, None),
        "symlinkat": (266, 36),
        "mknod": (133, None),
        "mknodat": (259, 33),
        "chmod": (90, None),
        "fchmod": (91, 52),
        "fchmodat": (268, 53),
        "fchmodat2": (452, 452),
        "chown": (92, None),
        "fchown": (93, 55),
        "lchown": (94, None),
        "fchownat": (260, 54),
        "truncate": (76, 45),
        "utime": (132, None),
        "utimes": (235, None),
        "futimesat": (261, None),
        "utimensat": (280, 88),
        "setxattr": (188, 5),
        "lsetxattr": (189, 6),
        "fsetxattr": (190, 7),
        "removexattr": (197, 14),
        "lremovexattr": (198, 15),
        "fremovexattr": (199, 16),
        "openat2": (437, 437),
        "memfd_create": (319, 279),
        "shmget": (29, 194),
        "msgget": (68, 186),
        "mq_open": (240, 180),
        "setpriority": (141, 140),
        "ioprio_set": (251, 30),
        "sched_setaffinity": (203, 122),
        "sched_setparam": (142, 118),
        "sched_setscheduler": (144, 119),
        "sched_setattr": (314, 274),
        "migrate_pages": (256, 238),
        "move_pages": (279, 239),
        "kcmp": (312, 272),
    },
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Without namespaces, calls refused by an argument: (x86_64, aarch64), its place, test, value.
BY_ARGUMENT = (
    ((2, None), 1, "any bit", WRITING),  # open(path, flags)
    ((257, 56), 2, "any bit", WRITING),  # openat(folder, path, flags)
    ((302, 261), 0, "not", 0),  # prlimit64(process, ...)
    ((72, 25), 1, "is", 8),  # fcntl(F_SETOWN), which has the kernel send signals to others
    ((72, 25), 1, "is", 15),  # fcntl(F_SETOWN_EX)
    ((16, 29), 1, "is", 0x8901),  # ioctl(FIOSETOWN)
    ((16, 29), 1, "is", 0x8902),  # ioctl(SIOCSPGRP)
)

libc = ctypes.CDLL(None, use_errno=True)


def must(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def prctl(option: int, *arguments: object) -> None:
    must(libc.prctl(option, *arguments), f"prctl {option}")


# ---- walls --------------------------------------------------------------------------------------------------------------


def unshare() -> None:
    """New namespaces for this process and, for processes, its children.

    Root makes them as root, to see its own Python, and gives its privileges up afterwards (``become_nobody``); everybody
    else needs a user namespace to be allowed to.
    """
    if os.getuid() == 0 and libc.unshare(CLONE_REST) == 0:
        return
    user, group = os.getuid(), os.getgid()
    must(libc.unshare(CLONE_NEWUSER | CLONE_REST), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {user} 1"),
        ("gid_map", f"{NOBODY} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def become_nobody(spaces: bool) -> None:
    """Give up root; limits on processes do not hold for it. A user namespace of its own makes the count start at 0."""
    if os.getuid() != 0:
        return
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    if spaces:
        must(libc.unshare(CLONE_NEWUSER), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    must(libc.mount(*encoded, flags, None if data is None else data.encode()), f"mount {target}")


def new_root(settings: dict[str, object]) -> None:
    """A root in memory with read-only views of ``readable`` and an empty writable ``/work``."""
    folder = str(settings["folder"])
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, f"size={settings['disk']},nr_inodes=4096,mode=755")
    os.chdir(folder)
    links = []
    for path in settings["readable"]:  # type: ignore[attr-defined]
        inside = folder + path
        if os.path.islink(path):
            links.append((os.readlink(path), inside))
            continue
        if os.path.isdir(path):
            os.makedirs(inside, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            open(inside, "w").close()
        mount(path, inside, None, MS_BIND | MS_REC)
        attributes = struct.pack("QQQQ", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, 0, 0, 0)
        must(
            libc.syscall(442, AT_FDCWD, inside.encode(), AT_RECURSIVE, attributes, len(attributes)),
            f"mount_setattr {path}",
        )
    for target, inside in links:
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if not os.path.lexists(inside):
            os.symlink(target, inside)
    os.makedirs("dev", exist_ok=True)
    for device in ("null", "zero", "urandom", "random"):
        if os.path.exists(f"/dev/{device}"):
            open(f"dev/{device}", "w").close()
            mount(f"/dev/{device}", f"{folder}/dev/{device}", None, MS_BIND)
    for name in ("work", "tmp"):
        os.makedirs(name, exist_ok=True)
        os.chmod(name, 0o777)
    os.makedirs(".old", exist_ok=True)
    must(libc.pivot_root(folder.encode(), (folder + "/.old").encode()), "pivot_root")
    os.chdir("/")
    must(libc.umount2(b"/.old", MNT_DETACH), "umount")
    os.rmdir("/.old")
    os.chdir("/work")


def limit(settings: dict[str, int]) -> None:
    for name, value in (
        (resource.RLIMIT_CPU, settings["cpu"]),
        (resource.RLIMIT_AS, settings["memory"]),
        (resource.RLIMIT_FSIZE, settings["disk"]),
        (resource.RLIMIT_NPROC, settings["processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_STACK, min(settings["memory"], 64 << 20)),
    ):
        hard = resource.getrlimit(name)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (allowed, allowed))


def filter_calls(groups: tuple[str, ...], by_argument: bool) -> None:
    """A seccomp filter: the calls of ``groups`` fail with EPERM, as do those of BY_ARGUMENT if asked."""
    machine = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"no system-call filter for {platform.machine()}")
    column, architecture = machine

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    load, equal, any_bit, at_least, give = 0x20, 0x15, 0x45, 0x35, 0x06
    steps = [step(load, 4), step(equal, architecture, 1, 0), step(give, KILL), step(load, 0)]
    if column == 0:  # the x32 calls are others under the same architecture
        steps += [step(at_least, 0x40000000, 0, 1), step(give, KILL)]
    for numbers, place, test, value in BY_ARGUMENT if by_argument else ():
        if numbers[column] is None:
            continue
        code, yes, no = {"any bit": (any_bit, 0, 1), "is": (equal, 0, 1), "not": (equal, 1, 0)}[test]
        steps += [
            step(equal, numbers[column], 0, 4),
            step(load, 16 + 8 * place),
            step(code, value, yes, no),
            step(give, REFUSE | errno.EPERM),
            step(load, 0),
        ]
    for group in groups:
        for numbers in CALLS[group].values():
            if numbers[column] is not None:
                steps += [step(equal, numbers[column], 0, 1), step(give, REFUSE | errno.EPERM)]
    steps.append(step(give, ALLOW))
    held = ctypes.create_string_buffer(b"".join(steps))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    made = Program(len(steps), ctypes.cast(held, ctypes.c_void_p))
    prctl(PR_SET_SECCOMP, 2, ctypes.byref(made), 0, 0)


# ---- the program ----------------------------------------------------------------------------------------------------------

#: What runs inside: reads nonce and program, tells of its start, runs, and returns the nonce when all went well. Globals are
#: empty as in Hugging Face's code_eval, so that `if __name__ == "__main__"` is false. Anything raised is a failure.
RUNNER = """
import os, sys
def main():
    data = sys.stdin.buffer.read()
    nonce, _, source = data.partition(b"\\n")
    quiet = os.open("/dev/null", os.O_RDONLY)
    os.dup2(quiet, 0)
    out = int(sys.argv[1])
    os.write(out, b"started\\n")
    try:
        exec(compile(source.decode("utf-8"), "<program>", "exec"), {})
    except BaseException as error:
        text = (type(error).__name__ + ": " + str(error))[:300]
        os.write(out, b"failed " + text.encode("utf-8", "replace").replace(b"\\n", b" ") + b"\\n")
        os._exit(1)
    os.write(out, b"passed " + nonce + b"\\n")
    os._exit(0)
main()
"""


def become_python(settings: dict[str, object], channel: int) -> None:
    python = str(settings["python"])
    os.set_inheritable(channel, True)
    os.execve(
        python,
        [python, "-I", "-B", "-c", RUNNER, str(channel)],
        {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/work",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
    )


def run_program(settings: dict[str, object], channel: int) -> None:
    """Never returns: becomes the program, or says why not."""
    try:
        spaces = settings["isolation"] == "namespaces"
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if not spaces:
            os.chdir(str(settings["folder"]))
        limit(settings)  # type: ignore[arg-type]
        if spaces or settings["drop_root"]:
            become_nobody(spaces)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # forgotten when the user changes
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        filter_calls(("always",) if spaces else ("always", "bare"), by_argument=not spaces)
        become_python(settings, channel)
    except BaseException as error:
        refuse(channel, error)


def refuse(channel: int, error: BaseException) -> None:
    os.write(channel, f"refused {type(error).__name__}: {error}\n".encode()[:400])
    os._exit(NOT_SHUT_IN)


def be_first(settings: dict[str, object], channel: int) -> None:
    """Number 1 of the process namespace: with its end the kernel kills all others in it."""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # Not in the waiting process: a new root is one for all processes of the mount namespace, and it needs its /proc.
        must(libc.unshare(CLONE_NEWNS), "unshare")
        new_root(settings)
        program = os.fork()
    except BaseException as error:
        refuse(channel, error)
    if program == 0:
        run_program(settings, channel)
    os.close(channel)
    while True:
        ended, _ = os.wait()
        if ended == program:
            os._exit(0)


def children() -> list[int]:
    """Processes whose parent is this one; orphans come here because it is their reaper."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                        found.append(int(name))
            except (OSError, IndexError, ValueError):
                continue
    return found


def clear() -> None:
    """Kill and bury everything below this process, what their deaths leave to it too."""
    while left := children():
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except OSError:
                continue


def stop(number: int, frame: object) -> None:
    clear()
    os._exit(0)


def main() -> None:
    settings, channel = json.loads(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGTERM, stop)
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        spaces = settings["isolation"] == "namespaces"
        if spaces:
            unshare()
        child = os.fork()
    except OSError as error:
        refuse(channel, error)
    if child == 0:
        (be_first if spaces else run_program)(settings, channel)
    os.close(channel)
    os.close(0)
    os.waitpid(child, 0)
    clear()
    os._exit(0)


main()
