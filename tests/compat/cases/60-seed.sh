# shellcheck shell=bash disable=SC2154,SC2016
# The samples of the article on image definitions and versions, as it prints them, against AzureChinaCloud; and what its traps end
# with. Its placeholders stand for: group myGalleryRG and gallery myGallery in China North, group MyResourceGroup with machine myVM.
# The tiny guest runs on the machines, and is switched off first as the article advises. PowerShell's samples send the same requests
# as the REST ones.

china() {
  env -i PATH="$PATH" HOME="$work/home" AZURE_CORE_COLLECT_TELEMETRY=false \
    bash -c "eval \"\$('$lazuli' env --data-dir '$data' --proxy --cloud AzureChinaCloud)\" && exec \"\$@\"" bash "$@"
}
# rest PATH BODY: PUT as a REST client sends it, commas and all; prints `status state-or-code message`.
rest() {
  china curl -sS -o "$work/answer" -w '%{http_code} ' --proxy "$(credential proxyEndpoint)" --cacert "$data/ca.pem" -X PUT \
    -H "Authorization: Bearer $token" -H 'Content-Type: application/json' --data-binary "$2" "https://management.chinacloudapi.cn$1"
  python3 -c 'import json, sys
body = json.load(open(sys.argv[1])); error = body.get("error") or {}
print(error.get("code") or body["properties"]["provisioningState"], error.get("message", ""))' "$work/answer"
}

# machine GROUP REGION GENERATION: a machine myVM that runs on an uploaded disk of its own.
machine() {
  local group=$1 region=$2 generation=$3 providers=/subscriptions/$subscription/resourceGroups/$1/providers
  works "group $group in $region" china az group create -n "$group" -l "$region"
  works "$group: a disk" china az disk create -g "$group" -n os -l "$region" --upload-type Upload \
    --upload-size-bytes "$(stat -c %s "$tiny")" --os-type Linux --hyper-v-generation "$generation" --sku Standard_LRS
  works "$group: grant writing" china az disk grant-access -g "$group" -n os --access-level Write --duration-in-seconds 3600 \
    --query accessSAS -o tsv
  works "$group: upload the guest" china azcopy copy "$tiny" "$out" --from-to LocalBlob --blob-type PageBlob --output-level essential
  works "$group: end the upload" china az disk revoke-access -g "$group" -n os
  works "$group: a network" china az network vnet create -g "$group" -n net -l "$region" --address-prefixes 10.0.0.0/16 \
    --subnet-name default --subnet-prefixes 10.0.0.0/24
  works "$group: an interface" china az network nic create -g "$group" -n nic -l "$region" --vnet-name net --subnet default
  cat > "$work/machine.json" <<JSON
{"location": "$region", "properties": {"hardwareProfile": {"vmSize": "Standard_B1ls"},
 "storageProfile": {"osDisk": {"createOption": "Attach", "osType": "Linux",
   "managedDisk": {"id": "$providers/Microsoft.Compute/disks/os"}}},
 "networkProfile": {"networkInterfaces": [{"id": "$providers/Microsoft.Network/networkInterfaces/nic"}]}}}
JSON
  works "$group: a machine" china az rest --method put --body "@$work/machine.json" \
    --url "https://management.chinacloudapi.cn$providers/Microsoft.Compute/virtualMachines/myVM?api-version=2024-11-01"
  works "$group: it runs" china az vm wait -g "$group" -n myVM --created --interval 2 --timeout 300
  works "$group: it is deallocated" china az vm deallocate -g "$group" -n myVM
}

mkdir -p "$work/home"
works 'group' china az group create -n myGalleryRG -l chinanorth
works 'gallery' china az sig create -g myGalleryRG -r myGallery
machine MyResourceGroup chinanorth V2
source=/subscriptions/$subscription/resourceGroups/MyResourceGroup/providers/Microsoft.Compute/virtualMachines/myVM
compute=/subscriptions/$subscription/resourceGroups/myGalleryRG/providers/Microsoft.Compute
base=$compute/galleries/myGallery/images
token=$(china az account get-access-token --query accessToken -o tsv)

