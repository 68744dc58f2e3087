#!/usr/bin/env python3
"""Asks Microsoft Graph for what Terraform's azuread provider asks, in the same shapes: resources and data sources for users, groups,
applications with their credentials, and service principals, made, read, changed and destroyed. (terraform itself is not needed: these are
the requests of its SDK: the tenant in the address, /beta, $select, $filter, $count with ConsistencyLevel, @odata.bind, $ref, and waiting by
status.)

    graph_client.py      LAZULI_CREDENTIALS, REQUESTS_CA_BUNDLE; prints a line a check, ends with 1 if one failed
"""

import http.client
import json
import os
import ssl
import sys
import time
import urllib.parse

with open(os.environ["LAZULI_CREDENTIALS"], encoding="utf-8") as file:
    KNOWN = json.load(file)
TENANT = KNOWN["tenantId"]
CONTEXT = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])
PROXY = urllib.parse.urlsplit(KNOWN["proxyEndpoint"])
failed = 0


def check(what, holds, told=""):
    global failed
    failed += not holds
    print(f"{'ok  ' if holds else 'FAIL'} {what}{'' if holds else f': {told}'}")


def send(host, method, path, body, headers):
    connection = http.client.HTTPSConnection(PROXY.hostname, PROXY.port, context=CONTEXT, timeout=60)
    connection.set_tunnel(host, 443)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def token():
    form = {"grant_type": "client_credentials", "client_id": KNOWN["clientId"], "client_secret": KNOWN["clientSecret"],
            "scope": "https://graph.microsoft.com/.default"}
    _, answer = send("login.microsoftonline.com", "POST", f"/{TENANT}/oauth2/v2.0/token", urllib.parse.urlencode(form),
                     {"content-type": "application/x-www-form-urlencoded"})
    return answer["access_token"]


TOKEN = token()


def graph(method, path, body=None, query=None, version="beta", **more):
    """As the SDK sends it: everything below the version and the tenant."""
    headers = {"authorization": f"Bearer {TOKEN}", "accept": "application/json", "content-type": "application/json; charset=utf-8", **more}
    url = f"/{version}/{TENANT}/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    return send("graph.microsoft.com", method, url, json.dumps(body) if body is not None else None, headers)


def does(what, expected, *request, **more):
    status, answer = graph(*request, **more)
    check(what, status == expected, f"{status} {answer}")
    return answer or {}


def gone(what, path):
    """Waits until it is not found, as the provider does after each deletion."""
    end = time.monotonic() + 30
    while (status := graph("GET", path)[0]) != 404 and time.monotonic() < end:
        time.sleep(0.2)
    check(what, status == 404, status)


def bound(*ids):
    return [f"https://graph.microsoft.com/v1.0/{TENANT}/directoryObjects/{id}" for id in ids]


def ids(answer):
    return sorted(o["id"] for o in answer.get("value", []))


def owners():
    """The provider looks the caller up, whom it makes owner by name."""
    me = does("the caller is looked up", 200, "GET", f"directoryObjects/{KNOWN['objectId']}")
    check("and told apart by its type", me.get("@odata.type") == "#microsoft.graph.servicePrincipal", me)
    found = does("by its application id", 200, "GET", "servicePrincipals", query={"$filter": f"appId eq '{KNOWN['clientId']}'"})
    check("it is the same", ids(found) == [KNOWN["objectId"]], found)


def user():
    made = does("azuread_user", 201, "POST", "users", {
        "accountEnabled": True, "displayName": "Terra Form", "mailNickname": "terra", "userPrincipalName": "terra@contoso.example",
        "passwordProfile": {"forceChangePasswordNextSignIn": False, "password": "a long enough password"}})
    user = made["id"]
    does("is changed", 204, "PATCH", f"users/{user}", {"displayName": "Terra Form", "givenName": "Terra", "surname": "Form"})
    selected = {"$select": "id,userPrincipalName,displayName,givenName,accountEnabled,onPremisesImmutableId,mailNickname"}
    shown = does("is read with what was asked for", 200, "GET", f"users/{user}", query=selected)
    check("as it was written", (shown.get("givenName"), shown.get("accountEnabled")) == ("Terra", True), shown)
    does("has no manager", 404, "GET", f"users/{user}/manager", query={"$select": "id"})
    found = does("data azuread_user", 200, "GET", "users", query={"$filter": "userPrincipalName eq 'terra@contoso.example'"})
    check("finds it", ids(found) == [user], found)
    found = does("data azuread_users, counted", 200, "GET", "users", query={"$count": "true", "$filter": "startsWith(displayName,'Terra')"},
                 ConsistencyLevel="eventual")
    check("counts it", found.get("@odata.count") == 1, found)
    return user


def group(user):
    found = does("azuread_group looks for its name", 200, "GET", "groups", query={"$filter": "displayName eq 'terraform-team'"})
    check("which is free", ids(found) == [], found)
    made = does("azuread_group", 201, "POST", "groups", {
        "displayName": "terraform-team", "mailEnabled": False, "mailNickname": "00000000-0", "securityEnabled": True, "groupTypes": [],
        "description": "by Terraform", "owners@odata.bind": bound(KNOWN["objectId"])})
    group = made["id"]
    does("is changed at once", 204, "PATCH", f"groups/{group}", {"displayName": "terraform-team"})
    does("members are added by a change", 204, "PATCH", f"groups/{group}", {"members@odata.bind": bound(user)})
    status, again = graph("POST", f"groups/{group}/members/$ref", {"@odata.id": bound(user)[0]})
    words = (again or {}).get("error", {}).get("message", "")
    check("one that is there is told in the words that are looked for", status == 400 and "One or more added object references already exist" in words,
          f"{status} {again}")
    check("its members", ids(does("are listed", 200, "GET", f"groups/{group}/members", query={"$select": "id"})) == [user])
    check("its owners", ids(does("are listed", 200, "GET", f"groups/{group}/owners", query={"$select": "id"})) == [KNOWN["objectId"]])
    does("a member is asked for", 200, "GET", f"groups/{group}/members/{user}/$ref", query={"$select": "id,url"})
    does("it is in no administrative unit", 200, "GET", f"groups/{group}/memberOf/microsoft.graph.administrativeUnit")
    does("the member is taken out", 204, "DELETE", f"groups/{group}/members/{user}/$ref")
    does("and is none any more", 404, "GET", f"groups/{group}/members/{user}/$ref", query={"$select": "id,url"})
    return group


