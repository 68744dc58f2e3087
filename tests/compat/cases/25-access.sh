# shellcheck shell=bash disable=SC2154
# Roles, locks, several tenants, the activity log: what az prints of each, and how denied calls read.

admin() { "$lazuli" admin --data-dir "$data" "$@"; }
# field NAME: of the JSON object on stdin.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

tenant=$(credential tenantId)
made=$(admin client create --tenant "$tenant" --name reader)
reader=$(field clientId <<< "$made") reader_object=$(field objectId <<< "$made") reader_secret=$(field clientSecret <<< "$made")
works 'a group to share' az group create -n access -l eastus
scope=/subscriptions/$subscription/resourceGroups/access

# as_reader COMMAND...: with a configuration folder of its own.
as_reader() { AZURE_CONFIG_DIR=$work/az-reader "$@"; }
cp -r "$AZURE_CONFIG_DIR" "$work/az-reader"
as_reader az account clear >/dev/null 2>&1 || true
refuses 'a client without any role sees no subscription' 'No subscriptions found' \
  as_reader az login --service-principal -u "$reader" -p "$reader_secret" --tenant "$tenant"

gives 'assign a role' Reader az role assignment create --assignee-object-id "$reader_object" \
  --assignee-principal-type ServicePrincipal --role Reader --scope "$scope" --query "roleDefinitionId && 'Reader'" -o tsv
refuses 'an unknown principal is refused' 'PrincipalNotFound' az role assignment create \
  --assignee-object-id 00000000-0000-0000-0000-00000000dead --assignee-principal-type ServicePrincipal --role Reader --scope "$scope"
gives 'list the assignments of the group' "$reader_object" az role assignment list --scope "$scope" \
  --fill-principal-name false --query "[?principalId=='$reader_object'].principalId" -o tsv
works 'sign in with it' as_reader az login --service-principal -u "$reader" -p "$reader_secret" --tenant "$tenant"
gives 'the reader sees the group alone' access as_reader az group list --query '[].name' -o tsv
refuses 'a denied write reads as in Azure' \
  "\(AuthorizationFailed\) The client '.*' with object id '$reader_object' does not have authorization to perform action 'Microsoft.Resources/subscriptions/resourceGroups/write' over scope" \
  as_reader az group update -n access --tags a=b
refuses 'so does a denied creation' "\(AuthorizationFailed\) .*'Microsoft.Compute/disks/write'" \
  as_reader az disk create -g access -n d1 --size-gb 1 -l eastus

gives 'a custom role' 'Disk watcher' az role definition create --role-definition \
  "{\"Name\": \"Disk watcher\", \"Description\": \"d\", \"Actions\": [\"Microsoft.Compute/disks/read\"], \"AssignableScopes\": [\"/subscriptions/$subscription\"]}" \
  --query roleName -o tsv
refuses 'two wildcards in one action' 'InvalidActionOrNotAction' az role definition create --role-definition \
  "{\"Name\": \"Odd\", \"Description\": \"d\", \"Actions\": [\"Microsoft.Compute/*/*/read\"], \"AssignableScopes\": [\"/subscriptions/$subscription\"]}"
gives 'list it' 'Disk watcher' az role definition list --custom-role-only --query '[].roleName' -o tsv
works 'delete it' az role definition delete --name 'Disk watcher'

works 'a lock' az lock create -n keep --lock-type CanNotDelete -g access
gives 'list it' CanNotDelete az lock list -g access --query '[].level' -o tsv
refuses 'what is locked is not deleted' "\(ScopeLocked\) The scope '.*' cannot perform delete operation because following scope\(s\) are locked" \
  az group delete -n access --yes
works 'take the lock away' az lock delete -n keep -g access
gives 'the activity log: who took the lock away' "Microsoft.Authorization/locks/delete $(credential clientId)" \
  az monitor activity-log list -g access --offset 1h --query "[?operationName.value=='Microsoft.Authorization/locks/delete'] | [0].join(' ', [operationName.value, caller])" -o tsv
gives 'permissions: what may I do here' '*/read' as_reader az rest --method get --query 'value[0].actions[0]' -o tsv \
  --url "$scope/providers/Microsoft.Authorization/permissions?api-version=2022-04-01"
gives 'checkAccess: may the reader write disks' NotAllowed az rest --method post --query '[0].accessDecision' -o tsv \
  --url "$scope/providers/Microsoft.Authorization/checkAccess?api-version=2018-09-01-preview" --body \
  "{\"Subject\": {\"Attributes\": {\"ObjectId\": \"$reader_object\"}}, \"Actions\": [{\"Id\": \"Microsoft.Compute/disks/write\"}]}"
refuses 'the last owner of a subscription stays' CannotDeleteLastRbacAdminAssignment az role assignment delete \
  --assignee "$(credential objectId)" --role Owner --scope "/subscriptions/$subscription"
works 'a lock against every change' az lock create -n frozen --lock-type ReadOnly -g access
refuses 'then nothing is changed' '\(ScopeLocked\)' az disk create -g access -n d1 --size-gb 1 -l eastus
works 'az lock update' az lock update -n frozen -g access --notes 'until monday'
gives 'az lock show' 'until monday' az lock show -n frozen -g access --query notes -o tsv
works 'and take it away' az lock delete -n frozen -g access

second=$(admin tenant create --name second | field tenantId)
admin client create --tenant "$second" --name guest --existing "$(credential clientId)" > /dev/null
other=$(admin subscription create --tenant "$second" --name other --owner "$(credential clientId)" | field subscriptionId)
works 'sign in to a second tenant with the same client' az login --service-principal -u "$(credential clientId)" \
  -p "$(credential clientSecret)" --tenant "$second"
gives 'a group there' Succeeded az group create -n there -l eastus --subscription "$other" --query properties.provisioningState -o tsv
refuses 'the reader does not get there' 'not found\. Check the spelling' \
  as_reader az group list --subscription "$other"
works 'back to the first' az account set --subscription "$subscription"
works 'delete the group' az group delete -n access --yes
