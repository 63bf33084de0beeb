"""
Sets the agent up on its server and takes it away again; needs Python, and nothing else.

Each command prints one JSON document. What cannot be done is its ``problem``, in one line, with
exit code 1. Doing anything twice changes nothing more.
"""

# Written for any Python 3, so that one that is too old is told so in words.

import argparse
import contextlib
import fcntl
import grp
import hashlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time

USER = "touchstone-agent"
ENGINE_GROUP = "touchstone-engine"
PROGRAMS = "/opt/touchstone-agent"
SETTINGS = "/etc/touchstone-agent"
ENROLLED = SETTINGS + "/enrolled.json"
UNIT = "/etc/systemd/system/touchstone-agent.service"
PID_FILE = "/run/touchstone-agent.pid"
LOCKED = "/run"
"""A folder that is there already, so that the lock leaves nothing behind."""
SENT = "/var/tmp"  # noqa: S108 (the folders in it are made with names of their own)
SENT_PREFIX = "touchstone-enrolment-"
CURRENT = PROGRAMS + "/current"
INSTALLER = PROGRAMS + "/install.py"
COMPLETE = ".complete"
INSTALL_MIB = 400
RESTART_SECONDS = 5
WRONG_SETTINGS = 2
"""The agent's exit code that no other start would mend."""
LOG_BYTES = 10 * 1024 * 1024
COMMAND_SECONDS = 300
OUTPUT_CHARACTERS = 2000
SECRETS = ("server.key", "aws_credentials")
PUBLIC = ("agent.toml", "control.pub")


class Problem(Exception):
    """What cannot be done, in one line that says the way out."""


def call(*argv, **options):
    """Run a program; raise with the end of what it said if it fails."""
    options.setdefault("timeout", COMMAND_SECONDS)
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        **options,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-OUTPUT_CHARACTERS:]
        last = said.splitlines()[-1] if said else "it said nothing"
        raise Problem("%s ended with %s: %s" % (os.path.basename(argv[0]), done.returncode, last))
    return done.stdout


def write(path, text, mode=0o644, owner=None):
    """Write a file so that it is there whole or not at all."""
    part = path + ".part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(number, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if owner is not None:
        os.chown(part, owner.pw_uid, owner.pw_gid)
    os.chmod(part, mode)
    os.rename(part, path)


def read_json(path):
    """Return a document of ours; ``None`` if there is none."""
    try:
        with open(path) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def find_user():
    """Return the agent's user; ``None`` if there is none."""
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None


def has_systemd():
    """Tell whether systemd looks after this machine's services."""
    return os.path.isdir("/run/systemd/system")


# --- looking ------------------------------------------------------------------------------------


def probe(_):
    """Tell what this machine is, and what of us is here already."""
    enrolled = read_json(ENROLLED)
    if enrolled is not None:
        enrolled["is_running"] = is_running()
        enrolled["config_sha256"] = find_digest(SETTINGS + "/agent.toml")
        enrolled["has_secrets"] = all(os.path.exists(SETTINGS + "/" + name) for name in SECRETS)
    versions = PROGRAMS + "/versions"
    staged = sorted(os.listdir(versions)) if os.path.isdir(versions) else []
    return {
        "python": "%d.%d.%d" % sys.version_info[:3],
        "machine": os.uname().machine,
        "system": os.uname().sysname,
        "is_root": os.geteuid() == 0,
        "has_systemd": has_systemd(),
        "time": time.time(),
        "enrolled": enrolled,
        "staged": [v for v in staged if os.path.exists(versions + "/" + v + "/" + COMPLETE)],
    }


