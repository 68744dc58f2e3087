# shellcheck shell=bash disable=SC2154
# One scenario of azure-mgmt-compute and of @azure/arm-compute. Needs the case `disk`.

works 'group of the SDKs' az group create -n sdk -l eastus
source=$(az disk show -g disks -n golden --query id -o tsv)
gives 'azure-mgmt-compute: gallery to snapshot, and back to nothing' ok python-sdk "$compat/compute_sdk.py" sdk "$source"
gives '@azure/arm-compute: gallery to snapshot, and back to nothing' ok node-sdk "$compat/compute_sdk.mjs" sdk "$source"
gives 'nothing is left of them' '[]' az resource list -g sdk -o json
works 'delete their group' az group delete -n sdk --yes
