"""Prints an image version's provisioning state, a tab, and one line on the progress of its regions."""
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    properties = json.load(file).get("properties", {})
status = properties.get("replicationStatus", {})
regions = [f"{r['region']} {r['state']} {r['progress']} %" for r in status.get("summary", [])]
print(properties.get("provisioningState", ""), "   ".join(regions) or "waiting", sep="\t")
