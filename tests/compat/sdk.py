"""What the scenarios of the Python SDKs have in common: their checks, and a client of the server that the environment names."""

import os
import sys

from azure.identity import ClientSecretCredential


def same(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: {found!r} instead of {wanted!r}")


def client(kind):
    endpoint = os.environ["LAZULI_ENDPOINT"]
    credential = ClientSecretCredential(
        os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"],
        authority=endpoint, disable_instance_discovery=True)
    return kind(
        credential, os.environ["AZURE_SUBSCRIPTION_ID"], base_url=endpoint, credential_scopes=[f"{endpoint}/.default"])
