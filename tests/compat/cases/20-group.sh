# shellcheck shell=bash disable=SC2154
# Resource groups, providers, locations.

gives 'create a group' Succeeded az group create -n grp -l eastus --tags a=1 --query properties.provisioningState -o tsv
gives 'create it again' eastus az group create -n grp -l eastus --tags a=1 --query location -o tsv
refuses 'the same group elsewhere is refused' 'InvalidResourceGroupLocation' az group create -n grp -l westus2
refuses 'an unknown location is refused' "LocationNotAvailableForResourceGroup|not available for resource group" \
  az rest --method put --url "$LAZULI_ENDPOINT/subscriptions/$subscription/resourcegroups/nowhere?api-version=2024-11-01" \
  --resource "$LAZULI_ENDPOINT" --body '{"location":"atlantis"}'
gives 'show it, whatever the case' grp az group show -n GRP --query name -o tsv
gives 'it exists' true az group exists -n grp
gives 'another does not' false az group exists -n other
refuses 'another cannot be shown' "\(ResourceGroupNotFound\) Resource group 'other' could not be found\." az group show -n other
gives 'change its tags' '2' az group update -n grp --tags b=2 --query tags.b -o tsv
gives 'list by tag' grp az group list --tag b=2 --query '[].name' -o tsv
gives 'list all' grp az group list --query '[].name' -o tsv
gives 'delete it' '' az group delete -n grp --yes
gives 'it is gone' false az group exists -n grp
refuses 'delete what is not there' 'ResourceGroupNotFound' az group delete -n grp --yes

works 'register a provider' az provider register -n Microsoft.Compute --wait
gives 'show it' Registered az provider show -n Microsoft.Compute --query registrationState -o tsv
gives 'it knows its types' galleries \
  az provider show -n Microsoft.Compute --query "resourceTypes[?resourceType=='galleries'].resourceType" -o tsv
gives 'locations of the public cloud' 'East US' az account list-locations --query "[?name=='eastus'].displayName" -o tsv
gives 'locations of the China cloud' 'China North 2' \
  az account list-locations --query "[?name=='chinanorth2'].displayName" -o tsv