def application(user):
    made = does("azuread_application", 201, "POST", "applications", {
        "displayName": "terraform-app", "signInAudience": "AzureADMyOrg", "identifierUris": [], "tags": [],
        "web": {"redirectUris": ["https://app.contoso.example/back"], "implicitGrantSettings": {}},
        "api": {"oauth2PermissionScopes": [], "preAuthorizedApplications": []}, "requiredResourceAccess": [],
        "owners@odata.bind": bound(KNOWN["objectId"])})
    application, app = made["id"], made["appId"]
    does("is changed", 204, "PATCH", f"applications/{application}", {"displayName": "terraform-app", "notes": "kept"})
    shown = does("is read", 200, "GET", f"applications/{application}")
    check("as it was written", (shown.get("notes"), shown["web"]["redirectUris"]) == ("kept", ["https://app.contoso.example/back"]), shown)
    does("an owner is added", 204, "POST", f"applications/{application}/owners/$ref", {"@odata.id": bound(user)[0]})
    does("is asked for", 200, "GET", f"applications/{application}/owners/{user}/$ref", query={"$select": "id,url"})
    does("is taken away", 204, "DELETE", f"applications/{application}/owners/{user}/$ref")
    check("its owners", ids(does("are listed", 200, "GET", f"applications/{application}/owners", query={"$select": "id"})) == [KNOWN["objectId"]])
    secret = does("azuread_application_password", 200, "POST", f"applications/{application}/addPassword",
                  {"passwordCredential": {"displayName": "terraform", "endDateTime": "2030-01-01T00:00:00Z"}})
    check("is shown once", bool(secret.get("secretText")) and bool(secret.get("keyId")), list(secret))
    kept = does("and listed", 200, "GET", f"applications/{application}")
    listed = [(c["keyId"], c.get("secretText")) for c in kept["passwordCredentials"]]
    check("without its text", listed == [(secret["keyId"], None)], listed)
    federated = does("azuread_application_federated_identity_credential", 201, "POST", f"applications/{application}/federatedIdentityCredentials", {
        "name": "build", "issuer": "https://token.actions.githubusercontent.com", "subject": "repo:contoso/app:environment:p",
        "audiences": ["api://AzureADTokenExchange"], "description": ""})
    does("is read by its id", 200, "GET", f"applications/{application}/federatedIdentityCredentials/{federated['id']}")
    does("is destroyed", 204, "DELETE", f"applications/{application}/federatedIdentityCredentials/{federated['id']}")
    return application, app, secret["keyId"]


def principal(app):
    made = does("azuread_service_principal", 201, "POST", "servicePrincipals", {
        "appId": app, "accountEnabled": True, "appRoleAssignmentRequired": False, "tags": ["WindowsAzureActiveDirectoryIntegratedApp"],
        "owners@odata.bind": bound(KNOWN["objectId"])})
    principal = made["id"]
    does("is changed", 204, "PATCH", f"servicePrincipals/{principal}", {"description": "by Terraform"})
    shown = does("is read", 200, "GET", f"servicePrincipals/{principal}")
    check("with its application", shown.get("appId") == app, shown)
    check("its owners", ids(does("are listed", 200, "GET", f"servicePrincipals/{principal}/owners", query={"$select": "id"})) == [KNOWN["objectId"]])
    secret = does("azuread_service_principal_password", 200, "POST", f"servicePrincipals/{principal}/addPassword",
                  {"passwordCredential": {"displayName": "terraform"}})
    does("is destroyed", 204, "POST", f"servicePrincipals/{principal}/removePassword", {"keyId": secret["keyId"]})
    return principal


def elsewhere():
    other = "11111111-2222-4333-8444-555555555555"
    headers = {"authorization": f"Bearer {TOKEN}"}
    status, answer = send("graph.microsoft.com", "GET", f"/v1.0/{other}/users", None, headers)
    check("another tenant's address is refused", status == 403, f"{status} {answer}")
    status, answer = graph("GET", "directoryRoleTemplates")
    check("what this server has not is refused in words", status == 400 and "directoryRoleTemplates" in answer["error"]["message"], f"{status} {answer}")
    check("v1.0 is answered alike", graph("GET", "organization", version="v1.0")[1]["value"][0]["id"] == TENANT)


def main():
    owners()
    who = user()
    team = group(who)
    app_object, app, key = application(who)
    robot = principal(app)
    elsewhere()
    for what, path in (("service principal", f"servicePrincipals/{robot}"), ("group", f"groups/{team}"), ("user", f"users/{who}")):
        does(f"the {what} is destroyed", 204, "DELETE", path)
        gone(f"the {what} is gone", path)
    does("the secret is destroyed", 204, "POST", f"applications/{app_object}/removePassword", {"keyId": key})
    does("the application is destroyed", 204, "DELETE", f"applications/{app_object}")
    gone("the application is gone", f"applications/{app_object}")
    sys.exit(failed > 0)


main()
