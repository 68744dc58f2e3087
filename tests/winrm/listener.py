#!/usr/bin/env python3
"""A WinRM listener for tests: shells of WS-Management (MS-WSMV) over HTTPS with Basic authentication; commands run in /bin/sh.

usage: listener.py FOLDER USER PASSWORD [PORT]

FOLDER holds cert.pem and key.pem, and stands for the machine's disk. Without PORT the listener is on loopback, prints the port when it
listens, and ends with its standard input; a command that contains "shutdown /r" ends what runs, closes every connection, and is back a
second later with another boot time. With PORT it is on every address, and such a command restarts the computer.
"""
import base64
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER, USER, PASSWORD = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
PORT = int(sys.argv[4]) if len(sys.argv) > 4 else None
WINDOWS = Path(__file__).with_name("windows.py")
S = "http://www.w3.org/2003/05/soap-envelope"
A = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
W = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
T = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
R = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
NS = {"s": S, "a": A, "w": W, "rsp": R}
TIMED_OUT, NO_SHELL, NO_COMMAND = 2150858793, 2150858843, 2150859013
# What Windows keeps for a client that does not ask; a command that prints more waits.
KEPT = 1 << 20
AT_ONCE = 48 * 1024


class Fault(Exception):
    def __init__(self, code, subcode, message):
        super().__init__(message)
        self.code, self.subcode = code, subcode


