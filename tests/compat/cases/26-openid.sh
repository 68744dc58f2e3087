# shellcheck shell=bash disable=SC2154
# Another OpenID provider, a real one (tests/openid): its people, in the browser and by device code, with tests/compat/browser.py as the
# person; and its tokens, by which a client signs in.

admin() { "$lazuli" admin --data-dir "$data" --config "$work/openid/lazuli.toml" "$@"; }

arm=$(credential armEndpoint) tenant=$(credential tenantId)
mkdir -p "$work/openid"
openssl rand -hex 16 > "$work/openid/secret"
chmod 600 "$work/openid/secret"
node-openid "$compat/../openid/provider.mjs" "$arm/common/oauth2/external" "$work/openid/secret" "$work/openid/token" \
  > "$work/openid/issuer" 2> "$work/openid/log" &
openid=$!
until_true 60 test -s "$work/openid/issuer" || die "the OpenID provider is not ready: $(cat "$work/openid/log")"
issuer=$(cat "$work/openid/issuer")
cat > "$work/openid/lazuli.toml" << END
http_issuers = ["$issuer"]

[[identity_providers]]
name = "elsewhere"
display_name = "Elsewhere"
issuer = "$issuer"
client_id = "lazuli"
client_secret = "file:$work/openid/secret"
create_users = true
END
stop_server
start_server --config "$work/openid/lazuli.toml"

# person CONFIG LOGIN COMMAND...: a shell of its own with the server registered as a cloud; LOGIN is the person's at the provider.
person() {
  local config=$1 login=$2; shift 2
  env -i PATH="$PATH" HOME="$work/openid" AZURE_CONFIG_DIR="$work/openid/$config" REQUESTS_CA_BUNDLE="$REQUESTS_CA_BUNDLE" \
    AZURE_CORE_COLLECT_TELEMETRY=false AZURE_CORE_INSTANCE_DISCOVERY=false AZURE_CORE_LOGIN_EXPERIENCE_V2=off \
    NO_PROXY=127.0.0.1,localhost PEOPLE_SERVER="$arm" PEOPLE_LOGIN="$login" PEOPLE_PROVIDER=Elsewhere \
    BROWSER="$work/openid/open-browser" "$@"
}
register() { person "$1" '' az cloud register -n Mine --endpoint-resource-manager "$arm" && person "$1" '' az cloud set -n Mine; }
# shellcheck disable=SC2016 # the script's own argument
printf '#!/bin/sh\nexec %q open "$1"\n' "$compat/browser.py" > "$work/openid/open-browser"
chmod +x "$work/openid/open-browser"

admin user create --tenant "$tenant" --login carol@contoso.example --name Carol --issuer "$issuer" --subject carol > /dev/null
admin grant --user carol@contoso.example --role Reader --scope "$subscription" > /dev/null
register browser > /dev/null 2>&1
gives 'az login: the person signs in at the provider' "$subscription" person browser carol az login --query '[0].id' -o tsv
gives 'the account is the user that she was linked to' 'carol@contoso.example user' \
  person browser carol az account show --query "join(' ', [user.name, user.type])" -o tsv
works 'and reads' person browser carol az group list -o json
refuses 'but does not write' "\(AuthorizationFailed\) The client 'carol@contoso.example' with object id" \
  person browser carol az group create -n denied -l eastus

register first > /dev/null 2>&1
refuses 'somebody new becomes a user, without any role' 'No subscriptions found for dave@elsewhere' person first dave az login
gives 'in the directory' 'dave of elsewhere' az ad user show --id dave@elsewhere --query displayName -o tsv
admin grant --user dave@elsewhere --role Reader --scope "$subscription" > /dev/null

register device > /dev/null 2>&1
person device dave az login --use-device-code --tenant "$tenant" --query '[0].id' -o tsv > "$work/openid/out" 2> "$work/openid/err" &
device=$!
shown() { grep -oE 'enter the code [A-Z0-9]{9}' "$work/openid/err"; }
until_true 60 shown || true
works 'az login --use-device-code: the person comes from the provider and enters the code' \
  person device dave "$compat/browser.py" device "$(shown | grep -oE '[A-Z0-9]{9}$')"
holds 'and az goes on' wait "$device"
gives 'signed in' "$subscription" cat "$work/openid/out"

app=$(az ad app create --display-name openid-build --query appId -o tsv)
az ad sp create --id "$app" > /dev/null
admin grant --client "$app" --role Reader --scope "$subscription" > /dev/null
register robot > /dev/null 2>&1
build() { person robot '' az login --service-principal -u "$app" --tenant "$tenant" --federated-token "$(cat "$work/openid/token")" --query '[0].id' -o tsv; }
refuses 'a token that no credential names' 'AADSTS700211' build
works 'a federated credential' az ad app federated-credential create --id "$app" --parameters \
  "{\"name\": \"build\", \"issuer\": \"$issuer\", \"subject\": \"repo:contoso/app:build\", \"audiences\": [\"api://AzureADTokenExchange\"]}"
gives 'az login --federated-token' "$subscription" build
works 'and reads' person robot '' az group list -o json

kill "$openid"; wait "$openid" 2>/dev/null || true
holds 'no secret, code or token is in the logs' \
  sh -c "! grep -qFf '$work/openid/secret' '$work/serve.log' && ! grep -qE 'eyJ|[?&](code|state)=' '$work/serve.log'"
stop_server
start_server
