# shellcheck shell=bash disable=SC2154
# The directory by Microsoft Graph: az ad user|group|app|sp, create-for-rbac, and names in role assignments.

admin() { "$lazuli" admin --data-dir "$data" "$@"; }
# field NAME: of the JSON object on stdin.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

tenant=$(credential tenantId) arm=$(credential armEndpoint) proxy=$(credential proxyEndpoint)
password='a long enough password'
# as CONFIG COMMAND...: in another configuration folder, under the registered cloud.
as() {
  local config=$1; shift
  AZURE_CONFIG_DIR=$work/az-directory-$config HOME=$work/directory "$@"
}
mkdir -p "$work/directory"
# enter CONFIG ARGUMENT...: registers the cloud there and signs in to it.
enter() {
  local config=$1; shift
  as "$config" az cloud register -n Mine --endpoint-resource-manager "$arm" && as "$config" az cloud set -n Mine &&
    as "$config" az login --tenant "$tenant" "$@"
}

works 'az ad user create' az ad user create --display-name Dora --user-principal-name dora@contoso.example --password "$password"
dora=$out
gives 'show it by its principal name' "$(field id <<< "$dora")" az ad user show --id dora@contoso.example --query id -o tsv
gives 'list by display name' dora@contoso.example az ad user list --display-name Dor --query '[].userPrincipalName' -o tsv
refuses 'the name is taken' 'Another object with the same value for property userPrincipalName already exists' \
  az ad user create --display-name Dora --user-principal-name Dora@contoso.example --password "$password"
works 'change it' az ad user update --id dora@contoso.example --display-name 'Dora B.'
refuses 'an unknown user' "Resource 'nobody@contoso.example' does not exist" az ad user show --id nobody@contoso.example

works 'az ad group create' az ad group create --display-name directory-team --mail-nickname team
team=$(field id <<< "$out")
works 'add a member' az ad group member add -g "$team" --member-id "$(field id <<< "$dora")"
gives 'list the members' 'Dora B.' az ad group member list -g "$team" --query '[].displayName' -o tsv
gives 'check a member' true az ad group member check -g "$team" --member-id "$(field id <<< "$dora")" --query value -o tsv
gives 'the groups of a user' directory-team az ad user get-member-groups --id dora@contoso.example --query '[].displayName' -o tsv
gives 'the owner of the group is the caller' "$(credential objectId)" az ad group owner list -g "$team" --query '[].id' -o tsv

works 'a group to share' az group create -n directory -l eastus
scope=/subscriptions/$subscription/resourceGroups/directory
works 'a role for a user by its name' az role assignment create --assignee dora@contoso.example --role Reader --scope "$scope"
gives 'the list shows the name' dora@contoso.example az role assignment list --scope "$scope" --query '[].principalName' -o tsv

works 'az ad sp create-for-rbac' az ad sp create-for-rbac --name directory-robot --role Contributor --scopes "$scope"
robot=$out
app=$(field appId <<< "$robot")
works 'the new principal signs in at once' enter robot --service-principal -u "$app" -p "$(field password <<< "$robot")"
gives 'and sees its group' directory as robot az group list --query '[].name' -o tsv
refuses 'but cannot make users' 'Insufficient privileges' \
  as robot az ad user create --display-name X --user-principal-name x@contoso.example --password "$password"
gives 'it has a name in the list' "$app" az role assignment list --scope "$scope" --role Contributor --query '[].principalName' -o tsv
works 'a role by application id' az role assignment create --assignee "$app" --role Reader --scope "$scope"
gives 'az ad sp show' directory-robot az ad sp show --id "$app" --query displayName -o tsv
gives 'az ad sp list' "$app" az ad sp list --display-name directory-robot --query '[].appId' -o tsv
works 'az ad sp credential reset' az ad sp credential reset --id "$app"
reset=$(field password <<< "$out")
works 'the new secret counts' enter reset --service-principal -u "$app" -p "$reset"

works 'create-for-rbac with a certificate' env HOME="$work/directory" az ad sp create-for-rbac --name directory-certified --create-cert --role Reader --scopes "$scope"
certified=$out
works 'it signs in with the certificate' enter certified --service-principal -u "$(field appId <<< "$certified")" \
  --certificate "$(field fileWithCertAndPrivateKey <<< "$certified")"
gives 'az ad app credential list --cert' CN=CLI-Login az ad app credential list --id "$(field appId <<< "$certified")" --cert --query '[].displayName' -o tsv

works 'az ad app create' az ad app create --display-name directory-app --identifier-uris api://directory-app --web-redirect-uris https://app.contoso.example/back
gives 'az ad app show by its URI' directory-app az ad app show --id api://directory-app --query displayName -o tsv
works 'az ad app update' az ad app update --id api://directory-app --set notes=kept
gives 'az ad app list' kept az ad app list --identifier-uri api://directory-app --query '[].notes' -o tsv
works 'az ad app owner add' az ad app owner add --id api://directory-app --owner-object-id "$(field id <<< "$dora")"
gives 'az ad app owner list' 'dora@contoso.example' az ad app owner list --id api://directory-app --query "[?displayName=='Dora B.'].userPrincipalName" -o tsv
works 'az ad app credential reset' az ad app credential reset --id api://directory-app --display-name first --append
gives 'az ad app credential list' first az ad app credential list --id api://directory-app --query '[].displayName' -o tsv

# A person, under Azure's own names: MSAL drops the port of other servers.
person() {
  env -i PATH="$PATH" HOME="$work/directory" AZURE_CONFIG_DIR="$work/az-directory-dora" REQUESTS_CA_BUNDLE="$REQUESTS_CA_BUNDLE" \
    AZURE_CORE_COLLECT_TELEMETRY=false HTTPS_PROXY="$proxy" "$@"
}
works 'the user signs in' person az login -u dora@contoso.example -p "$password"
gives 'az ad signed-in-user show' 'Dora B.' person az ad signed-in-user show --query displayName -o tsv
works 'a user registers an application' person az ad app create --display-name directory-hers
gives 'and owns it' directory-hers person az ad signed-in-user list-owned-objects --type application --query "[?displayName=='directory-hers'].displayName" -o tsv
refuses 'a user does not change others' 'Insufficient privileges' person az ad app delete --id "$app"

works 'az ad sp delete' az ad sp delete --id "$app"
refuses 'a deleted principal cannot sign in' 'AADSTS700016' enter deleted --service-principal -u "$app" -p "$reset"
works 'its role assignments are gone with it' test -z "$(az role assignment list --scope "$scope" --query "[?principalName=='$app'].id" -o tsv)"
works 'az ad app delete' az ad app delete --id api://directory-app
works 'az ad group delete' az ad group delete -g "$team"
works 'az ad user delete' az ad user delete --id dora@contoso.example
works 'delete the group' az group delete -n directory --yes
holds 'no password or secret is in the logs' sh -c "! grep -qF -e '$password' -e '$reset' '$work/serve.log'"