class Command:
    def __init__(self, line):
        env = dict(os.environ, LAZULI_WINDOWS=str(FOLDER), LAZULI_PASSWORD=PASSWORD, PYTHONPATH="")
        line = re.sub(r"^powershell(\.exe)? ", f"exec {sys.executable} {WINDOWS} ", line)
        self.process = subprocess.Popen(["/bin/sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env=env, start_new_session=True)
        self.changed = threading.Condition()
        self.waiting = {"stdout": b"", "stderr": b""}
        self.readers = [threading.Thread(target=self.read, args=pair, daemon=True)
                        for pair in (("stdout", self.process.stdout), ("stderr", self.process.stderr))]
        for reader in self.readers:
            reader.start()

    def read(self, name, pipe):
        while piece := pipe.read1(65536):
            with self.changed:
                self.changed.wait_for(lambda: len(self.waiting[name]) < KEPT)
                self.waiting[name] += piece
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def ended(self):
        return self.process.poll() is not None and not any(reader.is_alive() for reader in self.readers)

    def receive(self, seconds):
        """Pieces of the streams, and the exit code once there is no more."""
        end = time.monotonic() + seconds
        with self.changed:
            while not any(self.waiting.values()) and not self.ended():
                if time.monotonic() > end:
                    raise Fault(TIMED_OUT, "w:TimedOut", "The WS-Management service cannot complete the operation within the "
                                "time specified in OperationTimeout.")
                self.changed.wait(0.05)
            pieces = []
            for name, waiting in self.waiting.items():
                if waiting:
                    pieces.append((name, waiting[:AT_ONCE]))
                    self.waiting[name] = waiting[AT_ONCE:]
            self.changed.notify_all()
            done = not any(self.waiting.values()) and self.ended()
        return pieces, self.process.returncode if done else None

    def send(self, data, last):
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
            if last:
                self.process.stdin.close()
        except (BrokenPipeError, ValueError):
            raise Fault(109, "w:InternalError", "The pipe has been ended.") from None

    def terminate(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Machine:
    """What a restart takes away."""

    def __init__(self):
        self.shells, self.connections, self.down_until = {}, set(), 0.0
        self.set_boot(int(time.time()))

    def set_boot(self, seconds):
        (FOLDER / "boot").write_text(str(seconds))

    def restart(self):
        self.down_until = time.monotonic() + 1
        shells, self.shells = self.shells, {}
        # So much later than any clock is set right by.
        self.set_boot(int((FOLDER / "boot").read_text()) + 60)
        for connection in list(self.connections):
            try:
                connection.shutdown(2)
            except OSError:
                pass
        # Only now: nobody is told of a command's end.
        for shell in shells.values():
            for command in shell.values():
                command.terminate()

    def is_down(self):
        return time.monotonic() < self.down_until


MACHINE = Machine()


def envelope(action, relates, body):
    return (f'<s:Envelope xmlns:s="{S}" xmlns:a="{A}" xmlns:w="{W}" xmlns:rsp="{R}"><s:Header><a:Action>{action}</a:Action>'
            f'<a:MessageID>uuid:{uuid.uuid4()}</a:MessageID><a:To>{A}/role/anonymous</a:To><a:RelatesTo>{escape(relates)}'
            f'</a:RelatesTo></s:Header><s:Body>{body}</s:Body></s:Envelope>')


def fault(relates, error):
    return envelope("http://schemas.dmtf.org/wbem/wsman/1/wsman/fault", relates, (
        f'<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>{error.subcode}</s:Value></s:Subcode></s:Code><s:Reason>'
        f'<s:Text xml:lang="en-US">{escape(str(error))}</s:Text></s:Reason><s:Detail><f:WSManFault '
        f'xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="{error.code}" Machine="localhost"><f:Message>'
        f'{escape(str(error))}</f:Message></f:WSManFault></s:Detail></s:Fault>'))


def seconds(text):
    found = re.fullmatch(r"PT(\d+(?:\.\d+)?)S", text or "")
    return float(found[1]) if found else 60.0


def answer(message):
    action = message.find(".//a:Action", NS).text
    relates = message.find(".//a:MessageID", NS).text
    verb = action.rsplit("/", 1)[1]
    shell_id = next((x.text for x in message.iterfind(".//w:Selector", NS) if x.get("Name") == "ShellId"), None)
    if verb == "Create":
        shell_id = str(uuid.uuid4()).upper()
        MACHINE.shells[shell_id] = {}
        body = (f'<x:ResourceCreated xmlns:x="{T}"><a:Address>https://localhost/wsman</a:Address><a:ReferenceParameters>'
                f'<w:ResourceURI>{R}/cmd</w:ResourceURI><w:SelectorSet><w:Selector Name="ShellId">{shell_id}</w:Selector>'
                f'</w:SelectorSet></a:ReferenceParameters></x:ResourceCreated><rsp:Shell><rsp:ShellId>{shell_id}</rsp:ShellId>'
                f'<rsp:ResourceUri>{R}/cmd</rsp:ResourceUri><rsp:State>Connected</rsp:State></rsp:Shell>')
        return envelope(f"{T}/CreateResponse", relates, body)
    shell = MACHINE.shells.get(shell_id)
    if shell is None:
        raise Fault(NO_SHELL, "w:InvalidSelectors", "The request contained invalid selectors for the resource: there is no such shell.")
    if verb == "Delete":
        for command in MACHINE.shells.pop(shell_id).values():
            command.terminate()
        return envelope(f"{T}/DeleteResponse", relates, "")
    if verb == "Command":
        line = message.find(".//rsp:CommandLine", NS)
        words = [line.find("rsp:Command", NS).text] + [x.text or "" for x in line.findall("rsp:Arguments", NS)]
        command_id = str(uuid.uuid4()).upper()
        if "shutdown /r" in " ".join(words):
            restart = MACHINE.restart if PORT is None else lambda: subprocess.run(["systemctl", "reboot"], check=True)
            threading.Timer(0.2, restart).start()
            words = ["true"]
        shell[command_id] = Command(" ".join(words))
        body = f"<rsp:CommandResponse><rsp:CommandId>{command_id}</rsp:CommandId></rsp:CommandResponse>"
        return envelope(f"{R}/CommandResponse", relates, body)
    named = message.find(".//rsp:DesiredStream", NS) if verb == "Receive" else message.find(".//*[@CommandId]")
    command_id = named.get("CommandId")
    command = shell.get(command_id)
    if command is None:
        raise Fault(NO_COMMAND, "w:InvalidParameter", "There is no such command in the shell.")
    if verb == "Receive":
        pieces, code = command.receive(seconds(message.findtext(".//w:OperationTimeout", None, NS)))
        body = "".join(f'<rsp:Stream Name="{name}" CommandId="{command_id}">{base64.b64encode(data).decode()}</rsp:Stream>'
                       for name, data in pieces)
        state = "Running" if code is None else "Done"
        if code is not None:
            body += "".join(f'<rsp:Stream Name="{name}" CommandId="{command_id}" End="true"></rsp:Stream>' for name in ("stdout", "stderr"))
        code = "" if code is None else f"<rsp:ExitCode>{code}</rsp:ExitCode>"
        body += f'<rsp:CommandState CommandId="{command_id}" State="{R}/CommandState/{state}">{code}</rsp:CommandState>'
        return envelope(f"{R}/ReceiveResponse", relates, f"<rsp:ReceiveResponse>{body}</rsp:ReceiveResponse>")
    if verb == "Send":
        for stream in message.iterfind(".//rsp:Stream", NS):
            command.send(base64.b64decode(stream.text or ""), stream.get("End") in ("true", "1"))
        return envelope(f"{R}/SendResponse", relates, "<rsp:SendResponse/>")
    if verb == "Signal":
        command.terminate()
        if message.findtext(".//rsp:Code", None, NS).endswith("/terminate"):
            del shell[command_id]
        return envelope(f"{R}/SignalResponse", relates, "<rsp:SignalResponse/>")
    raise Fault(2150858752, "a:ActionNotSupported", f"The action {action} is not supported.")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def setup(self):
        self.request.settimeout(60)
        self.request.do_handshake()
        super().setup()
        MACHINE.connections.add(self.request)

    def finish(self):
        MACHINE.connections.discard(self.request)
        super().finish()

    def reply(self, status, body=""):
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="WSMAN"')
        if body:
            self.send_header("Content-Type", "application/soap+xml;charset=UTF-8")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode():
            return self.reply(401)
        if not text:
            return self.reply(200)
        message = ET.fromstring(text)
        relates = message.findtext(".//a:MessageID", "", NS)
        try:
            self.reply(200, answer(message))
        except Fault as error:
            self.reply(500, fault(relates, error))


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def verify_request(self, *_):
        return not MACHINE.is_down()

    def handle_error(self, *_):
        # Connections of a machine that restarts break.
        pass


def main():
    server = Server(("127.0.0.1", 0) if PORT is None else ("", PORT), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FOLDER / "cert.pem", FOLDER / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    if PORT is not None:
        server.serve_forever()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    # Lines on the standard input order what the machine does; its end is the listener's.
    for line in sys.stdin:
        if line.strip() == "restart":
            MACHINE.restart()
    for shell in MACHINE.shells.values():
        for command in shell.values():
            command.terminate()


main()
