#!/usr/bin/env python3
"""Acts as a person with a browser: signs in on the server's page, or enters a device code.

    browser.py open URL       as `BROWSER`: what az opens; returns at once and goes on behind it, as az waits for that
    browser.py device CODE    enters a code

PEOPLE_LOGIN, PEOPLE_PASSWORD_FILE, PEOPLE_SERVER, REQUESTS_CA_BUNDLE say who signs in where.
"""

import html.parser
import os
import ssl
import sys
import urllib.parse
import urllib.request


class Form(html.parser.HTMLParser):
    """The first form of a page: where it goes, and its fields with their values."""

    def __init__(self, text):
        super().__init__()
        self.action, self.fields = None, {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form":
            self.action = attributes.get("action", "")
        elif tag == "input":
            self.fields[attributes["name"]] = attributes.get("value", "")


def fetch(url, fields=None):
    data = urllib.parse.urlencode(fields).encode() if fields is not None else None
    context = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"]) if url.startswith("https") else None
    with urllib.request.urlopen(url, data, timeout=60, context=context) as answer:
        return answer.read().decode()


def credentials():
    with open(os.environ["PEOPLE_PASSWORD_FILE"], encoding="utf-8") as file:
        return {"login": os.environ["PEOPLE_LOGIN"], "password": file.read().strip()}


def sign_in(url):
    page = Form(fetch(url))
    sent_on = Form(fetch(urllib.parse.urljoin(url, page.action), page.fields | credentials()))
    fetch(sent_on.action, sent_on.fields)


def main():
    verb, argument = sys.argv[1:]
    if verb == "device":
        url = os.environ["PEOPLE_SERVER"] + "/devicelogin"
        page = Form(fetch(url))
        print(fetch(url, page.fields | credentials() | {"code": argument, "decision": "approve"}))
    elif os.fork() == 0:
        sign_in(argument)


if __name__ == "__main__":
    main()
