# shellcheck shell=bash disable=SC2154,SC2016
# The samples of the article on image definitions and versions, as it prints them, against AzureChinaCloud; and what its traps end
# with. Its placeholders stand for: group myGalleryRG and gallery myGallery in China North, machine myVM (specialized, stopped).
# PowerShell's samples send the same requests as the REST ones.

china() {
  env -i PATH="$PATH" HOME="$work/home" AZURE_CORE_COLLECT_TELEMETRY=false sh -c "eval \"\$('$lazuli' env --data-dir '$1' --proxy --cloud AzureChinaCloud)\" && exec \"\$@\"" sh "${@:2}"
}
# rest METHOD PATH BODY-FILE: as a REST client sends it, commas and all; prints `status code message`.
rest() {
  china "$rest_data" sh -c 'curl -sS -o "$1" -w "%{http_code} " --proxy "$HTTPS_PROXY" --cacert "$CURL_CA_BUNDLE" -X "$2" -H "Authorization: Bearer $(az account get-access-token --query accessToken -o tsv)" \
    -H "Content-Type: application/json" --data-binary "@$4" "https://management.chinacloudapi.cn$3"' sh "$work/answer" "$@"
  python3 -c 'import json, sys; b = json.load(open(sys.argv[1])); e = b.get("error", {}); print(e.get("code") or b["properties"]["provisioningState"], e.get("message", ""))' "$work/answer"
}
prepare() {
  rest_data=$1
  local sub compute
  works 'group' china "$1" az group create -n myGalleryRG -l chinanorth
  works 'gallery' china "$1" az sig create -g myGalleryRG -r myGallery
  sub=$(china "$1" az account show --query id -o tsv)
  compute=/subscriptions/$sub/resourceGroups/myGalleryRG/providers/Microsoft.Compute
  base=$compute/galleries/myGallery/images
  for region in chinanorth chinanorth2; do
    works "a machine in $region" machine_in "$1" "$region" "$compute"
  done
  vm=$compute/virtualMachines/myVM-chinanorth
}
# machine_in DATA REGION COMPUTE: around an empty Gen2 disk, switched off again.
machine_in() {
  local network=${3%/Microsoft.Compute}/Microsoft.Network
  cat > "$work/seed-vm.json" <<JSON
{"location": "$2", "properties": {"hardwareProfile": {"vmSize": "Standard_B1ls"},
 "storageProfile": {"osDisk": {"osType": "Linux", "createOption": "Attach", "managedDisk": {"id": "$3/disks/os-$2"}}},
 "networkProfile": {"networkInterfaces": [{"id": "$network/networkInterfaces/nic-$2"}]}}}
JSON
  china "$1" az disk create -g myGalleryRG -n "os-$2" -l "$2" --size-gb 1 --os-type Linux --hyper-v-generation "$(generation "$2")" &&
    china "$1" az network vnet create -g myGalleryRG -n "net-$2" -l "$2" --address-prefixes 10.1.0.0/16 --subnet-name default --subnet-prefixes 10.1.0.0/24 &&
    china "$1" az network nic create -g myGalleryRG -n "nic-$2" -l "$2" --vnet-name "net-$2" --subnet default &&
    china "$1" az rest --method put --url "https://management.chinacloudapi.cn$3/virtualMachines/myVM-$2?api-version=2024-11-01" --body "@$work/seed-vm.json" &&
    china "$1" az vm wait -g myGalleryRG -n "myVM-$2" --created --interval 1 --timeout 120 &&
    china "$1" az vm stop -g myGalleryRG -n "myVM-$2" --skip-shutdown &&
    china "$1" az vm deallocate -g myGalleryRG -n "myVM-$2"
}
# az makes Gen2 definitions (T8), the REST sample a Gen1 one.
generation() { if [ "$1" = chinanorth ]; then echo V2; else echo V1; fi; }

mkdir -p "$work/home"
prepare "$data"
gives 'the sample that creates a definition' 'Specialized Linux V2' china "$data" az sig image-definition create \
  --resource-group myGalleryRG \
  --gallery-name myGallery \
  --gallery-image-definition myImageDefinition \
  --publisher myPublisher \
  --offer myOffer \
  --sku mySKU \
  --os-type Linux \
  --os-state specialized --query "join(' ', [osState, osType, hyperVGeneration])" -o tsv
