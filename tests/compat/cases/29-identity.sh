# shellcheck shell=bash disable=SC2154
# User-assigned identities and their federated credentials (az identity).

# field NAME: of the JSON object on stdin.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

works 'a group for identities' az group create -n identities -l westus
works 'az identity create' az identity create -g identities -n worker
worker=$out
gives 'az identity show' "$(credential tenantId) $(field principalId <<< "$worker")" \
  az identity show -g identities -n worker --query "join(' ', [tenantId, principalId])" -o tsv
gives 'az identity list' worker az identity list -g identities --query '[].name' -o tsv
gives 'az identity update keeps who it is' "$(field clientId <<< "$worker")" az identity update -g identities -n worker --tags a=b --query clientId -o tsv
refuses 'a name that is too short' 'InvalidResourceName' az identity create -g identities -n ab
gives 'its service principal' "ManagedIdentity worker" az ad sp show --id "$(field clientId <<< "$worker")" \
  --query "join(' ', [servicePrincipalType, displayName])" -o tsv
refuses 'which the directory does not delete' "it is its resource's" az ad sp delete --id "$(field clientId <<< "$worker")"
works 'a role for it' az role assignment create --assignee-object-id "$(field principalId <<< "$worker")" \
  --assignee-principal-type ServicePrincipal --role Reader --scope "/subscriptions/$subscription/resourceGroups/identities"

works 'az identity federated-credential create' az identity federated-credential create -g identities --identity-name worker -n build \
  --issuer https://token.actions.githubusercontent.com --subject repo:contoso/app:ref:refs/heads/main
gives 'show it' 'repo:contoso/app:ref:refs/heads/main' az identity federated-credential show -g identities --identity-name worker -n build --query subject -o tsv
refuses 'the same issuer and subject again' 'Issuer and subject combination already exists' \
  az identity federated-credential create -g identities --identity-name worker -n again \
  --issuer https://token.actions.githubusercontent.com --subject repo:contoso/app:ref:refs/heads/main
refuses 'an issuer that is not https' 'issuer .* is invalid' \
  az identity federated-credential create -g identities --identity-name worker -n plain --issuer http://idp.example --subject s
gives 'update it' other az identity federated-credential update -g identities --identity-name worker -n build --subject other --query subject -o tsv
gives 'list them' build az identity federated-credential list -g identities --identity-name worker --query '[].name' -o tsv
works 'delete it' az identity federated-credential delete -g identities --identity-name worker -n build --yes

works 'federated credentials of applications' az ad app create --display-name identity-app
app=$(field appId <<< "$out")
works 'az ad app federated-credential create' az ad app federated-credential create --id "$app" --parameters \
  '{"name": "build", "issuer": "https://token.actions.githubusercontent.com", "subject": "repo:contoso/app:environment:p", "audiences": ["api://AzureADTokenExchange"]}'
gives 'list it' build az ad app federated-credential list --id "$app" --query '[].name' -o tsv
works 'delete it' az ad app federated-credential delete --id "$app" --federated-credential-id build
works 'az ad app delete' az ad app delete --id "$app"

works 'az identity delete' az identity delete -g identities -n worker
refuses 'its principal is gone with it' "Service principal '$(field clientId <<< "$worker")' doesn't exist|does not exist" \
  az ad sp show --id "$(field clientId <<< "$worker")"
works 'delete the group' az group delete -n identities --yes