gives 'the sample that creates a definition: az asks for Gen2 (T8)' 'Specialized Linux V2' china az sig image-definition create \
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
  china "${version[@]}" --target-regions "chinaeast" "chinaeast=1" "chinaeast2=1=premium_lrs" --replica-count 2 \
  --managed-image "$source"
works 'as its text means it' china "${version[@]}" \
  --target-regions "chinanorth" "chinaeast=1" "chinaeast2=1=premium_lrs" --replica-count 2 --managed-image "$source"
regions() {
  china az sig image-version show -g "$1" -r "$2" -i "$3" -e 1.0.0 \
    --query 'sort_by(publishingProfile.targetRegions, &name)[].join(`:`, [name, to_string(regionalReplicaCount), storageAccountType])' \
    -o tsv | xargs -d '\n'
}
gives 'the default of 2 replicas, and the own of two regions (T2, T3, RP-1)' \
  'China East:1:Standard_LRS China East 2:1:Premium_LRS China North:2:Standard_LRS' regions myGalleryRG myGallery myImageDefinition
# The sample of two tenants, line by line, as a person at a browser: at home where the new image will be, a guest with Reader where the
# source is. Its placeholders are the variables that it sets, and names of this case.
admin() { "$lazuli" admin --data-dir "$data" "$@"; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
home_tenant=$(admin tenant create --name target | field tenantId)
subID=$(admin subscription create --tenant "$home_tenant" --name target | field subscriptionId)
person=carla@target.example
admin user create --tenant "$home_tenant" --login "$person" --name Carla | field password > "$work/carla"
chmod 600 "$work/carla"
admin grant --user "$person" --scope "$subID" > /dev/null
admin user invite --tenant "$(credential tenantId)" --user "$person" > /dev/null
mkdir -p "$work/two"
# shellcheck disable=SC2016 # the script's own argument
printf '#!/bin/sh\nexec %q open "$1"\n' "$compat/browser.py" > "$work/two/open-browser"
chmod +x "$work/two/open-browser"
# two_tenants COMMAND...: the person's shell, where Azure's names lead here.
two_tenants() {
  env -i PATH="$PATH" HOME="$work/two" AZURE_CONFIG_DIR="$work/two/az" REQUESTS_CA_BUNDLE="$REQUESTS_CA_BUNDLE" \
    HTTPS_PROXY="$(credential proxyEndpoint)" AZURE_CORE_COLLECT_TELEMETRY=false AZURE_CORE_LOGIN_EXPERIENCE_V2=off \
    PEOPLE_LOGIN="$person" PEOPLE_PASSWORD_FILE="$work/carla" BROWSER="$work/two/open-browser" \
    tenantID="$(credential tenantId)" subID="$subID" sourceImageID="$base/myImageDefinition/versions/1.0.0" "$@"
}
cat > "$work/two/script" <<'SCRIPT'
# Login to the subscription where the new image will be created
az cloud set -n AzureChinaCloud
az login

# Log in to the tenant where the source image is available
az cloud set -n AzureChinaCloud
az login --tenant $tenantID

# Log back in to the subscription where the image will be created and ensure subscription context is set
az login
az account set --subscription $subID
SCRIPT
cat > "$work/two/create" <<'SCRIPT'
# Create the image
az sig image-version create \
--gallery-image-definition myImageDef \
--gallery-image-version 1.0.0 \
--gallery-name myGallery \
--resource-group myResourceGroup \
--image-version $sourceImageID \
--location chinanorth
SCRIPT
refuses 'the person has no subscription where the source is, before Reader' 'No subscriptions found' \
  two_tenants sh -c 'az cloud set -n AzureChinaCloud && az login --tenant $tenantID'
admin grant --user "$(admin user list | python3 -c 'import json, sys
print(next(u["objectId"] for u in json.load(sys.stdin) if u["login"] == sys.argv[1] and u["tenantId"] == sys.argv[2]))' "$person" "$(credential tenantId)")" \
  --role Reader --scope "$base/myImageDefinition" > /dev/null
works 'the sample of two tenants: az login, az login --tenant, az login' two_tenants sh -e "$work/two/script"
gives 'the subscription is the target' "$subID $person" two_tenants az account show --query "join(' ', [id, user.name])" -o tsv
works 'its group' two_tenants az group create -n myResourceGroup -l chinanorth
works 'its gallery' two_tenants az sig create -g myResourceGroup -r myGallery
works 'its definition' two_tenants az sig image-definition create -g myResourceGroup -r myGallery -i myImageDef --publisher p --offer o --sku s \
  --os-type Linux --os-state Specialized
works 'and az sig image-version create from the other tenant (IV-17, x-ms-authorization-auxiliary)' two_tenants sh -e "$work/two/create"
gives 'the version is there' 'Succeeded China North' two_tenants sh -c \
  "az sig image-version show -g myResourceGroup -r myGallery -i myImageDef -e 1.0.0 --query '[provisioningState, publishingProfile.targetRegions[0].name]' -o tsv | xargs"
admin user disable --tenant "$(credential tenantId)" --user "$person" > /dev/null
sed 's/1\.0\.0 /2.0.0 /' "$work/two/create" > "$work/two/again"
refuses 'a guest no more: the source is closed' 'InvalidAuxiliaryTokens' two_tenants sh -e "$work/two/again"
works 'the target group goes' two_tenants az group delete -n myResourceGroup --yes

definition='{
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
}'
gives 'the REST definition has the identifier of the first' \
  "409 Conflict Gallery image: myImageDefinition identified by (publisher:myPublisher, offer:myOffer, sku:mySKU) already exists. Choose a different publisher, offer, sku combination." \
  rest "$base/byRest?api-version=2019-12-01" "$definition"