def find_digest(path):
    """Return a file's sha256; ``None`` if there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


def is_running():
    """Tell whether the agent runs, under systemd or under our own supervisor."""
    if has_systemd() and os.path.exists(UNIT):
        done = subprocess.run(
            ["systemctl", "is-active", "--quiet", "touchstone-agent"], stdin=subprocess.DEVNULL
        )
        return done.returncode == 0
    return find_supervisor() is not None


# --- the programs -------------------------------------------------------------------------------


def stage(arguments):
    """Install a bundle beside whatever is there; nothing uses it yet."""
    bundle = arguments.bundle
    facts = read_json(bundle + "/bundle.json")
    if facts is None:
        raise Problem("%s/bundle.json is missing or damaged: send the bundle again" % bundle)
    check_python(facts)
    folder = "%s/versions/%s" % (PROGRAMS, facts["version"])
    if os.path.exists(folder + "/" + COMPLETE):
        return {"version": facts["version"], "is_new": False}
    check_disk("/opt")
    for name, digest in facts["files"].items():
        if find_digest("%s/%s" % (bundle, name)) != digest:
            raise Problem("%s of the bundle is damaged: send it again" % name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    os.chmod(PROGRAMS, 0o755)
    try:
        # Debian's Python has no pip of its own, and needs none: the bundle brings it.
        call(sys.executable, "-I", "-m", "venv", "--without-pip", folder)
        wheels = bundle + "/wheels"
        pip = next(wheels + "/" + n for n in sorted(os.listdir(wheels)) if n.startswith("pip-"))
        install = (folder + "/bin/python", pip + "/pip", "install", "--quiet", "--no-index")
        options = ("--no-cache-dir", "--disable-pip-version-check", "--find-links", wheels)
        quiet = dict(os.environ, PIP_ROOT_USER_ACTION="ignore", PIP_CONFIG_FILE=os.devnull)
        needs = bundle + "/requirements.txt"
        call(*(install + options + ("--no-deps", "--require-hashes", "-r", needs)), env=quiet)
        agent = next(wheels + "/" + n for n in os.listdir(wheels) if n.startswith("touchstone_"))
        call(*(install + options + ("--no-deps", agent)), env=quiet)
        shutil.copyfile(bundle + "/install.py", folder + "/install.py")
        shutil.copyfile(bundle + "/touchstone-agent.service", folder + "/touchstone-agent.service")
        write(folder + "/" + COMPLETE, facts["version"])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        clean_programs()
        raise
    return {"version": facts["version"], "is_new": True}


def check_python(facts):
    """Refuse a Python that the agent is not made for."""
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        found = "%d.%d" % sys.version_info[:2]
        raise Problem(
            "Python: %s found; install Python 3.11 or 3.12 and make it python3, or name it by "
            "--python" % found
        )
    if os.uname().machine != facts["machine"]:
        raise Problem(
            "machine: %s found, the bundle is for %s" % (os.uname().machine, facts["machine"])
        )


def check_disk(folder):
    """Refuse a disk on which the programs have no room."""
    there = folder
    while not os.path.exists(there):
        there = os.path.dirname(there)
    free = shutil.disk_usage(there).free // 1024**2
    if free < INSTALL_MIB:
        raise Problem(
            "disk: %s MiB free in %s; %s MiB wanted: make room" % (free, there, INSTALL_MIB)
        )


def unstage(arguments):
    """Remove an installed version that nothing uses."""
    folder = "%s/versions/%s" % (PROGRAMS, arguments.version)
    if os.path.realpath(CURRENT) == folder:
        return {"is_removed": False}
    shutil.rmtree(folder, ignore_errors=True)
    clean_programs()
    return {"is_removed": True}


def clean_programs():
    """Remove the programs' folders where they are empty."""
    for folder in (PROGRAMS + "/versions", PROGRAMS):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def run_doctor(version, config, *options, **how):
    """Return the doctor's list."""
    program = "%s/versions/%s/bin/touchstone-agent" % (PROGRAMS, version)
    done = subprocess.run(
        (program, "doctor", "--json", "--config", config, *options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=COMMAND_SECONDS,
        **how,
    )
    try:
        results = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][-OUTPUT_CHARACTERS:]
        raise Problem("doctor ended with %s: %s" % (done.returncode, said)) from None
    return {"results": results}


def examine(arguments):
    """Look at the machine before anything of ours is there."""
    return run_doctor(arguments.version, arguments.config, "--machine")


def doctor(_):
    """Look at everything, as the user that the agent will be."""
    return run_doctor(get_enrolled()["version"], SETTINGS + "/agent.toml", **as_user())


def as_user():
    """Return what starts a program as the agent's user, with its groups."""
    user = find_user()
    if user is None:
        raise Problem("user: there is no %s; enrol this server" % USER)
    return {
        "user": user.pw_uid,
        "group": user.pw_gid,
        "extra_groups": os.getgrouplist(USER, user.pw_gid),
        "cwd": "/",
        "umask": 0o077,
    }


