#!/usr/bin/env python3
"""Acts as a person with a browser: signs in on the server's page, or enters a device code.

    browser.py open URL       as `BROWSER`: what az opens; returns at once and goes on behind it, as az waits for that
    browser.py device CODE    enters a code

PEOPLE_LOGIN, PEOPLE_PASSWORD_FILE, PEOPLE_SERVER, REQUESTS_CA_BUNDLE say who signs in where; HTTPS_PROXY is heeded. With PEOPLE_PROVIDER, the person takes
the page's link of that name and signs in there instead (tests/openid/provider.mjs takes any password).
"""

import html.parser
import http.cookiejar
import os
import ssl
import sys
import urllib.parse
import urllib.request


class Page(html.parser.HTMLParser):
    """A page's first form (where it goes, and its fields with their values) and its links by their text."""

    def __init__(self, url, text):
        super().__init__()
        self.url, self.action, self.fields, self.links = url, None, {}, {}
        self._link = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form" and self.action is None:
            self.action = urllib.parse.urljoin(self.url, attributes.get("action", ""))
        elif tag == "input" and "name" in attributes:
            self.fields[attributes["name"]] = attributes.get("value", "")
        elif tag == "a":
            self._link = attributes.get("href")

    def handle_data(self, data):
        if self._link:
            self.links[data.strip()] = urllib.parse.urljoin(self.url, self._link)
            self._link = None


class Browser:
    """Keeps cookies, and goes where it is sent."""

    def __init__(self):
        context = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])
        proxy = os.environ.get("HTTPS_PROXY")
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({"https": proxy} if proxy else {}),
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
        )

    def fetch(self, url, fields=None):
        data = urllib.parse.urlencode(fields).encode() if fields is not None else None
        with self.opener.open(url, data, timeout=60) as answer:
            return Page(answer.geturl(), answer.read().decode())

    def send(self, page, fields):
        return self.fetch(page.action, page.fields | fields)


def credentials():
    with open(os.environ["PEOPLE_PASSWORD_FILE"], encoding="utf-8") as file:
        return {"login": os.environ["PEOPLE_LOGIN"], "password": file.read().strip()}


def outside(browser, page, provider):
    """Takes the link, signs in and consents there; the page that the server shows then."""
    page = browser.fetch(page.links[f"Sign in with {provider}"])
    there = urllib.parse.urlsplit(page.url).netloc
    while urllib.parse.urlsplit(page.url).netloc == there:
        page = browser.send(page, {"login": os.environ["PEOPLE_LOGIN"], "password": "any"} if "login" in page.fields else {})
    return page


def sign_in(url):
    browser, provider = Browser(), os.environ.get("PEOPLE_PROVIDER")
    page = browser.fetch(url)
    page = outside(browser, page, provider) if provider else browser.send(page, credentials())
    if page.action:
        browser.send(page, {})


def enter(code):
    browser, provider = Browser(), os.environ.get("PEOPLE_PROVIDER")
    page = browser.fetch(os.environ["PEOPLE_SERVER"] + "/devicelogin")
    who = {} if provider else credentials()
    page = outside(browser, page, provider) if provider else page
    browser.send(page, who | {"code": code, "decision": "approve"})


def main():
    verb, argument = sys.argv[1:]
    if verb == "device":
        enter(argument)
    elif os.fork() == 0:
        sign_in(argument)


if __name__ == "__main__":
    main()
