# shellcheck shell=bash disable=SC2154
# The ways in (az-cli: registered cloud, AD FS form, proxy with the built-in clouds), each in a shell that knows nothing.

arm=$(credential armEndpoint) proxy=$(credential proxyEndpoint)
tenant=$(credential tenantId) client=$(credential clientId) secret=$(credential clientSecret)
bundle=$REQUESTS_CA_BUNDLE

# fresh CONFIG COMMAND...: a shell without anything of this one; CONFIG is az's folder.
fresh() {
  local config=$1; shift
  env -i PATH="$PATH" HOME="$work/home" AZURE_CONFIG_DIR="$work/$config" REQUESTS_CA_BUNDLE="$bundle" \
    AZURE_CORE_COLLECT_TELEMETRY=false NO_PROXY=127.0.0.1,localhost "$@"
}
proxied() {
  local config=$1; shift
  fresh "$config" env -u NO_PROXY HTTPS_PROXY="$proxy" "$@"
}
mkdir -p "$work/home"

gives 'lazuli env: az group list in a fresh shell' '[]' \
  env -i PATH="$PATH" HOME="$work/home" sh -c "eval \"\$('$lazuli' env --data-dir '$data')\" && az group list -o json"
gives 'lazuli env: the account is the owner' "$client" az account show --query user.name -o tsv
gives 'lazuli env: leaves the home folder alone' '' find "$work/home" -name clouds.config

works 'register the cloud' fresh reg az cloud register -n Mine --endpoint-resource-manager "$arm"
works 'choose it' fresh reg az cloud set -n Mine
refuses 'a wrong secret is told' 'AADSTS7000215' \
  fresh reg env AZURE_CORE_INSTANCE_DISCOVERY=false az login --service-principal -u "$client" -p wrong --tenant "$tenant"
refuses 'an unknown application is told' 'AADSTS700016' \
  fresh reg env AZURE_CORE_INSTANCE_DISCOVERY=false \
  az login --service-principal -u 11111111-1111-1111-1111-111111111111 -p wrong --tenant "$tenant"
gives 'sign in to it' "$subscription" \
  fresh reg env AZURE_CORE_INSTANCE_DISCOVERY=false \
  az login --service-principal -u "$client" -p "$secret" --tenant "$tenant" --query '[0].id' -o tsv
gives 'and use it' '[]' fresh reg env AZURE_CORE_INSTANCE_DISCOVERY=false az group list -o json

works 'register in the AD FS form' \
  fresh adfs az cloud register -n Adfs --endpoint-resource-manager "$arm" --endpoint-active-directory "$arm/adfs"
works 'choose it' fresh adfs az cloud set -n Adfs
works 'sign in in the AD FS form' fresh adfs az login --service-principal -u "$client" -p "$secret" --tenant "$tenant"
gives 'and use it' '[]' fresh adfs az group list -o json

gives 'sign in to the built-in AzureCloud through the proxy' "$subscription" \
  proxied public az login --service-principal -u "$client" -p "$secret" --tenant "$tenant" --query '[0].id' -o tsv
gives 'and use it' '[]' proxied public az group list -o json
works 'choose the built-in AzureChinaCloud' proxied china az cloud set -n AzureChinaCloud
gives 'sign in to it through the proxy' "$subscription" \
  proxied china az login --service-principal -u "$client" -p "$secret" --tenant "$tenant" --query '[0].id' -o tsv
gives 'and use it' '[]' proxied china az group list -o json

for cloud in AzureCloud AzureChinaCloud; do
  gives "lazuli env --proxy --cloud $cloud: az group list in a fresh shell" "$cloud []" \
    env -i PATH="$PATH" HOME="$work/home" sh -c "eval \"\$('$lazuli' env --data-dir '$data' --proxy --cloud $cloud)\" &&
      echo \$(az cloud show --query name -o tsv) \$(az group list -o json)"
done