def get_enrolled():
    """Return what this server was enrolled as."""
    found = read_json(ENROLLED)
    if found is None:
        raise Problem("this server is not enrolled")
    return found


# --- the settings -------------------------------------------------------------------------------


def configure(arguments):
    """Make user, settings and service; what other environments have here is refused."""
    requested = read_json(arguments.files + "/wish.json")
    if requested is None:
        raise Problem("%s/wish.json is missing or damaged" % arguments.files)
    before = read_json(ENROLLED) or {}
    check_environment(before, requested)
    if not os.path.isdir(SETTINGS):
        os.makedirs(SETTINGS)
    # Before anything that it would have to take away again.
    made = dict(before.get("made") or {})
    enrolled = dict(before, **requested)
    enrolled["made"] = made
    write(ENROLLED, json.dumps(enrolled, indent=2))
    group, is_made = ensure_engine_group(requested["engine_socket"])
    made["group"] = made.get("group") or (group if is_made else None)
    user = ensure_user(group)
    os.chmod(SETTINGS, 0o750)
    os.chown(SETTINGS, 0, user.pw_gid)
    for name in PUBLIC + SECRETS:
        source = arguments.files + "/" + name
        if os.path.exists(source):
            with open(source) as file:
                text = file.read()
            is_secret = name in SECRETS
            write(SETTINGS + "/" + name, text, 0o600 if is_secret else 0o644, user)
    state = requested["state_dir"]
    if not os.path.isdir(state):
        os.makedirs(state)
    os.chmod(state, 0o700)
    os.chown(state, user.pw_uid, user.pw_gid)
    link(requested["version"])
    if requested["has_service"]:
        write_unit(requested, group)
    enrolled["group"] = group
    write(ENROLLED, json.dumps(enrolled, indent=2))
    return {"group": group}


def check_environment(before, requested):
    """A server works for one environment."""
    for key, what in (("env", "environment"), ("server", "name")):
        if before.get(key) not in (None, requested[key]):
            raise Problem(
                "this server is enrolled as %s in environment %s; its %s cannot become %s before "
                "`touchstone agent remove %s` was run there"
                % (before["server"], before["env"], what, requested[key], before["server"])
            )


def ensure_engine_group(path):
    """Return the name of the group that may use the engine, made if its number has none."""
    try:
        found = os.stat(path)
    except OSError:
        line = "engine: there is no socket %s: install and start Docker" % path
        raise Problem(line) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise Problem("engine: %s is no socket" % path)
    if found.st_gid == 0:
        raise Problem(
            "engine: %s belongs to the group root; give it one of its own, as Debian's does: "
            "`groupadd docker`, then restart the engine" % path
        )
    try:
        return grp.getgrgid(found.st_gid).gr_name, False
    except KeyError:
        call("groupadd", "--gid", str(found.st_gid), ENGINE_GROUP)
        return ENGINE_GROUP, True


def ensure_user(group):
    """Return the agent's own user, in the engine's group and no other."""
    if find_user() is None:
        call(
            *("useradd", "--system", "--user-group", "--no-create-home"),
            *("--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", USER),
        )
    call("usermod", "--groups", group, USER)
    return find_user()


def link(version):
    """Let the service start another version the next time."""
    folder = "%s/versions/%s" % (PROGRAMS, version)
    if not os.path.exists(folder + "/" + COMPLETE):
        raise Problem("version %s is not installed here" % version)
    part = CURRENT + ".part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    os.symlink(folder, part)
    os.rename(part, CURRENT)
    shutil.copyfile(folder + "/install.py", INSTALLER)


def write_unit(requested, group):
    """Write the service, from the form that the version in use brings."""
    if not has_systemd():
        raise Problem(
            "service: this machine has no systemd: enrol it with --no-service, which starts the "
            "agent in the background until the next restart of the machine"
        )
    with open(CURRENT + "/touchstone-agent.service") as file:
        text = file.read()
    text = text.replace("@STATE_DIR@", requested["state_dir"]).replace("@ENGINE_GROUP@", group)
    write(UNIT, text)
    call("systemctl", "daemon-reload")


def switch(arguments):
    """Let another version run from the next start on."""
    enrolled = get_enrolled()
    before = enrolled["version"]
    link(arguments.version)
    enrolled["version"] = arguments.version
    write(ENROLLED, json.dumps(enrolled, indent=2))
    if enrolled["has_service"]:
        write_unit(enrolled, enrolled["group"])
    return {"before": before}


