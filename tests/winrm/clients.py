#!/usr/bin/env python3
"""Lets independent clients work with the listener: pywinrm and pypsrp.   usage: clients.py PORT USER PASSWORD CERTIFICATE"""
import sys

import winrm
from pypsrp.shell import Process, SignalCode, WinRS
from pypsrp.wsman import WSMan

port, user, password, certificate = int(sys.argv[1]), *sys.argv[2:5]


def check(what, shown, expected):
    if shown != expected:
        sys.exit(f"{what}: {shown!r} instead of {expected!r}")
    print(f"{what}: as expected")


def pywinrm():
    protocol = winrm.Protocol(f"https://localhost:{port}/wsman", transport="basic", username=user, password=password,
                              ca_trust_path=certificate, operation_timeout_sec=2, read_timeout_sec=10)
    shell = protocol.open_shell(codepage=65001)
    command = protocol.run_command(shell, "echo out; echo err >&2; sleep 3; exit 7")
    check("pywinrm outputs, exit code, time-outs that are asked again", protocol.get_command_output(shell, command), (b"out\n", b"err\n", 7))
    protocol.cleanup_command(shell, command)
    command = protocol.run_command(shell, "cat", console_mode_stdin=False)
    protocol.send_command_input(shell, command, b"one\n", end=False)
    protocol.send_command_input(shell, command, b"two\n", end=True)
    check("pywinrm input", protocol.get_command_output(shell, command), (b"one\ntwo\n", b"", 0))
    protocol.close_shell(shell)
    try:
        protocol.run_command(shell, "true")
        sys.exit("pywinrm: a shell that was closed takes commands")
    except winrm.exceptions.WSManFaultError as error:
        check("pywinrm: the fault of a shell that is gone", error.wsman_fault_code, 2150858843)


def pypsrp():
    wsman = WSMan("localhost", port=port, ssl=True, username=user, password=password, auth="basic", cert_validation=certificate)
    with wsman, WinRS(wsman) as shell:
        process = Process(shell, "head -c 300000 /dev/zero; exit 4")
        process.invoke()
        process.signal(SignalCode.CTRL_C)
        check("pypsrp: more than one message of output", (process.rc, len(process.stdout)), (4, 300000))


def wrong_password():
    try:
        winrm.Session(f"https://localhost:{port}/wsman", auth=(user, "wrong"), transport="basic",
                      ca_trust_path=certificate).run_cmd("true")
        sys.exit("a wrong password is let in")
    except winrm.exceptions.InvalidCredentialsError:
        print("pywinrm: a wrong password is refused")


pywinrm()
pypsrp()
wrong_password()
