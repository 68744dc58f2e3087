#!/usr/bin/env python3
"""In a Debian guest: does what `provision.ps1` does in Windows, with what lies on the provisioning disc for it, and listens for WinRM.
cloud-init makes the user and reports that the machine is ready."""
import base64
import json
import os
import subprocess
import tempfile
import urllib.request
import xml.etree.ElementTree as ET
from pathlib import Path

FOLDER = Path("/var/lib/windows")
HERE = Path(__file__).parent
NS = {"u": "urn:schemas-microsoft-com:unattend"}
PORT = "5986"


def machine():
    return Path("/sys/class/dmi/id/product_uuid").read_text().strip()


def disc():
    """The administrator and the password, as Setup would read them."""
    with tempfile.TemporaryDirectory() as mount:
        subprocess.run(["mount", "-o", "ro", "/dev/sr0", mount], check=True)
        try:
            setup = ET.parse(Path(mount) / "Unattend.xml")
            script = (Path(mount) / "provision.ps1").read_text(encoding="utf-8-sig")
        finally:
            subprocess.run(["umount", mount], check=True)
    account = setup.find(".//u:LocalAccount", NS)
    password = base64.b64decode(account.findtext("u:Password/u:Value", None, NS)).decode("utf-16-le")
    assert "$winrm = $true" in script, "nobody asks for a listener"
    return account.findtext("u:Name", None, NS), password.removesuffix("Password")


def report(certificate):
    status = {"version": "1.1", "winrmCertificate": certificate,
              "aggregateStatus": {"guestAgentStatus": {"version": "stand-in", "status": "Ready",
                                                       "formattedMessage": {"lang": "en-US", "message": "provisioned"}}},
              "guestOSInfo": {"computerName": os.uname().nodename, "osName": "a stand-in for Windows", "osVersion": "0"}}
    body = json.dumps({"content": base64.b64encode(json.dumps(status).encode()).decode()}).encode()
    request = urllib.request.Request("http://168.63.129.16:32526/status", data=body, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def provision():
    FOLDER.mkdir(parents=True, exist_ok=True)
    user, password = disc()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=windows",
                    "-keyout", FOLDER / "key.pem", "-out", FOLDER / "cert.pem"], check=True)
    der = subprocess.run(["openssl", "x509", "-in", FOLDER / "cert.pem", "-outform", "DER"], check=True, capture_output=True).stdout
    report(base64.b64encode(der).decode())
    (FOLDER / "login").write_text(json.dumps([machine(), user, password]))


def main():
    login = FOLDER / "login"
    if not login.exists() or json.loads(login.read_text())[0] != machine():
        provision()
    _, user, password = json.loads(login.read_text())
    os.execv(HERE / "listener.py", [HERE / "listener.py", FOLDER, user, password, PORT])


main()