def prune(_):
    """Remove all versions but the one in use."""
    kept = os.path.basename(os.path.realpath(CURRENT))
    versions = PROGRAMS + "/versions"
    removed = [name for name in sorted(os.listdir(versions)) if name != kept]
    for name in removed:
        shutil.rmtree(versions + "/" + name, ignore_errors=True)
    clear_sent()
    return {"removed": removed}


def clear_sent():
    """Remove what this and earlier enrolments have sent, some of which were cut off."""
    for name in os.listdir(SENT):
        path = SENT + "/" + name
        if name.startswith(SENT_PREFIX) and os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)


# --- running ------------------------------------------------------------------------------------


def start(_):
    """Start the agent, or start it anew; containers go on."""
    if get_enrolled()["has_service"]:
        call("systemctl", "enable", "--quiet", "touchstone-agent")
        call("systemctl", "restart", "touchstone-agent")
        return {"by": "systemd"}
    stop_supervisor()
    start_supervisor()
    return {"by": "supervisor"}


def stop(_):
    """End the agent; containers go on."""
    stop_agent()
    return {}


def stop_agent():
    """End the agent, whatever started it."""
    if has_systemd() and os.path.exists(UNIT):
        call("systemctl", "disable", "--now", "--quiet", "touchstone-agent")
    stop_supervisor()


def find_supervisor():
    """Return our supervisor's process id; ``None`` if it does not run."""
    try:
        with open(PID_FILE) as file:
            pid = int(file.read())
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            words = file.read().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"supervise" in words and INSTALLER.encode() in words else None