version=(az sig image-version create
  --resource-group myGalleryRG
  --gallery-name myGallery
  --gallery-image-definition myImageDefinition
  --gallery-image-version 1.0.0)
refuses 'the sample that creates a version names chinaeast twice (T2)' 'Duplicate regions are not allowed in target publishing regions' \
  china "$data" "${version[@]}" --target-regions "chinaeast" "chinaeast=1" "chinaeast2=1=premium_lrs" --replica-count 2 --managed-image "$vm"
gives 'as its text means it: chinanorth with the default of 2 replicas' 'China East:1:Standard_LRS China East 2:1:Premium_LRS China North:2:Standard_LRS' \
  sh -c "$(declare -f china); lazuli='$lazuli' work='$work' china '$data' \"\$@\" | sort | xargs -d '\n'" sh "${version[@]}" \
  --target-regions "chinanorth" "chinaeast=1" "chinaeast2=1=premium_lrs" --replica-count 2 --managed-image "$vm" \
  --query 'publishingProfile.targetRegions[].join(`:`, [name, to_string(regionalReplicaCount), storageAccountType])' -o tsv
works 'the sample of another tenant, in one tenant: a version of a version' china "$data" az sig image-version create \
  --gallery-image-definition myImageDefinition --gallery-image-version 2.0.0 --gallery-name myGallery --resource-group myGalleryRG \
  --image-version "$base/myImageDefinition/versions/1.0.0" --location chinanorth

cat > "$work/definition.json" <<'JSON'
{
"location": "chinaeast2",
"properties": {
"hyperVGeneration": "V1",
"identifier": {
"offer": "myOffer",
"publisher": "myPublisher",
"sku": "mySKU"
},
"osState": "Specialized",
"osType": "Linux",
},
}
JSON
refused_triple=$(rest PUT "$base/byRest?api-version=2019-12-01" "$work/definition.json")
holds 'the REST definition has the identifier of the first: refused' grep -q 'already exists' <<< "$refused_triple"
sed -i 's/mySKU/myOtherSKU/' "$work/definition.json"
gives 'the REST sample that creates a definition, trailing commas and all (T5, CL-5)' '201 Succeeded ' rest PUT "$base/byRest?api-version=2019-12-01" "$work/definition.json"
rest_version() {
  cat > "$work/version.json" <<JSON
{
"location": "chinanorth2",
"properties": {
"publishingProfile": {
"endOfLifeDate": "2024-12-02T00:00:00+00:00",
"replicaCount": 1,
"storageAccountType": "Standard_LRS",
"targetRegions": [
{
"name": "chinaeast",
"regionalReplicaCount": 2,
"storageAccountType": "Standard_LRS",
},
{
"name": "chinanorth2",
}
]
},
"storageProfile": {
"source": {
"id": "${vm%-chinanorth}-chinanorth2"
}
}
}
}
JSON
  rest PUT "$base/byRest/versions/1.0.0?api-version=2019-12-01" "$work/version.json"
}
gives 'the REST sample that creates a version has its end of life in the past (T4)' \
  '400 InvalidParameter EndOfLifeDate must be set to a future date.' rest_version
works 'delete the group of the samples' az group delete -n myGalleryRG --yes

# The same request to a server that was told to be lenient.
"$lazuli" serve --data-dir "$work/l" --listen 127.0.0.1:0 --lenient --record "$exchanges" > "$work/lenient" 2>> "$work/serve.log" &
lenient=$!
holds 'a lenient server' until_true 60 grep -q ready "$work/lenient"
prepare "$work/l"
gives 'the REST sample that creates a definition' '201 Succeeded ' rest PUT "$base/byRest?api-version=2019-12-01" "$work/definition.json"
gives 'the REST sample that creates a version, as printed (T4)' '201 Creating ' rest_version
holds 'it succeeds' until_true 60 china "$work/l" sh -c \
  'az sig image-version show -g myGalleryRG -r myGallery -i byRest -e 1.0.0 --query provisioningState -o tsv | grep -qx Succeeded'
"$lazuli" stop --data-dir "$work/l" --guests --force >/dev/null
wait "$lenient" 2>/dev/null || true
