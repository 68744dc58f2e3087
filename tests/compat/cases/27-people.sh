# shellcheck shell=bash disable=SC2154
# People and certificates: every form of az login that needs no other service; tests/compat/browser.py is the person.

admin() { "$lazuli" admin --data-dir "$data" "$@"; }
# field NAME: of the JSON object on stdin.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

arm=$(credential armEndpoint) tenant=$(credential tenantId) proxy=$(credential proxyEndpoint)
login=alice@contoso.example
admin user create --tenant "$tenant" --login "$login" --name Alice | field password > "$work/alice"
chmod 600 "$work/alice"
admin grant --user "$login" --role Reader --scope "$subscription" > /dev/null
mkdir -p "$work/people"

# person CONFIG COMMAND...: a shell of its own with the server registered as a cloud.
person() {
  local config=$1; shift
  env -i PATH="$PATH" HOME="$work/people" AZURE_CONFIG_DIR="$work/people/$config" REQUESTS_CA_BUNDLE="$REQUESTS_CA_BUNDLE" \
    AZURE_CORE_COLLECT_TELEMETRY=false AZURE_CORE_INSTANCE_DISCOVERY=false AZURE_CORE_LOGIN_EXPERIENCE_V2=off \
    NO_PROXY=127.0.0.1,localhost PEOPLE_SERVER="$arm" PEOPLE_LOGIN="$login" PEOPLE_PASSWORD_FILE="$work/alice" \
    BROWSER="$work/people/open-browser" "$@"
}
register() { person "$1" az cloud register -n Mine --endpoint-resource-manager "$arm" && person "$1" az cloud set -n Mine; }
# shellcheck disable=SC2016 # the script's own argument
printf '#!/bin/sh\nexec %q open "$1"\n' "$compat/browser.py" > "$work/people/open-browser"
chmod +x "$work/people/open-browser"

register browser > /dev/null 2>&1
gives 'az login opens a browser, a person signs in there' "$subscription" person browser az login --query '[0].id' -o tsv
gives 'the account is the person' "$login user" person browser az account show --query "join(' ', [user.name, user.type])" -o tsv
works 'and reads' person browser az group list -o json
refuses 'but does not write' "\(AuthorizationFailed\) The client '$login' with object id" \
  person browser az group create -n denied -l eastus
works 'a token for storage comes of the same sign-in' \
  person browser az account get-access-token --resource https://storage.azure.com/ -o json

# The code is shown on stderr while az waits.
register device > /dev/null 2>&1
person device az login --use-device-code --tenant "$tenant" --query '[0].id' -o tsv > "$work/people/out" 2> "$work/people/err" &
device=$!
shown() { grep -oE 'enter the code [A-Z0-9]{9}' "$work/people/err"; }
until_true 60 shown || true
works 'az login --use-device-code: the person enters the code' \
  person device "$compat/browser.py" device "$(shown | grep -oE '[A-Z0-9]{9}$')"
holds 'and az goes on' wait "$device"
gives 'signed in' "$subscription" cat "$work/people/out"

# Under Azure's own names, where az asks for the password itself: MSAL drops the port of other servers.
gives 'az login -u -p through the proxy' "$login" \
  person proxied env -u NO_PROXY HTTPS_PROXY="$proxy" az login -u "$login" -p "$(cat "$work/alice")" --query '[0].user.name' -o tsv
refuses 'a wrong password is told' 'AADSTS50126' \
  person wrong env -u NO_PROXY HTTPS_PROXY="$proxy" az login -u "$login" -p 'wrong wrong wrong'

client=$(admin client create --tenant "$tenant" --name robot | field clientId)
admin grant --client "$client" --role Reader --scope "$subscription" > /dev/null
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=robot -keyout "$work/people/key" -out "$work/people/cert" 2>/dev/null
cat "$work/people/key" "$work/people/cert" > "$work/people/robot.pem"
register robot > /dev/null 2>&1
refuses 'a certificate that is not registered' 'AADSTS700027' \
  person robot az login --service-principal -u "$client" --certificate "$work/people/robot.pem" --tenant "$tenant"
admin client add-certificate --client "$client" --certificate "$work/people/robot.pem" > /dev/null
gives 'az login --certificate' "$subscription" \
  person robot az login --service-principal -u "$client" --certificate "$work/people/robot.pem" --tenant "$tenant" --query '[0].id' -o tsv
works 'and reads' person robot az group list -o json

admin user reset-password --user "$login" > /dev/null
refuses 'after a new password the old sign-in gives no tokens' 'AADSTS50173' \
  person browser az account get-access-token --resource https://disk.azure.com/
holds 'no password, secret or token is in the logs' sh -c "! grep -qFf '$work/alice' '$work/serve.log' && ! grep -q 'eyJ' '$work/serve.log'"