def start_supervisor():
    """Start a process of its own that starts the agent again whenever it ends."""
    subprocess.Popen(
        [sys.executable, "-I", INSTALLER, "supervise"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    deadline = time.monotonic() + 10
    while find_supervisor() is None:
        if time.monotonic() > deadline:
            raise Problem("the supervisor did not start")
        time.sleep(0.1)


def stop_supervisor():
    """End our supervisor and its agent."""
    pid = find_supervisor()
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while find_supervisor() is not None:
        if time.monotonic() > deadline:
            raise Problem("process %d, the agent's supervisor, does not end" % pid)
        time.sleep(0.1)


def supervise(_):
    """Keep the agent running until told to end."""
    import logging
    import logging.handlers

    write(PID_FILE, "%d\n" % os.getpid())
    enrolled = get_enrolled()
    handler = logging.handlers.RotatingFileHandler(
        enrolled["state_dir"] + "/agent.log", maxBytes=LOG_BYTES, backupCount=2
    )
    log = logging.getLogger("agent")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    running = []
    ending = []

    def end(*_):
        ending.append(True)
        for process in running:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    while not ending:
        process = subprocess.Popen(
            [CURRENT + "/bin/touchstone-agent", "run", "--config", SETTINGS + "/agent.toml"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONUNBUFFERED": "1",
                "MALLOC_ARENA_MAX": "1",
                "MALLOC_TRIM_THRESHOLD_": "131072",
            },
            **as_user(),
        )
        running[:] = [process]
        if ending:
            process.terminate()
        for line in process.stdout:
            log.info(line.rstrip("\n"))
        code = process.wait()
        if ending or code == WRONG_SETTINGS:
            break
        time.sleep(RESTART_SECONDS)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(PID_FILE)
    return {}


def show_log(_):
    """Return the last lines of what the agent said."""
    enrolled = get_enrolled()
    if enrolled["has_service"]:
        text = call("journalctl", "--unit", "touchstone-agent", "--lines", "20", "--no-pager")
    else:
        try:
            with open(enrolled["state_dir"] + "/agent.log") as file:
                text = file.read()
        except OSError:
            text = ""
    return {"lines": text[-OUTPUT_CHARACTERS:].splitlines()}


# --- taking it away -----------------------------------------------------------------------------


def remove(_):
    """End the agent and what it runs, and leave nothing of it behind."""
    enrolled = read_json(ENROLLED) or {}
    stop_agent()
    config = SETTINGS + "/agent.toml"
    if find_user() is not None and os.path.exists(config) and os.path.exists(CURRENT):
        call(CURRENT + "/bin/touchstone-agent", "purge", "--config", config, **as_user())
    if os.path.exists(UNIT):
        os.unlink(UNIT)
        call("systemctl", "daemon-reload")
    state = enrolled.get("state_dir") or "/var/lib/touchstone-agent"
    clear(state)
    if find_user() is not None:
        call("userdel", USER)
    made = (enrolled.get("made") or {}).get("group")
    if made:
        with contextlib.suppress(Problem):
            call("groupdel", made)
    shutil.rmtree(PROGRAMS, ignore_errors=True)
    # Last: it says what there is to remove.
    shutil.rmtree(SETTINGS, ignore_errors=True)
    clear_sent()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(PID_FILE)
    left = [path for path in (UNIT, state, PROGRAMS, SETTINGS) if os.path.exists(path)]
    return {"left": [path for path in left if not os.path.ismount(path)]}


def clear(folder):
    """Remove a folder; of one that is a disk of its own what is in it."""
    if os.path.ismount(folder):
        for name in os.listdir(folder):
            path = folder + "/" + name
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)
    else:
        shutil.rmtree(folder, ignore_errors=True)


# --- all of it, where nobody is logged in ---------------------------------------------------------


def enrol(arguments):
    """Do everything on this server that an enrolment takes."""
    if os.geteuid() != 0:
        raise Problem("run this as root")
    bundle = arguments.bundle
    requested = read_json(bundle + "/wish.json") or {}
    is_new = read_json(ENROLLED) is None
    check_environment(read_json(ENROLLED) or {}, requested)
    if requested["has_service"] and not has_systemd():
        raise Problem("service: this machine has no systemd: enrol it with --no-service")
    tell("Python", "%d.%d.%d" % sys.version_info[:3])
    staged = stage(arguments)
    tell("installed", staged["version"])
    try:
        arguments.version, arguments.config = staged["version"], bundle + "/agent.toml"
        judge(examine(arguments))
        arguments.files = bundle
        configure(arguments)
        tell("configured", requested["server"])
        judge(doctor(arguments))
    except BaseException:
        if is_new:
            remove(arguments)
            tell("undone", "nothing of it is left on this server")
        raise
    start(arguments)
    tell("started", "the control plane sees it within seconds")
    return {}


def tell(step, text):
    """Say how far it is."""
    sys.stderr.write("%-12s %s\n" % (step, text))


def judge(found):
    """Print a doctor's list; refuse to go on if anything fails."""
    for result in found["results"]:
        word = "ok" if result["is_ok"] else "FAIL"
        if result["is_ok"] and result["is_warning"]:
            word = "WARN"
        tell(word, "%s: %s" % (result["name"], result["text"]))
    failed = [r for r in found["results"] if not r["is_ok"]]
    if failed:
        raise Problem("; ".join("%s: %s" % (r["name"], r["text"]) for r in failed))


@contextlib.contextmanager
def alone(command):
    """Keep two enrolments from changing one server at a time."""
    if command not in CHANGING:
        yield
        return
    lock = os.open(LOCKED, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            line = "somebody else sets this server up right now: wait, and run it again"
            raise Problem(line) from None
        yield
    finally:
        os.close(lock)


def main(argv):
    """Run one command."""
    # Whatever root has: what is installed is for another user to read and run.
    os.umask(0o022)
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.required = True
    for name, (_, names) in sorted(COMMANDS.items()):
        command = commands.add_parser(name)
        for argument in names:
            command.add_argument(argument)
    arguments = parser.parse_args(argv)
    try:
        with alone(arguments.command):
            found = COMMANDS[arguments.command][0](arguments)
    except (Problem, OSError, subprocess.SubprocessError) as error:
        print(json.dumps({"problem": " ".join(str(error).split())}))
        return 1
    print(json.dumps(found))
    return 0


COMMANDS = {
    "probe": (probe, ()),
    "stage": (stage, ("bundle",)),
    "unstage": (unstage, ("version",)),
    "examine": (examine, ("version", "config")),
    "configure": (configure, ("files",)),
    "doctor": (doctor, ()),
    "start": (start, ()),
    "stop": (stop, ()),
    "switch": (switch, ("version",)),
    "prune": (prune, ()),
    "supervise": (supervise, ()),
    "log": (show_log, ()),
    "remove": (remove, ()),
    "enrol": (enrol, ("bundle",)),
}

CHANGING = ("stage", "unstage", "configure", "switch", "prune", "remove", "enrol")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
