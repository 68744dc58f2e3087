#!/usr/bin/env python3
"""Stands for powershell.exe in tests: decodes what the product sends, knows each script by what it does, and does the like on a folder.
What a template's own script is here is a script of sh. Nothing here is PowerShell."""
import base64
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ["LAZULI_WINDOWS"])


def fail(text):
    print(text, file=sys.stderr)
    sys.exit(1)


def local(path):
    drive, _, rest = path.partition(":\\")
    if drive.upper() != "C" or not rest:
        fail(f"Could not find a part of the path '{path}'.")
    return ROOT / "c" / rest.replace("\\", "/").lower()


def literal(text):
    return text.replace("''", "'")


def variables(script):
    return {name: literal(value) for name, value in re.findall(r"^\s*\$(\w+) = '((?:[^']|'')*)'$", script, re.M)}


def upload(path):
    target = local(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file:
            for line in sys.stdin:
                line = line.strip()
                if line == ".":
                    break
                file.write(base64.b64decode(line, validate=True))
                if file.tell() > 8 << 20:
                    fail("There is not enough space on the disk.")
            else:
                fail("what was to be written did not come to its end")
    except OSError as error:
        fail(f"Access to the path '{path}' is denied: {error.strerror}")
    print(target.stat().st_size, end="")


def run_file(path, user):
    """A template's script in sh, or one of the product's own that came as a file."""
    file = local(path)
    text = file.read_bytes().decode("utf-8-sig", "replace").replace("\r\n", "\n")
    if "Microsoft.Update.Session" in text:
        return update(text, user)
    if "Sysprep" in text:
        return deprovision(variables(text)["override"])
    return subprocess.run(["/bin/sh", "-e", "-c", text], env=dict(os.environ, RUN_AS=user), check=False).returncode


def update(text, user):
    if user != "SYSTEM":
        fail("Access is denied. (Exception from HRESULT: 0x80070005)")
    (ROOT / "update.ps1").write_text(text)
    waiting = ROOT / "updates"
    steps = waiting.read_text().split() if waiting.exists() else []
    if not steps:
        print("there are no updates to install")
        return 0
    print(f"installed: update {len(steps)}")
    waiting.write_text(" ".join(steps[1:]))
    return int(steps[0])


def deprovision(override):
    own = local(override)
    if own.exists():
        print(f"runs {override}")
        code = subprocess.run(["/bin/sh", "-e", str(own)], check=False).returncode
        own.unlink()
        return code
    print("IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE")
    (ROOT / "generalized").touch()
    return 0


def elevated(runner, path, user, with_password):
    if "Register-ScheduledTask" not in local(runner).read_text():
        fail("the runner is not there")
    local(runner).unlink()
    if user != "SYSTEM":
        given = sys.stdin.read().strip() if with_password else ""
        if given != os.environ["LAZULI_PASSWORD"]:
            fail("The user name or password is incorrect.")
    code = run_file(path, user)
    local(path).unlink()
    return code


def main():
    script = base64.b64decode(sys.argv[-1]).decode("utf-16-le")
    names = variables(script)
    task = re.match(r"& '([^']+)' -Path '([^']+)' -User '((?:[^']|'')+)'( -Password @\(\$input\)\[0\])?\nexit \$LASTEXITCODE$", script)
    if task:
        code = elevated(task[1], task[2], literal(task[3]), bool(task[4]))
    elif "FromBase64String" in script:
        code = upload(names["path"])
    elif "LastBootUpTime" in script:
        code = print((ROOT / "boot").read_text())
    elif "CurrentVersion\\Uninstall" in script:
        code = print("os\tMicrosoft Windows Server 2022\t10.0.20348\r\nprogram\t7-Zip\t24.08\r\nhotfix\tKB5031364\t\r")
    elif "& $path" in script:
        code = run_file(names["path"], "build user")
        local(names["path"]).unlink()
    else:
        fail(f"what is this script? {script}")
    sys.exit((code or 0) & 0xFF)


main()