works 'group of its own' china az group create -n myRestRG -l chinaeast2
works 'gallery of its own' china az sig create -g myRestRG -r myRestGallery
base=${base/myGalleryRG/myRestRG}; base=${base/myGallery/myRestGallery}
created=$(rest "$base/byRest?api-version=2019-12-01" "$definition")
holds 'the REST sample that creates a definition, trailing commas and all (T5, CL-5, CL-6)' grep -qE '^201 (Creating|Succeeded)' <<< "$created"
machine myVMRG chinanorth2 V1
sample='{
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
"id": "'${source/MyResourceGroup/myVMRG}'"
}
}
}
}'
byRest=$base/byRest/versions/1.0.0
gives 'the REST sample that creates a version has its end of life in the past (T4)' \
  '400 InvalidParameter EndOfLifeDate must be set to a future date.' rest "$byRest?api-version=2019-12-01" "$sample"
# The switch that lets the printed samples run: `serve --lenient`.
stop_server
start_server --lenient
token=$(china az account get-access-token --query accessToken -o tsv)
created=$(rest "$byRest?api-version=2019-12-01" "$sample")
holds 'a lenient server takes it as printed (T4, T5)' grep -qE '^201 (Creating|Succeeded)' <<< "$created"
works 'it is built' china az resource wait --ids "$byRest" --created --api-version 2019-12-01 --interval 2 --timeout 300
gives 'with the regions of the sample' 'China East:2:Standard_LRS China North 2:1:Standard_LRS' regions myRestRG myRestGallery byRest
gives 'and its date' 2024-12-02T00:00:00+00:00 china az sig image-version show -g myRestRG -r myRestGallery -i byRest -e 1.0.0 \
  --query publishingProfile.endOfLifeDate -o tsv
stop_server
start_server
for group in myGalleryRG MyResourceGroup myRestRG myVMRG; do works "delete the group $group" china az group delete -n $group --yes; done
